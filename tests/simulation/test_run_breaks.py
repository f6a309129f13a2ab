"""What breaks a simulation, and whether the message names the reason."""

import logging
import re

import numpy as np
import openmm
import pytest
from openmm import app, unit
from support.mixed import peptide, peptide_in_water
from support.runs import IN_WATER, PEPTIDE, Recorder, config, write

from openmm_les import InputError, SimulationError, catalog
from openmm_les import simulation as md
from openmm_les.analysis import formats
from openmm_les.plugin.guard import TemperatureGuard
from openmm_les.simulation import runner
from openmm_les.simulation.messages import run_terms

SHORT = {"steps": 20, "equilibration_steps": 0}


@pytest.fixture(scope="module")
def in_water(tmp_path_factory):
    path = write(tmp_path_factory.mktemp("box") / "peptide.pdb", peptide_in_water("tip3p", 1.6))
    return IN_WATER | {"structure": path}


def classical(time_step, integrator=None, *forces):
    """A simulation without any model, whose energies are finite whatever happens."""
    system = openmm.System()
    bonds = openmm.HarmonicBondForce()
    for _ in range(2):
        system.addParticle(1.0)
    bonds.addBond(0, 1, 0.1, 3e5)  # a period of 8 fs
    for force in (bonds, *forces):
        system.addForce(force)
    integrator = integrator or openmm.LangevinMiddleIntegrator(
        300, 1.0, time_step * unit.femtosecond
    )
    topology = app.Topology()
    residue = topology.addResidue("X", topology.addChain())
    for name in "AB":
        topology.addAtom(name, app.element.hydrogen, residue)
    platform = openmm.Platform.getPlatformByName("Reference")
    made = app.Simulation(topology, system, integrator, platform)
    made.context.setPositions(np.array([[0, 0, 0], [0.1, 0, 0]]))
    made.context.setVelocitiesToTemperature(300, 1)
    return made


def test_a_plain_simulation_stops_when_atoms_fly_apart():
    made = classical(4.0)
    made.reporters.append(TemperatureGuard(10))
    with pytest.raises(SimulationError, match=r"K at step \d+, with time steps of 4 fs: the atoms"):
        made.step(2000)
    quiet = classical(0.5)
    quiet.reporters.append(TemperatureGuard(10))
    quiet.step(2000)


def test_the_limit_of_the_guard():
    """It follows the integrator, unless it is given."""
    made = classical(0.5)
    made.context.setVelocitiesToTemperature(900, 1)
    made.reporters.append(TemperatureGuard(1))
    made.step(5)
    made.reporters = [TemperatureGuard(1, 1.0 * unit.kelvin)]
    with pytest.raises(SimulationError, match="take a smaller time step"):
        made.step(1)
    made.integrator.setTemperature(1e6)
    made.context.setVelocitiesToTemperature(1e6, 1)
    made.reporters = [TemperatureGuard(1)]
    made.step(5)


def test_the_guard_knows_every_thermostat():
    """That of a force, too; a Brownian integrator has no velocities to look at."""
    hot = openmm.AndersenThermostat(1e6, 1.0)
    made = classical(0.5, openmm.VerletIntegrator(1e-6), hot)
    made.context.setVelocitiesToTemperature(1e5, 1)
    made.reporters = [TemperatureGuard(1)]
    made.step(2)
    made = classical(0.5, openmm.BrownianIntegrator(300, 1.0, 1e-6))
    made.reporters = [TemperatureGuard(1)]
    with pytest.raises(InputError, match="got a BrownianIntegrator"):
        made.step(1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reportInterval": 0}, "reportInterval: expected a number of steps above 0, got 0"),
        ({"reportInterval": 1.5}, "reportInterval: .* got 1.5"),
        ({"maxTemperature": -3}, "maxTemperature: expected a temperature above 0 K, got -3"),
        ({"maxTemperature": "hot"}, "maxTemperature: expected a temperature above 0 K, got 'hot'"),
        ({"maxTemperature": 3 * unit.nanometer}, "maxTemperature: .* got .*nm"),
    ],
)
def test_what_the_guard_refuses(options, message):
    with pytest.raises(InputError, match=message):
        TemperatureGuard(**options)


def test_a_run_names_step_and_time_step(tmp_path):
    """Some steps after it happened, however long it is until the next report."""
    long = {"steps": 10_000, "report_interval": 10_000, "equilibration_steps": 0}
    with pytest.raises(SimulationError) as caught:
        md.run(config(tmp_path, **long, trajectory_interval=10_000, time_step=4.0))
    text = str(caught.value)
    assert "the simulation broke after step" in text
    assert int(re.search(r"after step (\d+)", text)[1]) < 9000
    assert "\n" not in text


def test_iterations_are_counted_over_all_rounds(tmp_path, in_water):
    """With constraints OpenMM begins again and again, each time with as many as asked for."""
    recorder = Recorder()
    md.run(config(tmp_path, **in_water, **SHORT, minimise_iterations=15), callbacks=recorder)
    told = next(text for text in recorder.messages if text.startswith("minimised"))
    numbers = re.search(
        r"in (\d+)(?: \(and (\d+) more for the constraints\))? iterations from ", told
    )
    assert int(numbers[1]) <= 15
    assert int(numbers[2] or 0) <= 8  # without the bound it was 15 in each of 8 rounds


def test_warnings_are_told_once(tmp_path, caplog):
    """A region that is cut at a polar bond, of which every new System warns."""
    path = write(tmp_path / "alone.pdb", peptide())
    pytest.importorskip("mdtraj")
    region = {
        "structure": path,
        "force_field": IN_WATER["force_field"],
        "ml_region": ("resname ACE",),
    }
    md.run(config(tmp_path, **region, **SHORT | {"equilibration_steps": 20}))
    warned = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
    assert any("is polar" in text for text in warned)
    assert len(warned) == len(set(warned))


def test_wrong_latent_charges_are_no_matter_of_the_time_step(tmp_path, in_water):
    fields = in_water | {"embedding": "electrostatic", "charge_tolerance": 1e-6}
    with pytest.raises((InputError, SimulationError)) as caught:
        md.run(config(tmp_path, **fields, **SHORT))
    text = str(caught.value)
    assert "the latent charges of the ML region add up to" in text
    assert "charge_tolerance" in text
    for advice in ("time_step", "minimise_iterations", "chargeTolerance", "allowNetCharge"):
        assert advice not in text


def test_a_charged_region_is_told_in_the_words_of_a_run():
    topology = app.PDBFile(str(PEPTIDE)).topology
    told = run_terms(
        "embedding='electrostatic': expected a neutral ML region, got -1 e: if this one does, "
        "allowNetCharge=True, and if the sum is wrong, charge=0; raise maxNeighbors; "
        "cudaGraphs=True needs a GPU; atom 8 (CA of residue ALA 2)",
        topology,
    )
    assert told == (
        "embedding: electrostatic: expected a neutral ML region, got -1 e: if this one does, give "
        "it as `charge`, and if the sum is wrong, charge: 0; raise max_neighbors; cuda_graphs: on "
        "needs a GPU; atom 9 (CA of ALA A:2)"
    )


@pytest.mark.parametrize("energy", [-1.5e9, float("nan")])
def test_energies_that_nothing_has(tmp_path, monkeypatch, energy):
    monkeypatch.setattr(runner, "_potential_energy", lambda sim: energy)
    with pytest.raises(InputError, match=r"structure: expected an energy that molecules have, got"):
        md.run(config(tmp_path, **SHORT))
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_rare_rows_are_told_before_anything_is_computed(tmp_path, caplog):
    """And once, though the reporter of the simulation says the same; its file has the temperature,
    also of NVE, which has no thermostat that could be asked."""
    fields = {"response": "current,les_energy", "response_interval": 20, "temperature": 350}
    told = []
    recorder = Recorder(lambda progress: told.append(len(caplog.records)))
    md.run(config(tmp_path, "NVE", **SHORT, **fields, minimise_iterations=0), callbacks=recorder)
    rare = [r.getMessage() for r in caplog.records if "folds back" in r.getMessage()]
    assert len(rare) == 1
    assert rare[0].startswith("rows every 10 fs show vibrations up to")
    assert "write rows more often, every 3.0 fs" in rare[0]
    assert told[0] >= 1
    series = formats.read(tmp_path / "run" / "response.csv")
    assert series.header.temperature == 350.0
    assert series.header.model_sha256 == catalog.open_model("les-demo").sha256
    assert np.isfinite(series.get("les_energy")).all()


def test_temperature_is_that_of_openmm():
    made = classical(0.5)
    state = made.context.getState(energy=True, velocities=True)
    expected = 2 * state.getKineticEnergy() / (6 * unit.MOLAR_GAS_CONSTANT_R) / unit.kelvin
    # OpenMM moves leap-frog velocities to the time of the positions first.
    assert TemperatureGuard().temperature(made.system, state) == pytest.approx(expected, rel=0.2)
