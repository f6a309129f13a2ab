"""Verification on export: the original model rebuilt, the probes, and the comparison."""

from __future__ import annotations

import builtins
import math
import os
from dataclasses import replace
from pathlib import Path
from pkgutil import resolve_name

import numpy as np
import openmm_les_export
import pytest
import torch
from openmm_les_export import api
from openmm_les_export.checkpoints.unpickle import open_model
from openmm_les_export.families.dispatch import reference_model
from openmm_les_export.families.mace.reference import MACEReference
from openmm_les_export.verification.compare import TOLERANCES, EvaluationPath, system_paths
from openmm_les_export.verification.probes import probe_structures
from openmm_les_export.verification.reference import Evaluation
from oracles.models import needs_mace
from scipy.spatial.distance import pdist
from support.helpers import MACE_MODELS, MODELS, ROOT, WATER_MODEL, references, shared_file
from support.programs import run_code

from openmm_les import artifact as artifacts
from openmm_les import catalog
from openmm_les.artifact import Artifact
from openmm_les.errors import InputError, VerificationError
from openmm_les.networks.kernels import obstacle

SYSTEM_PATHS = ["single direct", "single mesh", "double direct", "double mesh"]
SMALL = {"max_ell": 2, "correlation": 2, "elements": [1, 6, 8], "max_L": 1}


@pytest.fixture(scope="session")
def small_model(tmp_path_factory) -> Path:
    from oracles.mace_models import synthetic_model

    return synthetic_model(tmp_path_factory.mktemp("synthetic_models"), **SMALL)


# --- probes -------------------------------------------------------------------------------------

ELEMENTS = (
    [1, 8],
    [1],
    [8],
    [6, 1, 8, 7],
    [1, 6, 7, 8, 9, 15, 16, 17, 35, 53],
    [3, 55],
    [11, 17, 1],
)


@pytest.mark.parametrize("elements", ELEMENTS)
def test_probes_cover_the_elements_at_sensible_distances(elements):
    neighbour_list = pytest.importorskip("matscipy.neighbours").neighbour_list
    probes = {probe.name: probe for probe in probe_structures(elements, 4.5)}
    kinds = ["cluster", "periodic box", "triclinic box", "two far fragments"]
    assert list(probes) == [*kinds, "isolated atoms"]
    for name in kinds:
        probe = probes[name]
        assert set(probe.numbers.tolist()) == set(elements)
        assert 9 <= len(probe.numbers) <= 60
        cell = np.eye(3) * 200.0 if probe.cell is None else probe.cell
        periodic = (probe.cell is not None,) * 3
        distances = neighbour_list(
            "d", positions=probe.positions, cell=cell, pbc=periodic, cutoff=6.0
        )
        assert distances.min() > (0.7 if elements == [1] else 0.85)
        if probe.cell is not None:
            assert np.linalg.det(probe.cell) > 0
            # Every atom also meets images of the box.
            fractional = probe.positions @ np.linalg.inv(probe.cell)
            assert fractional.min() < 0
    skew = probes["triclinic box"].cell
    assert skew is not None
    assert np.count_nonzero(skew) == 6
    far = probes["two far fragments"].positions
    half = len(far) // 2
    gaps = np.linalg.norm(far[:half, None] - far[None, half:], axis=2)
    assert gaps.min() > 2 * 4.5
    atoms = probes["isolated atoms"]
    assert set(atoms.numbers.tolist()) == set(elements)
    assert pdist(atoms.positions).min(initial=np.inf) > 1.5 * 4.5


def test_isolated_atoms_tell_elements_apart():
    """In a sum over atoms, energies that were taken for another element must not cancel."""
    elements = [8, 1, 6, 7]
    numbers = probe_structures(elements, 4.0)[-1].numbers.tolist()
    counts = [numbers.count(z) for z in elements]
    assert sorted(counts) == [1, 2, 3, 4]


def test_probes_are_the_same_every_time():
    pairs = zip(probe_structures([8, 1], 4.0), probe_structures([8, 1], 4.0), strict=True)
    for first, second in pairs:
        np.testing.assert_array_equal(first.positions, second.positions)


# --- the original model -------------------------------------------------------------------------


@needs_mace
@pytest.mark.parametrize("name", MACE_MODELS)
def test_reference_reproduces_the_original_code(name):
    reference = MACEReference(open_model(shared_file(MODELS / f"{name}.model")).root)
    # Triclinic water; three dipeptides; a box of water for the newer file.
    structures = references(name)[3:4] if name == WATER_MODEL else references(name)[:3]
    for entry in structures:
        cell = entry["cell"] if entry["pbc"].any() else None
        found = reference.evaluate(entry["positions"], entry["numbers"], cell)
        assert abs(found.energy - entry["energy"]) / len(found.charges) <= 1e-12
        assert np.abs(found.forces - entry["forces"]).max() <= 1e-11
        assert np.abs(found.charges - entry["latent_charges"]).max() <= 1e-12


@needs_mace
def test_reference_forces_are_the_gradient_and_need_no_wrapping(small_model):
    reference = MACEReference(open_model(small_model).root)
    probe = probe_structures(reference.elements, reference.cutoff)[2]
    found = reference.evaluate(probe.positions, probe.numbers, probe.cell)
    step = 1e-4
    for atom, axis in ((0, 0), (5, 2)):
        energies = []
        for sign in (1, -1):
            moved = probe.positions.copy()
            moved[atom, axis] += sign * step
            energies.append(reference.evaluate(moved, probe.numbers, probe.cell).energy)
        numeric = -(energies[0] - energies[1]) / (2 * step)
        assert numeric == pytest.approx(found.forces[atom, axis], abs=1e-7)
    shifted = probe.positions + np.array([[2.0, -1.0, 0.0]]) @ probe.cell
    again = reference.evaluate(shifted, probe.numbers, probe.cell)
    assert again.energy == pytest.approx(found.energy, abs=1e-11)


@needs_mace
def test_reference_refuses_unknown_elements(small_model):
    with pytest.raises(InputError, match=r"expected elements of \[1, 6, 8\], got \[26\]"):
        MACEReference(open_model(small_model).root).evaluate(np.zeros((1, 3)), [26])


@needs_mace
def test_reference_leaves_the_process_as_it_was(small_model, monkeypatch):
    monkeypatch.delenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", raising=False)
    dtype = torch.get_default_dtype()
    MACEReference(open_model(small_model).root)
    assert torch.get_default_dtype() == dtype
    assert "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD" not in os.environ


@needs_mace
def test_reference_takes_files_with_fewer_couplings_than_it_would_make(small_model):
    """Files trained with a reduced set of couplings, as cuEquivariance makes them."""
    pickled = open_model(small_model)
    # The last coupling of the second order, with its weights, is not there.
    for product in pickled.root.items("products"):
        for contraction in product.items("symmetric_contractions.contractions"):
            buffers, parameters = contraction.state["_buffers"], contraction.state["_parameters"]
            buffers["U_matrix_2"] = buffers["U_matrix_2"][..., :-1]
            parameters["weights_max"] = parameters["weights_max"][:, :-1]
    from openmm_les_export.families.dispatch import canonical_model
    from oracles.canonical_mace import short_range

    probe = probe_structures([1, 6, 8], 4.0)[0]
    reference = MACEReference(pickled.root)
    _, charges, _ = short_range(canonical_model(pickled), probe.positions, probe.numbers)
    found = reference.evaluate(probe.positions, probe.numbers)
    np.testing.assert_allclose(found.charges, charges.detach().numpy(), rtol=0, atol=1e-13)


# --- the electrostatics of the reference, by hand -----------------------------------------------


def _les(**changes):
    return {"sigma": 1.2, "dl": 2.0, "prefactor": 90.0, "remove_self_interaction": True} | changes


def _reference_energy(charges, positions, cell=None, **changes) -> float:
    from openmm_les_export.verification.reference import les_energy

    q, r = (torch.tensor(x, dtype=torch.float64) for x in (charges, positions))
    return float(les_energy(q, r, cell, _les(**changes)))


def test_two_charges_in_the_open():
    pair = -0.06 * 90.0 / (2 * math.pi) * math.erf(1.5 / (1.2 * math.sqrt(2))) / 1.5
    own = 90.0 * 0.13 / (1.2 * (2 * math.pi) ** 1.5)
    charges, positions = [0.3, -0.2], [[0.0, 0.0, 0.0], [0.0, 1.5, 0.0]]
    assert _reference_energy(charges, positions) == pytest.approx(pair, rel=1e-14)
    kept = _reference_energy(charges, positions, remove_self_interaction=False)
    assert kept == pytest.approx(pair + own, rel=1e-14)


def test_reciprocal_vectors_by_hand():
    # A cube of 3 A with dl = 2 A: 6 vectors of length 1 and 12 of length sqrt(2), times 2 pi / 3.
    energy = 0.0
    for count, squared in ((6, 1), (12, 2)):
        k2 = squared * (2 * math.pi / 3) ** 2
        energy += count * math.exp(-(1.2**2) * k2 / 2) / k2 * 0.4**2
    energy *= 90.0 / 27.0
    found = _reference_energy(
        [0.4], [[0.1, 0.7, -3.0]], np.eye(3) * 3, remove_self_interaction=False
    )
    assert found == pytest.approx(energy, rel=1e-14)
    # Vectors that lie on the sphere itself are in: |n| = 2 in a cube of 4 A.
    from openmm_les_export.verification.reference import reciprocal_sphere

    assert len(reciprocal_sphere(np.eye(3) * 4.0, math.pi)) == 32
    # Without the 6 of length 2, whose coordinates are larger than 1.
    assert len(reciprocal_sphere(np.eye(3) * 4.0, math.pi, 1)) == 26


@pytest.mark.parametrize("cell", [None, np.diag([5.0, 6.0, 7.0])])
def test_energies_of_several_charges_add_up(cell):
    positions = np.random.default_rng(0).uniform(0.0, 5.0, (4, 3))
    charges = np.random.default_rng(1).normal(size=(4, 3))
    found = _reference_energy(charges, positions, cell)
    expected = sum(_reference_energy(row, positions, cell) for row in charges.T)
    assert found == pytest.approx(expected, rel=1e-13)


def test_a_bound_on_reciprocal_vectors_can_be_ignored(caplog):
    canonical = artifacts.load(catalog.artifact_path("les-demo")).canonical
    stated = {**canonical.provenance, "n_max": "model file"}
    bound = replace(canonical, les={**canonical.les, "n_max": 4}, provenance=stated)
    whole = api._bounded(bound, ignore_n_max=True)
    assert not caplog.text
    assert api._bounded(bound, ignore_n_max=False) is bound
    assert "above N_max = 4 (model file): it is whole in boxes up to 10 A" in caplog.text
    assert whole.les == canonical.les
    assert whole.provenance["n_max"] == "--ignore-n-max"
    with pytest.raises(InputError, match="ignore n_max: expected a model whose reciprocal sum"):
        api._bounded(whole, ignore_n_max=True)


# --- the comparison -----------------------------------------------------------------------------


PROBES = probe_structures([1, 8], 4.0)[:3]
ORIGINAL = Evaluation(-70.0, np.full((9, 3), 0.5), np.full(9, 0.2))
LES = {"sigma": 1.0, "prefactor": 90.0}


def path_with(tolerance, energy=0.0, force=0.0, charge=0.0, probe=PROBES[0]) -> EvaluationPath:
    """A path with errors in one structure."""

    def evaluate(structure):
        forces, charges = ORIGINAL.forces.copy(), ORIGINAL.charges.copy()
        if structure is not probe:
            return ORIGINAL
        forces[-1, 1] += force
        charges[3] += charge
        return Evaluation(ORIGINAL.energy + 9 * energy, forces, charges)

    return EvaluationPath("single mesh", tolerance, evaluate)


def errors_of(path, original=ORIGINAL):
    return path.largest_errors([(probe, original) for probe in PROBES], LES)


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("quantity", ["energy", "force", "charge"])
def test_each_quantity_has_its_tolerance(dtype, quantity):
    tolerance = TOLERANCES[dtype]
    name = {"energy": "energy_per_atom"}.get(quantity, quantity)
    limit = getattr(tolerance, name)
    errors = errors_of(path_with(tolerance, **{quantity: 0.9 * limit}))
    assert errors[name] == pytest.approx(0.9 * limit, rel=1e-4)
    assert sum(errors.values()) == errors[name]
    for wrong in (1.2 * limit, math.nan):
        with pytest.raises(VerificationError, match=r"of the structure 'cluster'") as caught:
            errors_of(path_with(tolerance, **{quantity: wrong}))
        assert name.replace("_", " ") in str(caught.value)
        assert f"at most {limit:g}" in str(caught.value)


def test_tolerances_grow_with_large_numbers():
    """Rounding does: isolated atoms may have charges, and so energies, far from those trained."""
    large = Evaluation(-70.0, np.full((9, 3), 50.0), np.full(9, 3.0))
    path = EvaluationPath(
        "single direct",
        TOLERANCES["float32"],
        lambda _: Evaluation(large.energy + 9 * 5e-6, large.forces + 9e-4, large.charges + 2.9e-5),
    )
    errors_of(path, large)
    with pytest.raises(VerificationError, match="energy per atom"):
        errors_of(path)


def test_the_structure_that_differs_is_named():
    with pytest.raises(VerificationError, match="'periodic box'"):
        errors_of(path_with(TOLERANCES["float64"], force=1.0, probe=PROBES[1]))


def test_paths_for_boxes_see_no_others():
    path = replace(path_with(TOLERANCES["float64"], force=1.0), periodic_only=True)
    assert errors_of(path)["force"] == 0.0


def test_wrong_shapes_are_an_error_not_a_broadcast():
    found = replace(ORIGINAL, charges=ORIGINAL.charges[:, None])
    path = EvaluationPath("portable float64", TOLERANCES["float64"], lambda _: found)
    with pytest.raises(VerificationError, match=r"charges of shape \(9,\), got \(9, 1\)"):
        errors_of(path)


# --- within an export ---------------------------------------------------------------------------


@needs_mace
def test_export_without_mace_says_so(small_model, monkeypatch, caplog):
    genuine = builtins.__import__

    def without_mace(name, *args, **kwargs):
        if name.split(".")[0] == "mace":
            raise ImportError("No module named 'mace'")
        return genuine(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_mace)
    opened = open_model(small_model)
    model = Artifact.unsaved(openmm_les_export.read_model(small_model), Path("x.les.pt"))
    report = api._verify(opened, model, None)  # type: ignore[arg-type]
    assert report["status"] == "not verified"
    assert "mace" in report["reason"]
    assert "not verified" in caplog.text


@needs_mace
@pytest.mark.parametrize("dtype", ["float64", None])
def test_export_writes_the_report(small_model, tmp_path, dtype):
    from openmm_les import artifact

    path = openmm_les_export.export(small_model, tmp_path / "small.les.pt", dtype=dtype)
    metadata = artifact.inspect(path)
    assert metadata["dtype"] == (dtype or "float32")
    report = metadata["verification"]
    assert report["status"] == "verified"
    assert set(report["versions"]) == {"torch", "mace-torch"}
    paths = [f"portable {metadata['dtype']}", *SYSTEM_PATHS]
    assert list(report["max_errors"]) == list(report["tolerance"]) == paths
    for path, errors in report["max_errors"].items():
        for quantity, limit in report["tolerance"][path].items():
            assert errors[quantity] <= limit
    # In double precision the direct sum has no error but rounding, and a mesh has one.
    assert report["max_errors"]["double direct"]["force"] < 1e-11
    assert report["max_errors"]["double mesh"]["force"] > 1e-12


@needs_mace
def test_threads_export_at_the_same_time(tmp_path):
    """In a child: code of others that several threads script may end the process."""
    model = ROOT / "training" / "les_demo" / "les-demo.model"
    code = f"""
from concurrent.futures import ThreadPoolExecutor
from openmm_les import artifact
from openmm_les_export import export

def work(number):
    path = export({str(model)!r}, f"{tmp_path}/{{number}}.les.pt")
    return artifact.inspect(path)["verification"]["status"]

with ThreadPoolExecutor(2) as pool:
    print(*pool.map(work, range(2)))
"""
    child = run_code(code, folder=tmp_path)
    assert child.stdout.split() == ["verified"] * 2, child.stderr


@needs_mace
def test_export_that_differs_writes_nothing(small_model, tmp_path, monkeypatch):
    from openmm_les_export.families.mace import reader as mace

    genuine = mace.les_parameters
    monkeypatch.setattr(mace, "les_parameters", lambda les: genuine(les) | {"sigma": 1.001})
    with pytest.raises(VerificationError, match="nothing was written"):
        openmm_les_export.export(small_model, tmp_path / "small.les.pt")
    assert list(tmp_path.iterdir()) == []


def slightly_more(function):
    """The function, with a result (or weights, or the table in its first one) off by 0.001."""

    def wrong(*args, **kwargs):
        found = function(*args, **kwargs)
        if isinstance(found, torch.nn.Module):
            found.weights *= 1.001
            return found
        if not isinstance(found, tuple):
            return 1.001 * found
        found[0].table *= 1.001
        return found

    return wrong


#: By what `SystemModel` alone uses: its place, and the paths that it spoils. Where there are loops
#: meshes take them, without them everything is torch code.
PARTS = {
    "folded weights": (
        "openmm_les.networks.blocks.product_basis._folded",
        SYSTEM_PATHS if obstacle("numba") else SYSTEM_PATHS[::2],
    ),
    "loops": (
        "openmm_les.networks.kernels.numba.product_basis.LoopProductBasis",
        SYSTEM_PATHS[1::2],
    ),
    "radial tables": (
        "openmm_les.networks.blocks.radial.tabulate",
        ["single direct", "single mesh"],
    ),
    "mesh": (
        "openmm_les.electrostatics.mesh.fourier_transform",
        ["single mesh", "double mesh"],
    ),
}


@needs_mace
@pytest.mark.parametrize("part", PARTS)
def test_what_simulations_run_is_verified(small_model, tmp_path, monkeypatch, part):
    """The portable module is right; a `SystemModel` is not."""
    if part == "loops" and (reason := obstacle("numba")):
        pytest.skip(reason)
    place, spoilt = PARTS[part]
    monkeypatch.setattr(place, slightly_more(resolve_name(place)))
    with pytest.raises(
        VerificationError, match=f"^verification: {spoilt[0]}: .*nothing was written"
    ):
        openmm_les_export.export(small_model, tmp_path / "small.les.pt")
    assert list(tmp_path.iterdir()) == []
    # It spoils these paths and no others.
    model = Artifact.unsaved(openmm_les_export.read_model(small_model), Path("x.les.pt"))
    reference = reference_model(open_model(small_model), model.canonical)
    probe = probe_structures(model.elements, model.cutoff)[1]
    original = reference.evaluate(probe.positions, probe.numbers, probe.cell)
    for path in system_paths(model):
        if path.name in spoilt:
            with pytest.raises(VerificationError):
                path.largest_errors([(probe, original)], model.canonical.les)
        else:
            path.largest_errors([(probe, original)], model.canonical.les)
