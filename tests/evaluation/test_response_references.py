"""Born effective charges and electric fields against the original code of models with moments."""

import functools
from pathlib import Path

import numpy as np
import pytest
from openmm_les_export import read_model
from support.gradients import system_for
from support.helpers import MODELS, atoms_of, references, shared_file

from openmm_les.artifact import Artifact
from openmm_les.evaluation import system_model

MACE = ["iq_L1", "u_L1", "uQ_L2", "iu_iso_L1", "uQiqiu_L2", "uQiqiu_nl1", "uQiqiu_vecP4"]
MACE.append("uiu_fixedq_atomicalpha")  # with another permittivity
CASES = [(f"mace_{name}.model", "small_tri") for name in MACE]
CASES += [("mace_uQiqiu_L2.model", "cluster_open"), ("mace_uiu_aniso_L2.model", "cluster_open")]
CASES += [("nequip_uQiqiu_l2.ckpt", "small_tri"), ("allegro_uQiqiu_l2.ckpt", "cluster_open")]
LES = {"norm_factor": 90.4756, "self_interaction": "removed"}


@functools.cache
def artifact_of(name) -> Artifact:
    path = shared_file(MODELS / "extended" / name)
    canonical = read_model(path, **(LES if path.suffix == ".ckpt" else {}))
    return Artifact.unsaved(canonical, Path("x.les.pt"), charge_sign=1)


@pytest.fixture(autouse=True)
def _not_scripted(monkeypatch):
    """Compiling takes longer than all the rest."""
    monkeypatch.setattr(system_model, "script", lambda module: module)


@pytest.mark.parametrize(("name", "structure"), CASES)
def test_response_and_field(name, structure):
    (known,) = (
        r for r in references(f"extended/{name.partition('.')[0]}") if r["name"] == structure
    )
    artifact, atoms = artifact_of(name), atoms_of(known)
    in_field = "e_ext" in known
    options = {"electric_field": in_field, "fieldConvention": "original"}
    model = system_for(artifact, atoms, "double", **options)
    response = model.response(atoms.positions)
    compared = [("bec", response.born_charges)]
    if "bec_parts" in known:
        known["born_dipoles"] = known["bec_parts"][:, 1]
        compared.append(("born_dipoles", response.born_dipoles))
    if in_field:
        found = model.evaluate(atoms.positions, None, known["e_ext"])
        energy = found.energy + model.reference_energy
        assert energy == pytest.approx(known["energy_field"], abs=1e-9 * len(atoms))
        compared.append(("forces_field_calculator", found.forces))
        compared.append(("latent_dipoles_field", found.moments.total_dipoles))
    for quantity, values in compared:
        scale = max(1e-9, np.abs(known[quantity]).max())
        np.testing.assert_allclose(values / scale, known[quantity] / scale, atol=1e-9, rtol=0)
