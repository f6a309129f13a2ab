"""What must stop a simulation, and how the user learns of it."""

import numpy as np
import openmm
import pytest
from contexts import (
    PLATFORMS,
    assert_same,
    create_context,
    create_system,
    energy_and_forces,
    evaluate,
)
from helpers import dipeptide, water_frame

from openmm_les import artifact as artifacts


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
    from openmm_les.forces.pythonforce import LESCompute

    artifact = artifacts.load(water_artifact)
    force = openmm.PythonForce(LESCompute(str(artifact.path), artifact.sha256, {"periodic": False}))
    system = openmm.System()
    system.addParticle(1.0)
    system.addForce(force)
    context = create_context(system, np.zeros((1, 3)))
    with pytest.raises(openmm.OpenMMException, match=r"the LES force failed: KeyError: 'numbers'"):
        energy_and_forces(context)
    assert "Traceback" in caplog.text


def test_interrupt_is_named(water_artifact, monkeypatch):
    """Ctrl-C in a step reaches the user as an OpenMMException, which would otherwise be empty."""
    from openmm_les.system_model import SystemModel

    atoms = water_frame(0)
    context = create_context(create_system(water_artifact, atoms), atoms.positions)

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(SystemModel, "evaluate", interrupted)
    with pytest.raises(openmm.OpenMMException, match="interrupted from the keyboard"):
        energy_and_forces(context)
