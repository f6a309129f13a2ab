"""Structure factors of multipoles, factorised over the axes of the cell."""

import math
from collections.abc import Sequence
from typing import Optional, Tuple

import torch
from torch import Tensor, nn

from openmm_les.electrostatics.multipoles.geometry import Geometry
from openmm_les.electrostatics.multipoles.moments import (
    in_cube,
    multi_indices,
    places_in_cube,
)
from openmm_les.electrostatics.multipoles.recursion import HIGHEST
from openmm_les.electrostatics.structure_factors import StructureFactors

#: Planes of phases that are in memory at a time for each atom, in place of one.
_PLANES = 4


class MultipoleFactors(StructureFactors):
    r"""Structure factors ``S(k) = sum_i (q_i + i k.u_i - k.Q_i.k / 2) exp(i k . r_i)``.

    A derivative of the exponential along an axis of the cell is one of a single factor, so S stays
    a sum of products of three: there is one matrix product for each order of the derivative along
    axis 2, where charges have one in all. Coefficients (see `MomentAlgebra`) are for fractional
    coordinates, the places of a `Geometry`, whose weights are those of the vectors in ``|S|^2``.
    """

    def __init__(
        self, k_limits: Sequence[int], *, dtype: torch.dtype, chunk_size: int | None = None
    ) -> None:
        """See `StructureFactors`; the larger arrays are those of fewer atoms at a time."""
        super().__init__(k_limits, dtype=dtype, chunk_size=chunk_size)
        self.chunk_size = max(1, self.chunk_size // _PLANES)
        self.indices = nn.Buffer(torch.tensor(multi_indices(HIGHEST)))

    def sources(self, coefficients: Tensor, geometry: Geometry, degree: int) -> Tensor:
        """Real and imaginary part of S [2, m], from coefficients [n, count_indices(degree)]."""
        return self.moment_sums(coefficients, geometry.places, degree)

    def derivatives(self, sources: Tensor, geometry: Geometry, degree: int) -> Tensor:
        """Derivatives of the potential at the sites [n, count_indices(degree)], from S [2, m]."""
        response = (2.0 * geometry.weights * self.multiplicity).to(self.dtype) * sources
        return self.moment_pull_back(response, geometry.places, degree)

    def moment_sums(
        self,
        coefficients: Tensor,
        fractional: Tensor,
        degree: int,
        phases: Optional[Tuple[Tensor, Tensor, Tensor]] = None,
    ) -> Tensor:
        """S [2, m] of coefficients [n, count_indices(degree)] at fractional coordinates [n, 3].

        Phases are those of `phases` where they are known; else they are computed chunk by chunk.
        """
        n, size = coefficients.shape[0], degree + 1
        cube = in_cube(coefficients, self.indices, degree)
        products = coefficients.new_zeros([4 * self.size0 * self.size1, 2 * self.size2])
        for start in range(0, n, self.chunk_size):
            x, y, z = self._derivatives(fractional, phases, start, size)
            lines = torch.bmm(cube[start : start + self.chunk_size], y)
            lines = lines.view(x.shape[0], size, size, -1)
            if size == 1:
                planes = x.unsqueeze(3) * lines  # several times as fast as products of size 1
            else:
                planes = torch.matmul(x.transpose(1, 2).unsqueeze(1), lines)
            products = torch.addmm(products, planes.flatten(2).flatten(0, 1).t(), z.flatten(0, 1))
        products = products.view(2, self.size0, 2, self.size1, 2, self.size2)
        products = products.permute(0, 2, 4, 1, 3, 5).reshape(8, -1)
        return (self.signs @ products).view(2, -1)

    def moment_pull_back(
        self,
        response: Tensor,
        fractional: Tensor,
        degree: int,
        phases: Optional[Tuple[Tensor, Tensor, Tensor]] = None,
    ) -> Tensor:
        """The transpose of `moment_sums`: from [2, m] to [n, count_indices(degree)]."""
        products = (self.signs.t() @ response.view(8, -1)).view(
            2, 2, 2, self.size0, self.size1, self.size2
        )
        products = products.permute(2, 5, 0, 3, 1, 4).reshape(2 * self.size2, -1)
        places = places_in_cube(self.indices, degree)
        # Written in place, as in `StructureFactors`.
        number, size = fractional.shape[0], degree + 1
        found = response.new_empty([number, places.shape[0]])
        for start in range(0, number, self.chunk_size):
            x, y, z = self._derivatives(fractional, phases, start, size)
            n = x.shape[0]
            planes = (z.flatten(0, 1) @ products).view(n, size * 2 * self.size0, 2 * self.size1)
            lines = torch.bmm(planes, y.transpose(1, 2)).view(n, size, 2 * self.size0, size)
            corners = torch.matmul(x.unsqueeze(1), lines)  # [n, z, x, y]
            cube = corners.permute(0, 2, 3, 1).reshape(n, -1)
            found[start : start + n] = cube.index_select(1, places)
        return found

    def _derivatives(
        self,
        fractional: Tensor,
        phases: Optional[Tuple[Tensor, Tensor, Tensor]],
        start: int,
        size: int,
    ) -> Tuple[Tensor, Tensor, Tensor]:
        """cos|sin of 2 pi n s for each axis and their first `size` - 1 derivatives by s.

        Each is [n, size, 2 (cos | sin) * size of the axis], for the chunk of sites from `start` on.
        """
        end = start + self.chunk_size
        if phases is None:
            x, y, z = self.phases(fractional[start:end])
        else:
            x, y, z = phases[0][start:end], phases[1][start:end], phases[2][start:end]
        frequency = (2.0 * math.pi) * self.harmonic.to(self.dtype)
        ratio = -(frequency * frequency)
        x_ratio, y_ratio, z_ratio = torch.split(ratio, [self.size0, self.size1, self.size2])
        return _higher(x, x_ratio, size), _higher(y, y_ratio, size), _higher(z, z_ratio, size)


def _higher(pairs: Tensor, ratio: Tensor, size: int) -> Tensor:
    """Value and slope [n, 2, 2 m] of waves continued to `size` derivatives."""
    orders, ratios = [pairs], torch.cat([ratio, ratio])
    while 2 * len(orders) < size:
        orders.append(orders[-1] * ratios)
    return torch.cat(orders, dim=1)[:, :size]
