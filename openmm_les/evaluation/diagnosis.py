"""Which atoms of a structure cause an invalid status, found on the host."""

from __future__ import annotations

import numpy as np

from openmm_les.arrays import FloatArray
from openmm_les.errors import SimulationError
from openmm_les.evaluation.status import STATUS_COINCIDENT, STATUS_POSITIONS, describe_status
from openmm_les.neighbors.search import COINCIDENT_DISTANCE

_LISTED = 5


def failure(status: int, positions: FloatArray, cell: FloatArray | None) -> SimulationError:
    """The error for a status other than 0, with the atoms of the model that cause it if known."""
    atoms: list[int] = []
    if status & STATUS_POSITIONS:
        atoms = np.flatnonzero(~np.isfinite(positions).all(axis=1)).tolist()
    elif status & STATUS_COINCIDENT:
        atoms = coincident_pair(positions, cell)
    named = ", ".join(map(str, atoms[:_LISTED])) + (", ..." if len(atoms) > _LISTED else "")
    where = f" (of the model's atoms, counted from 0: {named})" if atoms else ""
    reason = describe_status(status)
    error = SimulationError(reason + where)
    if atoms:
        error.reason, error.atoms = reason, tuple(atoms)
    return error


def coincident_pair(positions: FloatArray, cell: FloatArray | None) -> list[int]:
    """Two atoms at the same place, or at that of an image of the other; empty if there are none."""
    # Compare neighbours in the order along one axis, as long as any are within the distance.
    along, reach = positions[:, 0], COINCIDENT_DISTANCE
    fractional = positions
    if cell is not None:
        fractional = positions @ np.linalg.inv(cell)
        along = fractional[:, 0] - np.floor(fractional[:, 0])
        reach *= float(np.linalg.norm(np.linalg.inv(cell)[:, 0]))
    order = np.argsort(along, kind="stable")
    sorted_along = along[order]
    for step in range(1, len(order)):
        gap = np.roll(sorted_along, -step) - sorted_along
        if cell is None:
            first = np.arange(len(order) - step)
            gap = gap[: len(order) - step]
        else:
            first = np.arange(len(order))
            gap[len(order) - step :] += 1.0
        near = first[np.abs(gap) < reach]
        if len(near) == 0:
            return []
        one, other = order[near], order[(near + step) % len(order)]
        delta = fractional[one] - fractional[other]
        if cell is not None:
            delta = (delta - np.round(delta)) @ cell
        same = np.flatnonzero((delta * delta).sum(axis=1) < COINCIDENT_DISTANCE**2)
        if len(same):
            return sorted((int(one[same[0]]), int(other[same[0]])))
    return []
