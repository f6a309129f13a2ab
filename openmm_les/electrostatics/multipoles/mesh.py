"""Periodic multipoles on a mesh, for large systems."""

from collections.abc import Sequence
from typing import Tuple

import numpy as np
import torch
from torch import Tensor, nn

from openmm_les.electrostatics.cell import inverse_and_volume
from openmm_les.electrostatics.kernel import ReciprocalKernel
from openmm_les.electrostatics.mesh import MeshEwald
from openmm_les.electrostatics.multipoles.geometry import Geometry
from openmm_les.electrostatics.multipoles.moments import (
    in_cube,
    multi_indices,
    places_in_cube,
)


class MeshMultipoles(MeshEwald):
    r"""The structure factors of `DirectMultipoles` from a mesh.

    A multipole is spread with derivatives of the window that spreads a charge, and derivatives of
    the potential are gathered with them; all else is as in `MeshEwald`. Coefficients are those of
    `MomentAlgebra` in mesh points.
    """

    def __init__(
        self,
        mesh: Sequence[int],
        kernel: ReciprocalKernel,
        *,
        order: int,
        spacing: float,
        dtype: torch.dtype,
        flat_edge: bool = True,
        chunk_size: int | None = None,
    ) -> None:
        """See `MeshEwald`."""
        super().__init__(
            mesh,
            kernel,
            order=order,
            spacing=spacing,
            dtype=dtype,
            flat_edge=flat_edge,
            chunk_size=chunk_size,
        )
        polynomials = self.window.to(torch.float64).numpy()
        stack = [polynomials]
        for _ in range(3):
            slope = 2.0 * stack[-1][1:] * np.arange(1, len(stack[-1]))[:, None]
            stack.append(np.vstack([slope, np.zeros_like(slope[:1])]))
        self.windows = nn.Buffer(torch.from_numpy(np.stack(stack, axis=2)).to(dtype))
        self.indices = nn.Buffer(torch.tensor(multi_indices(3)))
        #: The inverse of the window's transform; `deconvolution` is that of its square.
        self.correction = nn.Buffer(torch.sqrt(self.deconvolution))

    def prepare(self, positions: Tensor, cell: Tensor) -> Geometry:
        """Places in mesh points, wrapped into the cell; vectors and their weights."""
        inverse, volume = inverse_and_volume(cell)
        k, weights, slopes = self.kernel(self.grid, inverse, volume)
        fractional = positions.to(torch.float64) @ inverse
        places = (fractional - torch.floor(fractional)) * self.mesh
        outgrown = self._is_too_coarse(cell)
        return Geometry(inverse * self.mesh, places, k, weights, slopes, outgrown)

    def sources(self, coefficients: Tensor, geometry: Geometry, degree: int) -> Tensor:
        """Real and imaginary part of S [2, m], from coefficients [n, count_indices(degree)]."""
        n, size = coefficients.shape[0], degree + 1
        cube = in_cube(coefficients * self.scale, self.indices, degree)
        dtype = torch.float64 if self.fixed_point else self.dtype
        density = torch.zeros(
            [self.size0, self.size1, self.size2], dtype=dtype, device=coefficients.device
        )
        for start in range(0, n, self.chunk_size):
            lowest, windows = self._windows(geometry.places[start : start + self.chunk_size], size)
            x, y, z = windows.unbind(1)  # [n, P, size] each
            lines = torch.bmm(cube[start : start + self.chunk_size], y.transpose(1, 2))
            lines = lines.view(x.shape[0], size, size, -1)
            planes = torch.matmul(x.unsqueeze(1), lines).flatten(2)  # [n, z, x y]
            cloud = torch.bmm(planes.transpose(1, 2), z.transpose(1, 2)).flatten()
            if self.fixed_point:
                cloud = torch.round(cloud).to(torch.float64)
            density.view(-1).scatter_add_(0, self._stencil(lowest), cloud)
        transformed = torch.fft.rfftn((density * (1.0 / self.scale)).to(self.dtype)).contiguous()
        factors = torch.view_as_real(transformed.flatten().index_select(0, self.modes))
        return factors.t() * self.correction.to(self.dtype)

    def derivatives(self, sources: Tensor, geometry: Geometry, degree: int) -> Tensor:
        """Derivatives of the potential at the sites [n, count_indices(degree)], from S [2, m]."""
        factor = (2.0 * geometry.weights * self.correction).to(self.dtype)
        # The inverse transform adds what belongs to -k by itself.
        response = torch.zeros(
            [self.size0 * self.size1 * (self.size2 // 2 + 1), 2],
            dtype=self.dtype,
            device=sources.device,
        )
        response.index_copy_(0, self.modes, (sources * factor).t())
        potential = torch.fft.irfftn(
            torch.view_as_complex(response).view(self.size0, self.size1, -1),
            s=[self.size0, self.size1, self.size2],
            norm="forward",
        ).flatten()
        places = places_in_cube(self.indices, degree)
        # Written in place, as in `StructureFactors`.
        number, size, p = geometry.places.shape[0], degree + 1, self.order
        found = sources.new_empty([number, places.shape[0]])
        for start in range(0, number, self.chunk_size):
            lowest, windows = self._windows(geometry.places[start : start + self.chunk_size], size)
            x, y, z = windows.unbind(1)
            n = x.shape[0]
            values = potential.index_select(0, self._stencil(lowest))
            # The longest rows go first, as in `MeshEwald`.
            planes = torch.bmm(x.transpose(1, 2), values.view(n, p, p * p))
            planes = planes.view(n, size, p, p).transpose(1, 2).reshape(n, p, size * p)
            lines = torch.bmm(y.transpose(1, 2), planes).view(n, size * size, p)
            cube = torch.bmm(lines, z).view(n, size, size, size).transpose(1, 2)
            found[start : start + n] = cube.reshape(n, -1).index_select(1, places)
        return found

    def _windows(self, places: Tensor, size: int) -> Tuple[Tensor, Tensor]:
        """Mesh point of each site [n, 3], and the window's `size` derivatives [n, 3, P, size].

        Split into mesh point and remainder in float64, then rounded.
        """
        points = torch.floor(places + self.shift)
        remainder = (2.0 * (places + self.shift - points) - 1.0).to(self.dtype)
        powers = [torch.ones_like(remainder)]
        for _ in range(self.windows.shape[0] - 1):
            powers.append(powers[-1] * remainder)
        windows = torch.stack(powers, dim=2) @ self.windows[:, :, :size].flatten(1)
        return points.to(torch.int64), windows.view(-1, 3, self.order, size)
