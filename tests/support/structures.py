"""Structures for the tests, made without files: water in boxes, a peptide."""

from pathlib import Path

import numpy as np
from ase import Atoms
from ase.build import molecule

PEPTIDE = Path(__file__).resolve().parents[2] / "examples" / "alanine_dipeptide.pdb"
#: Distance of molecules on a lattice that is about as dense as water [A].
SPACING = 3.1


def waters(x, y, z, periodic=True, *, seed=0, rattle=0.1) -> Atoms:
    """A lattice of molecules, about as dense as water."""
    water = molecule("H2O")
    water.set_cell(np.eye(3) * SPACING)
    water = water.repeat((x, y, z))
    water.rattle(rattle, seed=seed)
    water.pbc = periodic
    return Atoms(
        water.numbers, water.positions, cell=water.cell if periodic else None, pbc=periodic
    )


def sheared(atoms) -> Atoms:
    """The same in a triclinic box."""
    atoms.set_cell(atoms.cell.array + [[0, 0, 0], [4.0, 0, 0], [-3.0, 5.0, 0]], scale_atoms=True)
    return atoms
