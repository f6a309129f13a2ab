"""Total charges, spins and other conditions of a model, at every entry point."""

import dataclasses
from pathlib import Path

import ase.io
import numpy as np
import openmm
import pytest
import torch
from ase import Atoms
from openmm import app
from openmm_les_export import read_model
from openmm_les_export.checkpoints.unpickle import open_model
from openmm_les_export.families.dispatch import canonical_model, reference_model
from openmm_les_export.options import ModelOptions
from openmmml import MLPotential
from oracles import cace_models
from support.checkpoints import checkpoint, export_options
from support.conditions import LABELS, artifact_of, model_with_conditions
from support.contexts import (
    assert_same,
    create_context,
    create_system,
    energy_and_forces,
    evaluate,
    in_fresh_process,
)
from support.documents import DOCS, blocks
from support.helpers import dipeptide, topology_from_atoms
from support.mixed import classical, context, peptide
from support.runs import config

from openmm_les import InputError, LESCalculator, artifact
from openmm_les import simulation as md
from openmm_les.analysis import validation
from openmm_les.cli import main
from openmm_les.errors import UnsupportedModelError
from openmm_les.evaluation.conditions import conditions_in, kinds_of_atoms
from openmm_les.evaluation.options import EvaluationOptions
from openmm_les.evaluation.system_model import SystemModel
from openmm_les.evaluation.systems import SystemModels
from openmm_les.networks import build_network
from openmm_les.networks.form import Form
from openmm_les.plugin.observed import in_system
from openmm_les.plugin.reporter import LESReporter
from openmm_les.simulation.config import load

ATOMS = dipeptide(0)
DOUBLE = {"precision": "double", "returnEnergyType": "energy"}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return model_with_conditions(tmp_path_factory.mktemp("conditions"))


def by_ase(path, info=(), labels=None, **options):
    """Energy and forces; `info` of the structure."""
    atoms = ATOMS.copy()
    atoms.info.update(info)
    if labels is not None:
        atoms.set_array("label", np.array(labels))
    atoms.calc = LESCalculator(path, **options)
    return atoms.get_potential_energy(), atoms.get_forces()


def test_what_conditions_do(model):
    """By the equations of the format page: another embedding for each kind of atom."""
    canonical = artifact.load(model).canonical
    state = {name: tensor.numpy() for name, tensor in canonical.state.items()}

    def silu(x):
        return x / (1 + np.exp(-x))

    def embedding(charge, spin, temperature, label):
        hidden = silu(temperature * state["conditions.2.0.weight"] + state["conditions.2.0.bias"])
        terms = hidden @ state["conditions.2.1.weight"] + state["conditions.2.1.bias"]
        for k, row in ((0, charge + 3), (1, spin), (3, label)):
            terms = terms + state[f"conditions.{k}.table"][row]
        return torch.tensor(state["embedding"] + silu(terms))

    hyper = {name: value for name, value in canonical.hyper.items() if name != "conditions"}
    plain = {n: t for n, t in canonical.state.items() if not n.startswith("conditions.")}
    every = {"charge": -1, "spin": 2, "features": {"elec_temp": 0.4, "label": 2}}
    settings = {"periodic": False, "precision": "double"}
    got = SystemModel(artifact.load(model), ATOMS.numbers, **settings, **every)
    plain["embedding"] = embedding(-1, 2, 0.4, 2)
    changed = artifact_of(dataclasses.replace(canonical, hyper=hyper, state=plain), model)
    expected = SystemModel(changed, ATOMS.numbers, **settings)
    found = [each.evaluate(ATOMS.positions) for each in (got, expected)]
    assert_same((found[0].energy, found[0].forces), (found[1].energy, found[1].forces))

    network = build_network(
        canonical,
        [3, 3],
        Form(torch.float64, exact_radial=True, fold=False),
        conditions=[[-1, 2, 0.4, 0], [-1, 2, 0.4, 2]],
    )
    np.testing.assert_allclose(
        network.first_skip.numpy()[1],
        plain["embedding"][3] @ plain["layers.0.skip.0"][3],
        rtol=1e-12,
    )


def test_openmm_and_ase_agree(model):
    """Options, `info` and `arrays` are the same; each state has another energy."""
    features = {"elec_temp": 0.4, "label": LABELS}
    options = {"charge": -1, "spin": 2, "features": features}
    expected = by_ase(model, {"charge": -1, "total_spin": 2, "kT": 0.4}, LABELS)
    assert_same(evaluate(model, ATOMS, **options, **DOUBLE), expected)
    default = by_ase(model)
    assert_same(evaluate(model, ATOMS, charge=0, spin=1, features={"label": 0}, **DOUBLE), default)
    for name in ("charge", "spin", "features"):
        some = {key: value for key, value in options.items() if key != name}
        assert abs(evaluate(model, ATOMS, **some, **DOUBLE)[0] - expected[0]) > 1e-3


def test_page(model):
    """The block of docs/howto/charge-states.md."""
    page = blocks(DOCS / "howto" / "charge-states.md")
    (block,) = (b for b in page if b.elsewhere.endswith(Path(__file__).name))
    names = {
        "potential": MLPotential("les", modelPath=model),
        "topology": topology_from_atoms(ATOMS),
        "atoms": ATOMS.copy(),
        "labels": LABELS,
    }
    exec(block.code.replace("ions.les.pt", str(model)), names)
    expected = by_ase(model, charge=-1, spin=2)[0]
    assert names["atoms"].get_potential_energy() == pytest.approx(expected, abs=1e-9)


def test_single_precision(model):
    expected = by_ase(model, {"charge": 3, "spin": 0})
    got = evaluate(model, ATOMS, charge=3, spin=0, returnEnergyType="energy", precision="single")
    assert_same(got, expected, "single")


@pytest.mark.torchforce
@pytest.mark.filterwarnings("ignore:backend='torchforce'.*:UserWarning")
def test_torchforce(model):
    expected = by_ase(model, {"charge": -2})
    assert_same(evaluate(model, ATOMS, backend="torchforce", charge=-2, **DOUBLE), expected)


def test_saved_systems_keep_them(model, tmp_path):
    features = {"label": np.array(LABELS)}
    system = create_system(model, ATOMS, charge=np.int64(-1), features=features, **DOUBLE)
    expected = energy_and_forces(create_context(system, ATOMS.positions))
    xml = openmm.XmlSerializer.serialize(system)
    assert_same(in_fresh_process(tmp_path, xml, ATOMS.positions, "Reference"), expected)
    assert in_system(system).conditions == {"total_charge": -1.0, "label": LABELS}


def test_a_changed_structure_of_ase_is_computed_again(model):
    """ASE itself does not look at `info`."""
    atoms = ATOMS.copy()
    atoms.calc = LESCalculator(model)
    neutral = atoms.get_potential_energy()
    atoms.info["charge"] = 1
    ion = atoms.get_potential_energy()
    assert ion == pytest.approx(by_ase(model, {"total_charge": 1})[0], abs=1e-9)
    atoms.info["charge"] = 0
    assert atoms.get_potential_energy() == pytest.approx(neutral, abs=1e-9)
    assert abs(ion - neutral) > 1e-3
    # What the calculator is told goes first.
    assert by_ase(model, {"charge": 1}, charge=0)[0] == pytest.approx(neutral, abs=1e-9)


@pytest.mark.parametrize("value", [True, np.True_, "-1", "x", [[-1]], np.array([[-1]])])
def test_a_structure_states_numbers(model, value):
    with pytest.raises(InputError, match=r"^charge: expected a number or a list of numbers, got"):
        by_ase(model, {"charge": value})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"charge": 4}, "charge: the model takes an integer from -3 to 3 for total_charge, got 4"),
        ({"charge": 0.5}, "charge: the model takes an integer from -3 to 3 .*, got 0.5"),
        ({"spin": -1}, "spin: the model takes an integer from 0 to 3 for total_spin, got -1"),
        ({"features": {"label": 3}}, r"features\['label'\]: .* integer from 0 to 2 .*, got 3"),
        (
            {"features": {"label": [1, 2]}},
            r"features\['label'\]: expected one for each of 22",
        ),
        ({"features": {"elec_temp": range(22)}}, r"features\['elec_temp'\]: expected one number"),
        (
            {"features": {"elec_temp": np.nan}},
            r"features\['elec_temp'\]: .* a finite number",
        ),
        ({"features": {"field": 1}}, r"features\['field'\]: .* not trained with field, .* \(this"),
        ({"features": {"elec_temp": [0.3] * 21}}, r"features\['elec_temp'\]: expected one number"),
        ({"features": {"elec_temp": "1"}}, r"features\['elec_temp'\]: expected a number or .*'1'"),
        ({"features": {"charge": 1}}, r"features\['charge'\]: give it as charge=\.\.\."),
    ],
)
def test_values_that_a_model_does_not_take(model, options, message):
    with pytest.raises(InputError, match=message):
        create_system(model, ATOMS, **options)


def test_models_without_conditions_refuse_them():
    for options, message in (
        ({"charge": -1}, "^charge: .* was not trained with total_charge, .* takes no such inputs"),
        ({"spin": 2}, "^spin: .* was not trained with total_spin"),
    ):
        with pytest.raises(InputError, match=message):
            create_system("les-demo", ATOMS, **options)
    atoms = ATOMS.copy()
    atoms.info["charge"] = 1  # what any data set may have
    atoms.calc = LESCalculator("les-demo")
    assert np.isfinite(atoms.get_potential_energy())


def test_conditions_without_default_and_too_many_kinds(model):
    canonical = artifact.load(model).canonical
    conditions = [dict(each) for each in canonical.hyper["conditions"]]
    del conditions[0]["default"]
    conditions[3] = {"name": "label", "per": "atom", "default": 0.0}
    hyper = {**canonical.hyper, "conditions": conditions}
    changed = artifact_of(dataclasses.replace(canonical, hyper=hyper), model)
    with pytest.raises(InputError, match="charge: the model needs a value for total_charge, and"):
        kinds_of_atoms(changed, [1, 8], {})
    many = {"total_charge": 0, "label": np.linspace(0, 1, 70)}
    with pytest.raises(InputError, match=r"features\['label'\]: expected at most 64 different"):
        kinds_of_atoms(changed, [1] * 70, many)
    assert kinds_of_atoms(changed, [1, 8], {"total_charge": 2, "label": [0.5, 1]}) == [
        (1, 2.0, 1.0, 0.0, 0.5),
        (8, 2.0, 1.0, 0.0, 1.0),
    ]


def test_settings_of_a_run(model, tmp_path, capsys):
    file = tmp_path / "run.yaml"
    file.write_text(f"structure: a.pdb\nmodel: {model}\ncharge: -1\nfeatures: {{elec_temp: 0.4}}\n")
    got = load(file, {"spin": "2"}).evaluation_options
    assert got.conditions == {"total_charge": -1.0, "total_spin": 2.0, "elec_temp": 0.4}
    assert load(file, {"features": "elec_temp=0.5,label=1"}).evaluation_options.features == {
        "elec_temp": 0.5,
        "label": 1.0,
    }
    flags = ["--features", "elec_temp=0.5", "--features", "label=1", "--print-config"]
    with pytest.raises(SystemExit):
        main(["run", str(file), *flags])
    assert "features:\n  elec_temp: 0.5\n  label: 1.0\n" in capsys.readouterr().out
    with pytest.raises(InputError, match="features: expected numbers by name, or a text such as a"):
        load(file, {"features": "elec_temp"})
    again = tmp_path / "again.yaml"
    again.write_text(load(file).to_yaml(tmp_path))
    assert load(again) == load(file)


def test_runs_and_reporters(model, tmp_path):
    """Charges in the file of a run are those of its state."""
    settings = {"model": model, "charge": -1, "features": {"label": 1}, "precision": "double"}
    steps = {"steps": 1, "equilibration_steps": 0, "minimise_iterations": 0, "report_interval": 1}
    outputs = {"response": "charges", "response_interval": 1, "trajectory_interval": 1}
    md.run(config(tmp_path, **settings, **steps, **outputs))
    state = app.PDBFile(str(tmp_path / "run" / "final.pdb"))
    rows = (tmp_path / "run" / "response.csv").read_text().splitlines()
    written = np.array([float(each) for each in rows[-1].split(",")][-len(ATOMS) :])
    positions = state.getPositions(asNumpy=True)._value * 10
    for charge in (-1, 0):
        there = {"charge": charge, "features": {"label": 1}}
        reference = SystemModel(artifact.load(model), ATOMS.numbers, periodic=False, **there)
        difference = np.abs(written - reference.response(positions).charges).max()
        assert (difference < 1e-3) == (charge == -1)
    with pytest.raises(InputError, match="charge: this goes with model; without it the System"):
        LESReporter(tmp_path / "x.csv", 1, charges=True, charge=1)


def test_validate_takes_those_of_each_structure(model, tmp_path):
    states = [{"charge": -1}, {"spin": 3}, {}, {"kT": 0.4, "total_charge": 2}]
    frames = []
    for info in states:
        atoms = ATOMS.copy()
        energy, forces = by_ase(model, info)
        atoms.info.update(info, REF_energy=energy)
        atoms.arrays["REF_forces"] = forces
        frames.append(atoms)
    ase.io.write(tmp_path / "data.xyz", frames)
    found = validation.validate(artifact.load(model), validation.read_frames(tmp_path / "data.xyz"))
    errors = {each.quantity: each.rmse for each in found.statistics()}
    assert errors["energy per atom"] < 1e-5  # meV
    assert errors["forces"] < 1e-4


def test_inspect_lists_them(model, capsys):
    with pytest.raises(SystemExit):
        main(["inspect", str(model)])
    text = " ".join(capsys.readouterr().out.split())
    for part in (
        "total_charge an integer from -3 to 3, default 0; option charge",
        "elec_temp a finite number, default 0; option features['elec_temp']",
        "label an integer from 0 to 2 for each atom, default 0; option features['label']",
    ):
        assert part in text


def test_portable_module_has_the_defaults(model):
    module = artifact.load(model).module
    energy, forces, _ = module(
        torch.tensor(ATOMS.positions), torch.tensor(ATOMS.numbers), torch.eye(3).double(), False
    )
    assert_same((float(energy), forces.detach().numpy()), by_ase(model), "single")


def test_mixed_systems(model):
    """The charge of a region is that of its model, also where it is embedded."""
    structure = peptide()
    system = classical(structure, app.NoCutoff)
    potential = MLPotential("les", modelPath=model)

    def made(**options):
        return potential.createMixedSystem(
            structure.topology, system, structure.peptide, forceGroup=1, **DOUBLE, **options
        )

    mechanical = made(charge=-1, spin=2)
    positions = structure.positions
    energy = energy_and_forces(context(mechanical, positions), groups={1})[0]
    atoms = Atoms(ATOMS.numbers, 10 * positions)
    atoms.calc = LESCalculator(model, charge=-1, spin=2)
    assert energy == pytest.approx(atoms.get_potential_energy(), abs=1e-7)
    with pytest.raises(InputError, match="charge: the model takes an integer from -3 to 3"):
        made(charge=5)

    # A model that takes a charge was trained on ions: none has to be allowed.
    embedded = {"embedding": "electrostatic", "chargeTolerance": 100.0}
    charges = [in_system(made(**embedded, **given)).conditions for given in ({}, {"charge": 1})]
    assert [each["total_charge"] for each in charges] == [0.0, 1.0]


def test_cace_takes_numbers_behind_its_features(tmp_path):
    """As with their rows of the weights added to the biases by hand."""
    canonical = read_model(checkpoint("cace", tmp_path), **export_options("cace"))
    generator = torch.Generator().manual_seed(2)
    states = [dict(canonical.state), dict(canonical.state)]
    for name in ("energy.0", "energy.linear", "charge.0", "charge.linear"):
        weight = canonical.state[f"{name}.weight"]
        row = torch.randn(1, weight.shape[1], generator=generator, dtype=torch.float64)
        states[0][f"{name}.weight"] = torch.cat([weight, row])
        states[1][f"{name}.bias"] = canonical.state[f"{name}.bias"] - 2 * row[0]
    condition = {"name": "total_charge", "per": "system", "default": 0.0}
    hypers = [{**canonical.hyper, "conditions": [condition]}, canonical.hyper]
    energies = []
    for state, hyper, options in zip(states, hypers, ({"charge": -2}, {}), strict=True):
        model = dataclasses.replace(canonical, hyper=hyper, state=state)
        model.check()
        made = SystemModel(
            artifact_of(model, tmp_path / "cace.pth"),
            ATOMS.numbers,
            periodic=False,
            precision="double",
            **options,
        )
        energies.append(made.evaluate(ATOMS.positions))
    assert energies[0].energy == pytest.approx(energies[1].energy, abs=1e-9)
    np.testing.assert_allclose(energies[0].forces, energies[1].forces, atol=1e-9)
    np.testing.assert_allclose(energies[0].charges, energies[1].charges, atol=1e-12)


def test_cace_files_with_charge_states(tmp_path):
    """Where the short range takes the charge of the system, and the latent charges do not."""

    def change(model, make):
        energy = model.output_modules[0]
        energy.feature_key = ["node_feats", "charge_states"]
        for dense in (energy.outnet[0], energy.linear_nn):
            weight = dense.linear.weight.data
            dense.linear.weight.data = torch.cat([weight, 0.3 * torch.ones(len(weight), 1)], 1)

    shape = {"elements": [1, 6, 7, 8], "container": "FeatureAdd", "hidden": (6,)}
    file = cace_models.synthetic_cace(tmp_path / "states.pth", change=change, **shape)
    opened = open_model(file)
    options = ModelOptions(atomic_energies=cace_models.ENERGIES)
    canonical = canonical_model(opened, options)
    canonical.check()
    key = "charge_states"
    assert canonical.hyper["conditions"] == [{"name": "total_charge", "per": "system", "key": key}]
    reference = reference_model(opened, canonical)
    models = SystemModels(artifact_of(canonical, file), EvaluationOptions("double"))
    with pytest.raises(InputError, match="charge: the model needs a value for total_charge, and"):
        models.model_for(ATOMS.numbers, ATOMS.positions, None)
    energies = []
    for charge in (-1, 1):
        stored = conditions_in(models.artifact, {key: np.full(len(ATOMS), charge)})
        model = models.model_for(ATOMS.numbers, ATOMS.positions, None, stored)
        got = model.evaluate(ATOMS.positions)
        expected = reference.under({"total_charge": charge}).evaluate(
            ATOMS.positions, ATOMS.numbers
        )
        assert_same(
            (got.energy + model.reference_energy, got.forces), (expected.energy, expected.forces)
        )
        np.testing.assert_allclose(got.charges, expected.charges, atol=1e-9)
        energies.append(got.energy)
    assert abs(energies[1] - energies[0]) > 1e-2
    opened.root.items("output_modules")[0].state["feature_key"] = ["node_feats", "spin"]
    with pytest.raises(UnsupportedModelError, match=r"feature_key: expected 'node_feats', with or"):
        canonical_model(opened, options)
