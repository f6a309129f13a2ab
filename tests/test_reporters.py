"""What LESReporter writes while a simulation runs, against the model and against itself."""

from importlib.util import find_spec

import numpy as np
import openmm
import pytest
from ase import Atoms
from contexts import create_system
from helpers import ROOT, topology_from_atoms
from openmm import app, unit
from openmmml import MLPotential

from openmm_les import catalog
from openmm_les.analysis import formats
from openmm_les.artifact import load
from openmm_les.errors import InputError
from openmm_les.reporters import LESReporter
from openmm_les.system_model import SystemModel

MODEL = catalog.artifact_path("les-demo")
PEPTIDE = ROOT / "examples" / "alanine_dipeptide.pdb"
STEP = 0.00025  # ps
METHYL = ("CB", "HB1", "HB2", "HB3")
EVERYTHING = {"charges": True, "dipole": True, "bornCharges": True, "current": True}

ENDINGS = [
    ".csv",
    ".npz",
    pytest.param(".h5", marks=pytest.mark.skipif(find_spec("h5py") is None, reason="needs h5py")),
]


def water(box=None) -> Atoms:
    positions = [[0.0, 0.0, 0.0], [0.76, 0.59, 0.0], [-0.76, 0.59, 0.0]]
    return Atoms("OHH", positions, cell=box, pbc=box is not None)


def simulate(topology, system, positions, integrator=None) -> app.Simulation:
    """A Simulation on one thread at `positions` [nm], at 300 K."""
    integrator = integrator or openmm.VerletIntegrator(STEP)
    platform = openmm.Platform.getPlatformByName("CPU")
    simulation = app.Simulation(topology, system, integrator, platform, {"Threads": "1"})
    simulation.context.setPositions(positions)
    simulation.context.computeVirtualSites()
    simulation.context.setVelocitiesToTemperature(300, 3)
    return simulation


def simulation_of(atoms, integrator=None, **options) -> app.Simulation:
    system = create_system(MODEL, atoms, **options)
    return simulate(topology_from_atoms(atoms), system, 0.1 * atoms.positions, integrator)


def simulation_of_methyl(embedding="mechanical", **options) -> app.Simulation:
    """Alanine dipeptide with its side chain by the model, through a cut bond."""
    pdb = app.PDBFile(str(PEPTIDE))
    field = app.ForceField("amber14-all.xml").createSystem(pdb.topology)
    atoms = [atom.index for atom in pdb.topology.atoms() if atom.name in METHYL]
    mixed = MLPotential("les", modelPath=MODEL).createMixedSystem(
        pdb.topology, field, atoms, embedding=embedding, returnInfo=True, **options
    )
    number = mixed["system"].getNumParticles()
    positions = np.zeros((number, 3))  # OpenMM places link atoms that are virtual sites
    positions[:22] = pdb.getPositions(asNumpy=True).value_in_unit(unit.nanometer)
    return simulate(mixed["topology"], mixed["system"], positions)


def reported(simulation, path, steps, interval=1, **options):
    """Run with a reporter and read its file."""
    simulation.reporters.append(LESReporter(path, interval, **options))
    simulation.step(steps)
    return formats.read(path)


# ------------------------------------------------------------------ values


@pytest.mark.parametrize("system", ["molecule", "mechanical", "electrostatic"])
def test_current_is_the_derivative_of_the_dipole(tmp_path, system):
    """Also of a region with a link atom, on which both ends of the cut bond act."""
    simulation = simulation_of(water()) if system == "molecule" else simulation_of_methyl(system)
    options = {"current": True, "dipole": True, "precision": "double"}
    series = reported(simulation, tmp_path / "series.csv", 40, **options)
    # Leap-frog velocities are those between two positions; so is the mean of the two tensors.
    change = np.diff(series.get("dipole"), axis=0) / series.interval
    current = series.get("current")[1:]
    error = np.sqrt(np.mean((change - current) ** 2) / np.mean(change**2))
    assert error < 0.02


def test_values_are_those_of_the_model(tmp_path):
    simulation = simulation_of(water())
    path = tmp_path / "series.npz"
    series = reported(simulation, path, 6, 3, velocities=True, precision="double", **EVERYTHING)
    state = simulation.context.getState(positions=True, velocities=True)
    positions = state.getPositions(asNumpy=True).value_in_unit(unit.angstrom)
    velocities = state.getVelocities(asNumpy=True).value_in_unit(unit.angstrom / unit.picosecond)
    model = SystemModel(load(MODEL), [8, 1, 1], periodic=False, precision="double")
    expected = model.response(positions)
    np.testing.assert_array_equal(series.steps, [3, 6])
    assert series.atoms == (0, 1, 2)
    np.testing.assert_allclose(series.get("charges")[-1], expected.charges, atol=1e-7)
    np.testing.assert_allclose(series.get("dipole")[-1], expected.dipole, atol=1e-7)
    np.testing.assert_allclose(series.get("born_charges")[-1], expected.born_charges, atol=1e-7)
    current = np.einsum("iab,ib->a", expected.born_charges, velocities)
    np.testing.assert_allclose(series.get("current")[-1], current, rtol=1e-6)
    weighted = np.sqrt([[15.99943], [1.007947], [1.007947]]) * velocities
    np.testing.assert_allclose(series.get("velocities")[-1], weighted, rtol=1e-5)
    assert series.get("charges")[-1][0] < 0


def test_charges_alone_are_those_of_the_response(tmp_path):
    """They come by a shorter way."""
    series = reported(simulation_of(water()), tmp_path / "a.csv", 2, charges=True, dipole=True)
    full = reported(simulation_of(water()), tmp_path / "b.csv", 2, **EVERYTHING)
    for name in ("charges", "dipole"):
        np.testing.assert_allclose(series.get(name), full.get(name), atol=1e-6)


def test_periodic_systems_have_a_current_and_a_volume(tmp_path):
    simulation = simulation_of(water([9.0, 9.0, 10.0]))
    series = reported(simulation, tmp_path / "series.csv", 2, bornCharges=True, current=True)
    np.testing.assert_allclose(series.get("volume"), 0.81)
    state = simulation.context.getState(positions=True, velocities=True)
    positions = state.getPositions(asNumpy=True).value_in_unit(unit.angstrom)
    velocities = state.getVelocities(asNumpy=True).value_in_unit(unit.angstrom / unit.picosecond)
    cell = np.diag([9.0, 9.0, 10.0])
    model = SystemModel(load(MODEL), [8, 1, 1], periodic=True, cell=cell)
    born = model.response(positions).born_charges
    np.testing.assert_allclose(series.get("born_charges")[-1], born, atol=1e-6)
    current = np.einsum("iab,ib->a", born, velocities)
    np.testing.assert_allclose(series.get("current")[-1], current, atol=1e-4)
    simulation.reporters = [LESReporter(tmp_path / "dipole.csv", 1, dipole=True)]
    with pytest.raises(InputError, match="dipole: a periodic system has none"):
        simulation.step(1)


@pytest.mark.parametrize("embedding", ["mechanical", "electrostatic"])
def test_region_and_link_atom_come_from_the_system(tmp_path, embedding):
    simulation = simulation_of_methyl(embedding)
    series = reported(simulation, tmp_path / "series.csv", 2, **EVERYTHING)
    names = [atom.name for atom in simulation.topology.atoms()]
    assert [names[i] for i in series.atoms] == [*METHYL, "CA"]
    charges = series.get("charges")
    np.testing.assert_array_equal(charges[:, -1], 0.0)  # CA is no atom of the model
    assert (np.abs(series.get("born_charges")[:, -1]) > 1e-3).any()  # but moves the link atom


def test_a_model_may_look_on(tmp_path):
    """On a part of a force field's simulation, without taking part in it."""
    pdb = app.PDBFile(str(PEPTIDE))
    system = app.ForceField("amber14-all.xml").createSystem(pdb.topology)
    simulation = simulate(pdb.topology, system, pdb.positions)
    simulation.reporters.append(LESReporter(tmp_path / "none.csv", 1, current=True))
    with pytest.raises(InputError, match=r"expected one LES model in the System .*, got 0"):
        simulation.step(1)
    simulation.reporters = [LESReporter(tmp_path / "a.csv", 1, "les-demo", dipole=True, atoms=[4])]
    with pytest.raises(InputError, match="a selection that cuts the bond between atom"):
        simulation.step(1)
    simulation.reporters = []
    series = reported(simulation, tmp_path / "b.csv", 1, model="les-demo", dipole=True)
    state = simulation.context.getState(positions=True)
    positions = state.getPositions(asNumpy=True).value_in_unit(unit.angstrom)
    numbers = [atom.element.atomic_number for atom in pdb.topology.atoms()]
    expected = SystemModel(load(MODEL), numbers, periodic=False).response(positions).dipole
    np.testing.assert_allclose(series.get("dipole")[-1], expected, atol=1e-5)


@pytest.mark.torchforce
def test_a_torchforce_does_not_tell_its_model(tmp_path):
    with pytest.warns(UserWarning, match="backend='torchforce'"):
        simulation = simulation_of(water(), backend="torchforce")
    simulation.reporters.append(LESReporter(tmp_path / "none.csv", 1, dipole=True))
    with pytest.raises(InputError, match="expected one LES model in the System"):
        simulation.step(1)
    simulation.reporters = []
    series = reported(simulation, tmp_path / "a.csv", 1, model=MODEL, dipole=True)
    assert np.abs(series.get("dipole")).max() > 0.05


def test_virtual_sites_have_no_velocity(tmp_path):
    simulation = simulation_of_methyl(linkAtoms="virtual")
    series = reported(simulation, tmp_path / "charges.csv", 1, charges=True)
    assert len(series.atoms) == 5
    simulation.reporters = [LESReporter(tmp_path / "current.csv", 1, current=True)]
    with pytest.raises(InputError, match="expected atoms, got virtual sites"):
        simulation.step(1)


# ------------------------------------------------------------------ files


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_continued_simulation_has_every_row_once(tmp_path, ending):
    """It goes back to its checkpoint, and with it the file."""

    def fresh():
        integrator = openmm.LangevinMiddleIntegrator(300, 1, STEP)
        integrator.setRandomNumberSeed(5)
        return simulation_of(water(), integrator)

    path, checkpoint = tmp_path / f"series{ending}", tmp_path / "checkpoint"
    first = fresh()
    first.reporters.append(LESReporter(path, 4, dipole=True, charges=True))
    first.step(10)
    first.saveCheckpoint(str(checkpoint))
    assert formats.read(path).steps.tolist() == [4, 8]  # written as they come
    first.step(11)
    whole = formats.read(path)
    assert whole.steps.tolist() == [4, 8, 12, 16, 20]

    second = fresh()
    second.loadCheckpoint(str(checkpoint))
    series = reported(second, path, 14, 4, dipole=True, charges=True, append=True)
    assert series.steps.tolist() == [4, 8, 12, 16, 20, 24]
    np.testing.assert_allclose(series.time[:5], whole.time, rtol=1e-6)
    np.testing.assert_allclose(series.get("dipole")[:5], whole.get("dipole"), atol=1e-5)


def test_append_makes_a_new_file_where_there_is_none(tmp_path):
    series = reported(simulation_of(water()), tmp_path / "s.csv", 2, dipole=True, append=True)
    assert series.steps.tolist() == [1, 2]


def test_without_append_a_file_is_replaced(tmp_path):
    path = tmp_path / "series.csv"
    reported(simulation_of(water()), path, 3, dipole=True)
    assert reported(simulation_of(water()), path, 2, charges=True).steps.tolist() == [1, 2]


def test_files_that_cannot_be_continued(tmp_path, caplog):
    path = tmp_path / "series.csv"
    simulation = simulation_of(water())
    reported(simulation, path, 4, dipole=True)
    content = path.read_text()
    simulation.reporters = [LESReporter(path, 1, charges=True, append=True)]
    with pytest.raises(InputError, match="to hold charges, got dipole"):
        simulation.step(1)
    other = simulation_of(water())  # at step 0
    other.reporters.append(LESReporter(path, 1, dipole=True, append=True))
    with pytest.raises(InputError, match="to end before step 1, got steps 1 to 4, all of which"):
        other.step(1)
    assert path.read_text() == content
    turned = content.replace(
        '"Dipole X (e A)","Dipole Y (e A)"', '"Dipole Y (e A)","Dipole X (e A)"'
    )
    path.write_text(turned)
    simulation.reporters = [LESReporter(path, 1, dipole=True, append=True)]
    with pytest.raises(InputError, match="columns in the order in which they are written"):
        simulation.step(1)
    path.write_text(content)
    simulation.reporters = []
    simulation.step(3)
    reported(simulation, path, 1, dipole=True, append=True)
    assert "has a gap: step 10 comes after step 4" in caplog.text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "expected something to report"),
        ({"dipole": True, "reportInterval": 0}, "a number of steps above 0, got 0"),
        ({"dipole": True, "reportInterval": 2.5}, "a number of steps above 0, got 2.5"),
        ({"dipole": True, "atoms": [0]}, "atoms: this goes with model"),
        ({"dipole": True, "file": "series.dat"}, "expected a name that ends in"),
        ({"dipole": True, "file": "absent/series.csv"}, "the directory .*absent does not exist"),
        ({"dipole": True, "device": "cuda:77"}, "expected a torch device"),
    ],
)
def test_wrong_arguments(tmp_path, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=message):
        LESReporter(**({"file": "series.csv", "reportInterval": 1} | options))
    assert not list(tmp_path.iterdir())
