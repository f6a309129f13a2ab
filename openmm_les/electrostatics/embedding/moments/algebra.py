"""Pairs of moments: from derivatives of an interaction to potentials, and forces."""

from typing import List

import torch
from torch import Tensor, nn

from openmm_les.electrostatics.multipoles.moments import count_indices, places_of_sums, signs
from openmm_les.electrostatics.multipoles.recursion import cartesian_derivatives, recursion_steps


class PairAlgebra(nn.Module):
    """Interactions of m sites with n others, given as coefficients of Cartesian derivatives.

    Those of the others, at the tail of separations, have the sign of an odd derivative changed:
    `turned`. A charge alone is one coefficient.
    """

    def __init__(self) -> None:
        super().__init__()
        self.steps = recursion_steps()
        self.combined = nn.Buffer(places_of_sums(2, 2))
        #: 1 for each sum and the two that it is the sum of.
        self.summed = nn.Buffer(nn.functional.one_hot(self.combined).permute(2, 0, 1))
        self.raised = nn.Buffer(places_of_sums(1, 4)[1:])  # by one along each axis
        self.signs = nn.Buffer(signs(2))

    def turned(self, coefficients: Tensor) -> Tensor:
        """Coefficients of the sites that separations point from, [n, count_indices(...)]."""
        return coefficients * self.signs[: coefficients.shape[1]]

    def derivatives(self, radial: List[Tensor], x: Tensor) -> Tensor:
        """All derivatives [indices, m, n], see `cartesian_derivatives`."""
        return torch.stack(cartesian_derivatives(radial, x, self.steps))

    def potential(self, derivatives: Tensor, sources: Tensor, number: int) -> Tensor:
        """The first derivatives of the potential of sources [n, s] at m sites, [m, number]."""
        products = derivatives @ sources
        size = sources.shape[1]
        if size == 1:
            return products[:number, :, 0].t()
        chosen = products[self.combined[:number, :size]]  # [number, s, m, s]
        return chosen.diagonal(0, 1, 3).sum(dim=2).t()

    def pulls(self, derivatives: Tensor, sites: Tensor, sources: Tensor, degree: int) -> Tensor:
        """Derivatives of the energy of each pair by its separation, [3, m, n].

        Sites have coefficients [m, s], sources [n, t], up to a degree together; derivatives go to
        one degree more.
        """
        size, other = sites.shape[1], sources.shape[1]
        number = count_indices(degree)
        weights = sites.t().unsqueeze(2) * sources[:, 0]
        if other > 1:
            outer = sites.t()[:, None, :, None] * sources.t()[None, :, None, :]
            # A product, since sums by index have no fixed order on a GPU.
            summed = self.summed[:number, :size, :other].flatten(1).to(outer.dtype)
            weights = summed @ outer.flatten(2).flatten(0, 1)
            weights = weights.view([number] + list(outer.shape[2:]))
        found: List[Tensor] = []
        for axis in range(3):
            chosen = self.raised[axis, :number]
            found.append((derivatives.index_select(0, chosen) * weights).sum(dim=0))
        return torch.stack(found)
