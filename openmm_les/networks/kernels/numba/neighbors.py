"""The neighbour matrix on a CPU, from the pairs that vesin finds: the same as `neighbor_matrix`.

vesin's cell lists are in C++, and each of its pairs knows both of its slots, so that no slot is
searched for.
"""

import threading
from functools import lru_cache
from typing import Any, Tuple

import numpy as np
import torch
import vesin
from torch import Tensor

from openmm_les.electrostatics.cell import inverse_and_volume
from openmm_les.neighbors.matrix import (
    Neighbors,
    NeighborSearch,
    is_high_enough,
    least_heights,
    neighbor_matrix,
)
from openmm_les.neighbors.search import COINCIDENT_DISTANCE
from openmm_les.networks.kernels.numba.compiler import compiled_as_written
from openmm_les.networks.kernels.numba.operators import operator

#: Coordinates beyond which nothing is left to vesin [A].
_FAR = 1e6
#: Smallest systems for which its cells are faster than to compare all pairs.
_FEWEST_ATOMS = 1000


class LoopSearch(NeighborSearch):
    """`NeighborSearch` for a CPU, which always trims."""

    def forward(self, positions: Tensor, cell: Tensor) -> Neighbors:
        indices, shifts, reverse, used, largest, coincident, crowded = (
            torch.ops.openmm_les_loops.neighbor_matrix(
                positions, cell, self.periodic, self.offsets, self.cutoff, self.capacity
            )
        )
        return Neighbors(indices, shifts, reverse, used, largest, coincident, crowded)


@operator(
    "neighbor_matrix(Tensor positions, Tensor cell, bool periodic, Tensor offsets, float cutoff, "
    "int capacity) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)"
)
def _neighbor_matrix(
    positions: Tensor, cell: Tensor, periodic: bool, offsets: Tensor, cutoff: float, capacity: int
) -> Tuple[Tensor, ...]:
    points, wraps = positions, torch.zeros_like(positions)
    suits = len(offsets) == 1 and bool((positions.abs() < _FAR).all())  # false for NaN
    if suits and periodic:
        inverse, _ = inverse_and_volume(cell)
        suits = bool(
            torch.isfinite(inverse).all() & is_high_enough(inverse, least_heights([0] * 3, cutoff))
        )
        fractional = positions @ inverse
        wraps = torch.floor(fractional)
        points = fractional - wraps
    if not suits:
        return neighbor_matrix(positions, cell, periodic, offsets, cutoff, capacity, trim=True)
    n = len(positions)
    if n < _FEWEST_ATOMS:
        found = _compare_all(points.numpy(), cell.numpy(), periodic, cutoff)
    else:
        places = points @ cell if periodic else points
        search = _vesin(cutoff, threading.get_ident())
        found = search.compute(places.numpy(), cell.numpy(), periodic, "PSd", copy=False)
    pairs, images, distances = found
    pairs = pairs.view(np.int64)  # unsigned ones become floats beside others in Numba
    counts = np.bincount(pairs.ravel(), minlength=n)
    largest = int(counts.max())
    width = max(1, min(capacity or largest, largest))
    indices, reverse = np.empty((n, width), dtype=np.int64), np.empty(n * width, dtype=np.int64)
    shifts = np.empty((n, width, 3))
    _fill(
        pairs, images, counts, wraps.numpy(), cell.numpy(), 2.0 * cutoff, indices, shifts, reverse
    )
    used, coincident = np.minimum(counts, width), (distances < COINCIDENT_DISTANCE).any()
    results = indices, shifts, reverse, used, largest, coincident, False
    return tuple(torch.from_numpy(np.asarray(each)) for each in results)


@lru_cache(maxsize=8)
def _vesin(cutoff: float, thread: int) -> Any:
    """A search with buffers of its own, since those are used again."""
    return vesin.NeighborList(cutoff=cutoff, full_list=False, n_threads=1)


@compiled_as_written
def _compare_all(points: Any, cell: Any, periodic: bool, cutoff: float) -> Any:
    """Pairs, images and distances as those of vesin, of `points` as those of `neighbor_matrix`."""
    n = len(points)
    pairs = np.empty((n * (n - 1) // 2, 2), dtype=np.int64)
    images, distances = np.empty((len(pairs), 3)), np.empty(len(pairs))
    number = 0
    for i in range(n):
        for j in range(i + 1, n):
            a = points[i, 0] - points[j, 0]
            b = points[i, 1] - points[j, 1]
            c = points[i, 2] - points[j, 2]
            x = y = z = 0.0
            if periodic:
                x, y, z = np.rint(a), np.rint(b), np.rint(c)
                a, b, c = a - x, b - y, c - z
                a, b, c = (
                    a * cell[0, 0] + b * cell[1, 0] + c * cell[2, 0],
                    a * cell[0, 1] + b * cell[1, 1] + c * cell[2, 1],
                    a * cell[0, 2] + b * cell[1, 2] + c * cell[2, 2],
                )
            squared = a * a + b * b + c * c
            if squared < cutoff * cutoff:
                pairs[number, 0], pairs[number, 1] = i, j
                images[number, 0], images[number, 1], images[number, 2] = x, y, z
                distances[number] = np.sqrt(squared)
                number += 1
    return pairs[:number], images[:number], distances[:number]


@compiled_as_written
def _fill(
    pairs: Any,
    images: Any,
    counts: Any,
    wraps: Any,
    cell: Any,
    beyond: float,
    indices: Any,
    shifts: Any,
    reverse: Any,
) -> None:
    """Writes the last three arguments, those of `Neighbors`.

    Args:
        pairs: atoms of each pair, [pairs, 2].
        images: lattice vectors that lead from the first to the second atom, beside those of the
            `wraps` [N, 3], [pairs, 3].
        counts: neighbours of each atom [N].
        beyond: shift of unused slots [A].
    """
    n, width = indices.shape
    ends = np.cumsum(counts)
    filled = ends - counts
    members = np.empty(2 * len(pairs), dtype=np.int64)  # of each atom: twice the pair, + its side
    for pair in range(len(pairs)):
        for side in range(2):
            atom = pairs[pair, side]
            members[filled[atom]] = 2 * pair + side
            filled[atom] += 1
    # Neighbours in ascending order: every atom, one after the other, enters the rows of its own.
    slots = np.empty(2 * len(pairs), dtype=np.int64)
    filled[:] = 0
    for neighbor in range(n):
        for k in range(ends[neighbor] - counts[neighbor], ends[neighbor]):
            pair, side = members[k] // 2, 1 - members[k] % 2  # of the atom whose row it is
            atom = pairs[pair, side]
            slots[2 * pair + side] = -1
            if filled[atom] < width:
                slot = atom * width + filled[atom]
                slots[2 * pair + side] = slot
                indices[atom, filled[atom]] = neighbor
                sign = 1.0 - 2.0 * side
                a = wraps[neighbor, 0] - wraps[atom, 0] - sign * images[pair, 0]
                b = wraps[neighbor, 1] - wraps[atom, 1] - sign * images[pair, 1]
                c = wraps[neighbor, 2] - wraps[atom, 2] - sign * images[pair, 2]
                for axis in range(3):
                    shifts[atom, filled[atom], axis] = (
                        a * cell[0, axis] + b * cell[1, axis] + c * cell[2, axis]
                    )
                filled[atom] += 1
    for atom in range(n):
        for k in range(filled[atom], width):
            indices[atom, k] = atom
            shifts[atom, k] = 0.0
            shifts[atom, k, 0] = beyond
            reverse[atom * width + k] = atom * width + k
    for pair in range(len(pairs)):
        first, second = slots[2 * pair], slots[2 * pair + 1]
        if first >= 0:
            reverse[first] = second if second >= 0 else first
        if second >= 0:
            reverse[second] = first if first >= 0 else second
