"""Pairs of an ML site and an MM charge: all at nearest images, and corrections for bonded ones."""

from typing import Any, Sequence

import torch
from torch import Tensor, nn

from openmm_les.electrostatics.cell import nearest_image
from openmm_les.electrostatics.embedding.moments.algebra import PairAlgebra
from openmm_les.electrostatics.embedding.moments.frame import Frame, Pulls
from openmm_les.electrostatics.embedding.pairs import ListedPairs, ScaledPair
from openmm_les.electrostatics.multipoles.moments import count_indices

#: How much more memory a pair of moments takes than one of charges, of which chunks have a number.
MEMORY_RATIO = 8


class AllMoments(nn.Module):
    """Every ML site with every MM charge, at its nearest image: `AllPairs` for moments.

    Chunks of MM charges bound memory. Separations are taken in float64, the rest is done in the
    module's dtype.
    """

    def __init__(
        self, interaction: nn.Module, *, periodic: bool, dtype: torch.dtype, pairs_per_chunk: int
    ) -> None:
        """Set up the sum of a module of `openmm_les.electrostatics.embedding.interactions`."""
        super().__init__()
        self.interaction: Any = interaction
        self.algebra = PairAlgebra()
        self.periodic = periodic
        self.dtype = dtype
        self.pairs_per_chunk = max(1, pairs_per_chunk // MEMORY_RATIO)

    def potential(self, frame: Frame, degree: int) -> Tensor:
        """Derivatives of the potential of the MM charges at the sites, [n, count_indices(degree)].

        They are Cartesian, float64, in units of the Coulomb constant.
        """
        number = count_indices(degree)
        found = frame.positions.new_zeros([frame.positions.shape[0], number])
        chunk = self._chunk(frame)
        for start in range(0, frame.mm_charges.shape[0], chunk):
            end = start + chunk
            d = self._separations(frame, start, end)
            charges = frame.mm_charges[start:end, None].to(self.dtype)
            derivatives = self._derivatives(d, _part(frame.splitting, start, end), degree)
            found = found + self.algebra.potential(derivatives, charges, number).to(torch.float64)
        return found

    def pulls(self, frame: Frame, coefficients: Tensor, degree: int) -> Pulls:
        """Derivatives of the energy of sites with Cartesian coefficients up to a degree."""
        coefficients = coefficients.to(self.dtype)
        gradient, strain = torch.zeros_like(frame.positions), torch.zeros_like(frame.cell)
        # Written in place, as in `StructureFactors`.
        mm_gradient = torch.empty_like(frame.mm_positions)
        chunk = self._chunk(frame)
        for start in range(0, frame.mm_charges.shape[0], chunk):
            end = start + chunk
            d = self._separations(frame, start, end)
            charges = frame.mm_charges[start:end, None].to(self.dtype)
            derivatives = self._derivatives(d, _part(frame.splitting, start, end), degree + 1)
            pull = self.algebra.pulls(derivatives, coefficients, charges, degree)
            gradient = gradient + pull.sum(dim=2).t().to(torch.float64)
            mm_gradient[start:end] = -pull.sum(dim=1).t().to(torch.float64)
            strain = strain + (pull.flatten(1) @ d.flatten(1).t()).to(torch.float64)
        return Pulls(gradient, mm_gradient, strain)

    def _chunk(self, frame: Frame) -> int:
        return max(1, self.pairs_per_chunk // max(1, frame.positions.shape[0]))

    def _separations(self, frame: Frame, start: int, end: int) -> Tensor:
        """Components of the vectors to the sites from some MM charges, [3, n, chunk]."""
        d = frame.positions[:, None] - frame.mm_positions[start:end]
        if self.periodic:
            d = nearest_image(d, frame.cell, frame.inverse)
        return d.permute(2, 0, 1).to(self.dtype)

    def _derivatives(self, d: Tensor, splitting: Tensor, degree: int) -> Tensor:
        radial = self.interaction.ladder((d * d).sum(dim=0), splitting, degree)
        return self.algebra.derivatives(radial, d)


class ScaledMoments(ListedPairs):
    """The difference that pairs near a bond make: `ScaledPairs` for moments."""

    def __init__(
        self, pairs: Sequence[ScaledPair], counted: nn.Module, coulomb: nn.Module, periodic: bool
    ) -> None:
        """See `ListedPairs`."""
        super().__init__(pairs, counted, coulomb, periodic)
        self.algebra = PairAlgebra()

    def potential(self, frame: Frame, degree: int) -> Tensor:
        """See `AllMoments.potential`."""
        number = count_indices(degree)
        derivatives = self._derivatives(self._separations(frame), frame, degree)
        charges = frame.mm_charges.index_select(0, self.second)
        values = (derivatives.squeeze(2) * charges).t()
        found = frame.positions.new_zeros([frame.positions.shape[0], number])
        return found.index_add(0, self.first, values)

    def pulls(self, frame: Frame, coefficients: Tensor, degree: int) -> Pulls:
        """See `AllMoments.pulls`."""
        d = self._separations(frame)
        derivatives = self._derivatives(d, frame, degree + 1)
        charges = frame.mm_charges.index_select(0, self.second)
        sites = coefficients.to(torch.float64).index_select(0, self.first) * charges[:, None]
        pull = self.algebra.pulls(derivatives, sites, d.new_ones([1, 1]), degree)
        pull = pull.squeeze(2).t()
        return Pulls(
            torch.zeros_like(frame.positions).index_add(0, self.first, pull),
            torch.zeros_like(frame.mm_positions).index_add(0, self.second, -pull),
            pull.t() @ d.squeeze(2).t(),
        )

    def _separations(self, frame: Frame) -> Tensor:
        """Components of the vectors of the pairs, [3, pairs, 1]."""
        d = self.separations(frame.positions, frame.mm_positions, frame.cell, frame.inverse)
        return d.t().unsqueeze(2)

    def _derivatives(self, d: Tensor, frame: Frame, degree: int) -> Tensor:
        splitting = frame.splitting
        if splitting.dim() > 0:
            splitting = splitting.index_select(0, self.second).unsqueeze(1)
        r2 = (d * d).sum(dim=0)
        wanted = self.coulomb.ladder(r2, splitting, degree)
        radial = [
            self.factors[:, None] * wanted[m] - value
            for m, value in enumerate(self.counted.ladder(r2, splitting, degree))
        ]
        return self.algebra.derivatives(radial, d)


def _part(values: Tensor, start: int, end: int) -> Tensor:
    return values if values.dim() == 0 else values[start:end]
