"""What LESReporter writes of models with latent moments, against the model itself."""

import shlex
from pathlib import Path

import numpy as np
import pytest
from openmm import unit
from support import documents
from support.moments import moments_artifact
from support.reporters import (
    ENDINGS,
    MODEL,
    reported,
    simulation_of,
    simulation_of_methyl,
    water,
)
from support.runs import config

from openmm_les import simulation as md
from openmm_les.analysis import formats, spectra
from openmm_les.cli import main
from openmm_les.errors import InputError
from openmm_les.evaluation.system_model import SystemModel
from openmm_les.names import spellings
from openmm_les.plugin.reporter import LESReporter
from openmm_les.units import COULOMB_CONSTANT

pytestmark = pytest.mark.usefixtures("moments_family")

MOMENTS = ("polarizability", "atomicDipoles", "quadrupoles", "inducedCharges", "inducedDipoles")
EVERY_MOMENT = dict.fromkeys(MOMENTS, True)


@pytest.fixture(scope="module")
def model(tmp_path_factory, moments_family):
    """All moments, with charges whose sign and mean are not the physical ones."""
    path = tmp_path_factory.mktemp("moments") / "all.les.pt"
    options = {"bec_remove_mean": True, "bec_epsilon_factor": 1.7}
    return moments_artifact("all", path, charge_sign=-1, **options)


def state_of(simulation):
    """Positions [A] and velocities [A/ps]."""
    state = simulation.context.getState(positions=True, velocities=True)
    positions = state.getPositions(asNumpy=True).value_in_unit(unit.angstrom)
    return positions, state.getVelocities(asNumpy=True).value_in_unit(
        unit.angstrom / unit.picosecond
    )


@pytest.mark.parametrize("ending", ENDINGS)
def test_moments_are_those_of_the_model(tmp_path, model, ending):
    simulation = simulation_of(water(), model=model.path)
    path = tmp_path / f"series{ending}"
    options = {"charges": True, "dipole": True, "precision": "double", **EVERY_MOMENT}
    found = reported(simulation, path, 4, 2, **options)
    positions, _ = state_of(simulation)
    system = SystemModel(model, [8, 1, 1], periodic=False, precision="double")
    latent = system.evaluate(positions).moments
    factor = -np.sqrt(1.7)
    charges = factor * (latent.total_charges - latent.total_charges.mean())
    expected = {
        "charges": charges,
        "induced_charges": factor * (latent.induced_charges - latent.induced_charges.mean()),
        "atomic_dipoles": factor * (latent.dipoles + latent.induced_dipoles),
        "induced_dipoles": factor * latent.induced_dipoles,
        "quadrupoles": factor * latent.quadrupoles,
        "polarizability": 1.7 * COULOMB_CONSTANT * latent.alpha.sum(axis=0),
    }
    expected["dipole"] = charges @ positions + expected["atomic_dipoles"].sum(axis=0)
    assert set(found.values) == set(expected)
    for name, values in expected.items():
        assert np.abs(values).max() > 1e-4, name
        np.testing.assert_allclose(found.get(name)[-1], values, rtol=1e-6, atol=1e-8, err_msg=name)


def test_current_is_the_derivative_of_the_dipole(tmp_path, model):
    """Also of a region with a link atom, whose moments its host has."""
    simulation = simulation_of_methyl(model=model.path)
    options = {"current": True, "dipole": True, "atomicDipoles": True, "precision": "double"}
    series = reported(simulation, tmp_path / "series.csv", 40, **options)
    change = np.diff(series.get("dipole"), axis=0) / series.interval
    current = series.get("current")[1:]
    error = np.sqrt(np.mean((change - current) ** 2) / np.mean(change**2))
    assert error < 0.02
    dipoles = series.get("atomic_dipoles")
    assert (dipoles[:, -1] == 0.0).all()  # the MM end of the cut bond
    assert np.abs(dipoles[:, :-1]).min(axis=(0, 2)).max() > 1e-4


def test_a_periodic_system_has_a_polarizability_and_a_current(tmp_path, model):
    cell = np.diag([9.0, 9.0, 10.0])
    simulation = simulation_of(water(np.diag(cell)), model=model.path)
    options = {"current": True, "polarizability": True, "precision": "double"}
    series = reported(simulation, tmp_path / "series.h5", 2, **options)
    positions, velocities = state_of(simulation)
    system = SystemModel(model, [8, 1, 1], periodic=True, cell=cell, precision="double")
    expected = system.response(positions)
    current = np.einsum("iab,ib->a", expected.born_charges, velocities)
    np.testing.assert_allclose(series.get("current")[-1], current, rtol=1e-5)
    volume = COULOMB_CONSTANT * expected.polarizability
    np.testing.assert_allclose(series.get("polarizability")[-1], volume, rtol=1e-6)


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_file_is_continued(tmp_path, model, ending):
    path, checkpoint = tmp_path / f"series{ending}", tmp_path / "checkpoint"
    wanted = {"polarizability": True, "quadrupoles": True}
    first = simulation_of(water(), model=model.path)
    reported(first, path, 3, **wanted)
    first.saveCheckpoint(str(checkpoint))
    first.step(2)
    whole = formats.read(path)
    second = simulation_of(water(), model=model.path)
    second.loadCheckpoint(str(checkpoint))
    series = reported(second, path, 2, append=True, **wanted)
    assert series.steps.tolist() == [1, 2, 3, 4, 5]
    for name in ("polarizability", "quadrupoles"):
        np.testing.assert_allclose(series.get(name), whole.get(name), atol=1e-6)
    second.reporters = [LESReporter(path, 1, polarizability=True, append=True)]
    with pytest.raises(InputError, match="to hold polarizability, got polarizability, quadrupoles"):
        second.step(1)


@pytest.mark.parametrize("name", MOMENTS)
def test_models_without_such_moments(tmp_path, name):
    """Of charges alone, or of others than those asked for."""
    others = {"polarizability": "kappa", "atomicDipoles": "kappa", "quadrupoles": "dipoles"}
    others |= {"inducedCharges": "alpha", "inducedDipoles": "dipoles"}
    some = moments_artifact(others[name], tmp_path / "some.les.pt")
    for path in (MODEL, some.path):
        simulation = simulation_of(water(), model=path)
        simulation.reporters = [LESReporter(tmp_path / "a.csv", 1, **{name: True})]
        with pytest.raises(InputError, match=rf"LESReporter: {spellings(name)[1]}: expected a mod"):
            simulation.step(1)
        assert not (tmp_path / "a.csv").exists()


def test_a_run_writes_them(tmp_path, model):
    """And refuses them before it begins where the model has none."""
    wanted = {"response": "polarizability,dipole", "response_interval": 1, "time_step": 0.25}
    short = {"steps": 20, "equilibration_steps": 0, "minimise_iterations": 0} | wanted
    md.run(config(tmp_path, model=model.path, **short))
    series = formats.read(tmp_path / "run" / "response.csv")
    assert series.get("polarizability").shape == (20, 3, 3)
    spectrum = spectra.compute(series, spectra.SpectrumOptions(laser=532.0))
    assert np.isfinite(spectrum.raman.total).all()
    assert spectrum.infrared is not None
    with pytest.raises(InputError, match="response: polarizability: expected a model with latent "):
        md.run(config(tmp_path, **short, output=tmp_path / "other"))
    assert not (tmp_path / "other" / "config.yaml").exists()


def test_the_page_on_spectra_runs(tmp_path, model, monkeypatch):
    """Its part on Raman spectra, which needs a model with polarizabilities."""
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    monkeypatch.chdir(tmp_path)
    page = documents.DOCS / "howto" / "spectra.md"
    code, shell = (block for block in documents.blocks(page) if block.elsewhere)
    names = {"simulation": simulation_of(water(), model=model.path), "LESReporter": LESReporter}
    exec(code.code.replace("800", "80"), names)
    (line,) = shell.shell_lines()
    with pytest.raises(SystemExit) as stopped:
        main([*shlex.split(line)[1:], "--temperature", "300"])
    assert stopped.value.code == 0
    rows = Path("raman_spectrum.csv").read_text().splitlines()
    header = next(row for row in rows if not row.startswith("# "))
    assert header.count("Raman Activity") == header.count("Raman Cross Section") == 4
    assert Path("raman.png").exists()
