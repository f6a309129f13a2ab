"""Cartesian derivatives of functions of a distance, from their radial ones.

With ``f_m = (d/dr / r)^m f``, every derivative of f(r) by x, y and z is a sum of products of them
with powers of x, y and z, by a recursion over multi-indices (McMurchie and Davidson, J. Comput.
Phys. 26, 218 (1978)).
"""

import math
from typing import List, Tuple

import torch
from torch import Tensor

from openmm_les.electrostatics.multipoles.moments import count_indices, multi_indices

#: Highest degree of a derivative: the gradient between two quadrupoles.
HIGHEST = 5


def boys(squared: Tensor, highest: int) -> List[Tensor]:
    """``F_m(T) = int_0^1 t^(2m) exp(-T t^2) dt`` for m = 0 ... highest and any T >= 0.

    Derivatives of ``erf(x)/x`` are made of them: ``(d/dx / x)^m`` of it is ``2 (-2)^m F_m(x^2) /
    sqrt(pi)``. See Helgaker, Jorgensen and Olsen, Molecular Electronic-Structure Theory (2000),
    section 9.8.
    """
    # exp(-81) is no digit of the sums below; smaller numbers would be subnormal and slow.
    gauss = torch.exp(-squared.clamp(max=81.0))
    # The highest from recursion upwards, which loses two digits at T = 2, below from its series.
    large, small = squared.clamp(min=2.0), squared.clamp(max=2.0)
    root, half = torch.sqrt(large), 0.5 / large
    upwards = torch.erf(root) / root * (0.5 * math.sqrt(math.pi))
    for m in range(highest):
        upwards = (upwards * (2 * m + 1) - gauss) * half
    series = torch.ones_like(small)
    for k in range(20, 0, -1):
        series = series.mul_(small).mul_(2.0 / (2 * (highest + k) + 1)).add_(1.0)
    series = series.mul_(gauss).mul_(1.0 / (2 * highest + 1))
    values = [torch.where(squared < 2.0, series, upwards)]
    twice = 2.0 * squared
    for i in range(highest):  # downwards, which is stable for every T
        values.append(torch.addcmul(gauss, twice, values[-1]) / (2 * (highest - i) - 1))
    return values[::-1]


def cartesian_derivatives(
    radial: List[Tensor], x: Tensor, steps: List[Tuple[int, int, int, int, float]]
) -> List[Tensor]:
    """All derivatives up to the degree of the last f_m, in the order of `multi_indices`.

    Args:
        radial: f_0, f_1 ... of distances, in any shape.
        x: the components of the vectors with these distances, shape [3, ...].
        steps: of `recursion_steps`.
    """
    highest = len(radial) - 1
    # For each multi-index its derivatives of all functions that those after it need.
    ladder = [torch.stack(radial)]
    for total, axis, parent, grandparent, factor in steps[: count_indices(highest) - 1]:
        rows = highest - total + 1
        value = ladder[parent][1:] * x[axis]
        if grandparent >= 0:
            value.add_(ladder[grandparent][1 : rows + 1], alpha=factor)
        ladder.append(value)
    return [value[0] for value in ladder]


def recursion_steps(highest: int = HIGHEST) -> List[Tuple[int, int, int, int, float]]:
    """How each multi-index but the first follows from those with one and two less along an axis.

    As its total, the axis, the places of the two (-1 where there is none) and a factor.
    """
    indices = multi_indices(highest)
    places = {index: place for place, index in enumerate(indices)}
    steps = []
    for index in indices[1:]:
        axis = max(d for d in range(3) if index[d] > 0)
        less = [tuple(n - by * (d == axis) for d, n in enumerate(index)) for by in (1, 2)]
        parent, grandparent = (places.get((a, b, c), -1) for a, b, c in less)
        steps.append((sum(index), axis, parent, grandparent, float(index[axis] - 1)))
    return steps
