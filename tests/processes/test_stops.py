"""What must stop a simulation, and how the user learns of it."""

import os
import subprocess
import sys

import numpy as np
import openmm
import pytest
from support.contexts import (
    PLATFORMS,
    assert_same,
    create_context,
    create_system,
    energy_and_forces,
    evaluate,
)
from support.helpers import ROOT, dipeptide, water_frame

from openmm_les import artifact as artifacts
from openmm_les import catalog
from openmm_les.evaluation.system_model import SystemModel


def compressed(atoms, factor):
    squeezed = atoms.copy()
    squeezed.positions = atoms.get_center_of_mass() + factor * (
        atoms.positions - atoms.get_center_of_mass()
    )
    return squeezed


def test_neighbour_capacity_grows(dipeptide_artifact):
    """From far apart to the normal structure: more neighbours than at the start, none is lost."""
    atoms = dipeptide(0)
    dilute = compressed(atoms, 8.0)
    system = create_system(dipeptide_artifact, dilute, precision="double", maxNeighbors=1)
    context = create_context(system, dilute.positions)
    energy_and_forces(context)
    context.setPositions(atoms.positions * 0.1)
    expected = evaluate(dipeptide_artifact, atoms, precision="double")
    assert_same(energy_and_forces(context), expected)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("platform", PLATFORMS)
def test_positions_that_are_not_finite(dipeptide_artifact, platform, value):
    atoms = dipeptide(0)
    system = create_system(dipeptide_artifact, atoms)
    context = create_context(system, atoms.positions, platform)
    energy_and_forces(context)
    atoms.positions[3, 1] = value
    context.setPositions(atoms.positions * 0.1)
    # The CPU platform finds NaN itself in some cases; infinity never.
    with pytest.raises(openmm.OpenMMException, match=r"position|coordinate is NaN"):
        energy_and_forces(context)


@pytest.mark.parametrize("platform", PLATFORMS)
def test_two_atoms_at_one_place(dipeptide_artifact, platform):
    atoms = dipeptide(0)
    context = create_context(create_system(dipeptide_artifact, atoms), atoms.positions, platform)
    atoms.positions[5] = atoms.positions[2]
    context.setPositions(atoms.positions * 0.1)
    with pytest.raises(openmm.OpenMMException, match=r"same place"):
        energy_and_forces(context)


@pytest.mark.parametrize("platform", PLATFORMS)
def test_box_that_becomes_too_small(water_artifact, platform):
    atoms = water_frame(0)
    context = create_context(create_system(water_artifact, atoms), atoms.positions, platform)
    energy_and_forces(context)
    context.setPeriodicBoxVectors(*(np.eye(3) * 0.1))
    with pytest.raises(
        openmm.OpenMMException, match=r"the box is too small: its faces are 1\.000 A"
    ):
        energy_and_forces(context)


def test_unexpected_failure_names_itself(water_artifact, caplog):
    """OpenMM keeps the text of an exception: it names the type, and the log has the traceback."""
    from openmm_les.plugin.forces.pythonforce import LESCompute

    artifact = artifacts.load(water_artifact)
    force = openmm.PythonForce(LESCompute(str(artifact.path), artifact.sha256, {"periodic": False}))
    system = openmm.System()
    system.addParticle(1.0)
    system.addForce(force)
    context = create_context(system, np.zeros((1, 3)))
    with pytest.raises(openmm.OpenMMException, match=r"the LES force failed: KeyError: 'options'"):
        energy_and_forces(context)
    assert "Traceback" in caplog.text


@pytest.mark.parametrize("end", [KeyboardInterrupt, SystemExit])
def test_what_ends_python_passes_through_openmm(water_artifact, monkeypatch, end):
    """As signal handlers raise it; OpenMM alone would make an OpenMMException of it."""
    atoms = water_frame(0)
    context = create_context(create_system(water_artifact, atoms), atoms.positions)
    expected = energy_and_forces(context)

    def ended(*_, **__):
        raise end("stop")

    with monkeypatch.context() as patch:
        patch.setattr(SystemModel, "energy_and_forces", ended)
        context.setPositions(atoms.positions * 0.1)
        with pytest.raises(end, match="stop"):
            energy_and_forces(context)
    assert sys.getprofile() is None
    context.setPositions(atoms.positions * 0.1)
    assert_same(energy_and_forces(context), expected)


INTERRUPTED = """
import os, signal, sys, threading, time
import numpy as np, openmm
from ase import Atoms
from ase.io import read
from openmm import app
from openmm_les.ase import LESCalculator
from openmm_les.plugin.factory import LESPotentialImplFactory
from openmmml import MLPotential

signal.signal(signal.SIGINT, signal.default_int_handler)  # which background jobs ignore
MLPotential.registerImplFactory("les-demo", LESPotentialImplFactory())
pdb = app.PDBFile(sys.argv[1])
system = MLPotential("les-demo").createSystem(pdb.topology)
platform = openmm.Platform.getPlatformByName("Reference")
integrator = openmm.LangevinMiddleIntegrator(300, 1, 0.0005)
simulation = app.Simulation(pdb.topology, system, integrator, platform)
context = simulation.context
atoms = read(sys.argv[1])
atoms = Atoms(atoms.get_chemical_symbols(), atoms.positions)
atoms.calc = LESCalculator(sys.argv[2])

def ask_often():
    while True:
        context.getState(energy=True)

def ask_ase_often():
    while True:
        atoms.rattle(1e-3)
        atoms.get_potential_energy()

calls = {
    "Simulation.step": lambda: simulation.step(10**7),
    "integrator.step": lambda: integrator.step(10**7),
    "minimise": lambda: simulation.minimizeEnergy(tolerance=1e-9, maxIterations=10**7),
    "getState": ask_often,
    "ASE": ask_ase_often,
}

def send(delay, times):
    time.sleep(delay)
    for _ in range(times):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.01)

for name, call in calls.items():
    for attempt in range(3):
        context.setPositions(pdb.positions)
        expected = context.getState(energy=True).getPotentialEnergy()
        steps = simulation.currentStep
        threading.Thread(target=send, args=(0.06 + 0.007 * attempt, 1)).start()
        try:
            call()
        except KeyboardInterrupt:
            whole = name != "Simulation.step" or (simulation.currentStep - steps) % 10 == 0
            print(name, "interrupted", whole)
        context.setPositions(pdb.positions)
        assert context.getState(energy=True).getPotentialEnergy() == expected
        assert np.isfinite(atoms.get_potential_energy())
threading.Thread(target=send, args=(0.1, 2)).start()
try:
    integrator.step(10**7)
except KeyboardInterrupt:
    time.sleep(0.1)
    print("twice")
"""


def test_ctrl_c_arrives_as_itself(tmp_path):
    """Wherever OpenMM is, by a signal; between the steps of a Simulation, if possible."""
    (tmp_path / "interrupted.py").write_text(INTERRUPTED)
    peptide = ROOT / "examples" / "alanine_dipeptide.pdb"
    child = subprocess.run(
        [sys.executable, "interrupted.py", str(peptide), catalog.artifact_path("les-demo")],
        cwd=tmp_path,
        env=dict(os.environ, OMP_NUM_THREADS="1", PYTHONPATH=os.pathsep.join(sys.path)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert child.returncode == 0, child.stderr
    told = [line for line in child.stdout.splitlines() if not line.startswith("WARNING")]
    names = ("Simulation.step", "integrator.step", "minimise", "getState", "ASE")
    assert told == [f"{name} interrupted True" for name in names for _ in range(3)] + ["twice"]
