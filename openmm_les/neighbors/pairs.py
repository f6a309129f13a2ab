"""Search for neighbours by comparing every pair of atoms and images, for small systems."""

from typing import List

import torch

from openmm_les.neighbors.search import COINCIDENT_DISTANCE, Found, cartesian, compact


def _squared_distances(
    rows: torch.Tensor,
    points: torch.Tensor,
    cell: torch.Tensor,
    periodic: bool,
    offsets: torch.Tensor,
) -> torch.Tensor:
    """Squared distances of R rows from all points in the images around the nearest, [R, S, N].

    Rows and points are wrapped fractional coordinates, or positions if not periodic.
    """
    deltas: List[torch.Tensor] = []
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
    points: torch.Tensor,
    cell: torch.Tensor,
    periodic: bool,
    offsets: torch.Tensor,
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
    parts: List[torch.Tensor] = []
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
