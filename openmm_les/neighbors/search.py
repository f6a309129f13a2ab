"""Search by comparing every pair of atoms and images, and what all searches share."""

from typing import List, NamedTuple, Tuple

import torch
from torch import Tensor

#: Atoms closer than this [A] are taken to be at the same place.
COINCIDENT_DISTANCE = 1e-3


class Found(NamedTuple):
    """Result of a search; all but the first have the shape []."""

    #: image * N + atom of the neighbours in ascending order, S * N in unused slots, with S images,
    #: shape [N, K].
    columns: Tensor
    largest: Tensor  #: the largest number of neighbours.
    coincident: Tensor  #: whether two atoms are at the same place.
    crowded: Tensor  #: whether more candidates were near than were looked at.


def compact(near: Tensor, values: Tensor, capacity: int, empty: int) -> Tuple[Tensor, Tensor]:
    """The first K values [R, M] of each row that are near, and how many there are in all.

    Unused slots of the result [R, K] are `empty`.
    """
    slots = torch.cumsum(near, 1)
    number = slots[:, -1]
    # Slot `capacity` collects what has no place, and is dropped.
    slots = torch.where(near & (slots <= capacity), slots - 1, capacity)
    out = torch.full([near.shape[0], capacity + 1], empty, device=near.device)
    return out.scatter_(1, slots, values)[:, :capacity], number


def cartesian(components: List[Tensor], cell: Tensor) -> List[Tensor]:
    """Components of vectors [A] from those along the lattice vectors.

    A product with a matrix as small as a cell would take several times as long on a CPU.
    """
    return [
        components[0] * cell[0, axis]
        + components[1] * cell[1, axis]
        + components[2] * cell[2, axis]
        for axis in range(3)
    ]


def _squared_distances(
    rows: Tensor, points: Tensor, cell: Tensor, periodic: bool, offsets: Tensor
) -> Tensor:
    """Squared distances of R rows from all points in the images around the nearest, [R, S, N].

    Rows and points are wrapped fractional coordinates, or positions if not periodic.
    """
    deltas: List[Tensor] = []
    for axis in range(3):
        delta = (rows[:, axis].unsqueeze(1) - points[:, axis].contiguous()).unsqueeze(1)
        if periodic:
            delta = delta - torch.round(delta)
            if offsets.shape[0] > 1:
                delta = delta + offsets[:, axis].to(torch.float64).unsqueeze(1)
        deltas.append(delta)
    if periodic:
        deltas = cartesian(deltas, cell)
    return deltas[0] * deltas[0] + deltas[1] * deltas[1] + deltas[2] * deltas[2]


def search_pairs(
    points: Tensor,
    cell: Tensor,
    periodic: bool,
    offsets: Tensor,
    cutoff: float,
    capacity: int,
    trim: bool,
    block: int,
    coincident_distance: float = COINCIDENT_DISTANCE,
) -> Found:
    """Neighbours of each atom among all atoms and images; arguments are as for `search_cells`."""
    n, images = points.shape[0], offsets.shape[0]
    num_columns, device = images * n, points.device
    step = max(1, block // (3 * num_columns))
    parts: List[Tensor] = []
    coincident = torch.zeros([], dtype=torch.bool, device=device)
    for start in range(0, n, step):
        squared = _squared_distances(points[start : start + step], points, cell, periodic, offsets)
        near = squared < cutoff * cutoff
        near = near.view(-1, num_columns)
        own = torch.arange(near.shape[0], device=device).unsqueeze(1) + (images // 2 * n + start)
        near = near.scatter_(1, own, torch.zeros_like(near[:, :1]))
        parts.append(near)
        close = squared.view(-1, num_columns) < coincident_distance * coincident_distance
        coincident = coincident | (near & close).any()
    within = torch.cat(parts)
    largest = within.sum(1).max()
    if trim or capacity == 0:
        needed = max(1, int(largest))
        capacity = needed if capacity == 0 else min(capacity, needed)

    parts = []
    column = torch.arange(num_columns, device=device)
    for start in range(0, n, step):
        near = within[start : start + step]
        columns, _ = compact(near, column.expand(near.shape[0], -1), capacity, num_columns)
        parts.append(columns)
    return Found(torch.cat(parts), largest, coincident, torch.zeros_like(coincident))
