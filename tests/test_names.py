"""Options under both spellings, and what is refused, at every entry point."""

import pytest
from openmm import app
from openmmml import MLPotential
from support.helpers import ROOT, dipeptide, topology_from_atoms

from openmm_les import InputError, catalog
from openmm_les.ase import LESCalculator
from openmm_les.names import read_arguments, spellings
from openmm_les.plugin.factory import LESPotentialImplFactory
from openmm_les.plugin.forces import ForceOptions
from openmm_les.plugin.mixed import read_options
from openmm_les.plugin.reporter import LESReporter

MLPotential.registerImplFactory("les", LESPotentialImplFactory())


@pytest.fixture(scope="module")
def demo():
    return catalog.artifact_path("les-demo")


def test_spellings():
    for camel, snake in (
        ("maxNeighbors", "max_neighbors"),
        ("returnEnergyType", "return_energy_type"),
        ("mlImages", "ml_images"),
        ("ewald", "ewald"),
    ):
        assert spellings(camel) == spellings(snake) == (camel, snake)


def test_every_option_of_the_force_has_both_spellings():
    for camel in set(ForceOptions.accepted()) - {"electricField"}:
        assert read_arguments("f", {spellings(camel)[1]: 1}, [camel]) == {camel: 1}


def entry_points(demo):
    """By name: a function of keyword arguments, and an option of its own."""
    atoms = dipeptide(0)
    topology = topology_from_atoms(atoms)
    potential = MLPotential("les", modelPath=demo)
    return {
        "LESCalculator": (lambda **options: LESCalculator(demo, **options), "max_neighbors"),
        "createSystem": (
            lambda **options: potential.createSystem(topology, **options),
            "maxNeighbors",
        ),
        "createMixedSystem": (
            lambda **options: read_options(0, "mechanical", options),
            "maxNeighbors",
        ),
        "LESReporter": (
            lambda **options: LESReporter("x.csv", 1, **({"dipole": True} | options)),
            "bornCharges",
        ),
        "MLPotential": (lambda **options: MLPotential("les", **options), "modelPath"),
    }


NAMES = ["LESCalculator", "createSystem", "createMixedSystem", "LESReporter", "MLPotential"]


@pytest.mark.parametrize("name", NAMES)
def test_entry_points(demo, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    call, option = entry_points(demo)[name]
    value = {"modelPath": demo, "bornCharges": False}.get(option, 30)
    both = dict.fromkeys(spellings(option), value)
    for spelled in both:
        call(**{spelled: value})
    with pytest.raises(InputError, match=f"{name}.*are the same argument; give one of them"):
        call(**both)
    misspelt = option[:-2] + option[-1]
    with pytest.raises(InputError, match=rf"{name}.*{misspelt}; did you mean {option}\?"):
        call(**{misspelt: value})


def test_options_reach_the_force(demo):
    atoms = dipeptide(0)
    system = MLPotential("les", model_path=demo).createSystem(
        topology_from_atoms(atoms), force_group=3, return_energy_type="energy", les_cutoff="hard"
    )
    assert system.getForce(0).getForceGroup() == 3
    with pytest.raises(InputError, match="lesCutoff='smooth' are for periodic systems"):
        MLPotential("les", modelPath=demo).createSystem(
            topology_from_atoms(atoms), les_cutoff="smooth"
        )


def test_options_reach_the_calculator(demo):
    with pytest.raises(InputError, match="cudaGraphs: True needs a CUDA device"):
        LESCalculator(demo, cudaGraphs=True)
    atoms = dipeptide(0)
    atoms.calc = LESCalculator(modelPath=demo, precision="single", label="name", directory=".")
    assert atoms.calc.label == "name"
    exact = dipeptide(0)
    exact.calc = LESCalculator(demo)
    assert 0 < abs(atoms.get_potential_energy() - exact.get_potential_energy()) < 1e-3


def test_the_path_is_given_once(demo):
    with pytest.raises(InputError, match="path and modelPath are the same argument"):
        LESCalculator(demo, modelPath=demo)


def test_fields_of_openmm_and_ase_are_not_confused(demo):
    with pytest.raises(InputError, match=r"expected electric_field \[V/A\], got electricField"):
        LESCalculator(demo, electricField=(0, 0, 0.1))
    topology = app.PDBFile(str(ROOT / "examples" / "alanine_dipeptide.pdb")).topology
    with pytest.raises(InputError, match=r"expected electricField \[V/nm\], got electric_field"):
        MLPotential("les", modelPath=demo).createSystem(topology, electric_field=(0, 0, 0.1))


def test_options_of_a_calculator_do_not_change(demo):
    calculator = LESCalculator(demo, electric_field=(0, 0, 0))
    for change in (
        lambda: calculator.set(precision="single"),
        lambda: calculator.set(precison="single"),
        lambda: setattr(calculator, "lesCutoff", "smooth"),
        lambda: setattr(calculator, "electricField", (0, 0, 1)),
    ):
        with pytest.raises(InputError, match="the options of a LESCalculator are fixed"):
            change()
    calculator.electric_field = (0, 0, 0.1)
    assert calculator.electric_field.tolist() == [0, 0, 0.1]


@pytest.mark.parametrize("given", ["interpolat", "remove_constraints", "embeding", "return_info"])
def test_what_openmm_ml_takes_is_meant_too(demo, given):
    read = entry_points(demo)["createMixedSystem"][0]
    with pytest.raises(InputError, match=r"; did you mean \w+\? Accepted: .*returnInfo"):
        read(**{given: True})
