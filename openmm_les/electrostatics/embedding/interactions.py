"""Interactions of a charge of the ML region with a point charge, as functions of their distance.

Each is a module called with r^2 in any shape and the Ewald splitting parameter, which only
`Screened` uses, and returns f [1/A] and (df/dr)/r [1/A^3], in units of the Coulomb constant. For
multipoles, ``ladder`` has as many of ``f_m = (d/dr / r)^m f`` as they need.

The ML charge may be a cloud: LES charges are Gaussians that interact as erf(r / (sigma sqrt 2)) / r
with each other, hence as erf(r / sigma) / r with a point charge. ``width`` is that sigma; 0 means
points.
"""

import math
from typing import List

import torch
from torch import Tensor, nn

from openmm_les.electrostatics.multipoles.recursion import boys
from openmm_les.electrostatics.screening import erf_over_x, erfc_over_r
from openmm_les.errors import InputError


class Coulomb(nn.Module):
    """1/r, or erf(r/width)/r, which is finite at r = 0; the width of the ML charges is in A."""

    def __init__(self, width: float = 0.0) -> None:
        super().__init__()
        if not width >= 0.0:
            raise InputError(f"width: expected a length >= 0 A, got {width}")
        self.inverse_width = 1.0 / width if width > 0.0 else 0.0

    def forward(self, r2: Tensor, splitting: Tensor) -> tuple[Tensor, Tensor]:
        if self.inverse_width > 0.0:
            value, slope = erf_over_x(r2 * (self.inverse_width * self.inverse_width))
            return value * self.inverse_width, slope * self.inverse_width**3
        inverse = 1.0 / torch.sqrt(r2)
        return inverse, -inverse * (inverse * inverse)

    def ladder(self, r2: Tensor, splitting: Tensor, highest: int) -> List[Tensor]:
        """f_0 ... f_highest."""
        if self.inverse_width > 0.0:
            return erf_ladder(r2, splitting.new_full([], self.inverse_width), highest)
        return inverse_ladder(r2, highest)


class ReactionField(nn.Module):
    r"""Coulomb interaction within a cutoff [A] in a dielectric, as OpenMM has it:

    .. math::
        f = \frac{1}{r} + k r^2 - c, \quad
        k = \frac{1}{r_c^3} \frac{\varepsilon - 1}{2\varepsilon + 1}, \quad
        c = \frac{1}{r_c} \frac{3\varepsilon}{2\varepsilon + 1}

    for r < r_c and 0 beyond (Tironi et al., J. Chem. Phys. 102, 5451 (1995)). f ends at 0, but its
    slope does not unless the dielectric constant is infinite.
    """

    def __init__(self, cutoff: float, dielectric: float, width: float = 0.0) -> None:
        super().__init__()
        if not cutoff > 0.0:
            raise InputError(f"cutoff: expected a length > 0 A, got {cutoff}")
        if not dielectric >= 1.0:
            raise InputError(f"dielectric: expected a constant >= 1, got {dielectric}")
        self.coulomb = Coulomb(width)
        self.cutoff2 = cutoff * cutoff
        self.k = (dielectric - 1.0) / (2.0 * dielectric + 1.0) / cutoff**3
        self.c = 3.0 * dielectric / (2.0 * dielectric + 1.0) / cutoff

    def forward(self, r2: Tensor, splitting: Tensor) -> tuple[Tensor, Tensor]:
        value, slope = self.coulomb(r2, splitting)
        inside = r2 < self.cutoff2
        value = torch.where(inside, value + self.k * r2 - self.c, torch.zeros_like(r2))
        return value, torch.where(inside, slope + 2.0 * self.k, torch.zeros_like(r2))

    def ladder(self, r2: Tensor, splitting: Tensor, highest: int) -> List[Tensor]:
        """f_0 ... f_highest; beyond f_1 the reaction field has no part in them."""
        values: List[Tensor] = []
        for m, value in enumerate(self.coulomb.ladder(r2, splitting, highest)):
            if m == 0:
                value = value + self.k * r2 - self.c
            if m == 1:
                value = value + 2.0 * self.k
            values.append(torch.where(r2 < self.cutoff2, value, torch.zeros_like(r2)))
        return values


class Screened(nn.Module):
    """Real-space part of an Ewald sum, erfc(splitting r)/r, less erfc(r/width)/r for clouds."""

    inverse_width: Tensor

    def __init__(self, width: float = 0.0) -> None:
        super().__init__()
        self.is_cloud = Coulomb(width).inverse_width > 0.0
        inverse = 1.0 / width if self.is_cloud else 0.0
        self.register_buffer("inverse_width", torch.tensor(inverse, dtype=torch.float64))

    def forward(self, r2: Tensor, splitting: Tensor) -> tuple[Tensor, Tensor]:
        r = torch.sqrt(r2)
        value, slope = erfc_over_r(r, splitting)
        if self.is_cloud:
            near, near_slope = erfc_over_r(r, self.inverse_width)
            value, slope = value - near, slope - near_slope
        return value, slope

    def ladder(self, r2: Tensor, splitting: Tensor, highest: int) -> List[Tensor]:
        """f_0 ... f_highest."""
        r = torch.sqrt(r2)
        values = erfc_ladder(r, splitting, highest)
        if self.is_cloud:
            near = erfc_ladder(r, self.inverse_width, highest)
            return [value - near[m] for m, value in enumerate(values)]
        return values


class Damping(nn.Module):
    """What a width of the MM charge too changes in the interaction with a cloud, for r > 0.

    It is ``erf(a r)/r - erf(r/width)/r``, where the inverse length a is given in place of the
    splitting parameter, one for each place along the last dimension or dimensions of size 1.
    """

    inverse_width: Tensor

    def __init__(self, width: float) -> None:
        super().__init__()
        inverse = Coulomb(width).inverse_width
        self.register_buffer("inverse_width", torch.tensor(inverse, dtype=torch.float64))

    def ladder(self, r2: Tensor, splitting: Tensor, highest: int) -> List[Tensor]:
        """f_0 ... f_highest."""
        r = torch.sqrt(r2)
        points = erfc_ladder(r, self.inverse_width, highest)
        clouds = erfc_ladder(r, splitting.to(r.dtype), highest)
        return [value - clouds[m] for m, value in enumerate(points)]


def inverse_ladder(r2: Tensor, highest: int) -> List[Tensor]:
    """f_m of 1/r, for r > 0."""
    inverse2 = 1.0 / r2
    values = [torch.sqrt(inverse2)]
    for m in range(highest):
        values.append(values[-1] * inverse2 * (-(2.0 * m + 1.0)))
    return values


def erf_ladder(r2: Tensor, a: Tensor, highest: int) -> List[Tensor]:
    """f_m of erf(a r)/r, for any r and an inverse length a."""
    factor = a * (2.0 / math.sqrt(math.pi))
    values: List[Tensor] = []
    for value in boys(r2 * (a * a).to(r2.dtype), highest):
        values.append(value * factor.to(r2.dtype))
        factor = factor * (a * a) * (-2.0)
    return values


def erfc_ladder(r: Tensor, a: Tensor, highest: int) -> List[Tensor]:
    """f_m of erfc(a r)/r, for r > 0 and an inverse length a that broadcasts."""
    x = (a * r).clamp(max=9.0)  # as in `erfc_over_r`
    inverse = 1.0 / r
    inverse2 = inverse * inverse
    gauss = torch.exp(-(x * x)) * (2.0 / math.sqrt(math.pi) * a)
    values = [torch.erfc(x) * inverse]
    for m in range(highest):
        values.append(-((2.0 * m + 1.0) * values[-1] + gauss) * inverse2)
        gauss = gauss * (a * a) * (-2.0)
    return values
