"""Periodic multipoles for any box without preparation, of the portable module."""

from typing import Tuple

import torch
from torch import Tensor, nn

from openmm_les.electrostatics.cell import inverse_and_volume
from openmm_les.electrostatics.dense import integers_within
from openmm_les.electrostatics.kernel import ReciprocalKernel
from openmm_les.electrostatics.multipoles.geometry import Geometry
from openmm_les.electrostatics.multipoles.moments import count_indices, multi_indices

#: Vectors processed at a time, to bound memory.
_CHUNK = 4096


class DenseMultipoles(nn.Module):
    """The sums of `DirectMultipoles` over vectors and sites as they stand, always in float64.

    Coefficients are for Cartesian coordinates. The vectors are found for each box, so that shapes
    depend on it; see `openmm_les.electrostatics.dense`.
    """

    def __init__(self, kernel: ReciprocalKernel) -> None:
        super().__init__()
        self.kernel = kernel
        self.n_max: int = kernel.n_max
        self.k_max: float = kernel.k_max
        self.indices = nn.Buffer(torch.tensor(multi_indices(3)))
        self.identity = nn.Buffer(torch.eye(3, dtype=torch.float64))
        #: Of each vector of the half space, with its opposite.
        self.multiplicity = nn.Buffer(torch.tensor(2.0, dtype=torch.float64))
        #: i^degree has the sign of its real or imaginary part in `even` or in `odd`.
        sign = torch.tensor([(1.0, 1.0, -1.0, -1.0)[sum(index)] for index in multi_indices(3)])
        is_even = torch.tensor([sum(index) % 2 == 0 for index in multi_indices(3)])
        self.even = nn.Buffer((sign * is_even).to(torch.float64))
        self.odd = nn.Buffer((sign * ~is_even).to(torch.float64))
        self.chunk = _CHUNK

    def prepare(self, positions: Tensor, cell: Tensor) -> Geometry:
        """Positions as they are, vectors within the cutoff and their weights."""
        inverse, volume = inverse_and_volume(cell)
        grid = integers_within(cell, self.k_max, self.n_max)
        grid = grid[grid.shape[0] // 2 + 1 :]
        k, weights, slopes = self.kernel(grid, inverse, volume)
        inside = weights > 0.0
        outgrown = torch.zeros([], dtype=torch.bool, device=cell.device)
        places = positions.to(torch.float64)
        return Geometry(self.identity, places, k[inside], weights[inside], slopes[inside], outgrown)

    def sources(self, coefficients: Tensor, geometry: Geometry, degree: int) -> Tensor:
        """Real and imaginary part of S [2, m], from coefficients [n, count_indices(degree)]."""
        number = count_indices(degree)
        parts = [geometry.k.new_zeros([2, 0])]
        for start in range(0, geometry.k.shape[0], self.chunk):
            cos, sin, monomials = self._waves(geometry, start, number)
            even = coefficients @ (monomials * self.even[:number]).t()
            odd = coefficients @ (monomials * self.odd[:number]).t()
            real, imaginary = even * cos - odd * sin, even * sin + odd * cos
            parts.append(torch.stack([real.sum(0), imaginary.sum(0)]))
        return torch.cat(parts, dim=1)

    def derivatives(self, sources: Tensor, geometry: Geometry, degree: int) -> Tensor:
        """Derivatives of the potential at the sites [n, count_indices(degree)], from S [2, m]."""
        number = count_indices(degree)
        response = 2.0 * geometry.weights * self.multiplicity * sources
        found = sources.new_zeros([geometry.places.shape[0], number])
        for start in range(0, geometry.k.shape[0], self.chunk):
            cos, sin, monomials = self._waves(geometry, start, number)
            real, imaginary = response[:, start : start + self.chunk].unbind(0)
            found = found + (real * cos + imaginary * sin) @ (monomials * self.even[:number])
            found = found + (imaginary * cos - real * sin) @ (monomials * self.odd[:number])
        return found

    def _waves(self, geometry: Geometry, start: int, number: int) -> Tuple[Tensor, Tensor, Tensor]:
        """Cosines and sines of k.r [n, c], and powers of k by multi-index [c, number]."""
        k = geometry.k[start : start + self.chunk]
        phases = geometry.places @ k.t()
        monomials = (k.unsqueeze(1) ** self.indices[:number]).prod(dim=2)
        return torch.cos(phases), torch.sin(phases), monomials
