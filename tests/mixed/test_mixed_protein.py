"""A side chain of a protein in water with the model, the rest with Amber14 (villin, 8867 atoms)."""

import numpy as np
import openmm
import pytest
from support.mixed import (
    PHENYLALANINE,
    app,
    assert_forces_are_gradients,
    classical,
    context,
    embedded,
    energy,
    forces,
    mixed,
    mixed_context,
    villin_box,
)


def in_the_field(structure, system, atoms):
    """Electrostatic embedding; the bundled model misses the charge of toluene by 0.6 e."""
    return embedded(structure, system, atoms, chargeTolerance=1.0)


@pytest.fixture(scope="module")
def system():
    return classical(villin_box(), cutoff=0.9, constraints=app.HBonds, rigidWater=True)


def test_side_chain_with_a_link_atom(system):
    """Internal and virtual link atoms agree; molecules and other constraints are Amber14's."""
    structure = villin_box()
    chosen = structure.side_chain_of(PHENYLALANINE)
    made = {
        kind: mixed_context(structure, system, chosen, "CPU", linkAtoms=kind)
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


def test_side_chain_among_the_charges_of_protein_water_and_ions(system):
    """Forces on L1, M1, M2 and far atoms are gradients, and add up to nothing."""
    structure = villin_box()
    chosen = structure.side_chain_of(PHENYLALANINE)
    made = context(in_the_field(structure, system, chosen), structure.positions)
    residue = [a for a in structure.topology.atoms() if a.residue.index == PHENYLALANINE]
    probed = [a.index for a in residue if a.name in ("CB", "CZ", "CA", "N")]
    ion = next(a.index for a in structure.topology.atoms() if a.residue.name.upper() == "CL")
    assert_forces_are_gradients(made, structure.positions, [*probed, ion], groups={1})
    pulled = forces(made, {1})
    np.testing.assert_allclose(pulled.sum(axis=0), 0.0, atol=1e-6)
    assert np.count_nonzero(np.abs(pulled).sum(axis=1)) > 8800
    assert len(made.getMolecules()) == len(context(system, structure.positions).getMolecules())


@pytest.mark.slow
@pytest.mark.parametrize("make", [mixed, in_the_field])
def test_dynamics(system, make):
    structure = villin_box()
    chosen = structure.side_chain_of(PHENYLALANINE)
    integrator = openmm.LangevinMiddleIntegrator(300.0, 1.0, 0.001)
    integrator.setRandomNumberSeed(1)
    made = context(make(structure, system, chosen), structure.positions, "CPU", integrator)
    openmm.LocalEnergyMinimizer.minimize(made, 100.0, 50)
    made.setVelocitiesToTemperature(300.0, 1)
    integrator.step(150)
    positions = made.getState(positions=True).getPositions(asNumpy=True)._value
    for bond in structure.topology.bonds():
        atoms = bond.atom1.index, bond.atom2.index
        if set(atoms) & set(chosen):
            assert np.linalg.norm(positions[atoms[0]] - positions[atoms[1]]) < 0.2
