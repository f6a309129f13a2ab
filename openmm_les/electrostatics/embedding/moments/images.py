"""Real-space part of the interaction of a region with moments and its own periodic images."""

from typing import List, Tuple

import torch
from torch import Tensor, nn

from openmm_les.electrostatics.embedding.interactions import (
    erf_ladder,
    erfc_ladder,
    inverse_ladder,
)
from openmm_les.electrostatics.embedding.moments.algebra import PairAlgebra
from openmm_les.electrostatics.embedding.moments.frame import Frame, Pulls
from openmm_les.electrostatics.multipoles.moments import count_indices


class ImageMoments(nn.Module):
    """Moments of a cluster with those of its images, less the cluster; see `image_pairs`.

    Always float64.
    """

    def __init__(self, pairs_per_chunk: int) -> None:
        super().__init__()
        self.algebra = PairAlgebra()
        self.pairs_per_chunk = pairs_per_chunk

    def potential(self, frame: Frame, coefficients: Tensor, degree: int) -> Tensor:
        """Derivatives of the potential at the sites [n, count_indices(degree)], float64.

        Cartesian coefficients are those of the sites, up to a degree no higher.
        """
        number = count_indices(degree)
        turned = self.algebra.turned(coefficients)
        found = frame.positions.new_empty([frame.positions.shape[0], number])
        chunk = self._chunk(frame)
        for start in range(0, frame.positions.shape[0], chunk):
            derivatives, _, nearest, _ = self._pairs(frame, start, start + chunk, 2 * degree)
            derivatives = derivatives + nearest
            found[start : start + chunk] = self.algebra.potential(derivatives, turned, number)
        return found

    def pulls(self, frame: Frame, sites: Tensor, coefficients: Tensor, degree: int) -> Pulls:
        """Derivatives of the energy of coefficients, up to a degree, of the sites with others."""
        turned = self.algebra.turned(coefficients)
        gradient, strain = torch.zeros_like(frame.positions), torch.zeros_like(frame.cell)
        chunk = self._chunk(frame)
        for start in range(0, frame.positions.shape[0], chunk):
            end = start + chunk
            within, r, nearest, d = self._pairs(frame, start, end, 2 * degree + 1)
            along_r = self.algebra.pulls(within, sites[start:end], turned, 2 * degree)
            along_d = self.algebra.pulls(nearest, sites[start:end], turned, 2 * degree)
            strain = strain + along_r.flatten(1) @ r.flatten(1).t()
            strain = strain + along_d.flatten(1) @ d.flatten(1).t()
            pull = along_r + along_d
            gradient[start:end] += pull.sum(dim=2).t()
            gradient = gradient - pull.sum(dim=1).t()
        return Pulls(gradient, torch.zeros_like(frame.mm_positions), strain)

    def _chunk(self, frame: Frame) -> int:
        return max(1, self.pairs_per_chunk // max(1, frame.positions.shape[0]))

    def _pairs(
        self, frame: Frame, start: int, end: int, degree: int
    ) -> Tuple[Tensor, Tensor, Tensor, Tensor]:
        """Derivatives and components of separations: as they are, and of nearest images."""
        separations = frame.positions[start:end, None] - frame.positions
        turns = torch.round(separations @ frame.inverse)
        apart = turns.abs().sum(dim=2) > 0
        r = separations.permute(2, 0, 1)
        d = (separations - turns @ frame.cell).permute(2, 0, 1)

        r2 = (r * r).sum(dim=0)
        one = torch.ones_like(r2)
        bare = inverse_ladder(torch.where(apart, r2, one), degree)
        image_r = torch.sqrt(torch.where(apart, (d * d).sum(dim=0), one))
        image = erfc_ladder(image_r, frame.splitting, degree)
        within: List[Tensor] = []
        nearest: List[Tensor] = []
        for m, smooth in enumerate(erf_ladder(r2, frame.splitting, degree)):
            within.append(-torch.where(apart, bare[m], smooth))
            nearest.append(torch.where(apart, image[m], torch.zeros_like(r2)))
        return (
            self.algebra.derivatives(within, r),
            r,
            self.algebra.derivatives(nearest, d),
            d,
        )
