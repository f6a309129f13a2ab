"""Pairs of neighbours, from the neighbour matrix and from matscipy, for the tests."""

import numpy as np
import torch
from ase import Atoms
from matscipy.neighbours import neighbour_list

from openmm_les.neighbors.cells import CellGrid
from openmm_les.neighbors.matrix import Neighbors, image_offsets, image_range, neighbor_matrix

CUTOFF = 4.5


def build(
    atoms: Atoms,
    capacity: int = 0,
    cutoff: float = CUTOFF,
    trim: bool = False,
    grid: CellGrid | None = None,
) -> Neighbors:
    """The matrix of an ASE structure."""
    periodic = bool(atoms.pbc.all())
    ranges = image_range(atoms.cell.array, cutoff) if periodic else [0, 0, 0]
    return neighbor_matrix(
        torch.tensor(atoms.positions),
        torch.tensor(atoms.cell.array),
        periodic,
        image_offsets(ranges),
        cutoff,
        capacity,
        trim,
        grid=grid,
    )


def ordered(i, j, vectors) -> np.ndarray:
    """Rows (i, j, x, y, z) in an order that rounding does not change."""
    rows = np.column_stack([i, j, vectors])
    return rows[np.lexsort(np.round(rows, 4).T[::-1])]


def pairs_of(atoms: Atoms, neighbors: Neighbors, cutoff: float = CUTOFF) -> np.ndarray:
    """Pairs in a matrix, with their vectors."""
    r = torch.tensor(atoms.positions)
    vectors = (r[:, None] - r[neighbors.indices] + neighbors.shifts).numpy()
    i, slot = np.nonzero(np.linalg.norm(vectors, axis=2) < cutoff)
    return ordered(i, neighbors.indices.numpy()[i, slot], vectors[i, slot])


def expected_pairs(atoms: Atoms, cutoff: float = CUTOFF) -> np.ndarray:
    """The same from matscipy."""
    atoms = atoms.copy()
    if not atoms.pbc.any():
        atoms.center(vacuum=cutoff)  # matscipy wants a cell that holds an open system
    i, j, vectors = neighbour_list("ijD", atoms, cutoff)
    return ordered(i, j, -vectors)


def random_box(cell, atoms: int = 30, seed: int = 0) -> Atoms:
    """Atoms at random places, most of them outside their box."""
    generator = np.random.default_rng(seed)
    fractional = generator.uniform(-2, 3, (atoms, 3))
    return Atoms(["O"] * atoms, fractional @ np.array(cell, float), cell=cell, pbc=True)
