"""The LES interaction in reciprocal space, shared by every periodic sum."""

import math
from typing import Tuple

import torch
from torch import Tensor, nn

from openmm_les.electrostatics.cell import (
    cutoff_wavenumber,
    largest_indices,
    self_energy_coefficient,
)
from openmm_les.errors import InputError

#: Half the width of the switched shell around the cutoff wave number, for ``cutoff="smooth"``.
SWITCH_WIDTH = 0.1
#: An integer coordinate that no reciprocal vector has.
UNBOUNDED = 2**31


class ReciprocalKernel(nn.Module):
    r"""Weights of the reciprocal vectors of a cell,

    .. math::
        w(k) = \frac{c}{V} \frac{e^{-\sigma^2 k^2/2}}{k^2} s(k),

    for 0 < \|k\|, with s = 1 inside the hard cutoff 2 pi / dl and 0 outside (Cheng, npj Comput.
    Mater. 11, 80 (2025)).

    ``cutoff="smooth"`` is not what a model was trained with: it lets s fall from 1 to 0 between 0.9
    and 1.1 times the cutoff, by a polynomial with two continuous derivatives. The energy is then a
    smooth function of the box, at the price of another energy.
    """

    def __init__(
        self,
        *,
        sigma: float,
        dl: float,
        prefactor: float,
        remove_self_interaction: bool,
        cutoff: str = "hard",
        n_max: int | None = None,
        periodic_self_terms: int = 1,
    ) -> None:
        """Set up the constants.

        Args:
            sigma: width of the Gaussian charges [A].
            dl: resolution [A]; the cutoff is ``2 pi / dl``.
            prefactor: c = 1 / (2 eps0) [eV A / e^2].
            remove_self_interaction: whether the model subtracts it.
            cutoff: ``"hard"`` or ``"smooth"``.
            n_max: where the model was trained without vectors that have a larger integer
                coordinate, up to which these go; left to the sums, whose grids end there.
            periodic_self_terms: how often the model subtracts the self-interaction, if it does.
        """
        super().__init__()
        if not (sigma > 0.0 and dl > 0.0):
            raise InputError(f"sigma and dl: expected lengths > 0 A, got {sigma} and {dl}")
        if cutoff not in ("hard", "smooth"):
            raise InputError(f"lesCutoff: expected 'hard' or 'smooth', got {cutoff!r}")
        self.half_sigma2 = 0.5 * sigma * sigma
        self.width = SWITCH_WIDTH if cutoff == "smooth" else 0.0
        self.k_cut = 2.0 * math.pi / dl
        #: No vector beyond this radius [1/A] has a weight.
        self.k_max = (1.0 + self.width) * cutoff_wavenumber(dl)
        #: The length dl' [A] for which this radius is 2 pi / dl'.
        self.resolution = dl / (1.0 + self.width)
        self.n_max: int = n_max or UNBOUNDED
        self.prefactor = prefactor
        #: Coefficient of sum q^2 that the model subtracts [eV / e^2].
        self.self_energy = (
            periodic_self_terms * self_energy_coefficient(prefactor, sigma)
            if remove_self_interaction
            else 0.0
        )

    def forward(
        self, grid: Tensor, inverse: Tensor, volume: Tensor
    ) -> Tuple[Tensor, Tensor, Tensor]:
        """Vectors k [m, 3] [1/A], weights w [m] [eV / e^2] and -2 dw/d(k^2) [m] at fixed volume.

        All are float64, and zero where k = 0 and beyond the cutoff. Takes the integer coordinates
        of the vectors [m, 3], and the results of `inverse_and_volume`.
        """
        return self.by_torch(grid, inverse, volume)

    def by_torch(
        self, grid: Tensor, inverse: Tensor, volume: Tensor
    ) -> Tuple[Tensor, Tensor, Tensor]:
        """The same, by torch code in every subclass."""
        k = grid.to(torch.float64) @ (2.0 * math.pi * inverse.t())
        k2 = (k * k).sum(dim=1)
        inside = (k2 > 0.0) & (k2 <= self.k_max * self.k_max)
        k2 = torch.where(inside, k2, torch.ones_like(k2))
        weights = torch.exp(-self.half_sigma2 * k2) / k2 * (self.prefactor / volume.abs())
        weights = torch.where(inside, weights, torch.zeros_like(weights))
        slopes = 2.0 * weights * (self.half_sigma2 + 1.0 / k2)
        if self.width > 0.0:
            length = torch.sqrt(k2)
            t = ((length / self.k_cut - (1.0 - self.width)) / (2.0 * self.width)).clamp(0.0, 1.0)
            switch = 1.0 - t * t * t * (10.0 + t * (6.0 * t - 15.0))
            descent = 30.0 * (t * (1.0 - t)) ** 2 / (4.0 * self.width * self.k_cut * length)
            slopes = slopes * switch + 2.0 * weights * descent
            weights = weights * switch
        return k, weights, slopes

    @torch.jit.export
    def exceeds(self, limits: Tensor, cell: Tensor) -> Tensor:
        """Whether a box has vectors beyond the integer coordinates `limits` [3], bool, []."""
        needed = largest_indices(cell, self.k_max).clamp(max=self.n_max)
        return torch.logical_not((needed <= limits).all())


def strain_derivative(k: Tensor, slopes: Tensor, power: Tensor, energy: Tensor) -> Tensor:
    """dE/dstrain [3, 3] of ``E = sum_k w |S|^2`` at fixed charges and fractional coordinates.

    d(k^2)/dstrain = -2 k k^T acts on w, whose 1/V gives -1 on the diagonal. `slopes` are -2
    dw/d(k^2) [m], `power` is |S(k)|^2 [e^2] times the multiplicity of each vector [m].
    """
    strain = (k * (slopes * power)[:, None]).t() @ k
    return strain - energy * torch.eye(3, dtype=torch.float64, device=k.device)
