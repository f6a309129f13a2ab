"""What is promised of the demonstration model that comes with the package."""

import ase.io
import numpy as np
import openmm
import pytest
from support.contexts import create_context, create_system
from support.structures import PEPTIDE, waters

from openmm_les import catalog
from openmm_les.ase import LESCalculator

LES_DEMO = catalog.artifact_path("les-demo")


@pytest.mark.parametrize("seed", range(4))
def test_minimisations_stay_where_structures_make_sense(seed):
    """The first trial steps move atoms by an angstrom, which no low energy may reward."""
    atoms = waters(3, 3, 2, seed=seed)
    context = create_context(create_system(LES_DEMO, atoms), atoms.positions, "Reference")
    openmm.LocalEnergyMinimizer.minimize(context, maxIterations=60)
    state = context.getState(positions=True, energy=True)
    r = state.getPositions(asNumpy=True).value_in_unit(openmm.unit.angstrom).reshape(-1, 3, 3)
    bonds = np.linalg.norm(r[:, 1:] - r[:, :1], axis=2)
    assert 0.9 < bonds.min() <= bonds.max() < 1.1
    # Of a molecule alone, about -1350 kJ/mol, which the others bind.
    energy = state.getPotentialEnergy().value_in_unit(openmm.unit.kilojoule_per_mole) / len(r)
    assert -1430 < energy < -1360


@pytest.mark.parametrize("name", ["peptide", "waters"])
def test_charges_of_molecules_add_up_to_zero(name):
    """To 0.02 e; oxygen is the negative end of its bonds."""
    atoms = ase.io.read(PEPTIDE) if name == "peptide" else waters(2, 2, 1, periodic=False)
    atoms.calc = LESCalculator(LES_DEMO)
    charges = atoms.get_charges()
    assert abs(charges.sum()) < 0.02
    assert np.abs(charges.reshape(-1, 3).sum(1)).max() < 0.02 or name == "peptide"
    assert (-0.8 < charges[atoms.numbers == 8]).all()
    assert (charges[atoms.numbers == 8] < -0.4).all()
