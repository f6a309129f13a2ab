"""Charges in the field of periodic ones, by Ewald's formulas in numpy, to the last digit.

Shares no code with `openmm_les.electrostatics.embedding`. Units: e and Angstrom, without the
Coulomb constant.
"""

import itertools
import math

import numpy as np
from scipy.special import erf, erfc

#: Terms beyond this many widths of a Gaussian are below 1e-16.
REACH = 6.3


def lattice(basis: np.ndarray, radius: float) -> np.ndarray:
    """All vectors of a lattice (rows of `basis`) up to a radius, the origin included."""
    limits = [math.ceil(radius * np.linalg.norm(row)) for row in np.linalg.inv(basis).T]
    integers = np.array(list(itertools.product(*(range(-n, n + 1) for n in limits))))
    vectors = integers @ basis
    return vectors[np.linalg.norm(vectors, axis=1) <= radius]


def potential(d, cell, alpha: float, exclude_nearest: bool = False) -> np.ndarray:
    """The periodic potential of a unit charge in its background, average zero.

    Args:
        d: separations, shape (..., 3).
        cell: lattice vectors in rows.
        alpha: splitting parameter; the result does not depend on it.
        exclude_nearest: without the charge 1/|d| itself, as d is given; d may be 0.
    """
    cell, d = np.asarray(cell), np.asarray(d)
    volume = abs(np.linalg.det(cell))
    reciprocal = 2 * math.pi * np.linalg.inv(cell).T
    # A separation may be several box lengths: look at images around its nearest one.
    home = np.round(d @ np.linalg.inv(cell)) @ cell
    farthest = REACH / alpha + np.linalg.norm(cell, axis=1).sum()
    total = np.full(d.shape[:-1], -math.pi / (volume * alpha**2))
    for n in lattice(cell, farthest):
        r = np.linalg.norm(d - home + n, axis=-1)
        is_itself = np.linalg.norm(n - home, axis=-1) < 1e-9
        safe = np.where(r > 0, r, 1.0)
        if exclude_nearest:
            own = np.where(r > 1e-7, -erf(alpha * safe) / safe, -2 * alpha / math.sqrt(math.pi))
            total += np.where(is_itself, own, erfc(alpha * safe) / safe)
        else:
            total += erfc(alpha * r) / r
    if exclude_nearest:
        found = np.linalg.norm(home, axis=-1) <= farthest
        assert found.all(), "the cluster is wider than the images looked at"
    for k in lattice(reciprocal, 2 * alpha * REACH):
        k2 = k @ k
        if k2 > 0:
            total += 4 * math.pi / volume * math.exp(-k2 / (4 * alpha**2)) / k2 * np.cos(d @ k)
    return total


def cross_potential(r, mm_charges, mm_r, cell, alpha: float, width: float = 0.0) -> np.ndarray:
    """Potential of the MM charges at ML atoms; clouds of a width see nearest images so."""
    cell = np.asarray(cell)
    d = np.asarray(r)[:, None] - np.asarray(mm_r)
    kernel = potential(d, cell, alpha)
    if width > 0:
        home = np.round(d @ np.linalg.inv(cell)) @ cell
        for n in lattice(cell, 9 * width + np.linalg.norm(cell, axis=1).sum()):
            distance = np.linalg.norm(d - home + n, axis=-1)
            kernel -= erfc(distance / width) / distance
    return kernel @ np.asarray(mm_charges)


def image_potential(charges, r, cell, alpha: float) -> np.ndarray:
    """Potential of the periodic images of a cluster (and of the background) at its atoms."""
    r = np.asarray(r)
    return potential(r[:, None] - r, cell, alpha, exclude_nearest=True) @ np.asarray(charges)
