"""Charge-only models as training codes write them since July 2026, against the original code."""

from functools import cache

import numpy as np
import openmm
import pytest
import torch
from openmm_les_export import read_model
from support.contexts import assert_same, create_context, create_system, energy_and_forces
from support.evaluation import eager, of_module
from support.gradients import system_for
from support.helpers import MODELS, atoms_of, references, shared_file
from support.reproduction import assert_reproduced

from openmm_les import artifact as artifacts
from openmm_les.ase import LESCalculator

#: Models by the names of their references. The les package of the last but one knew bounds of the
#: reciprocal sum, which the same file has been evaluated without, too.
FILES = {
    "mace_charge_L1": "mace_charge_L1.model",
    "mace_charge_L2_annbuf": "mace_charge_L2_annbuf.model",
    "mace_charge_vecP10": "mace_charge_vecP10.model",
    "nequip_charge_idlekeys": "nequip_charge_idlekeys.ckpt",
    "nequip_charge_idlekeys__les_vectorized": "nequip_charge_idlekeys.ckpt",
    "allegro_charge_idlekeys": "allegro_charge_idlekeys.ckpt",
}
LES = {"norm_factor": 90.4756, "self_interaction": "removed"}
#: Larger forces, of structures that a model was never trained on, round to more [eV/A].
SINGLE = 20.0


@cache
def model_of(name):
    path = shared_file(MODELS / "extended" / FILES[name])
    return read_model(path, **(LES if path.suffix == ".ckpt" else {}))


def values_of(name):
    return references(f"extended/{name}")


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Artifacts that were written and read again; exports differ by the verification only."""

    @cache
    def get(name):
        path = tmp_path_factory.mktemp("extended") / f"{name}.les.pt"
        artifacts.save(model_of(name), path, dtype="float64", charge_sign=1)
        return path

    return get


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("name", FILES)
def test_energies_forces_and_charges(name, dtype):
    module = eager(model_of(name), getattr(torch, dtype))
    for reference in values_of(name):
        if dtype == "float64" or np.abs(reference["forces"]).max() < SINGLE:
            box = reference["cell"] if reference["pbc"].any() else None
            got = of_module(module, reference["positions"], reference["numbers"], box)
            assert_reproduced(reference, *got, dtype)


@pytest.mark.parametrize("structure", ["small_tri", "cluster_open"])
@pytest.mark.parametrize("name", ["mace_charge_L1", "nequip_charge_idlekeys"])
def test_artifact_response_ase_and_openmm(saved, name, structure):
    (reference,) = (r for r in values_of(name) if r["name"] == structure)
    artifact, atoms = artifacts.load(saved(name)), atoms_of(reference)
    system = system_for(artifact, atoms, "double")
    got = system.evaluate(atoms.positions)
    energy = got.energy + system.reference_energy
    assert_reproduced(reference, energy, got.forces, got.charges, "float64")
    born = system.response(atoms.positions).born_charges
    np.testing.assert_allclose(born, reference["bec"], rtol=0, atol=1e-9)
    if atoms.pbc.all():
        stress = got.virial / atoms.get_volume()
        np.testing.assert_allclose(stress, reference["stress"], rtol=0, atol=1e-9)
    atoms.calc = LESCalculator(saved(name), precision="double")
    values = atoms.get_potential_energy(), atoms.get_forces(), atoms.get_charges()
    assert_reproduced(reference, *values, "float64")
    made = create_system(saved(name), atoms, precision="double", returnEnergyType="energy")
    again = openmm.XmlSerializer.deserialize(openmm.XmlSerializer.serialize(made))
    found = energy_and_forces(create_context(again, atoms.positions, "Reference"))
    assert_same(found, (float(reference["energy"]), reference["forces"]))
