"""Distances between atoms of a structure, with images in a box of vectors in rows [nm], or None."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np
from numpy.typing import NDArray

from openmm_les.arrays import FloatArray


def distances(
    positions: FloatArray, box: FloatArray | None, pairs: Sequence[tuple[int, int]]
) -> FloatArray:
    """Distances of pairs [nm], to the image found by rounding; for bonds it is the nearest one."""
    if not len(pairs):
        return np.zeros(0)
    one, other = np.array(pairs).T
    apart = positions[one] - positions[other]
    if box is not None:
        apart = apart - np.round(apart @ np.linalg.inv(box)) @ box
    return np.asarray(np.linalg.norm(apart, axis=-1))


def nearest_pair(
    positions: FloatArray, box: FloatArray | None, limit: float
) -> tuple[int, int, float] | None:
    """The closest pair of atoms and its distance [nm], if that is below `limit`; else None.

    Only atoms in adjacent cells of width `limit` are compared; it is less than half the box [nm].
    """
    if box is None:
        cells = np.floor((positions - positions.min(axis=0)) / limit).astype(np.int64)
        shape = cells.max(axis=0) + 2  # an empty cell at the end separates the two faces
    else:
        inverse = np.linalg.inv(box)
        # The distance between opposite faces is one over the length of a reciprocal vector.
        shape = np.floor(1.0 / (np.linalg.norm(inverse, axis=0) * limit)).astype(np.int64)
        shape = np.maximum(1, shape)
        fractions = positions @ inverse
        cells = np.floor((fractions - np.floor(fractions)) * shape).astype(np.int64) % shape
    keys = _keys(cells, shape)
    order = np.argsort(keys, kind="stable")
    pairs: set[tuple[int, int]] = set()
    for step in product((-1, 0, 1), repeat=3):
        near = _keys((cells + step) % shape, shape)
        first = np.searchsorted(keys, near, "left", sorter=order)
        last = np.searchsorted(keys, near, "right", sorter=order)
        for index in np.flatnonzero(last > first):
            others = order[first[index] : last[index]]
            pairs.update((int(index), int(other)) for other in others if other > index)
    ordered = sorted(pairs)
    lengths = distances(positions, box, ordered)
    if not len(lengths) or lengths.min() >= limit:
        return None
    place = int(lengths.argmin())
    return (*ordered[place], float(lengths[place]))


def _keys(cells: NDArray[np.int64], shape: NDArray[np.int64]) -> NDArray[np.int64]:
    """Cells by number."""
    return np.asarray((cells[:, 0] * shape[1] + cells[:, 1]) * shape[2] + cells[:, 2])
