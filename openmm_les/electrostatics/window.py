"""The window with which charges are spread over a mesh, and its Fourier transform.

Everything here is numpy and runs once, when a mesh is set up.
"""

from __future__ import annotations

import math

import numpy as np

from openmm_les.arrays import FloatArray
from openmm_les.errors import InputError

#: How much steeper than for the shortest waves the window is best taken. Steeper windows alias the
#: long waves less, which rule in long cells; found by scanning the worst force error of liquids and
#: needle-shaped cells.
_STEEPNESS = {4: 1.2, 5: 1.2, 6: 1.2, 7: 1.18, 8: 1.15, 9: 1.12, 10: 1.09}
ORDERS = tuple(_STEEPNESS)
#: The same for every window with a flat edge, found with multipoles, and the orders of those.
_FLAT_STEEPNESS = 1.05
FLAT_ORDERS = tuple(range(7, 13))

_GAUSS_POINTS = 48


def window_coefficients(order: int, spacing: float, *, flat_edge: bool = False) -> FloatArray:
    """The window as one polynomial for each mesh point it covers, a matrix C of shape (P + 4, P).

    It is the "exponential of semicircle" exp(beta (sqrt(1 - (2x/P)^2) - 1)) for |x| < P/2 mesh
    points, normalised to a unit integral (Barnett, Magland and af Klinteberg, SIAM J. Sci. Comput.
    41, C479 (2019)). Polynomials make it a matrix product to evaluate and exact to differentiate.
    The mesh point p, counted from the lowest one covered, gets ``sum_d C[d, p] y^d``, with y in
    [-1, 1] the place of the charge between two mesh points (P even) or around the nearest one (P
    odd).

    Args:
        order: number P of mesh points covered along an axis.
        spacing: largest mesh spacing in units of ``dl``, below 1/2. The frequencies that matter, up
            to 1/dl, are then at most `spacing` per mesh point, and beta is chosen for them.
        flat_edge: for derivatives of the window, to which its jump at the edge matters: the
            semicircle's exponential times 1 - (2x/P)^2. Orders are then 7 to 12.
    """
    orders = FLAT_ORDERS if flat_edge else ORDERS
    if order not in orders:
        raise InputError(
            f"order: expected an integer from {orders[0]} to {orders[-1]}, got {order}"
        )
    if not 0.0 < spacing < 0.5:
        raise InputError(f"spacing: expected a fraction of dl in (0, 1/2), got {spacing}")
    beta = math.pi * order * (1.0 - spacing)
    beta *= _FLAT_STEEPNESS if flat_edge else _STEEPNESS[order]
    degree = order + 3
    chebyshev = np.polynomial.chebyshev
    y = chebyshev.chebpts1(4 * degree + 8)
    distance = _distances(y, order)
    inside = np.maximum(1.0 - (2.0 * distance / order) ** 2, 0.0)
    values = np.exp(beta * (np.sqrt(inside) - 1.0)) * (inside if flat_edge else 1.0)
    fitted = chebyshev.chebfit(y, values, degree)
    polynomials = [chebyshev.cheb2poly(c) for c in fitted.T]
    powers = np.stack([np.pad(p, (0, degree + 1 - len(p))) for p in polynomials], axis=1)
    # The integral over all points; y^d gives 1 / (d + 1) for even d.
    even = np.arange(0, degree + 1, 2)
    return np.asarray(powers / (powers[even].sum(axis=1) / (even + 1)).sum())


def fourier_transform(coefficients: FloatArray, frequencies: FloatArray) -> FloatArray:
    """``integral W(x) cos(2 pi f x) dx`` of the window, shape (m,); 1 at f = 0.

    From `window_coefficients` of shape (d, P), and frequencies f [cycles per mesh point] (m,).
    """
    degree, order = coefficients.shape
    y, weights = np.polynomial.legendre.leggauss(_GAUSS_POINTS)
    values = np.vander(y, degree, increasing=True) @ coefficients * (0.5 * weights)[:, None]
    phases = 2.0 * np.pi * frequencies[:, None, None] * _distances(y, order)
    return np.asarray((np.cos(phases) * values).sum(axis=(1, 2)))


def _distances(y: FloatArray, order: int) -> FloatArray:
    """From mesh point p to a charge at y, in mesh points, shape (len(y), order)."""
    return np.asarray(0.5 * (y[:, None] + 1.0) + 0.5 * order - 1.0 - np.arange(order))
