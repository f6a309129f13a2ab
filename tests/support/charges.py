"""Point charges and the sums over them, for the tests of the electrostatics."""

import math

import numpy as np
import torch
from oracles.ewald import Parameters

from openmm_les.electrostatics import (
    DirectEwald,
    MeshEwald,
    PairSum,
    ReciprocalKernel,
    k_limits_for,
    mesh_size_for,
)
from openmm_les.electrostatics.accuracy import find_rule

DOUBLE, SINGLE = torch.float64, torch.float32
KEPT = Parameters()
REMOVED = Parameters(remove_self_interaction=True)
COULOMB = KEPT.prefactor / (2 * math.pi)

CELLS = {
    "cubic": [[9.7, 0, 0], [0, 9.7, 0], [0, 0, 9.7]],
    "orthorhombic": [[6.1, 0, 0], [0, 11.3, 0], [0, 0, 8.9]],
    "triclinic": [[9.1, 0, 0], [-3.2, 8.3, 0], [2.9, 3.7, 7.9]],
    "strained": [[9.3, 0.4, -0.7], [1.1, 8.2, 0.3], [-2.2, 3.1, 10.4]],
    "needle": [[3, 0, 0], [0, 3, 0], [0, 0, 120]],
    "1.5 A": [[1.5, 0, 0], [0, 1.5, 0], [0, 0, 1.5]],
    "2.5 A": [[2.5, 0, 0], [0, 2.5, 0], [0, 0, 2.5]],
    "3.5 A": [[3.5, 0.2, 0], [-0.4, 3.5, 0], [0.3, 0, 3.5]],
    "5 A": [[5, 0, 0], [0, 5, 0], [1, 0, 5]],
}


def tensor(values):
    return torch.as_tensor(np.asarray(values), dtype=DOUBLE)


def structure(cell, n=23, seed=0):
    """Random charges with a net charge, random positions, up to a box length outside the cell."""
    random = np.random.default_rng(seed)
    cell = tensor(cell)
    return tensor(random.normal(0.1, 0.5, n)), tensor(random.uniform(-1, 2, (n, 3))) @ cell, cell


def kernel_of(parameters=KEPT, cutoff="hard") -> ReciprocalKernel:
    return ReciprocalKernel(**vars(parameters), cutoff=cutoff)


def limits_of(cell, parameters=KEPT, margin=1.0) -> list[int]:
    return k_limits_for(cell, kernel_of(parameters).k_max, margin)


def direct(cell, parameters=KEPT, dtype=DOUBLE, limits=None, margin=1.0, chunk_size=None):
    limits = limits_of(cell, parameters, margin) if limits is None else limits
    return DirectEwald(limits, kernel_of(parameters), dtype=dtype, chunk_size=chunk_size)


def mesh(cell, parameters=KEPT, dtype=DOUBLE, tolerance=1e-5, margin=1.0, **options):
    """The mesh that a tolerance asks for."""
    rule = find_rule(tolerance, DOUBLE)
    kernel = kernel_of(parameters, options.pop("cutoff", "hard"))
    spacing = rule.spacing * kernel.resolution
    size = options.pop("size", None) or mesh_size_for(cell, spacing, margin)
    return MeshEwald(size, kernel, order=rule.order, spacing=spacing, dtype=dtype, **options)


def pairs(parameters=KEPT, dtype=DOUBLE, chunk_size=None):
    options = {
        name: value
        for name, value in vars(parameters).items()
        if name not in ("dl", "n_max", "periodic_self_terms")
    }
    return PairSum(**options, dtype=dtype, chunk_size=chunk_size)


def periodic_energy(q, r, cell, parameters=KEPT, **options):
    return float(direct(cell, parameters, **options)(q, r, cell)[0])


def assert_same(result, expected, relative):
    """Energy, dE/dq, dE/dr and dE/dstrain agree, each relative to its largest entry.

    An energy or strain derivative is a difference of large terms: its scale is that of both.
    """
    scales = [float(x.abs().max()) for x in expected[:4]]
    scales[0] = scales[3] = max(scales[0], scales[3])
    for name, got, want, scale in zip(
        ("energy", "dE/dq", "dE/dr", "dE/dstrain"), result, expected, scales, strict=False
    ):
        error = float((got.double() - want.double()).abs().max())
        assert error <= relative * scale + 1e-14, f"{name}: {error:.1e} of {scale:.1e}"


def slope(function, x, direction, step):
    """Derivative of a function along a direction, by central differences of sixth order."""
    return sum(
        sign * weight * function(x + sign * steps * step * direction)
        for steps, weight in ((1, 45.0), (2, -9.0), (3, 1.0))
        for sign in (1, -1)
    ) / (60 * step)
