"""Which atoms of a structure cause an invalid status, found on the host."""

from __future__ import annotations

import numpy as np

from openmm_les.arrays import FloatArray
from openmm_les.errors import SimulationError
from openmm_les.evaluation.status import STATUS_COINCIDENT, STATUS_POSITIONS, describe_status
from openmm_les.names import shorten
from openmm_les.neighbors.search import COINCIDENT_DISTANCE


def failure(status: int, positions: FloatArray, cell: FloatArray | None) -> SimulationError:
    """The error for a status other than 0, with the atoms of the model that cause it if known."""
    atoms: list[int] = []
    if status & STATUS_POSITIONS:
        atoms = np.flatnonzero(~np.isfinite(positions).all(axis=1)).tolist()
    elif status & STATUS_COINCIDENT:
        atoms = coincident_pair(positions, cell)
    where = f" (of the model's atoms, counted from 0: {shorten(atoms)})" if atoms else ""
    reason = describe_status(status)
    error = SimulationError(reason + where)
    if atoms:
        error.reason, error.atoms = reason, tuple(atoms)
    return error


def coincident_pair(positions: FloatArray, cell: FloatArray | None) -> list[int]:
    """Two atoms at the same place, or at that of an image of the other; empty if there are none."""
    box = np.eye(3) if cell is None else cell
    places, atoms = positions @ np.linalg.inv(box), np.arange(len(positions))
    reach = COINCIDENT_DISTANCE * float(np.linalg.norm(np.linalg.inv(box)[:, 0]))
    if cell is not None:
        places -= np.floor(places)
        image = np.flatnonzero(places[:, 0] < reach)
        places = np.concatenate([places, places[image] + np.array([1.0, 0.0, 0.0])])
        atoms = np.concatenate([atoms, image])
    # Compare neighbours in the order along one axis, as long as any are within the distance.
    order = np.argsort(places[:, 0])
    places, atoms = places[order], atoms[order]
    for step in range(1, len(order)):
        near = np.flatnonzero(places[step:, 0] - places[:-step, 0] < reach)
        if len(near) == 0:
            break
        delta = places[near + step] - places[near]
        if cell is not None:
            delta -= np.round(delta)
        same = near[((delta @ box) ** 2).sum(axis=1) < COINCIDENT_DISTANCE**2]
        if len(same):
            return sorted((int(atoms[same[0]]), int(atoms[same[0] + step])))
    return []
