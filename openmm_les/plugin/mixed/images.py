"""Periodic images: nearest ones, and an ML region in one piece."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from openmm_les.arrays import FloatArray
from openmm_les.plugin.mixed.graph import BondGraph


def nearest(vectors: FloatArray, cell: FloatArray | None) -> FloatArray:
    """The nearest periodic images of vectors, shape (n, 3).

    Args:
        vectors: in the unit of the cell.
        cell: lattice vectors in rows, in OpenMM's reduced form; None when not periodic.
    """
    if cell is not None:
        with np.errstate(invalid="ignore"):  # infinite positions are told by the model
            for axis in (2, 1, 0):
                shifts = np.rint(vectors[:, axis : axis + 1] / cell[axis, axis])
                vectors = vectors - shifts * cell[axis]
    return vectors


class Cluster:
    """Atoms whose molecules are to be whole and next to each other.

    Args:
        num_atoms: number of atoms.
        bonds: pairs of atoms. Each atom is put next to one that it is bonded to; then each molecule
            where its centre is nearest to that of the first one.
    """

    def __init__(self, num_atoms: int, bonds: Iterable[tuple[int, int]]) -> None:
        graph = BondGraph(num_atoms, bonds)
        self._molecules = np.full(num_atoms, -1)
        self._layers: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = []
        layers: list[list[tuple[int, int]]] = []
        for first in range(num_atoms):
            if self._molecules[first] >= 0:
                continue
            number = int(self._molecules.max()) + 1
            self._molecules[first] = number
            front, depth = [first], 0
            while front:
                found = []
                for parent in front:
                    for atom in sorted(graph.neighbors[parent]):
                        if self._molecules[atom] < 0:
                            self._molecules[atom] = number
                            found.append((atom, parent))
                if found and depth == len(layers):
                    layers.append([])
                if found:
                    layers[depth] += found
                front, depth = [atom for atom, _ in found], depth + 1
        for layer in layers:
            atoms, parents = np.array(layer, dtype=np.int64).T
            self._layers.append((atoms, parents))
        self._sizes = np.bincount(self._molecules)[:, None]

    def in_one_piece(self, positions: FloatArray, cell: FloatArray | None) -> FloatArray:
        """Positions of the images that make up the cluster, shape (n, 3)."""
        if cell is None:
            return positions
        positions = positions.copy()
        for atoms, parents in self._layers:
            start = positions[parents]
            positions[atoms] = start + nearest(positions[atoms] - start, cell)
        if len(self._sizes) == 1:
            return positions
        centres = np.zeros((len(self._sizes), 3))
        np.add.at(centres, self._molecules, positions)
        apart = centres / self._sizes
        apart = apart - apart[0]
        moves: FloatArray = nearest(apart, cell) - apart
        positions += moves[self._molecules]
        return positions
