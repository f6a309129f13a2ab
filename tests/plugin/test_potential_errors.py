"""What `MLPotential('les', ...)` refuses, and that every refusal names what is wrong."""

import shutil

import numpy as np
import openmm
import pytest
from openmm import app, unit
from openmmml import MLPotential
from support.contexts import add_forces

from openmm_les import ArtifactError, InputError
from openmm_les import artifact as artifacts
from openmm_les.plugin.factory import LESPotentialImplFactory
from openmm_les.plugin.forces import backends


def water_topology(*extra: tuple[str, app.Element | None]) -> app.Topology:
    """One water molecule, and further atoms given by name and element."""
    topology = app.Topology()
    residue = topology.addResidue("HOH", topology.addChain())
    oxygen = topology.addAtom("O", app.element.oxygen, residue)
    for name in ("H1", "H2"):
        topology.addBond(oxygen, topology.addAtom(name, app.element.hydrogen, residue))
    for name, element in extra:
        topology.addAtom(name, element, topology.addResidue(name, topology.addChain()))
    return topology


def create_system(path, topology=None, **options) -> openmm.System:
    return MLPotential("les", modelPath=path).createSystem(topology or water_topology(), **options)


def system_of(path, atoms, topology=None) -> openmm.System:
    """System with the model on a list of atoms."""
    topology = topology or water_topology()
    system = openmm.System()
    for _ in topology.atoms():
        system.addParticle(1.0)
    add_forces(system, path, topology, atoms)
    return system


def test_model_path_is_required():
    with pytest.raises(InputError, match=r"modelPath is missing.*openmm-les export"):
        MLPotential("les")


def test_unknown_constructor_argument_is_named():
    with pytest.raises(InputError, match=r"unknown argument modelpath; did you mean modelPath\?"):
        MLPotential("les", modelpath="x.les.pt")


def test_option_in_the_wrong_place_is_explained(water_artifact):
    with pytest.raises(InputError, match=r"precision is an option of the simulation.*createSystem"):
        MLPotential("les", modelPath=water_artifact, precision="double")


def test_missing_file(tmp_path):
    with pytest.raises(ArtifactError, match=r"absent\.les\.pt"):
        MLPotential("les", modelPath=tmp_path / "absent.les.pt")


def test_corrupt_file(water_artifact, tmp_path):
    broken = tmp_path / "broken.les.pt"
    broken.write_bytes(water_artifact.read_bytes()[:5000])
    with pytest.raises(ArtifactError, match=r"broken\.les\.pt"):
        MLPotential("les", modelPath=broken)


def test_file_that_disappears_before_create_system(water_artifact, tmp_path):
    copy = shutil.copy(water_artifact, tmp_path / "copy.les.pt")
    potential = MLPotential("les", modelPath=copy)
    copy.unlink()
    with pytest.raises(ArtifactError, match=r"copy\.les\.pt"):
        potential.createSystem(water_topology())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precison": "double"}, r"unknown argument precison; did you mean precision\? Accepted: "),
        ({"maxneighbors": 3}, r"unknown argument maxneighbors; did you mean maxNeighbors\?"),
        ({"xyz": 1}, r"unknown argument xyz\. Accepted: precision, device, engine, "),
        ({"precision": "half"}, r"precision: expected 'single' or 'double', got 'half'"),
        ({"backend": "cuda"}, r"backend: expected 'auto' or .*'pythonforce', got 'cuda'"),
        (
            {"returnEnergyType": "total"},
            r"returnEnergyType: expected 'interaction_energy' or 'energy', got 'total'",
        ),
        ({"forceGroup": 32}, r"forceGroup: expected an integer from 0 to 31, got 32"),
        ({"forceGroup": True}, r"forceGroup: expected an integer from 0 to 31, got True"),
        ({"maxNeighbors": 0}, r"maxNeighbors: expected an integer of at least 1, got 0"),
        ({"device": "gpu"}, r"device: expected a torch device of this machine, got 'gpu' \("),
        ({"device": "cuda:77"}, r"device: expected a torch device of this machine, got 'cuda:77'"),
    ],
)
def test_wrong_options_are_named(water_artifact, options, message):
    with pytest.raises(InputError, match=message):
        create_system(water_artifact, **options)


def test_unknown_element_is_named_with_its_atoms(water_artifact):
    topology = water_topology(("NA", app.element.sodium), ("CL", app.element.chlorine))
    with pytest.raises(
        InputError,
        match=r"the model knows \(H, C, N, O\), got Cl, Na in atom 3 \(NA of NA 2:2\), atom 4 ",
    ):
        create_system(water_artifact, topology)


def test_many_unknown_atoms_are_summarised(water_artifact):
    topology = water_topology(*[("NA", app.element.sodium)] * 20)
    with pytest.raises(InputError, match=r"atom 7 \(NA of NA 6:6\) and 15 more"):
        create_system(water_artifact, topology)


def test_virtual_site_is_refused_by_name(water_artifact):
    with pytest.raises(
        InputError, match=r"expected an element for every atom, got none for atom 3 \(M of"
    ):
        create_system(water_artifact, water_topology(("M", None)))


def test_virtual_site_outside_the_region_is_fine(water_artifact):
    system_of(water_artifact, [0, 1, 2], water_topology(("M", None)))


@pytest.mark.parametrize(
    ("atoms", "message"),
    [
        ([], r"expected at least one atom, got none"),
        ([0, 1, 0, 1, 2], r"every index once, got 0, 1 more than once"),
        ([0, 3], r"indices from 0 to 2, got 3"),
        ([-1], r"indices from 0 to 2, got -1"),
        ([0.5], r"expected atom indices \(integers\)"),
        (["O"], r"expected atom indices \(integers\)"),
    ],
)
def test_wrong_atom_lists_are_refused(water_artifact, atoms, message):
    with pytest.raises(InputError, match=r"atoms: .*" + message):
        system_of(water_artifact, atoms)


@pytest.mark.parametrize("atoms", [iter([2, 0]), np.array([2, 0]), (2, 0)])
def test_atoms_may_come_in_any_sequence_and_order(water_artifact, atoms):
    system = system_of(water_artifact, atoms)
    assert list(system.getForce(0).getParticles()) == [2, 0]


@pytest.mark.parametrize(
    ("licence", "lines"), [("CC BY-NC 4.0", 1), ("ASL", 1), ("MIT", 0), ("CC BY 4.0", 0), (None, 0)]
)
def test_restrictive_licence_is_said_once(water_artifact, tmp_path, caplog, licence, lines):
    canonical = artifacts.load(water_artifact).canonical
    path = artifacts.save(canonical, tmp_path / "licensed.les.pt", licence=licence)
    for _ in range(2):
        create_system(path)
    assert caplog.text.count("restricts its use") == lines


def test_topology_of_another_system_is_refused(water_artifact):
    system = openmm.System()
    system.addParticle(1.0)
    potential = LESPotentialImplFactory().createImpl("les", modelPath=water_artifact)
    with pytest.raises(InputError, match=r"system: expected 3 particles.*got 1"):
        potential.addForces(water_topology(), system, None, 0)


def test_torchforce_is_refused_where_it_is_not_installed(water_artifact, monkeypatch):
    missing = backends.TorchForceStatus(
        False, False, "openmmtorch is not installed (pip install it)"
    )
    monkeypatch.setattr(backends, "torchforce_status", lambda: missing)
    with pytest.raises(
        InputError, match=r"backend: 'torchforce' cannot be used here: .*pip install"
    ):
        create_system(water_artifact, backend="torchforce")


def test_flat_box_is_refused(water_artifact):
    topology = water_topology()
    topology.setPeriodicBoxVectors(np.diag([2.0, 2.0, 1e-6]) * unit.nanometer)
    with pytest.raises(InputError, match=r"cell: the box is too small"):
        create_system(water_artifact, topology)


@pytest.mark.parametrize("name", ["hydrogenMass", "hydrogen_mass"])
def test_heavy_hydrogen_is_told_how(water_artifact, name):
    """With a force field, whose masses a mixed System keeps, and without."""
    with pytest.raises(
        InputError,
        match=rf"unknown argument {name}; this belongs to ForceField\..*setParticleMass\.",
    ):
        create_system(water_artifact, **{name: 3.0})


@pytest.mark.parametrize("name", ["constraints", "rigidWater", "nonbonded_method"])
def test_options_of_force_fields_are_told_where_they_belong(water_artifact, name):
    with pytest.raises(InputError, match=rf"{name}; this belongs to ForceField\.createSystem"):
        create_system(water_artifact, **{name: None})
