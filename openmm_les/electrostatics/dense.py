"""The periodic LES sum for any box without preparation: the portable module's reference path.

`DirectEwald` needs buffers sized for one system. An artifact serves every system, so its
``forward`` takes this plain sum over vectors and atoms instead, O(N * vectors) and always in
float64.
"""

import math
from typing import List, Tuple

import torch
from torch import Tensor

from openmm_les.electrostatics.cell import inverse_and_volume, largest_indices


def integers_within(cell: Tensor, k_max: float, n_max: int) -> Tensor:
    """Integer coordinates of the reciprocal vectors that a sphere may have, int64, [m, 3].

    Their number depends on the box. Opposite vectors are first and last, and so on.
    """
    limits: List[int] = largest_indices(cell, k_max).clamp(max=n_max).to(torch.int64).tolist()
    axes = [torch.arange(-n, n + 1, device=cell.device) for n in limits]
    return torch.cartesian_prod(axes[0], axes[1], axes[2])


def dense_ewald(
    charges: Tensor,
    positions: Tensor,
    cell: Tensor,
    sigma: float,
    k_max: float,
    prefactor: float,
    self_energy: float,
    n_max: int,
    chunk: int = 4096,
) -> Tuple[Tensor, Tensor, Tensor]:
    """Energy [] [eV] of `DirectEwald`, dE/dq [eV/e] and dE/dr [n, 3] [eV/A]; see there.

    Args:
        k_max: radius of the sphere of vectors, from `cutoff_wavenumber` [1/A].
        self_energy: coefficient of sum q^2 to subtract, 0 where the model keeps it [eV / e^2].
        n_max: largest integer coordinate of a vector.
        chunk: vectors processed at a time, to bound memory.
    """
    inverse, volume = inverse_and_volume(cell)
    integers = integers_within(cell, k_max, n_max).to(torch.float64)
    vectors = integers @ (2.0 * math.pi * inverse.t())
    squared = (vectors * vectors).sum(1)
    inside = (squared > 0.0) & (squared <= k_max * k_max)
    vectors, squared = vectors[inside], squared[inside]
    weights = torch.exp(-0.5 * sigma * sigma * squared) / squared * (prefactor / volume.abs())

    energy = torch.zeros([], dtype=torch.float64, device=cell.device)
    potential = torch.zeros_like(charges)
    gradient = torch.zeros_like(positions)
    rows = charges.reshape(-1, positions.shape[0])
    for start in range(0, vectors.shape[0], chunk):
        k = vectors[start : start + chunk]
        w = weights[start : start + chunk]
        phase = positions @ k.t()
        cos, sin = torch.cos(phase), torch.sin(phase)
        real, imaginary = charges @ cos, charges @ sin
        energy = energy + (w * (real * real + imaginary * imaginary)).sum()
        real, imaginary = w * real, w * imaginary
        potential = potential + 2.0 * (real @ cos.t() + imaginary @ sin.t())
        on_sin = rows.t() @ real.reshape(-1, w.shape[0])
        on_cos = rows.t() @ imaginary.reshape(-1, w.shape[0])
        gradient = gradient + 2.0 * (cos * on_cos - sin * on_sin) @ k
    energy = energy - self_energy * (charges * charges).sum()
    return energy, potential - 2.0 * self_energy * charges, gradient
