"""Reading CACE-LES files: every shape, every unsupported option, what only the user knows."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from openmm_les_export import export, read_model
from openmm_les_export.checkpoints.unpickle import open_model
from openmm_les_export.families.cace.reference import CACEReference
from openmm_les_export.verification.probes import probe_structures
from oracles.cace_models import ENERGIES, synthetic_cace
from support.evaluation import eager, of_probe
from support.gradients import check_finite_differences, system_for
from support.helpers import CACE_MODELS, MODELS, atomic_energies, references, shared_file

from openmm_les import artifact as artifacts
from openmm_les.errors import InputError, ModelFileError
from openmm_les.evaluation.system_model import SystemModel

#: One axis varied at a time, and a few corners.
SHAPES = {
    "plain": {},
    "order 1": {"order": 1},
    "order 3": {"order": 3},
    "order 4": {"order": 4, "lmax": 1},
    "no angles": {"lmax": 0, "order": 1},
    "degree 3": {"lmax": 3, "order": 3},
    "two layers": {"messages": 1},
    "three layers": {"messages": 2, "order": 3, "lmax": 1},
    "deep messages": {"messages": 1, "message_hidden": (7,)},
    "one element": {"elements": (8,)},
    "elements out of order": {"elements": (8, 1, 6), "embedding": 3},
    "one channel": {"embedding": 1},
    "no hidden layers": {"hidden": ()},
    "nothing beside": {"beside": False},
    "other cutoff": {"cutoff": 5.2, "power": 5.0},
    "float64": {"dtype": torch.float64},
    "old file": {"old": True, "messages": 1},
    "memory": {"messages": 1, "kinds": ("memory",)},
    "decay": {"messages": 2, "kinds": ("decay",), "lmax": 1},
    "shared messages": {"messages": 2, "kinds": ("shared",), "message_hidden": (7,)},
    "messages of degrees": {"messages": 1, "kinds": ("degrees",), "message_hidden": (7,)},
    "all messages": {"messages": 2, "kinds": ("memory", "decay", "network"), "lmax": 1},
    "sum of potentials": {"container": "CombinePotential", "weight": "0.3"},
    "scripted": {"container": "FeatureAdd", "scripted": True, "elements": (8, 1)},
    "three charges": {"container": "FeatureAdd", "charges": 3, "les": {"dl": 2, "sigma": 1}},
    "charges of layers": {
        "container": "CombinePotential",
        "charges": 2,
        "messages": 1,
        "kinds": ("memory", "decay", "shared"),
        "les": {"remove_self_interaction": False},
    },
    "other LES": {"les": {"sigma": 1.3, "dl": 1.7, "remove_self_interaction": False}},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("cace")


def file_of(folder, shape) -> Path:
    path = folder / f"{shape}.pth"
    return path if path.exists() else synthetic_cace(path, **SHAPES[shape])


def artifact_of(folder, shape) -> artifacts.Artifact:
    path = folder / f"{shape}.les.pt"
    if not path.exists():
        export(file_of(folder, shape), path, dtype="float64", atomic_energies=ENERGIES)
    return artifacts.load(path)


# --- every shape --------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_equals_the_equations(folder, shape):
    path = file_of(folder, shape)
    model = read_model(path, atomic_energies=ENERGIES)
    reference = CACEReference(open_model(path).root, ENERGIES)
    modules = [
        (eager(model, torch.float64), (1e-12, 1e-11, 1e-12)),
        (eager(model, torch.float32), (1e-6, 1e-4, 1e-5)),
    ]
    for probe in probe_structures(model.hyper["elements"], model.hyper["cutoff"])[:4]:
        expected = reference.evaluate(probe.positions, probe.numbers, probe.cell)
        assert np.ptp(expected.charges) > 1e-4  # else nothing is tested
        assert np.abs(expected.forces).max() > 1e-3
        for module, (per_atom, force, charge) in modules:
            energy, forces, charges = of_probe(module, probe)
            assert abs(energy - expected.energy) / len(probe.numbers) < per_atom
            np.testing.assert_allclose(forces, expected.forces, rtol=0, atol=force)
            np.testing.assert_allclose(charges, expected.charges, rtol=0, atol=charge)


def test_export_is_verified_by_the_equations(folder):
    """All of it: scripted, written, loaded, specialised."""
    artifact = artifact_of(folder, "two layers")
    report = artifact.metadata["verification"]
    assert report["status"] == "verified"
    assert "not the original code" in report["against"]
    assert set(report["versions"]) == {"torch"}
    reference = CACEReference(open_model(file_of(folder, "two layers")).root, ENERGIES)
    probe = probe_structures(artifact.elements, artifact.cutoff)[2]
    expected = reference.evaluate(probe.positions, probe.numbers, probe.cell)
    model = system_for(artifact, probe)
    got = model.evaluate(probe.positions)
    assert got.energy + model.reference_energy == pytest.approx(expected.energy, abs=1e-10)
    np.testing.assert_allclose(got.forces, expected.forces, rtol=0, atol=1e-10)


def test_forces_and_virial_are_finite_differences(folder):
    artifact = artifact_of(folder, "two layers")
    check_finite_differences(artifact, probe_structures([1, 8], 4.0)[2], atoms=[0, 4])


@pytest.mark.parametrize("shape", ["degree 3", "two layers"])
def test_rotation_and_permutation(folder, shape):
    artifact = artifact_of(folder, shape)
    probe = probe_structures(artifact.elements, artifact.cutoff)[0]
    before = system_for(artifact, probe).evaluate(probe.positions)
    rotation, _ = np.linalg.qr(np.random.default_rng(3).normal(size=(3, 3)))
    order = np.random.default_rng(4).permutation(len(probe.numbers))
    for matrix in rotation, -rotation:
        turned = probe.positions[order] @ matrix.T
        model = system_for(artifact, type(probe)("turned", turned, probe.numbers[order]))
        after = model.evaluate(turned)
        assert after.energy == pytest.approx(before.energy, abs=1e-9)
        np.testing.assert_allclose(after.forces, before.forces[order] @ matrix.T, atol=1e-7)
        np.testing.assert_allclose(after.charges, before.charges[order], atol=1e-10)


def test_elements_that_are_absent_change_nothing(folder):
    """A system without some of the model's elements has a smaller network."""
    path = file_of(folder, "elements out of order")
    saved = artifacts.save(read_model(path, atomic_energies=ENERGIES), folder / "elements.les.pt")
    artifact = artifacts.load(saved)
    probe = probe_structures([1, 8], artifact.cutoff)[0]
    expected = CACEReference(open_model(path).root, ENERGIES).evaluate(
        probe.positions, probe.numbers
    )
    got = system_for(artifact, probe).evaluate(probe.positions)
    np.testing.assert_allclose(got.forces, expected.forces, rtol=0, atol=1e-10)


def test_energy_is_smooth_where_a_neighbour_crosses_the_cutoff(folder):
    artifact = artifact_of(folder, "two layers")
    model = SystemModel(artifact, [8, 1], periodic=False, precision="double", max_neighbors=1)
    distances = artifact.cutoff + np.linspace(-1e-3, 1e-3, 21)
    results = [model.evaluate([[0, 0, 0], [0, 0, x]]) for x in distances]
    assert np.abs(np.diff([r.energy for r in results], 2)).max() < 1e-9
    assert np.abs(np.diff([r.forces[1, 2] for r in results])).max() < 1e-4


# --- the reference itself -----------------------------------------------------------------------


@pytest.mark.parametrize("name", CACE_MODELS)
def test_the_reference_reproduces_the_original_code(name):
    """What exports are verified against was itself compared with the original."""
    reference = CACEReference(
        open_model(shared_file(MODELS / f"{name}.pth")).root, atomic_energies(name)
    )
    for entry in references(name)[:3]:
        cell = entry["cell"] if entry["pbc"].any() else None
        found = reference.evaluate(entry["positions"], entry["numbers"], cell)
        assert abs(found.energy - entry["energy"]) / len(found.charges) <= 1e-12
        assert np.abs(found.forces - entry["forces"]).max() <= 1e-11
        assert np.abs(found.charges - entry["latent_charges"]).max() <= 1e-12


# --- canonical form -----------------------------------------------------------------------------


@pytest.mark.parametrize("shape", ["three layers", "deep messages", "nothing beside"])
def test_canonical_form(folder, shape):
    """Beside names and shapes, which `CanonicalModel.check` compares."""
    model = read_model(file_of(folder, shape), atomic_energies=ENERGIES)
    assert all(t.is_contiguous() for t in model.state.values())
    assert json.loads(json.dumps(model.hyper)) == model.hyper
    assert model.source["class"] == "cace.models.atomistic.NeuralNetworkPotential"
    assert set(model.provenance) == {*model.les, "reference_energies"}
    assert model.provenance["sigma"] == "model file"
    assert model.provenance["reference_energies"] == "--atomic-energies"


def test_les_parameters_are_those_of_the_file(folder):
    les = read_model(file_of(folder, "other LES"), atomic_energies=ENERGIES).les
    names = ("sigma", "dl", "prefactor", "remove_self_interaction")
    assert tuple(les[name] for name in names) == (1.3, 1.7, 90.0474, False)


# --- atomic energies ----------------------------------------------------------------------------


def test_energies_in_every_form(folder):
    path = file_of(folder, "plain")
    for name, content in (
        ("a.json", '{"1": -13.1, "O": -2042.7e0, "Fe": 0}'),
        ("b.yaml", "H: -13.1\n8: -2042.7\n"),
    ):
        (folder / name).write_text(content)
    forms = ["1:-13.1,8:-2042.7", "O: -2042.7, H:-13.1", folder / "a.json", str(folder / "b.yaml")]
    for form in [*forms, ENERGIES, {"H": -13.1, "O": "-2042.7"}]:
        assert read_model(path, atomic_energies=form).state["reference_energies"].tolist() == [
            -13.1,
            -2042.7,
        ]


def test_energies_may_be_zero_on_request(folder, caplog):
    model = read_model(file_of(folder, "plain"), atomic_energies="zero")
    assert model.state["reference_energies"].tolist() == [0.0, 0.0]
    assert "isolated-atom energies are zero as requested" in caplog.text


WRONG = {
    None: r"holds none; give those .* as in --atomic-energies 1:E,8:E, .* zero if nothing was",
    "1:-13.1": r"as in --atomic-energies 8:E",
    "1:-13.1,8": "expected energies .* got '1:-13.1,8'",
    "absent.json": "expected energies .* got 'absent.json'",
    "1:-13.1,8:much": "got 'much' for 8",
    "1:-13.1,8:nan": "got 'nan' for 8",
    "1:-13.1,8:1,O:2": "expected every element once, got O twice",
    "1:-13.1,Xx:1": "expected atomic numbers or symbols, got 'Xx'",
}


@pytest.mark.parametrize("given", WRONG)
def test_wrong_energies_are_refused(folder, given):
    with pytest.raises(InputError, match=WRONG[given]):
        read_model(file_of(folder, "plain"), atomic_energies=given)


NO_ENERGIES = {
    "- 1\n- 2\n": "got no mapping",
    "": "got no mapping",
    "{a: [": "ParserError",
    "H: [1]\nO: 2\n": "got something else in line 1",
    "H: 1\nH: 2\n": "every element once, got H twice",
    "a: &a [x]\nH: *a\n": "got something else in line 1",
    "[" * 20_000: "RecursionError",
    "H: " + "9" * 5000: "got '999",
    "? " + "9" * 5000 + "\n: 1": "got '999",
    "119: 1": "expected atomic numbers or symbols, got '119'",
    "H: \x1b": "ReaderError",
}


@pytest.mark.parametrize("content", NO_ENERGIES, ids=range(len(NO_ENERGIES)))
def test_files_that_are_no_energies_are_refused_by_name(folder, content):
    (folder / "wrong.yaml").write_text(content)
    with pytest.raises(InputError, match=r"^atomic energies: ") as caught:
        read_model(file_of(folder, "plain"), atomic_energies=folder / "wrong.yaml")
    text = str(caught.value)
    assert NO_ENERGIES[content] in text
    assert "wrong.yaml" in text
    assert text.isprintable()
    assert len(text) < 500


# --- what is refused ----------------------------------------------------------------------------


def _set(path: str, name: str, value: object):
    def change(model, make):
        setattr(model.get_submodule(path) if path else model, name, value)

    return change


def _replace(path: str, kind: str):
    def change(model, make):
        parent, _, name = path.rpartition(".")
        model.get_submodule(parent).add_module(name, make(kind))

    return change


def _without_les(model, make):
    model.output_modules = torch.nn.ModuleList(list(model.output_modules)[1:])
    model.output_modules[1].feature_keys = ["SR_energy"]


def _another_total(model, make):
    model.output_modules[2].feature_keys = ["SR_energy", "ewald_potential", "dispersion"]


def _not_finite(model, make):
    model.representation.node_embedding_sender.embedding_weights[0, 0] = float("nan")


def _other_monomials(model, make):
    model.representation.angular_basis.lxlylz_list = [(0, 0, 0), (2, 0, 0)]


def _other_products(model, make):
    model.representation.symmetrizer.indice_dict_allnu = {2: {1: [[[3, 77], 1]]}}


LES, REPRESENTATION = "output_modules.0.les", "representation"
REFUSED = {
    "other messages": (
        _replace("representation.message_passing_list.0.1", "MessageArMLP"),
        r"messages of the A features with a network of the distance",
    ),
    "messages twice": (
        _replace("representation.message_passing_list.0.1", "MessageBchi"),
        r"expected messages of different kinds, got \['MessageBchi', 'MessageBchi'\]",
    ),
    "no messages": (
        _set(
            "representation", "message_passing_list", torch.nn.ModuleList([torch.nn.ModuleList()])
        ),
        r"expected messages of different kinds, got \[\]",
    ),
    "other radial basis": (_replace("representation.radial_basis", "GaussianRBF"), "Gaussian"),
    "other cutoff": (_replace("representation.cutoff_fn", "CosineCutoff"), "cosine cutoff"),
    "shared messages": (
        _set("representation.message_passing_list.0.2", "shared_l", True),
        "expected 4 outputs, got 12",
    ),
    "undirected edges": (_set("representation.edge_coding", "directed", False), "directed"),
    "postprocessing": (_set("", "do_postprocessing", True), "do_postprocessing"),
    "residual": (_set("output_modules.1", "residual", True), "residual"),
    "average": (_set("output_modules.1", "aggregation_mode", "mean"), "aggregation_mode"),
    "batch norm": (_set("output_modules.1.outnet.0", "use_batchnorm", True), "use_batchnorm"),
    "no LES energy": (_set("output_modules.0", "compute_energy", False), "compute_energy"),
    "fixed charges": (_set(LES, "use_fixed_atomic_charges", True), "use_fixed_atomic_charges"),
    "no charges": (_set(LES, "use_atomwise", False), "use_atomwise"),
    "dipoles": (_set(f"{LES}.ewald", "use_dipole", True), "use_dipole"),
    "unknown": (_set(REPRESENTATION, "charge_embedding", 3), "charge_embedding"),
    "other features": (_set("output_modules.1", "feature_key", "node_feats_A"), "feature_key"),
    "other gate": (
        _set("output_modules.1.outnet.0", "activation", torch.nn.Identity()),
        "expected silu after every layer but the last, got Identity",
    ),
    "another energy": (_another_total, r"feature_keys: expected one energy of the network"),
    "another total": (
        _set("output_modules.3", "energy_key", "other"),
        "expected the energy of an output module, .* got 'other'",
    ),
    "two cutoffs": (_set(REPRESENTATION, "cutoff", 5.0), "expected one cutoff, got 4.0 and 5.0"),
    "other cutoff order": (
        _set("representation.cutoff_fn", "p", torch.tensor(2.5)),
        "expected an integer of at least 2, got 2.5",
    ),
    "other elements": (_set(REPRESENTATION, "zs", [8, 1]), "index_map"),
    "no LES": (_without_les, "a CACE model without LES"),
    "not finite": (_not_finite, "embedding_weights: expected finite numbers"),
    "monomials": (_other_monomials, "expected all monomials of each degree"),
    "products": (_other_products, "expected products of 2 of 10 monomials"),
}
_OTHERS = (
    "cace.modules.interaction.MessageArMLP",
    "cace.modules.radial.GaussianRBF",
    "cace.modules.cutoff.CosineCutoff",
)


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_known_is_refused_by_name(tmp_path, case):
    change, named = REFUSED[case]
    path = synthetic_cace(tmp_path / "x.pth", messages=1, extra=_OTHERS, change=change)
    with pytest.raises(ModelFileError, match=named) as caught:
        read_model(path, atomic_energies=ENERGIES)
    assert "\n" not in str(caught.value)


def test_code_in_a_file_is_not_run(tmp_path):
    class Payload:
        def __reduce__(self):
            return exec, (f"open({str(tmp_path / 'ran')!r}, 'w').close()",)

    path = synthetic_cace(tmp_path / "x.pth", change=_set("representation", "device", Payload()))
    with pytest.raises(ModelFileError, match=r"calls for builtins.exec, .* CACE-LES model"):
        read_model(path, atomic_energies=ENERGIES)
    assert not (tmp_path / "ran").exists()


def test_names_of_another_family_are_no_part_of_this_one(tmp_path):
    path = synthetic_cace(
        tmp_path / "x.pth", change=_set("representation", "device", torch.fx._symbolic_trace.Tracer)
    )
    with pytest.raises(ModelFileError, match=r"Tracer"):
        read_model(path, atomic_energies=ENERGIES)
