"""A side chain of a protein in water with the model, the rest with Amber14 (villin, 8867 atoms)."""

import numpy as np
import openmm
import pytest
from mixed import PHENYLALANINE, app, classical, context, energy, forces, mixed, villin_box


@pytest.fixture(scope="module")
def system():
    return classical(villin_box(), cutoff=0.9, constraints=app.HBonds, rigidWater=True)


def test_side_chain_with_a_link_atom(system):
    """Internal and virtual link atoms agree; molecules and other constraints are Amber14's."""
    structure = villin_box()
    chosen = structure.side_chain_of(PHENYLALANINE)
    made = {
        kind: context(mixed(structure, system, chosen, linkAtoms=kind), structure.positions, "CPU")
        for kind in ("internal", "virtual")
    }
    internal, virtual = made.values()
    number = structure.topology.getNumAtoms()
    assert energy(internal, {1}) == pytest.approx(energy(virtual, {1}), abs=1e-2)
    np.testing.assert_allclose(
        forces(internal, {1})[:number], forces(virtual, {1})[:number], atol=0.1
    )
    expected = len(context(system, structure.positions, "CPU").getMolecules())
    assert len(internal.getMolecules()) == expected
    assert internal.getSystem().getNumConstraints() == system.getNumConstraints() - 7
    # The model acts on its atoms and, through the link atom, on the alpha carbon.
    touched = np.flatnonzero(np.abs(forces(internal, {1})).sum(axis=1))
    residue = [a for a in structure.topology.atoms() if a.residue.index == PHENYLALANINE]
    alpha = next(a.index for a in residue if a.name == "CA")
    assert set(touched) == {alpha, *chosen}


@pytest.mark.slow
def test_dynamics(system):
    structure = villin_box()
    chosen = structure.side_chain_of(PHENYLALANINE)
    integrator = openmm.LangevinMiddleIntegrator(300.0, 1.0, 0.001)
    integrator.setRandomNumberSeed(1)
    made = context(mixed(structure, system, chosen), structure.positions, "CPU", integrator)
    openmm.LocalEnergyMinimizer.minimize(made, 100.0, 50)
    made.setVelocitiesToTemperature(300.0, 1)
    integrator.step(150)
    positions = made.getState(positions=True).getPositions(asNumpy=True)._value
    for bond in structure.topology.bonds():
        atoms = bond.atom1.index, bond.atom2.index
        if set(atoms) & set(chosen):
            assert np.linalg.norm(positions[atoms[0]] - positions[atoms[1]]) < 0.2
