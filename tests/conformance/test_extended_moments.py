"""Models with latent moments as training codes write them, against the original code."""

from functools import cache

import numpy as np
import pytest
from openmm_les_export import read_model
from support.evaluation import eager, of_module
from support.gradients import check_finite_differences, system_for
from support.helpers import MODELS, atoms_of, references, shared_file
from support.reproduction import PRECISION, TOLERANCES, assert_moments, assert_reproduced

from openmm_les import artifact as artifacts

LES = {"norm_factor": 90.4756, "self_interaction": "removed"}
#: Files and what their export needs; those of MACE need nothing.
MACE = (
    *("u_L1", "uQ_L1", "uQ_L2", "iq_L1", "iu_iso_L1", "uiu_iso_pos_L1", "uiu_fixedq_atomicalpha"),
    *("iu_aniso_1o_nowpos_L1", "iu_aniso_nonlin_pos_L1", "uiu_aniso_L2"),
    *("uQiqiu_L2", "uQiqiu_nl1", "uQiqiu_vecP4"),
)
FILES = {
    **{f"mace_{name}.model": {} for name in MACE},
    "nequip_u_l1.ckpt": LES,
    "nequip_uQiqiu_l2.ckpt": LES,
    "nequip_uiqiu_iso_self.ckpt": {"norm_factor": 90.4756},
    "allegro_u_l1.ckpt": LES,
    "allegro_uQiqiu_l2.ckpt": LES,
}
#: Larger forces, of structures that a model was never trained on, round to more [eV/A].
SINGLE = 20.0


@pytest.fixture(scope="module")
def artifact_of(tmp_path_factory):
    """Artifacts that were written and read again; exports differ by the verification only."""

    @cache
    def get(file):
        path = tmp_path_factory.mktemp("moments") / "x.les.pt"
        model = read_model(shared_file(MODELS / "extended" / file), **FILES[file])
        artifacts.save(model, path, dtype="float64", charge_sign=1)
        return artifacts.load(path)

    return get


def values_of(file):
    return references(f"extended/{file.partition('.')[0]}")


@pytest.mark.parametrize("dtype", PRECISION)
@pytest.mark.parametrize("file", FILES)
def test_energies_forces_stress_and_moments(artifact_of, file, dtype):
    artifact, (energy_tolerance, force_tolerance, _) = artifact_of(file), TOLERANCES[dtype]
    for reference in values_of(file):
        largest = np.abs(reference["forces"]).max()
        if dtype == "float32" and largest > SINGLE:
            continue
        system = system_for(artifact, atoms_of(reference), PRECISION[dtype], ewald="direct")
        got = system.evaluate(reference["positions"])
        energy = got.energy + system.reference_energy - float(reference["energy"])
        assert abs(energy) / len(reference["numbers"]) < energy_tolerance
        atol = force_tolerance * max(1.0, largest)
        np.testing.assert_allclose(got.forces, reference["forces"], rtol=0, atol=atol)
        if "stress" in reference:
            stress = got.virial / abs(np.linalg.det(reference["cell"]))
            atol = 1e-9 if dtype == "float64" else 1e-6
            np.testing.assert_allclose(stress, reference["stress"], rtol=0, atol=atol)
        assert_moments(reference, got.moments, dtype)


def test_boxes_that_the_original_takes_otherwise():
    """Two vectors of three, a box that is not used, and a left-handed one, which is no other."""
    model = eager(read_model(shared_file(MODELS / "extended" / "mace_uQiqiu_L2.model")))
    found = {str(r["name"]): r for r in references("extended/traps_mace_uQiqiu_L2")}
    right = found["small_tri"]
    # The original sums left-handed boxes as open ones.
    found["small_lefthanded"] |= {n: right[n] for n in ("energy", "forces", "latent_charges")}
    for reference in found.values():
        # It adds a third vector before it sums, and none for open structures.
        box = reference["cell_les"] if reference["pbc"].any() else None
        got = of_module(model, reference["positions"], reference["numbers"], box)
        assert_reproduced(reference, *got, "float64")


@pytest.mark.parametrize(
    "file", ["mace_uQiqiu_L2.model", "nequip_uQiqiu_l2.ckpt", "allegro_uQiqiu_l2.ckpt"]
)
def test_forces_and_virial_are_finite_differences(artifact_of, file):
    (reference,) = (r for r in values_of(file) if r["name"] == "small_tri")
    check_finite_differences(artifact_of(file), atoms_of(reference), atoms=[2])
