"""Reading NequIP-LES checkpoints: every shape, and what only the user knows."""

from __future__ import annotations

import json
import re
from pathlib import Path

import ase.io
import numpy as np
import pytest
import torch
from openmm_les_export import export, read_model
from openmm_les_export.checkpoints.unpickle import open_model
from openmm_les_export.families.e3nn_weights import activation_constant
from openmm_les_export.families.nequip.reader import SILU, TANH
from openmm_les_export.families.nequip.reference import NequIPReference
from openmm_les_export.verification.probes import probe_structures
from oracles.nequip_models import LES, MOMENTS, synthetic_allegro, synthetic_nequip
from support.evaluation import eager, of_module, of_probe
from support.gradients import check_finite_differences, system_for
from support.helpers import (
    DATA,
    LES_CHOICES,
    NEQUIP_DIPEPTIDE_MODEL,
    NEQUIP_MODELS,
    model_file,
    references,
    shared_file,
)

from openmm_les import artifact as artifacts
from openmm_les.cli import main
from openmm_les.errors import InputError
from openmm_les.evaluation.system_model import SystemModel


def trained_with_e3nn_0_4(checkpoint) -> None:
    """Signs of Wigner 3j symbols were others then."""
    checkpoint["hyper_parameters"]["info_dict"]["versions"]["e3nn"] = "0.4.4"


#: One axis varied at a time, and a few corners.
SHAPES = {
    "plain": {},
    "one layer": {"num_layers": 1},
    "three layers": {"num_layers": 3},
    "no angles": {"l_max": 0},
    "degree 2": {"l_max": 2, "num_layers": 3, "num_features": 3},
    "no parity": {"parity": False, "num_layers": 3, "l_max": 2},
    "features by degree": {"num_features": [5, 3, 2], "l_max": 2, "num_layers": 3},
    "other embedding": {"type_embed_num_features": 3},
    "deep radial network": {"radial_mlp_depth": 3},
    "flat radial network": {"radial_mlp_depth": 0},
    "deep readout": {"readout_mlp_hidden_layers_depth": 2, "readout_mlp_hidden_layers_width": 7},
    "trained roots": {"bessel_trainable": True},
    "trained shifts": {"per_type_energy_shifts_trainable": True},
    "one scale": {"per_type_energy_scales": 0.8, "per_type_energy_shifts": None},
    "other cutoff": {"r_max": 5.2, "polynomial_cutoff_p": 4, "avg_num_neighbors": None},
    "elements out of order": {
        "type_names": ["O", "C", "H"],
        "per_type_energy_scales": None,
        "per_type_energy_shifts": 0.5,
    },
    "float32": {"model_dtype": "float32"},
    "no averages": {"averaged": False},
    "old": {"old": True, "num_layers": 3},
    "old, no parity": {"old": True, "parity": False, "num_layers": 3, "l_max": 2},
    "e3nn 0.4": {"l_max": 2, "num_layers": 3, "num_features": 3, "change": trained_with_e3nn_0_4},
    "other LES": {"les": {"sigma": 1.3, "dl": 1.7}},
    "moments": {"les": MOMENTS["all"], "num_features": [5, 3, 2], "l_max": 2, "num_layers": 3},
    "isotropic": {"les": MOMENTS["isotropic"], "num_layers": 1, "l_max": 0},
    "kappa and dipoles": {"les": MOMENTS["kappa"], "parity": False, "num_features": [4, 2]},
    "tensors of vectors": {"les": MOMENTS["tensors"]},
    "tensors": {"les": MOMENTS["tensors"], "parity": False, "l_max": 3, "num_features": 3},
}
#: Of Allegro.
ALLEGRO_SHAPES = {
    "Allegro": {},
    "Allegro, no parity": {"parity": False, "l_max": 2},
    "Allegro, three layers": {"num_layers": 3, "l_max": 2},
    "Allegro, one layer": {"num_layers": 1},
    "Allegro, one weight a path": {"tp_path_channel_coupling": False},
    "Allegro, deep networks": {
        "allegro_mlp_hidden_layers_depth": 2,
        "scalar_embed_mlp_hidden_layers_depth": 0,
        "readout_mlp_hidden_layers_depth": 0,
    },
    "Allegro, trained roots": {"bessel_trainable": True},
    "Allegro, three elements": {
        "type_names": ["O", "C", "H"],
        "per_type_energy_scales": {"O": 0.4, "C": 0.9, "H": 1.6},
        "per_type_energy_shifts": {"O": -430.0, "C": -150.0, "H": -13.0},
    },
    "Allegro, float32": {"model_dtype": "float32"},
    "Allegro, moments": {"les": MOMENTS["all"], "l_max": 3, "parity": False, "num_layers": 1},
    "Allegro, isotropic": {"les": MOMENTS["isotropic"]},
    "Allegro, kappa and dipoles": {"les": MOMENTS["kappa"]},
    "Allegro, tensors of vectors": {"les": MOMENTS["tensors"]},
    "Allegro, tensors": {"les": MOMENTS["tensors"], "l_max": 2},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("nequip")


def file_of(folder, shape) -> Path:
    path = folder / f"{shape}.ckpt"
    if path.exists():
        return path
    if shape in ALLEGRO_SHAPES:
        return synthetic_allegro(path, **ALLEGRO_SHAPES[shape])
    return synthetic_nequip(path, **SHAPES[shape])


def artifact_of(folder, shape) -> artifacts.Artifact:
    model = read_model(file_of(folder, shape), **LES)
    return artifacts.Artifact.unsaved(model, folder / f"{shape}.les.pt")


# --- every shape --------------------------------------------------------------------------------


@pytest.mark.nequip
@pytest.mark.parametrize("shape", [*SHAPES, *ALLEGRO_SHAPES])
def test_every_shape_equals_nequip(folder, shape):
    path = file_of(folder, shape)
    model = read_model(path, **LES)
    reference = NequIPReference(open_model(path), model)
    module = eager(model)
    for probe in probe_structures(model.hyper["elements"], model.hyper["cutoff"])[:4]:
        expected = reference.evaluate(probe.positions, probe.numbers, probe.cell)
        assert np.ptp(expected.charges) > 1e-4  # else nothing is tested
        assert np.abs(expected.forces).max() > 1e-3
        energy, forces, charges = of_probe(module, probe)
        assert abs(energy - expected.energy) / len(probe.numbers) < 1e-10
        np.testing.assert_allclose(forces, expected.forces, rtol=0, atol=1e-9)
        np.testing.assert_allclose(charges, expected.charges, rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    "shape",
    ["features by degree", "old", "Allegro", "moments", "Allegro, tensors", "Allegro, isotropic"],
)
def test_forces_and_virial_are_finite_differences(folder, shape):
    artifact = artifact_of(folder, shape)
    check_finite_differences(artifact, probe_structures(artifact.elements, 4.0)[2], atoms=[0, 4])


@pytest.mark.parametrize(
    "shape",
    [
        "degree 2",
        "old, no parity",
        "Allegro, three layers",
        "kappa and dipoles",
        "Allegro, kappa and dipoles",
    ],
)
def test_rotation_inversion_and_permutation(folder, shape):
    """Old models without parity know left from right; all others do not."""
    module = eager(read_model(file_of(folder, shape), **LES))
    probe = probe_structures([1, 8], 4.0)[0]
    before = of_module(module, probe.positions, probe.numbers)
    rotation, _ = np.linalg.qr(np.random.default_rng(3).normal(size=(3, 3)))
    rotation *= np.linalg.det(rotation)
    order = np.random.default_rng(4).permutation(len(probe.numbers))
    for matrix in rotation, -rotation:
        turned = probe.positions[order] @ matrix.T
        energy, forces, charges = of_module(module, turned, probe.numbers[order])
        same = np.abs(charges - before[2][order]).max() < 1e-12
        if shape == "old, no parity" and matrix is not rotation:
            assert not same
            continue
        assert same
        assert energy == pytest.approx(before[0], abs=1e-9)
        np.testing.assert_allclose(forces, before[1][order] @ matrix.T, rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    "shape", ["elements out of order", "Allegro, three elements", "tensors", "Allegro, moments"]
)
def test_elements_that_are_absent_change_nothing(folder, shape):
    """A system without some of the model's elements has a smaller network."""
    artifact = artifact_of(folder, shape)
    probe = probe_structures([1, 8], artifact.cutoff)[2]
    energy, forces, _ = of_probe(eager(artifact.canonical), probe)
    model = system_for(artifact, probe)
    got = model.evaluate(probe.positions)
    assert got.energy + model.reference_energy == pytest.approx(energy, abs=1e-9)
    np.testing.assert_allclose(got.forces, forces, rtol=0, atol=1e-9)


@pytest.mark.parametrize("shape", ["features by degree", "moments"])
def test_kernels_of_a_gpu_give_the_same(folder, shape):
    model = read_model(file_of(folder, shape), **LES)
    probe = probe_structures([1, 8], 4.0)[2]
    modules = (eager(model, fold=True, few_kernels=few) for few in (False, True))
    results = [of_probe(module, probe) for module in modules]
    for one, other in zip(*results, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-10, atol=1e-10)


def test_lone_atoms_have_the_energy_of_their_reference(folder):
    artifact = artifact_of(folder, "plain")
    got = SystemModel(artifact, [8], periodic=False).evaluate([[0.0, 0.0, 0.0]])
    assert (got.energy, got.charges.tolist()) == (0.0, [0.0])


def test_energy_is_smooth_where_a_neighbour_crosses_the_cutoff(folder):
    artifact = artifact_of(folder, "plain")
    model = SystemModel(artifact, [8, 1], periodic=False, precision="double", max_neighbors=1)
    distances = artifact.cutoff + np.linspace(-1e-3, 1e-3, 21)
    results = [model.evaluate([[0, 0, 0], [0, 0, x]]) for x in distances]
    assert np.abs(np.diff([r.energy for r in results], 2)).max() < 1e-9
    assert np.abs(np.diff([r.forces[1, 2] for r in results])).max() < 1e-4


# --- canonical form -----------------------------------------------------------------------------


@pytest.mark.parametrize("shape", ["old", "features by degree", "Allegro, no parity"])
def test_canonical_form(folder, shape):
    """Beside names and shapes, which `CanonicalModel.check` compares."""
    model = read_model(file_of(folder, shape), **LES)
    assert all(t.is_contiguous() for t in model.state.values())
    assert json.loads(json.dumps(model.hyper)) == model.hyper
    assert model.source["dtype"] == "float64"
    assert model.family == ("allegro" if "Allegro" in shape else "nequip")
    assert set(model.provenance) == {*model.les, "reference_energies"}


def test_averages_are_the_model(folder):
    """Weights of the last step are not used, and are needed where there are no averages."""
    one = read_model(file_of(folder, "plain"), **LES).state
    other = read_model(file_of(folder, "no averages"), **LES).state
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.mace
def test_constants_are_those_of_e3nn():
    """By the e3nn that mace-torch brings."""
    import mace  # noqa: F401 - before e3nn
    from e3nn.math import normalize2mom
    from openmm_les_export.checkpoints.records import stand_in

    for function, constant in ((torch.nn.functional.silu, SILU), (torch.tanh, TANH)):
        assert normalize2mom(function).cst == pytest.approx(constant, rel=1e-12)
    record = stand_in("e3nn.math._normalize_activation.normalize2mom")()
    record.state = {"f": stand_in("torch.nn.functional.silu"), "_is_id": False, "cst": SILU}
    assert activation_constant(record) == SILU


# --- LES parameters -----------------------------------------------------------------------------


def test_les_parameters_and_where_they_come_from(folder):
    model = read_model(file_of(folder, "other LES"), norm_factor=90.0474, self_interaction="kept")
    names = ("sigma", "dl", "prefactor", "remove_self_interaction")
    assert tuple(model.les[name] for name in names) == (1.3, 1.7, 90.0474, False)
    assert model.provenance == {
        "sigma": "model file",
        "dl": "model file",
        "prefactor": "--norm-factor",
        "remove_self_interaction": "--self-interaction",
        "bec_remove_mean": "default of the les package",
        "bec_epsilon_factor": "default of the les package",
        "reference_energies": "model file",
    }


def test_les_parameters_of_a_file_are_used_if_it_has_them(tmp_path):
    les = {"norm_factor": 91.5, "remove_self_interaction": False}
    path = synthetic_nequip(tmp_path / "x.ckpt", les=les)
    model = read_model(path)
    assert (model.les["prefactor"], model.les["remove_self_interaction"]) == (91.5, False)
    assert model.provenance["prefactor"] == "model file"
    with pytest.raises(InputError, match=r"the file holds its own norm_factor, 91\.5"):
        read_model(path, norm_factor=90.0474)


def test_the_command_and_what_inspect_shows(folder, capsys):
    """As docs/reference/formats/nequip.md shows it."""
    output = folder / "my.les.pt"
    arguments = ["export", str(file_of(folder, "plain")), "-o", str(output), "--overwrite"]
    for options in ([], ["--norm-factor", "90.4756"]):
        with pytest.raises(SystemExit) as stopped:
            main([*arguments, *options])
        assert stopped.value.code == 2
        assert "--self-interaction removed|kept" in capsys.readouterr().err
    with pytest.raises(SystemExit) as stopped:
        main([*arguments, "--norm-factor", "90.4756", "--self-interaction", "removed"])
    assert stopped.value.code == 0
    with pytest.raises(SystemExit):
        main(["inspect", str(output)])
    rows = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert rows["model"] == "nequip"
    assert rows["--norm-factor"] == "prefactor"
    assert rows["--self-interaction"] == "remove_self_interaction"
    assert "prefactor 90.4756 eV A, self-interaction removed" in rows["electrostatics"]


WRONG = {
    "nothing": ({}, r"the prefactor and remove_self_interaction of its .* --calibrate FILE"),
    "half": ({"norm_factor": 90.0474}, r"the remove_self_interaction of its training"),
    "no number": ({**LES, "norm_factor": "90"}, r"a positive number .* got '90'"),
    "negative": ({**LES, "norm_factor": -1.0}, r"a positive number .* got -1\.0"),
    "no state": ({**LES, "self_interaction": "yes"}, r"expected 'removed' or 'kept', got 'yes'"),
    "energies": ({**LES, "atomic_energies": {1: 0.0}}, r"a NequIP-LES file holds its own"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_options_are_refused(folder, case):
    options, message = WRONG[case]
    with pytest.raises(InputError, match=message):
        read_model(file_of(folder, "plain"), **options)


@pytest.mark.parametrize(
    ("option", "value"),
    [("norm_factor", 90.0474), ("self_interaction", "kept"), ("calibrate", "data.xyz")],
)
def test_options_are_for_checkpoints(option, value):
    model = Path(__file__).parents[2] / "training" / "les_demo" / "les-demo.model"
    name = option.replace("_", "-")
    with pytest.raises(InputError, match=f"{name}: a MACE-LES file holds its own LES parameters"):
        read_model(model, **{option: value})


# --- calibration --------------------------------------------------------------------------------


def labelled(folder, model, number=8) -> Path:
    """Structures with the energies of a model."""
    module, frames = eager(model), []
    probe = probe_structures(model.hyper["elements"], model.hyper["cutoff"])[1]
    for seed in range(number):
        atoms = ase.Atoms(probe.numbers, probe.positions, cell=probe.cell, pbc=True)
        atoms.rattle(0.05, seed=seed)
        atoms.info["energy"] = of_module(module, atoms.positions, probe.numbers, probe.cell)[0]
        frames.append(atoms)
    path = folder / "labelled.xyz"
    ase.io.write(path, frames, format="extxyz")
    return path


@pytest.mark.parametrize(
    ("shape", "norm_factor", "state"),
    [
        ("plain", 90.0474, "removed"),
        ("plain", 90.0474, "kept"),
        ("plain", 90.4756, "removed"),
        ("plain", 90.4756, "kept"),
        ("Allegro, isotropic", 90.0474, "kept"),
    ],
)
def test_calibration_finds_what_the_labels_were_made_with(folder, shape, norm_factor, state):
    path = file_of(folder, shape)
    data = labelled(folder, read_model(path, norm_factor=norm_factor, self_interaction=state))
    model = read_model(path, calibrate=data)
    assert model.les["prefactor"] == norm_factor
    assert model.les["remove_self_interaction"] == (state == "removed")
    assert model.provenance["prefactor"] == "--calibrate labelled.xyz"
    half = read_model(path, calibrate=data, norm_factor=88.0)
    assert half.les["remove_self_interaction"] == (state == "removed")
    assert half.provenance["prefactor"] == "--norm-factor"


def test_calibration_that_cannot_tell_says_so(folder):
    path = file_of(folder, "plain")
    data = labelled(folder, read_model(path, **LES))
    frames = ase.io.read(data, index=":")
    for atoms in frames:
        energy = atoms.calc.results["energy"]
        atoms.calc, atoms.info["energy"] = None, energy + 1e4
    ase.io.write(folder / "shifted.xyz", frames, format="extxyz")
    with pytest.raises(InputError, match=r"expected one choice that reproduces .* meV/atom"):
        read_model(path, calibrate=folder / "shifted.xyz")
    for atoms in frames:
        atoms.info.clear()
    ase.io.write(folder / "bare.xyz", frames, format="extxyz")
    with pytest.raises(InputError, match=r"at least 5 structures with an energy, .* got 0"):
        read_model(path, calibrate=folder / "bare.xyz")
    with pytest.raises(InputError, match=r"calibration: cannot read .*absent\.xyz"):
        read_model(path, calibrate=folder / "absent.xyz")


DAMAGED = {
    "nan": ("[A-Z][a-z]? +[-0-9.]+", "H nan", "numbers of structure 0 are not finite"),
    "text": ("energy=[-0-9.]+", "energy=low", "numbers of structure 0 are not finite"),
    "flat box": (
        'Lattice="[-0-9.]+',
        'Lattice="0.0',
        "the box of structure 0 is flat or far too large",
    ),
    "huge box": (
        'Lattice="[-0-9.]+',
        'Lattice="1e9',
        "the box of structure 0 is flat or far too large",
    ),
    "one place": (
        r"\n([A-Z]\S*) +(\S+ +\S+ +\S+)\n([A-Z]\S*) .*\n",
        r"\n\1 \2\n\3 \2\n",
        "two atoms are at the same place",
    ),
    "more atoms": (r"\A\d+", str(10**9), r"expected 1000000000 atoms, got \d+ lines"),
    "no element": ("\n[A-Z][a-z]? ", "\nQq ", "is not a file that ASE reads"),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_calibration_refuses_damaged_structures(folder, damage):
    path = file_of(folder, "plain")
    text = labelled(folder, read_model(path, **LES)).read_text()
    old, new, message = DAMAGED[damage]
    damaged, number = re.subn(old, new, text, count=1)
    assert number == 1
    (folder / "damaged.xyz").write_text(damaged)
    with pytest.raises(InputError, match=f"^calibration: .*damaged.xyz.*{message}") as caught:
        read_model(path, calibrate=folder / "damaged.xyz")
    assert str(caught.value).isprintable()


def test_calibration_of_a_trained_model():
    """55 dipeptides tell whether self-interaction was removed, not which prefactor there was."""
    model, data = model_file(NEQUIP_DIPEPTIDE_MODEL), shared_file(DATA / "spice_dipeptides_val.xyz")
    found = read_model(model, calibrate=data, norm_factor=90.0474)
    assert found.les["remove_self_interaction"] is True
    with pytest.raises(InputError, match=r"90\.0474 removed: 1\.52 meV/atom; 90\.4756 removed"):
        read_model(model, calibrate=data)


# --- the original -------------------------------------------------------------------------------


@pytest.mark.nequip
@pytest.mark.parametrize("name", NEQUIP_MODELS)
def test_the_reference_reproduces_the_original_code(name):
    """What exports are verified against is nequip with the weights of a file."""
    path = model_file(name)
    reference = NequIPReference(open_model(path), read_model(path, **LES_CHOICES[name]))
    for entry in references(name)[:3]:
        cell = entry["cell"] if entry["pbc"].any() else None
        found = reference.evaluate(entry["positions"], entry["numbers"], cell)
        assert abs(found.energy - entry["energy"]) / len(found.charges) <= 1e-12
        assert np.abs(found.forces - entry["forces"]).max() <= 1e-11
        assert np.abs(found.charges - entry["latent_charges"]).max() <= 1e-12


@pytest.mark.nequip
def test_export_is_verified_by_nequip(folder):
    path = folder / "verified.les.pt"
    export(file_of(folder, "plain"), path, overwrite=True, **LES)
    report = artifacts.inspect(path)["verification"]
    assert report["status"] == "verified"
    assert {"torch", "nequip", "e3nn"} == set(report["versions"])


def test_export_without_nequip_says_so(folder, monkeypatch, caplog):
    monkeypatch.setitem(__import__("sys").modules, "nequip", None)
    path = folder / "unverified.les.pt"
    export(file_of(folder, "plain"), path, overwrite=True, **LES)
    report = artifacts.inspect(path)["verification"]
    assert report["status"] == "not verified"
    assert "nequip is not installed here" in report["reason"]
    assert "openmm-les[nequip]" in caplog.text
