"""What a topology lacks is told when a System is made: bonds of molecules in a box, or the box."""

import logging

import numpy as np
import openmm
import pytest
from openmm import app, unit
from openmmml import MLPotential
from support.contexts import create_context

LOOSE = "OpenMM treats each of them as a molecule"
NO_BOX = "the model is not periodic"


def waters(number=8, bonds=True, boxed=True, whole=True) -> app.Topology:
    """Water molecules, by default in a box of 2 nm.

    Args:
        bonds: whether their bonds are known; ``"half"``: one of each molecule.
        whole: whether a molecule is one residue, or each atom one.
    """
    topology = app.Topology()
    chain = topology.addChain("W")
    for _ in range(number):
        residue, atoms = None, []
        for name in ("O", "H1", "H2"):
            if residue is None or not whole:
                residue = topology.addResidue("HOH", chain)
            element = app.Element.getBySymbol(name[0])
            atoms.append(topology.addAtom(name, element, residue))
        for hydrogen in atoms[1 : {True: 3, "half": 2, False: 1}[bonds]]:
            topology.addBond(atoms[0], hydrogen)
    if boxed:
        topology.setPeriodicBoxVectors(2.0 * np.eye(3) * unit.nanometer)
    return topology


def told(topology, caplog, level=logging.INFO) -> str:
    with caplog.at_level(level):
        MLPotential("les-demo").createSystem(topology)
    return caplog.text


@pytest.mark.parametrize(
    ("options", "warned"),
    [
        ({"bonds": False}, True),
        ({"bonds": "half"}, True),
        ({"bonds": False, "whole": False}, True),
        ({}, False),
        ({"whole": False}, False),
        ({"bonds": False, "boxed": False}, False),
    ],
)
def test_bonds_that_are_missing_in_a_box(options, warned, caplog):
    """A barostat that comes later would scale the distances between their atoms."""
    text = told(waters(**options), caplog)
    assert (LOOSE in text) == warned
    if warned:
        first = "HOH W:1, HOH W:2, HOH W:3," if options.get("whole", True) else "HOH W:2, HOH W:3, "
        assert f"atoms of {first}" in text
        assert text.count(" have no bonds: ") == 1
        system = MLPotential("les-demo").createSystem(waters(**options))
        context = openmm.Context(system, openmm.VerletIntegrator(0.001))
        assert len(context.getMolecules()) > 8


def test_atoms_that_stand_alone_need_no_bonds(caplog):
    """Ions and solids: a residue for each atom."""
    topology = app.Topology()
    chain = topology.addChain()
    for _ in range(8):
        topology.addAtom("C", app.element.carbon, topology.addResidue("C", chain))
    topology.setPeriodicBoxVectors(2.0 * np.eye(3) * unit.nanometer)
    assert LOOSE not in told(topology, caplog)


def test_a_box_that_comes_later_is_not_used(caplog):
    """What is told at creation is so."""
    topology = waters(boxed=False)
    assert told(topology, caplog).count(NO_BOX) == 1
    system = MLPotential("les-demo").createSystem(topology)
    positions = np.random.default_rng(0).uniform(0, 20, (24, 3))
    context = create_context(system, positions, "Reference")
    before = context.getState(energy=True).getPotentialEnergy()
    context.setPeriodicBoxVectors(*(1.5 * np.eye(3)))
    assert context.getState(energy=True).getPotentialEnergy() == before
    caplog.clear()
    assert NO_BOX not in told(waters(), caplog)
