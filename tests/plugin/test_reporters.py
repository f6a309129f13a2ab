"""What LESReporter writes while a simulation runs, against the model and against itself."""

import os
import resource
import shutil

import numpy as np
import openmm
import pytest
from openmm import app, unit
from support.helpers import ROOT, topology_from_atoms
from support.programs import run_code
from support.reporters import (
    ENDINGS,
    METHYL,
    MODEL,
    PEPTIDE,
    STEP,
    reported,
    simulate,
    simulation_of,
    simulation_of_methyl,
    water,
)

from openmm_les.analysis import formats
from openmm_les.artifact import load
from openmm_les.errors import InputError, OutputError
from openmm_les.evaluation.system_model import SystemModel
from openmm_les.plugin.reporter import LESReporter
from openmm_les.plugin.thermostats import temperature_of

EVERYTHING = {"charges": True, "dipole": True, "bornCharges": True, "current": True}


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
    path = tmp_path / "series.csv"
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


def test_steps_of_any_length(tmp_path):
    """An integrator that chooses them says 0 before the first one."""
    integrator = openmm.VariableVerletIntegrator(1e-3)
    series = reported(simulation_of(water(), integrator), tmp_path / "a.csv", 3, dipole=True)
    assert len(series.time) == 3
    assert (np.diff(series.time) > 0.0).all()


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


@pytest.mark.parametrize("interpolate", [False, True])
@pytest.mark.parametrize("embedding", ["mechanical", "electrostatic"])
def test_region_and_link_atom_come_from_the_system(tmp_path, embedding, interpolate):
    """With lambda, too, where the force of the model is inside another one."""
    simulation = simulation_of_methyl(embedding, interpolate=interpolate)
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


# ------------------------------------------------------------------ what the file says


def langevin(temperature=350):
    return openmm.LangevinMiddleIntegrator(temperature, 1, STEP)


def mts(temperature):
    step = STEP * unit.picosecond
    return openmm.MTSLangevinIntegrator(
        temperature * unit.kelvin, 1 / unit.picosecond, step, [(0, 1)]
    )


def compound():
    integrator = openmm.CompoundIntegrator()
    integrator.addIntegrator(openmm.VerletIntegrator(STEP))
    integrator.addIntegrator(langevin(410))
    integrator.setCurrentIntegrator(1)
    return integrator


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (langevin, 350.0),
        (lambda: openmm.NoseHooverIntegrator(320, 1, STEP), 320.0),
        (lambda: openmm.BrownianIntegrator(310, 1, STEP), 310.0),
        (lambda: mts(330), 330.0),
        (compound, 410.0),
        (lambda: openmm.VerletIntegrator(STEP), None),
        (lambda: langevin(0), None),
    ],
)
def test_temperature_is_that_of_the_thermostat(make, expected):
    simulation = free_particles(make())
    assert temperature_of(simulation.context) == expected
    if expected is None:
        simulation.system.addForce(openmm.AndersenThermostat(290, 1))
        simulation.context.reinitialize()
        assert temperature_of(simulation.context) == 290.0


def free_particles(integrator) -> app.Simulation:
    system = openmm.System()
    for _ in range(3):
        system.addParticle(16.0)
    platform = openmm.Platform.getPlatformByName("Reference")
    return app.Simulation(topology_from_atoms(water()), system, integrator, platform)


@pytest.mark.parametrize("ending", ENDINGS)
def test_file_says_temperature_and_model(tmp_path, ending, caplog):
    path = tmp_path / f"series{ending}"
    simulation = simulation_of(water(), langevin())
    header = reported(simulation, path, 2, dipole=True).header
    assert header.temperature == 350.0
    assert header.model == MODEL.name
    assert header.model_sha256 == load(MODEL).sha256
    assert header.charge_sign == "physical"
    simulation.reporters = []
    other = simulation_of(water(), langevin(300))
    other.currentStep = 2
    other.reporters.append(LESReporter(path, 1, dipole=True, append=True))
    with pytest.raises(InputError, match=r"to have temperature 300\.0 as this simulation, got 350"):
        other.step(1)
    reporter = LESReporter(path, 1, dipole=True, append=True)
    simulation.reporters = [reporter]
    simulation.step(1)
    assert not caplog.text
    simulation.integrator.setTemperature(400)
    simulation.step(2)
    assert caplog.text.count("says 350 K, but the thermostat has 400 K from step") == 1


def test_temperature_may_be_given(tmp_path):
    series = reported(
        simulation_of(water()), tmp_path / "a.csv", 1, dipole=True, temperature=77 * unit.kelvin
    )
    assert series.header.temperature == 77.0
    for wrong in (-3, "warm", float("nan")):
        with pytest.raises(InputError, match="temperature: expected a temperature above 0 K"):
            LESReporter(tmp_path / "b.csv", 1, dipole=True, temperature=wrong)


def test_les_energy_is_that_of_the_model(tmp_path):
    for name, options in (("short", {}), ("with response", {"current": True})):
        path = tmp_path / f"{name}.csv"
        simulation = simulation_of(water())
        series = reported(simulation, path, 2, lesEnergy=True, precision="double", **options)
        state = simulation.context.getState(positions=True)
        positions = state.getPositions(asNumpy=True).value_in_unit(unit.angstrom)
        model = SystemModel(load(MODEL), [8, 1, 1], periodic=False, precision="double")
        expected = model.evaluate(positions).les_energy
        assert series.get("les_energy")[-1] == pytest.approx(expected, abs=1e-7)
        assert '"LES Energy (eV)"' in path.read_text()


# ------------------------------------------------------------------ one writer, and never an input


def test_two_reporters_do_not_share_a_file(tmp_path):
    path = tmp_path / "series.csv"
    simulation = simulation_of(water())
    (tmp_path / "link.csv").symlink_to(path)
    simulation.reporters = [LESReporter(path, 1, dipole=True)]
    for name, append in (("series.csv", False), ("series.csv", True), ("link.csv", False)):
        second = LESReporter(tmp_path / name, 1, dipole=True, append=append)
        simulation.reporters = [*simulation.reporters[:1], second]
        with pytest.raises(OutputError, match="written by another reporter of this process"):
            simulation.step(1)
    simulation.reporters = simulation.reporters[:1]
    simulation.step(2)
    assert len(formats.read(path).time) == 2  # the first one goes on
    other = simulation_of(water())
    other.reporters = [LESReporter(path, 1, dipole=True)]
    with pytest.raises(OutputError, match="written by another reporter of this process"):
        other.step(1)
    simulation.reporters[0].close()
    other.step(1)
    with pytest.raises(OutputError, match="was closed, or is continued by another reporter"):
        simulation.step(1)
    assert len(formats.read(path).time) == 1
    other.reporters = []
    assert [each.name for each in tmp_path.iterdir() if each.suffix == ".lock"] == []


def test_a_file_that_another_reporter_writes(tmp_path):
    simulation = simulation_of(water())
    log = tmp_path / "log.csv"
    ours = LESReporter(log, 1, dipole=True)
    simulation.reporters = [app.StateDataReporter(str(log), 1, step=True, time=True)]
    simulation.step(1)
    simulation.reporters.append(ours)
    with pytest.raises(OutputError, match="open in this process for something else to write"):
        simulation.step(1)
    simulation.reporters[0]._out.close()
    with pytest.raises(OutputError, match="exists and is no time series of LESReporter"):
        LESReporter(log, 1, dipole=True)


def test_two_processes_do_not_share_a_file(tmp_path):
    path = tmp_path / "series.csv"
    simulation = simulation_of(water())
    simulation.reporters = [LESReporter(path, 1, dipole=True)]
    simulation.step(1)
    code = (
        "import sys\n"
        "from plugin.test_reporters import *\n"
        "simulation = simulation_of(water())\n"
        "simulation.reporters = [LESReporter(sys.argv[1], 1, dipole=True)]\n"
        "simulation.step(1)\n"
    )
    done = run_code(code, path, folder=ROOT / "tests")
    assert "written by another process" in done.stderr.splitlines()[-1]
    content = path.read_text()
    simulation.step(1)
    assert path.read_text().startswith(content)


@pytest.mark.parametrize("ending", ENDINGS)
def test_nothing_but_a_time_series_is_replaced(tmp_path, ending):
    path = tmp_path / f"other{ending}"
    if ending == ".csv":
        path.write_text("my,precious,table\n1,2,3\n")
    else:
        import h5py

        with h5py.File(path, "w") as file:
            file["time"] = file["coordinates"] = np.ones(3)
    content = path.read_bytes()
    with pytest.raises(OutputError, match="exists and is no time series of LESReporter"):
        LESReporter(path, 1, dipole=True)
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(OutputError, match="exists and is no time series of LESReporter"):
        LESReporter(path, 1, dipole=True)


def test_the_model_is_not_replaced(tmp_path):
    model = tmp_path / "model.csv"
    shutil.copy(MODEL, model)
    content = model.read_bytes()
    with pytest.raises(OutputError, match="is the file that model reads"):
        LESReporter(model, 1, model, dipole=True)
    link = tmp_path / "hard.csv"
    os.link(model, link)
    with pytest.raises(OutputError, match="is the file that model reads"):
        LESReporter(link, 1, model, dipole=True)
    assert model.read_bytes() == content


def test_rows_too_rare_for_hydrogen_are_told_before_the_simulation(tmp_path, caplog):
    simulation = simulation_of(water())
    reporter = LESReporter(tmp_path / "a.csv", 40, current=True)
    reporter.describeNextReport(simulation)
    assert "rows every 10 fs show vibrations up to 1668 cm^-1" in caplog.text
    caplog.clear()
    for interval, options in ((10, {"current": True}), (1000, {"charges": True})):
        reporter = LESReporter(tmp_path / f"{interval}.csv", interval, **options)
        reporter.describeNextReport(simulation)
    assert not caplog.text


def test_a_variable_time_step_is_not_known_before_the_simulation(tmp_path):
    simulation = simulation_of(water(), integrator=openmm.VariableVerletIntegrator(1e-4))
    series = reported(simulation, tmp_path / "a.csv", 2, current=True)
    assert len(series.time) == 2


def test_a_simulation_stops_in_one_line_where_the_disk_is_full(tmp_path):
    """And goes on when there is space again, without a gap."""
    path = tmp_path / "series.csv"
    simulation = simulation_of(water())
    simulation.reporters = [LESReporter(path, 1, dipole=True)]
    simulation.step(1)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    content = path.read_text()
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(content) + 20, before[1]))
    try:
        with pytest.raises(OutputError, match=r"cannot write .*series\.csv: .* MB free"):
            simulation.step(1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert path.read_text() == content
    simulation.step(1)
    assert len(formats.read(path).time) == 2
