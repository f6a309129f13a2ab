"""Reading CHGNet-LES models of MatGL: every shape, angles in small slots, what is refused."""

from __future__ import annotations

import json
import shutil

import ase.io
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule
from openmm_les_export import export, read_model
from openmm_les_export.checkpoints.unpickle import open_model
from openmm_les_export.families.chgnet.reference import CHGNetReference
from openmm_les_export.verification.probes import probe_structures
from openmm_les_export.verification.reference import all_pairs
from oracles.chgnet_models import far_from_cutoffs, matgl_energy, synthetic_chgnet
from support.evaluation import eager, of_module, of_probe
from support.gradients import check_finite_differences, system_for
from support.helpers import CHGNET_MODEL, model_file

from openmm_les import artifact as artifacts
from openmm_les.cli import main
from openmm_les.errors import InputError, ModelFileError, UnsupportedModelError
from openmm_les.evaluation.status import STATUS_OVERFLOW
from openmm_les.evaluation.system_model import SystemModel

LES = {"self_interaction": "removed"}
#: One axis varied at a time, and a few corners.
SHAPES = {
    "plain": {},
    "one layer": {"num_blocks": 1},
    "four layers": {"num_blocks": 4},
    "no factors": {"shared_bond_weights": None},
    "factors of bonds": {"shared_bond_weights": "bond"},
    "factors of angles": {"shared_bond_weights": "three_body_bond"},
    "factors of angles of each layer": {"layer_bond_weights": "three_body_bond"},
    "bond updates": {"bond_update_hidden_dims": (5, 6)},
    "flat bond updates": {"bond_update_hidden_dims": ()},
    "no angle updates": {"angle_update_hidden_dims": None},
    "deep networks": {
        "atom_conv_hidden_dims": (7, 5),
        "bond_conv_hidden_dims": (5, 6),
        "angle_update_hidden_dims": (6,),
        "final_hidden_dims": (4, 5, 6),
    },
    "flat networks": {
        "atom_conv_hidden_dims": (),
        "bond_conv_hidden_dims": (),
        "final_hidden_dims": (),
    },
    "activated embeddings": {"non_linear_bond_embedding": True, "non_linear_angle_embedding": True},
    "normalised": {"normalization": "layer", "bond_update_hidden_dims": (5,)},
    "normalised inside": {
        "normalization": "layer",
        "normalize_hidden": True,
        "bond_update_hidden_dims": (5,),
        "atom_conv_hidden_dims": (7, 5),
    },
    "other basis": {"max_n": 4, "max_f": 5, "cutoff_exponent": 3},
    "no angular functions": {"max_f": 0},
    "other cutoffs": {"cutoff": 5.2, "threebody_cutoff": 2.4},
    "one cutoff": {"cutoff": 3.5, "threebody_cutoff": 3.5},
    "elements out of order": {"element_types": ("O", "H")},
    "no references": {"references": False},
    "mean": {"mean": 0.7, "scale": 2.5},
    "no moments": {"num_site_targets": 0},
    "all elements": {"element_types": None, "rows": 94},
    "float32": {"dtype": torch.float32},
}
#: What MatGL of PyPI computes in single precision only, in part.
OLD_SHAPES = {
    "factors of bonds of each layer": {"layer_bond_weights": "bond"},
    "factors of each layer": {
        "layer_bond_weights": "both",
        "shared_bond_weights": None,
        "bond_update_hidden_dims": (5,),
    },
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("chgnet")


def model_of(folder, shape):
    path = folder / shape
    return path if path.exists() else synthetic_chgnet(path, **{**SHAPES, **OLD_SHAPES}[shape])


def artifact_of(folder, shape) -> artifacts.Artifact:
    model = read_model(model_of(folder, shape), **LES)
    return artifacts.Artifact.unsaved(model, folder / f"{shape}.les.pt")


def probes_of(model):
    """Structures of at most ten elements."""
    hyper = model.hyper
    elements = hyper["elements"] if len(hyper["elements"]) < 10 else [1, 8, 26]
    return probe_structures(elements, hyper["cutoff"], [hyper["cutoff"], hyper["inner_cutoff"]])


# --- every shape --------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [*SHAPES, *OLD_SHAPES])
def test_every_shape_equals_the_equations(folder, shape):
    path = model_of(folder, shape)
    model = read_model(path, **LES)
    reference = CHGNetReference(open_model(path), model)
    module = eager(model)
    for probe in probes_of(model)[:5]:
        expected = reference.evaluate(probe.positions, probe.numbers, probe.cell)
        energy, forces, charges = of_probe(module, probe)
        if probe.name != "isolated atoms":  # else nothing is tested
            assert np.ptp(expected.charges) > 1e-3
            assert np.abs(expected.forces).max() > 1e-2
        assert abs(energy - expected.energy) / len(probe.numbers) < 1e-10
        scale = max(1.0, np.abs(expected.forces).max())
        np.testing.assert_allclose(forces, expected.forces, rtol=0, atol=1e-9 * scale)
        np.testing.assert_allclose(charges, expected.charges, rtol=1e-10, atol=1e-10)


@pytest.mark.matgl
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_equals_matgl(folder, shape):
    """Without the long-range sum, which PyPI's MatGL does not have."""
    path = model_of(folder, shape)
    model = read_model(path, **LES)
    scale, model.les["prefactor"] = model.les["prefactor"], 0.0
    module, elements = eager(model), model.hyper["elements"]
    references = model.state["reference_energies"]
    for probe in probes_of(model)[:4]:
        pairs = all_pairs(probe.positions, probe.cell, model.hyper["cutoff"])
        species = torch.tensor([elements.index(z) for z in probe.numbers])
        r = torch.tensor(probe.positions, requires_grad=True)
        energy, charges = matgl_energy(path, pairs, r, species)
        energy = scale * energy.sum() + SHAPES[shape].get("mean", 0.0)
        (gradient,) = torch.autograd.grad(energy, r)
        energy = energy + references[species].sum()
        got = of_probe(module, probe)
        assert abs(got[0] - float(energy)) / len(probe.numbers) < 1e-10
        atol = 1e-9 * max(1.0, float(gradient.abs().max()))
        np.testing.assert_allclose(got[1], -gradient, rtol=0, atol=atol)
        np.testing.assert_allclose(got[2], charges.detach(), rtol=1e-10, atol=1e-10)


def peptide(gap=5e-3, cutoffs=(4.5, 3.0)) -> Atoms:
    """A molecule without a distance near a cutoff, where the energy has a step."""
    for seed in range(1000):
        atoms = molecule("CH3CONH2")
        atoms.numbers[atoms.numbers == 7] = 8
        atoms.rattle(0.1, seed=seed)
        if far_from_cutoffs(atoms.positions, cutoffs) > gap:
            return atoms
    raise AssertionError("no such structure")


@pytest.mark.parametrize("shape", ["plain", "normalised inside"])
def test_forces_and_virial_are_finite_differences(folder, shape):
    check_finite_differences(artifact_of(folder, shape), peptide(), atoms=[0, 5])


def test_single_precision(folder):
    atoms, artifact = peptide(), artifact_of(folder, "float32")
    one, other = (system_for(artifact, atoms, p).evaluate(atoms.positions) for p in PRECISIONS)
    assert one.energy == pytest.approx(other.energy, abs=1e-6 * len(atoms))
    np.testing.assert_allclose(one.forces, other.forces, rtol=0, atol=1e-4)
    np.testing.assert_allclose(one.charges, other.charges, rtol=0, atol=1e-5)


PRECISIONS = ("single", "double")


def test_straight_angles(folder):
    """Close to 180 degrees an angle has no derivative; MatGL stops short of it."""
    path = model_of(folder, "plain")
    model = read_model(path, **LES)
    reference = CHGNetReference(open_model(path), model)
    for bend in (0.0, 1e-4, 1e-2):
        positions = np.array([[0, 0, 0], [1.16, bend, 0], [-1.16, 0, 0], [0, 0, 2.0]])
        numbers = np.array([6, 8, 8, 1])
        expected = reference.evaluate(positions, numbers)
        for dtype, tolerance in ((torch.float64, 1e-8), (torch.float32, 1e-4)):
            _, forces, _ = of_module(eager(model, dtype), positions, numbers)
            np.testing.assert_allclose(forces, expected.forces, rtol=0, atol=tolerance)


def test_boxes_smaller_than_the_cutoffs_equal_supercells(folder):
    """Bonds of an atom with its own images, and angles between them."""
    module = eager(read_model(model_of(folder, "plain"), **LES))
    cell = np.array([[2.6, 0, 0], [0.3, 2.9, 0], [-0.2, 0.4, 3.3]])
    atoms = Atoms("CO", [[0.1, 0.2, 0.3], [1.2, 1.1, 1.6]], cell=cell, pbc=True)
    larger = atoms.repeat((2, 2, 2))
    one = of_module(module, atoms.positions, atoms.numbers, atoms.cell.array)
    other = of_module(module, larger.positions, larger.numbers, larger.cell.array)
    # A multiple of the box has the same long-range energy, but for vectors on the cutoff.
    assert other[0] == pytest.approx(8 * one[0], abs=1e-9)
    np.testing.assert_allclose(other[1], np.tile(one[1], (8, 1)), atol=1e-9)
    np.testing.assert_allclose(other[2], np.tile(one[2], 8), atol=1e-10)


# --- slots for angles ---------------------------------------------------------------------------


def waters(spacing: float) -> Atoms:
    atoms = molecule("H2O")
    atoms.set_cell(np.eye(3) * spacing)
    atoms = atoms.repeat((2, 2, 2))
    atoms.rattle(0.05, seed=1)
    atoms.pbc = True
    return atoms


def test_static_slots_give_the_same(folder):
    artifact, atoms = artifact_of(folder, "plain"), waters(3.1)
    varying, static = (system_for(artifact, atoms, static_shapes=s) for s in (False, True))
    assert varying.network.inner.capacity == 0
    assert 0 < static.network.inner.capacity < static.capacity
    expected, got = (model.evaluate(atoms.positions) for model in (varying, static))
    assert got.energy == pytest.approx(expected.energy, abs=1e-10)
    np.testing.assert_allclose(got.forces, expected.forces, rtol=0, atol=1e-10)
    np.testing.assert_allclose(got.virial, expected.virial, rtol=0, atol=1e-9)


def test_too_few_slots_are_a_status_and_grow(folder):
    """Rows that hold all neighbours, and inner slots that do not hold all inner neighbours."""
    artifact, atoms = artifact_of(folder, "plain"), waters(3.1)
    atoms.set_pbc(False)
    static = system_for(artifact, atoms, static_shapes=True, max_neighbors=30)
    slots = static.network.inner.capacity
    crowded = 0.75 * atoms.positions
    energy, forces, _, _, status = static.module(torch.tensor(crowded), torch.zeros(3, 3).double())
    assert int(status) == STATUS_OVERFLOW
    assert bool(torch.isnan(energy))
    assert bool(torch.isnan(forces).all())
    got = static.evaluate(crowded)
    assert static.network.inner.capacity > slots
    assert static.capacity == 30
    expected = system_for(artifact, atoms).evaluate(crowded)
    assert got.energy == pytest.approx(expected.energy, abs=1e-9)
    np.testing.assert_allclose(got.forces, expected.forces, rtol=0, atol=1e-8)


def test_more_neighbors_are_more_inner_slots(folder):
    artifact, atoms = artifact_of(folder, "plain"), waters(3.1)
    few, many = (
        system_for(artifact, atoms, static_shapes=True, max_neighbors=n) for n in (60, 200)
    )
    assert many.network.inner.capacity > 2 * few.network.inner.capacity


def test_blocks_do_not_matter(folder):
    """Large systems are done in blocks of atoms, here one atom at a time."""
    model = read_model(model_of(folder, "bond updates"), **LES)
    atoms = waters(3.1)
    structure = atoms.positions, atoms.numbers, atoms.cell.array
    whole, blocks = eager(model), eager(model)
    for module in blocks.modules():
        if hasattr(module, "limits"):
            module.limits = [1, 1]
    one, other = of_module(whole, *structure), of_module(blocks, *structure)
    assert one[0] == pytest.approx(other[0], abs=1e-11)
    np.testing.assert_allclose(one[1], other[1], rtol=0, atol=1e-12)


# --- units --------------------------------------------------------------------------------------


def test_data_std_scales_the_long_range_energy_and_the_mean_is_added_once(folder):
    model = read_model(model_of(folder, "mean"), **LES)
    assert model.les["prefactor"] == pytest.approx(2.5)
    assert model.provenance["prefactor"] == "model file, times data_std 2.5"
    module = eager(model)
    atoms = peptide()
    one = of_module(module, atoms.positions, atoms.numbers)
    far = np.vstack([atoms.positions, atoms.positions + [500.0, 0, 0]])
    two = of_module(module, far, np.tile(atoms.numbers, 2))
    net = float(one[2].sum())
    coulomb = 2.5 / (2 * np.pi) * net**2 / 500.0
    assert two[0] == pytest.approx(2 * one[0] - 0.7 + coulomb, abs=1e-5)


def test_elements_without_a_reference_are_left_out(tmp_path):
    def change(parts):
        parts["state"]["element_refs.property_offset"] = torch.arange(89, dtype=torch.float64)
        parts["state"]["element_refs.onehot"] = torch.eye(89)

    path = synthetic_chgnet(tmp_path / "x", element_types=None, rows=94, change=change)
    model = read_model(path, **LES)
    assert model.hyper["elements"] == list(range(1, 90))
    assert model.state["atoms"].shape[0] == 89
    other = synthetic_chgnet(tmp_path / "y", element_types=None, rows=89)
    with pytest.raises(ModelFileError, match="the 89 elements of the embedding, got 94"):
        read_model(other, **LES)


# --- files --------------------------------------------------------------------------------------


def test_the_directory_or_any_of_its_files(folder):
    path = model_of(folder, "plain")
    models = [read_model(path / name, **LES) for name in ("", "model.json", "model.pt", "state.pt")]
    assert len({model.source["sha256"] for model in models}) == 1
    assert {model.source["file"] for model in models} == {"plain"}


def test_the_command_and_what_inspect_shows(folder, capsys):
    """As docs/reference/formats/chgnet.md shows it."""
    output = folder / "my.les.pt"
    arguments = ["export", str(model_of(folder, "plain")), "-o", str(output), "--overwrite"]
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert "self-interaction: the file does not hold the remove_self_interaction" in error
    assert "--norm-factor" not in error
    with pytest.raises(SystemExit) as stopped:
        main([*arguments, "--self-interaction", "removed"])
    assert stopped.value.code == 0
    with pytest.raises(SystemExit):
        main(["inspect", str(output)])
    shown = " ".join(capsys.readouterr().out.split())
    assert "model chgnet" in shown
    assert "prefactor 1.3 eV A, self-interaction removed" in shown
    assert "model file, times data_std 1.3 prefactor" in shown
    assert "--self-interaction remove_self_interaction" in shown
    verification = artifacts.inspect(output)["verification"]
    assert verification["status"] == "verified"
    assert verification["against"].startswith("a second evaluation of the equations of CHGNet")


def test_verification_notices_a_wrong_network(folder, tmp_path, monkeypatch):
    from openmm_les.errors import VerificationError
    from openmm_les.networks.chgnet.inner_bonds import InnerBonds

    honest = InnerBonds.__init__
    monkeypatch.setattr(InnerBonds, "__init__", lambda self, cutoff: honest(self, cutoff - 0.8))
    with pytest.raises(VerificationError, match="energy per atom of the structure"):
        export(model_of(folder, "plain"), tmp_path / "x.les.pt", **LES)


OLD = {"les_norm_factor": None, "les_pbc": None}
WRONG = {
    "nothing": ({}, {}, r"^self-interaction: the file does not hold the remove_self_interaction"),
    "its own": ({}, {**LES, "norm_factor": 1.0}, r"the file holds its own norm_factor, 1\.0"),
    "old": (OLD, LES, r"^norm factor: .* the prefactor of its training; say with --norm-factor"),
    "old, nothing": (OLD, {}, r"^norm factor and self-interaction: .*--calibrate FILE"),
    "energies": ({}, {**LES, "atomic_energies": {1: 0.0}}, r"a CHGNet-LES file holds its own"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_options_are_refused(tmp_path, case):
    potential, options, message = WRONG[case]
    path = synthetic_chgnet(tmp_path / "x", potential=potential)
    with pytest.raises(InputError, match=message):
        read_model(path, **options)


def test_a_prefactor_that_the_user_says_is_scaled_too(tmp_path):
    path = synthetic_chgnet(tmp_path / "x", potential=OLD)
    model = read_model(path, norm_factor=90.0474, self_interaction="kept")
    assert model.les["prefactor"] == pytest.approx(1.3 * 90.0474)
    assert model.provenance["prefactor"] == "--norm-factor, times data_std 1.3"
    assert model.les["remove_self_interaction"] is False


@pytest.mark.parametrize("state", ["removed", "kept"])
def test_calibration(folder, tmp_path, state):
    path = model_of(folder, "plain")
    module = eager(read_model(path, self_interaction=state))
    frames = []
    for seed in range(6):
        atoms = peptide()
        atoms.rattle(0.05, seed=seed)
        atoms.info["energy"] = of_module(module, atoms.positions, atoms.numbers)[0]
        frames.append(atoms)
    ase.io.write(tmp_path / "x.xyz", frames, format="extxyz")
    found = read_model(path, calibrate=tmp_path / "x.xyz")
    assert found.les["remove_self_interaction"] is (state == "removed")
    assert found.les["prefactor"] == pytest.approx(1.3)
    assert found.provenance["remove_self_interaction"] == "--calibrate x.xyz"


# --- what is refused ----------------------------------------------------------------------------


def _arguments(**options):
    return lambda parts: parts["arguments"].update(options)


def _network(**options):
    return lambda parts: parts["arguments"]["model"]["init_args"].update(options)


def _state(name, value=None):
    def change(parts):
        if value is None:
            del parts["state"][name]
        else:
            parts["state"][name] = value

    return change


def _class(name):
    def change(parts):
        parts["arguments"]["model"]["@class"] = name
        parts["description"]["kwargs"]["model"]["@class"] = name

    return change


_EMBEDDING = "model.atom_embedding.weight"
UNSUPPORTED = {
    "repulsion": (_arguments(calc_repuls=True), r"Potential\.calc_repuls: .* got True"),
    "no long range": (_arguments(calc_BEC=False), r"Potential\.calc_BEC: expected True"),
    "no boxes": (_arguments(les_pbc=False), r"Potential\.les_pbc: expected True, got False"),
    "alien argument": (_arguments(les_dipole=True), r"Potential\.les_dipole: unsupported option"),
    "other network": (_class("TensorNet_LR"), r"CHGNet_LR, got 'TensorNet_LR'; .* imported"),
    "states": (_network(dim_state_feats=2), r"CHGNet_LR\.dim_state_feats: .* got 2"),
    "activation": (_network(activation_type="softplus2"), r"activation_type: expected 'swish'"),
    "gated readout": (_network(final_mlp_type="gated"), r"final_mlp_type: .* got 'gated'"),
    "readout of bonds": (_network(readout_field="bond_feat"), r"readout_field: .* 'bond_feat'"),
    "mean": (_network(pooling_operation="mean"), r"pooling_operation: expected 'sum'"),
    "graph norm": (_network(normalization="graph"), r"normalization: expected None or 'layer'"),
    "targets": (_network(num_targets=2), r"num_targets: expected 1, got 2"),
    "alien option": (_network(dropout_mode=3), r"CHGNet_LR\.dropout_mode: unsupported option"),
    "missing option": (
        lambda parts: parts["arguments"]["model"]["init_args"].pop("max_f"),
        r"CHGNet_LR: expected option max_f, got none",
    ),
    "no angles": (_network(threebody_cutoff=0.0), r"threebody_cutoff: expected a positive"),
    "infinite": (_network(cutoff=float("inf")), r"option cutoff: expected a positive number"),
    "huge": (_network(num_blocks=10**9), r"num_blocks: expected an integer of 1 to"),
    "half a layer": (_network(num_blocks=2.5), r"num_blocks: expected an integer"),
    "widths": (_network(atom_conv_hidden_dims=(6, -1)), r"atom_conv_hidden_dims: .* integers"),
    "no widths": (_network(bond_conv_hidden_dims=None), r"bond_conv_hidden_dims: .* integers"),
    "no symbol": (_network(element_types=("H", "C", "Xx")), r"element_types: .*symbols"),
    "alien tensor": (_state("model.extra", torch.ones(2)), r"model\.extra: unsupported tensor"),
    "missing tensor": (_state("model.bond_expansion.frequencies"), r"expected a tensor, got none"),
    "missing embedding": (_state(_EMBEDDING), r"atom_embedding\.weight: expected a tensor"),
    "missing scale": (_state("data_std"), r"data_std: expected a tensor"),
    "integers": (_state(_EMBEDDING, torch.ones(3, 6, dtype=torch.int64)), "got torch.int64"),
}


@pytest.mark.parametrize("case", UNSUPPORTED)
def test_unsupported_models_are_refused_by_name(tmp_path, case):
    change, message = UNSUPPORTED[case]
    path = synthetic_chgnet(tmp_path / "x", change=change)
    with pytest.raises(UnsupportedModelError, match=message):
        read_model(path, **LES)


def _description(**entries):
    return lambda parts: parts["description"].update(entries)


CONTRADICTIONS = {
    "bare network": (_description(**{"@class": "CHGNet_LR"}), r"expected a saved Potential"),
    "two models": (_description(kwargs={"model": {"@class": "M3GNet"}}), "of different models"),
    "no network": (_arguments(model="CHGNet_LR"), r"expected the arguments of a network"),
    "without LES": (_class("CHGNet"), "a plain CHGNet model without LES"),
    "shape": (_state(_EMBEDDING, torch.ones(3, 9)), r"expected shape \(-1, 6\), got \(3, 9\)"),
    "elements": (_state(_EMBEDDING, torch.ones(4, 6)), r"the 4 elements of the embedding, got 3"),
    "no tensor": (_state("data_mean", 0.5), r"data_mean: expected a tensor, got float"),
    "no scale": (_state("data_std", torch.tensor(0.0)), r"data_std: expected a positive number"),
    "nan": (_state(_EMBEDDING, torch.full((3, 6), np.nan)), "got NaN, infinity or more in atoms"),
    "sigma": (_arguments(les_sigma=-1.0), r"option les_sigma: expected a positive number"),
    "remove mean": (_arguments(les_remove_mean=1), r"option les_remove_mean: expected True or F"),
    "list": (lambda parts: parts.update(state=[1]), r"state\.pt holds no options and tensors"),
    "text": (lambda parts: parts.update(description="no"), r"holds no options and tensors"),
}


@pytest.mark.parametrize("case", CONTRADICTIONS)
def test_contradictory_files_are_refused(tmp_path, case):
    change, message = CONTRADICTIONS[case]
    path = synthetic_chgnet(tmp_path / "x", change=change)
    with pytest.raises(ModelFileError, match=message):
        read_model(path, **LES)


class _Hostile:
    def __reduce__(self):
        return print, ("run",)


@pytest.mark.parametrize("file", ["model.pt", "state.pt"])
def test_nothing_in_the_files_is_run(tmp_path, file, capsys):
    path = synthetic_chgnet(tmp_path / "x")
    torch.save({"model": _Hostile()}, path / file)
    with pytest.raises(ModelFileError, match=r"it calls for builtins\.print, .*nothing was run"):
        read_model(path, **LES)
    assert "run" not in capsys.readouterr().out


def test_incomplete_directories_are_refused(tmp_path):
    path = synthetic_chgnet(tmp_path / "x")
    (path / "model.pt").unlink()
    with pytest.raises(ModelFileError, match=r"is a directory without model\.pt; expected"):
        read_model(path, **LES)
    other = synthetic_chgnet(tmp_path / "y")
    (other / "model.json").write_text("{")
    with pytest.raises(ModelFileError, match=r"model\.json is .*not JSON"):
        read_model(other, **LES)


def test_files_of_two_models_do_not_mix(tmp_path):
    one, other = synthetic_chgnet(tmp_path / "x"), synthetic_chgnet(tmp_path / "y", num_blocks=4)
    shutil.copy(other / "state.pt", one / "state.pt")
    with pytest.raises(
        UnsupportedModelError, match=r"graph_layers\.\d.*unsupported tensor of CHGNet"
    ):
        read_model(one, **LES)


def test_the_models_file_of_the_original_code(exported):
    """Its description in JSON states tensors as text, which nobody reads."""
    description = json.loads((model_file(CHGNET_MODEL) / "model.json").read_text())
    assert isinstance(description["kwargs"]["element_refs"], str)
    metadata = artifacts.inspect(exported(CHGNET_MODEL))
    assert metadata["source"]["class"] == "CHGNet_LR"
    assert len(metadata["elements"]) == 89


def test_only_the_elements_present_are_kept(folder):
    artifact, atoms = artifact_of(folder, "all elements"), waters(3.1)
    model: SystemModel = system_for(artifact, atoms)
    assert model.network.atoms.shape[0] == 2
    module = eager(artifact.canonical)
    energy, forces, _ = of_module(module, atoms.positions, atoms.numbers, atoms.cell.array)
    got = model.evaluate(atoms.positions)
    assert got.energy + model.reference_energy == pytest.approx(energy, abs=1e-9)
    np.testing.assert_allclose(got.forces, forces, rtol=0, atol=1e-10)
