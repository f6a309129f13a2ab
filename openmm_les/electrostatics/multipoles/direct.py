"""Periodic multipoles as an exact sum over reciprocal vectors."""

from collections.abc import Sequence

import torch
from torch import Tensor

from openmm_les.electrostatics.cell import inverse_and_volume
from openmm_les.electrostatics.kernel import ReciprocalKernel
from openmm_les.electrostatics.multipoles.factors import MultipoleFactors
from openmm_les.electrostatics.multipoles.geometry import Geometry


class DirectMultipoles(MultipoleFactors):
    """Multipoles with the vectors and weights of `DirectEwald`."""

    def __init__(
        self,
        k_limits: Sequence[int],
        kernel: ReciprocalKernel,
        *,
        dtype: torch.dtype,
        chunk_size: int | None = None,
    ) -> None:
        """See `DirectEwald`."""
        k_limits = [min(n, kernel.n_max) for n in k_limits]
        super().__init__(k_limits, dtype=dtype, chunk_size=chunk_size)
        self.kernel = kernel

    def prepare(self, positions: Tensor, cell: Tensor) -> Geometry:
        """Fractional coordinates within half a cell, vectors and their weights."""
        inverse, volume = inverse_and_volume(cell)
        k, weights, slopes = self.kernel(self.grid, inverse, volume)
        fractional = positions.to(torch.float64) @ inverse
        fractional = fractional - torch.round(fractional)
        outgrown = self.kernel.exceeds(self.limits, cell)
        return Geometry(inverse, fractional, k, weights, slopes, outgrown)
