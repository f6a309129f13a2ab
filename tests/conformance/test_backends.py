"""Choosing a backend, and TorchForce: agreement with PythonForce and what it cannot do."""

import logging
import os
import subprocess
import sys

import numpy as np
import openmm
import pytest
from support.contexts import (
    COPY_WARNING,
    PLATFORMS,
    add_forces,
    assert_same,
    create_context,
    create_system,
    empty_system,
    energy_and_forces,
)
from support.helpers import dipeptide, topology_from_atoms, water_frame

from openmm_les import InputError
from openmm_les.plugin.forces import backends


def backend_context(path, atoms, backend, platform="CPU", **options) -> openmm.Context:
    system = create_system(path, atoms, backend=backend, **options)
    return create_context(system, atoms.positions, platform)


# ------------------------------------------------------------------ choice

CHOOSE = """
import logging
logging.basicConfig(level=logging.INFO, format="%(message)s")
from openmm_les import InputError
from openmm_les.plugin.forces import backends
print(backends.choose("auto", device=None, is_placeholder=False))
try:
    backends.choose("torchforce", device=None, is_placeholder=False)
except InputError as error:
    print(error)
"""


def choose_with(tmp_path, code, version="1.6") -> subprocess.CompletedProcess[str]:
    """Choose a backend in a process where `openmmtorch` is the given Python code."""
    (tmp_path / "openmmtorch.py").write_text(code)
    metadata = tmp_path / f"openmmtorch-{version}.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: openmmtorch\nVersion: {version}\n"
    )
    paths = [str(tmp_path), *filter(None, sys.path)]
    return subprocess.run(
        [sys.executable, "-c", CHOOSE],
        env=dict(os.environ, PYTHONPATH=os.pathsep.join(paths)),
        capture_output=True,
        text=True,
        check=True,
    )


def test_backend_that_crashes_is_never_imported(tmp_path):
    result = choose_with(tmp_path, "import os; os.abort()")
    assert result.stdout.startswith("pythonforce\nbackend: 'torchforce' cannot be used here: ")
    assert result.stdout.count("openmmtorch 1.6 with openmm") == 1
    assert "crashes the process (SIGABRT); or use backend='pythonforce'" in result.stdout
    assert result.stderr.count("backend='auto' takes PythonForce: openmmtorch 1.6 with") == 1


def test_backend_that_cannot_be_imported_is_named(tmp_path):
    result = choose_with(tmp_path, "raise ImportError('libtorch_cuda.so: no such file')")
    assert result.stdout.startswith("pythonforce\n")
    assert "fails (ImportError: libtorch_cuda.so: no such file)" in result.stdout


def test_wrong_torch_gets_the_pip_command(tmp_path, monkeypatch):
    versions = {"openmmtorch": "1.5", "openmm": "8.6.1", "torch": "2.11.0"}
    monkeypatch.setattr(backends, "version_of", versions.__getitem__)
    assert "pip install 'torch==2.9.*'" in backends._remedy()
    versions["torch"] = "2.9.1+cpu"
    assert "CUDA build of torch 2.9" in backends._remedy()
    versions["torch"] = "2.9.1"
    assert backends._remedy() == ""


def test_known_crash_needs_no_trial(monkeypatch, caplog):
    versions = {"openmmtorch": "1.5", "openmm": "8.6.1", "torch": "2.9.1"}
    monkeypatch.setattr(backends, "version_of", versions.__getitem__)
    monkeypatch.setattr(backends, "torchforce_status", lambda: pytest.fail("tried"))
    with caplog.at_level(logging.INFO):
        assert backends.choose("auto", device=None, is_placeholder=False) == "pythonforce"
    assert "crashes the process when a System is copied or read from XML" in caplog.text
    versions["openmm"] = "8.10.0"
    assert backends.choose("auto", device=None, is_placeholder=False) == "pythonforce"


def test_working_torchforce_is_taken(monkeypatch):
    versions = {"openmmtorch": "1.6", "openmm": "8.6.1", "torch": "2.9.1"}
    monkeypatch.setattr(backends, "version_of", versions.__getitem__)
    working = backends.TorchForceStatus(True, True, "")
    monkeypatch.setattr(backends, "torchforce_status", lambda: working)
    assert backends.choose("auto", device=None, is_placeholder=True) == "torchforce"
    assert backends.choose("auto", device="cpu", is_placeholder=False) == "pythonforce"
    with pytest.raises(InputError, match=r"runs on the device of the OpenMM platform"):
        backends.choose("torchforce", device="cpu", is_placeholder=False)


@pytest.mark.torchforce
def test_status_of_this_installation_fits_the_table():
    status = backends.torchforce_status()
    assert status.evaluates
    assert status.copies is not backends._is_known_to_crash()


# ------------------------------------------------------------------ TorchForce


@pytest.mark.torchforce
@pytest.mark.filterwarnings(COPY_WARNING)
@pytest.mark.parametrize("platform", PLATFORMS)
@pytest.mark.parametrize("precision", ["single", "double"])
def test_backends_agree_on_water(water_artifact, platform, precision):
    atoms = water_frame(0)
    atoms.positions += 7 * atoms.cell[1]
    results = [
        energy_and_forces(
            backend_context(water_artifact, atoms, backend, platform, precision=precision)
        )
        for backend in ("pythonforce", "torchforce")
    ]
    assert_same(*results, precision)


@pytest.mark.torchforce
@pytest.mark.filterwarnings(COPY_WARNING)
@pytest.mark.parametrize("energy", ["interaction_energy", "energy"])
def test_backends_agree_on_a_molecule(dipeptide_artifact, energy):
    options = {"precision": "double", "returnEnergyType": energy}
    results = [
        energy_and_forces(backend_context(dipeptide_artifact, dipeptide(0), backend, **options))
        for backend in ("pythonforce", "torchforce")
    ]
    assert_same(*results)


@pytest.mark.torchforce
@pytest.mark.filterwarnings(COPY_WARNING)
@pytest.mark.parametrize("platform", PLATFORMS)
def test_torchforce_on_a_subset_in_any_order(water_artifact, platform):
    atoms = water_frame(0)
    chosen = np.random.default_rng(0).permutation(len(atoms))[:50].tolist()
    results = []
    for backend in ("pythonforce", "torchforce"):
        system = empty_system(atoms)
        options = {"precision": "double", "backend": backend, "forceGroup": 3}
        add_forces(system, water_artifact, topology_from_atoms(atoms), chosen, **options)
        assert system.getForce(0).getForceGroup() == 3
        results.append(energy_and_forces(create_context(system, atoms.positions, platform)))
    assert_same(*results)


@pytest.mark.torchforce
@pytest.mark.filterwarnings(COPY_WARNING)
def test_torchforce_runs_dynamics_and_minimises(water_artifact):
    atoms = water_frame(0)
    results = []
    for backend in ("pythonforce", "torchforce"):
        context = backend_context(water_artifact, atoms, backend, precision="double")
        context.setVelocitiesToTemperature(300, 1)
        context.getIntegrator().step(10)
        results.append(energy_and_forces(context))
    assert_same(*results)
    openmm.LocalEnergyMinimizer.minimize(context, 100.0, 2)
    assert energy_and_forces(context)[0] < results[-1][0]


@pytest.mark.torchforce
@pytest.mark.filterwarnings(COPY_WARNING)
def test_torchforce_stops_when_neighbours_do_not_fit(water_artifact):
    atoms = water_frame(0)
    context = backend_context(water_artifact, atoms, "torchforce", maxNeighbors=10)
    with pytest.raises(openmm.OpenMMException, match="maxNeighbors"):
        energy_and_forces(context)


@pytest.mark.torchforce
@pytest.mark.filterwarnings(COPY_WARNING)
@pytest.mark.parametrize("platform", PLATFORMS)
def test_torchforce_stops_at_positions_that_are_not_finite(dipeptide_artifact, platform):
    atoms = dipeptide(0)
    context = backend_context(dipeptide_artifact, atoms, "torchforce", platform)
    atoms.positions[0, 0] = np.nan
    context.setPositions(atoms.positions * 0.1)
    with pytest.raises(
        openmm.OpenMMException, match=r"positions or box vectors are NaN|coordinate is NaN"
    ):
        energy_and_forces(context)


@pytest.mark.torchforce
@pytest.mark.filterwarnings(COPY_WARNING)
def test_torchforce_stops_when_the_box_outgrows_its_buffers(water_artifact):
    atoms = water_frame(0)
    context = backend_context(water_artifact, atoms, "torchforce")
    energy_and_forces(context)
    context.setPeriodicBoxVectors(*(atoms.cell.array * 0.1 * 1.3))
    with pytest.raises(openmm.OpenMMException, match="the box has changed"):
        energy_and_forces(context)


@pytest.mark.torchforce
def test_torchforce_warns_about_copies(water_artifact):
    if backends.torchforce_status().copies:
        pytest.skip("this openmmtorch can be copied")
    with pytest.warns(UserWarning, match=r"crashes the process when a System is copied"):
        backend_context(water_artifact, water_frame(0), "torchforce")


@pytest.mark.torchforce
def test_torchforce_refuses_interpolation(dipeptide_artifact):
    """The copy that embeddings make, which collect forces in an empty System, crashes."""
    if backends.torchforce_status().copies:
        pytest.skip("this openmmtorch can be copied")
    topology = topology_from_atoms(dipeptide(0))
    with pytest.raises(
        InputError, match=r"interpolate=True copies the force.*backend='pythonforce'"
    ):
        add_forces(openmm.System(), dipeptide_artifact, topology, None, backend="torchforce")
