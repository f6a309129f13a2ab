"""How an Ewald sum among MM charges is split into real and reciprocal space; see `EwaldCoupling`.

Real-space terms are left out from r_c on, half of the smallest height of the box, and reciprocal
ones from k_c on, where ``a r_c = k_c / 2a = reach``: the first are of the order exp(-reach^2).
"""

import math
from typing import List, Tuple

import torch
from torch import Tensor

from openmm_les.electrostatics.cell import inverse_and_volume
from openmm_les.errors import InputError

#: Rounding, also of a box in float32, must not decide whether a box has outgrown the grid.
_LIMIT_SLACK = 1e-6


def reach_for(tolerance: float) -> float:
    """The reach for an RMS force error over RMS force."""
    if not 1e-14 <= tolerance <= 1e-4:
        raise InputError(f"tolerance: expected a number from 1e-14 to 1e-4, got {tolerance}")
    return math.sqrt(-math.log(tolerance))


def grid_limits(cell: Tensor, reach: float, margin: float) -> List[int]:
    """Largest integers of a grid for boxes whose ratio of edge to height grows by a factor."""
    if not margin >= 1.0:
        raise InputError(f"margin: expected a factor of at least 1, got {margin}")
    needed = needed_limits(cell, inverse_and_volume(cell)[0], reach) * margin
    return [int(n) for n in torch.floor(needed * (1.0 + _LIMIT_SLACK)).tolist()]


def splitting_for(inverse: Tensor, reach: float) -> Tensor:
    """a = reach / r_c [1/A]; the heights of the cell are the inverse lengths of the columns."""
    return 2.0 * reach * torch.sqrt((inverse * inverse).sum(dim=0).max())


def needed_limits(cell: Tensor, inverse: Tensor, reach: float) -> Tensor:
    """What the integers of the vectors with k <= 2 a reach stay within, shape [3]."""
    lengths = torch.sqrt((cell.to(torch.float64) ** 2).sum(dim=1))
    return lengths * splitting_for(inverse, reach) * (reach / math.pi)


def split_weights(
    grid: Tensor, inverse: Tensor, volume: Tensor, splitting: Tensor
) -> Tuple[Tensor, Tensor, Tensor]:
    """Vectors k [m, 3], weights of |S|^2 and -2 dw/d(k^2) at fixed volume, shape [m], float64.

    Without the Coulomb constant; the grid holds the integers of the vectors [m, 3].
    """
    quarter = 0.25 / splitting**2
    k = grid.to(torch.float64) @ (2.0 * math.pi * inverse.t())
    k2 = (k * k).sum(dim=1)
    finite = k2 > 0.0
    k2 = torch.where(finite, k2, torch.ones_like(k2))
    weights = torch.exp(-quarter * k2) / k2 * (2.0 * math.pi / volume.abs())
    weights = torch.where(finite, weights, torch.zeros_like(weights))
    return k, weights, 2.0 * weights * (quarter + 1.0 / k2)
