"""The periodic LES energy on a mesh, for large systems: the sum of `DirectEwald` in O(N log N)."""

import math
from collections.abc import Sequence
from typing import List, Tuple

import numpy as np
import torch
from torch import Tensor, nn

from openmm_les.arrays import FloatArray
from openmm_les.electrostatics.cell import check_chunk_size, inverse_and_volume
from openmm_les.electrostatics.kernel import ReciprocalKernel, strain_derivative
from openmm_les.electrostatics.protocol import ElectrostaticTerms
from openmm_les.electrostatics.window import fourier_transform, window_coefficients
from openmm_les.errors import InputError

#: Mesh points processed at a time when no chunk size is given: fits a CPU's cache.
_ELEMENTS_PER_CHUNK = 2**17
#: Binary digits behind the point of a fixed-point charge. Whole numbers below 2^53 are exact in
#: float64, which leaves 9 digits or more for the whole charges at a mesh point.
_FIXED_POINT_BITS = {torch.float32: 32, torch.float64: 44}


def mesh_size_for(cell: Tensor, spacing: float, margin: float = 1.0) -> List[int]:
    """Mesh of a cell [3, 3] [A]: even numbers without prime factors above 7.

    Points are at most `spacing` [A] apart, also when each lattice vector grows by the factor
    `margin`.
    """
    lengths = torch.sqrt((cell.to(torch.float64) ** 2).sum(dim=1)) * (margin / spacing)
    return [_next_smooth(math.ceil(float(length))) for length in lengths]


def _next_smooth(number: int) -> int:
    """The smallest even number >= `number` whose prime factors are 2, 3, 5 and 7, and at least 6.

    In a cell so small that all its vectors lie close to the cutoff, fewer points would leave only
    the waves that a window resolves worst.
    """
    number = max(6, number + number % 2)
    while True:
        rest = number
        for prime in (2, 3, 5, 7):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return number
        number += 2


class MeshEwald(nn.Module):
    r"""The sum of `DirectEwald` over the same vectors, with structure factors from a mesh.

    Charges are spread over the mesh with a window W, transformed, weighted and transformed back;
    the potential is gathered with the same window (Hockney and Eastwood, Computer Simulation Using
    Particles, chapter 8; Lindbo and Tornberg, J. Comput. Phys. 230, 8744 (2011)). Since the LES
    kernel ends at a cutoff, nothing is truncated; what remains is the aliasing of the window,

    .. math::
        E = \sum_{0 < |k| \le k_c} w(k) \frac{|\hat\rho(n)|^2}{\prod_d \hat W(n_d / K_d)^2},

    which falls exponentially with the order of the window. One transform pair yields the energy and
    all its first derivatives. They are the exact derivatives of the energy on the mesh, so that
    dynamics conserves energy even where the mesh is coarse.

    The window's transform depends on n/K alone: buffers are static while the box changes. A box
    whose mesh has become coarser than ``spacing`` is reported, never computed inaccurately.
    """

    def __init__(
        self,
        mesh: Sequence[int],
        kernel: ReciprocalKernel,
        *,
        order: int,
        spacing: float,
        dtype: torch.dtype,
        fixed_point: bool = True,
        flat_edge: bool = False,
        chunk_size: int | None = None,
    ) -> None:
        """Set up the mesh.

        Args:
            mesh: number of points along each lattice vector, see `mesh_size_for`.
            kernel: the interaction.
            order: points that the window covers along each axis, 4 to 10.
            spacing: the largest distance between mesh points [A] that is accurate enough.
            dtype: precision of the mesh and the sums over atoms.
            fixed_point: add charges as whole numbers, in float64, where that is exact. The sum then
                does not depend on the order: results are the same bit for bit however many threads
                add at once.
            flat_edge: see `window_coefficients`.
            chunk_size: see `StructureFactors`.
        """
        super().__init__()
        if len(mesh) != 3 or min(mesh) < 2:
            raise InputError(f"mesh: expected 3 integers >= 2, got {list(mesh)}")
        check_chunk_size(chunk_size)
        self.kernel = kernel
        self.order = order
        self.spacing = spacing
        self.dtype = dtype
        self.fixed_point = fixed_point
        self.scale = 2.0 ** _FIXED_POINT_BITS[dtype] if fixed_point else 1.0
        self.chunk_size = chunk_size or max(1, _ELEMENTS_PER_CHUNK // order**3)
        self.size0, self.size1, self.size2 = (int(n) for n in mesh)

        coefficients = window_coefficients(order, spacing / kernel.resolution, flat_edge=flat_edge)
        derivative = 2.0 * coefficients[1:] * np.arange(1, len(coefficients))[:, None]
        self.window = nn.Buffer(torch.from_numpy(coefficients).to(dtype))
        self.slope = nn.Buffer(torch.from_numpy(derivative).to(dtype))
        # An even window is placed between two points, an odd one around the nearest.
        self.shift = 0.5 * (order % 2)
        self.offsets = nn.Buffer(torch.arange(order) - (order - 1) // 2)
        self.mesh = nn.Buffer(torch.tensor([self.size0, self.size1, self.size2]))

        self._register_vectors(mesh, coefficients)

    def _register_vectors(self, mesh: Sequence[int], coefficients: FloatArray) -> None:
        """Integers of the real transform that the largest box can need, and their factors."""
        axes = [np.rint(np.fft.fftfreq(n, 1.0 / n)) for n in mesh[:2]]
        axes.append(np.arange(mesh[2] // 2 + 1.0))
        resolution = self.kernel.resolution
        longest = [min(n * self.spacing / resolution, self.kernel.n_max) for n in mesh]
        needed = [abs(a) <= n for a, n in zip(axes, longest, strict=True)]
        inside = needed[0][:, None, None] & needed[1][:, None] & needed[2]
        self.modes = nn.Buffer(torch.from_numpy(np.flatnonzero(inside)))
        chosen = [torch.from_numpy(a[x].astype(int)) for a, x in zip(axes, needed, strict=True)]
        self.grid = nn.Buffer(torch.cartesian_prod(*chosen))
        factors = [
            1.0 / fourier_transform(coefficients, a[x] / n) ** 2
            for a, x, n in zip(axes, needed, mesh, strict=True)
        ]
        product = factors[0][:, None, None] * factors[1][:, None] * factors[2]
        self.deconvolution = nn.Buffer(torch.from_numpy(product.reshape(-1)))
        # k and -k are one number of a real transform.
        self.multiplicity = nn.Buffer(1.0 + (self.grid[:, 2] > 0).to(torch.float64))

    def forward(self, charges: Tensor, positions: Tensor, cell: Tensor) -> ElectrostaticTerms:
        """See `ElectrostaticKernel`."""
        with torch.no_grad():
            charges = charges.to(self.dtype)
            inverse, volume = inverse_and_volume(cell)
            k, weights, slopes = self.kernel(self.grid, inverse, volume)
            # Wrapped and split into mesh point and remainder in float64, then rounded.
            fractional = positions.to(torch.float64) @ inverse
            scaled = (fractional - torch.floor(fractional)) * self.mesh
            points = torch.floor(scaled + self.shift)
            remainder = (2.0 * (scaled + self.shift - points) - 1.0).to(self.dtype)
            lowest = points.to(torch.int64)

            window, slope = self._window(remainder)

            rows = charges.view(-1, charges.shape[-1])
            density = self._spread(rows, lowest, window)
            transformed = torch.fft.rfftn(density, dim=[1, 2, 3]).contiguous()
            flat = torch.unbind(transformed.flatten(1))
            factors = [values.index_select(0, self.modes) for values in flat]
            parts = torch.view_as_real(torch.stack(factors)).to(torch.float64)
            weights = weights * self.deconvolution
            power = (parts * parts).sum(dim=[0, 2]) * self.multiplicity
            energy = (weights * power).sum()
            strain = strain_derivative(k, slopes * self.deconvolution, power, energy)

            # The inverse transform adds what belongs to -k by itself.
            response = torch.zeros_like(transformed)
            factor = (2.0 * weights).to(self.dtype)
            for i, values in enumerate(factors):
                response[i].view(-1).index_copy_(0, self.modes, values * factor)
            potential_mesh = torch.fft.irfftn(
                response,
                s=[self.size0, self.size1, self.size2],
                dim=[1, 2, 3],
                norm="forward",
            )
            potential, gradient = self._gather(
                potential_mesh, rows, lowest, torch.stack([window, slope], dim=3)
            )
            potential = potential.view_as(charges)
            gradient = gradient @ (inverse * self.mesh).t().to(self.dtype)

            energy = energy - self.kernel.self_energy * (charges.to(torch.float64) ** 2).sum()
            potential = potential - 2.0 * self.kernel.self_energy * charges
            outgrown = self._is_too_coarse(cell)
            energy = torch.where(outgrown, torch.full_like(energy, float("nan")), energy)
            return ElectrostaticTerms(energy, potential, gradient, strain, outgrown)

    def _is_too_coarse(self, cell: Tensor) -> Tensor:
        """Whether the mesh is, for a box, bool, []."""
        lengths = torch.sqrt((cell.to(torch.float64) ** 2).sum(dim=1))
        # The slack is for a box that was made to fit exactly.
        limit = self.mesh * (self.spacing * (1.0 + 1e-6))
        return torch.logical_not((lengths <= limit).all())

    def _stencil(self, lowest: Tensor) -> Tensor:
        """Flat indices of the mesh points under the windows of n atoms, shape [n * P^3]."""
        points = torch.remainder(lowest[:, :, None] + self.offsets, self.mesh[:, None])
        rows = points[:, 0, :, None] * self.size1 + points[:, 1, None, :]
        return (rows[:, :, :, None] * self.size2 + points[:, 2, None, None, :]).flatten()

    def _window(self, remainder: Tensor) -> Tuple[Tensor, Tensor]:
        """Window and its slope at the mesh points covered, shape [n, 3, P] each."""
        powers = [torch.ones_like(remainder)]
        for _ in range(self.order + 3):
            powers.append(powers[-1] * remainder)
        stacked = torch.stack(powers, dim=2)
        return stacked @ self.window, stacked[:, :, :-1] @ self.slope

    def _spread(self, charges: Tensor, lowest: Tensor, window: Tensor) -> Tensor:
        """Charges on the mesh [e], [c, K_x, K_y, K_z], from those of the atoms, [c, n].

        The window is that at the points covered, [n, 3, P].
        """
        dtype = torch.float64 if self.fixed_point else self.dtype
        size = [charges.shape[0], self.size0, self.size1, self.size2]
        density = torch.zeros(size, dtype=dtype, device=charges.device)
        charges = charges * self.scale
        for start in range(0, charges.shape[1], self.chunk_size):
            end = start + self.chunk_size
            w, stencil = window[start:end], self._stencil(lowest[start:end])
            for i in range(charges.shape[0]):
                plane = (charges[i, start:end, None] * w[:, 0])[:, :, None] * w[:, 1, None, :]
                cloud = (plane[:, :, :, None] * w[:, 2, None, None, :]).flatten()
                if self.fixed_point:
                    cloud = torch.round(cloud).to(torch.float64)
                density[i].view(-1).scatter_add_(0, stencil, cloud)
        return (density * (1.0 / self.scale)).to(self.dtype)

    def _gather(
        self, mesh: Tensor, charges: Tensor, lowest: Tensor, windows: Tensor
    ) -> Tuple[Tensor, Tensor]:
        """Potential [c, n] and slope of the energy along the mesh [n, 3], per mesh point.

        From the potential on the mesh, charges [c, n], the mesh point of each atom [n, 3], and
        window and slope at the points covered [n, 3, P, 2].
        """
        mesh = mesh.flatten(1)
        # Written in place, as in `DirectEwald`.
        potential = torch.empty_like(charges)
        gradient = mesh.new_zeros([lowest.shape[0], 3])
        for start in range(0, lowest.shape[0], self.chunk_size):
            end = start + self.chunk_size
            both, stencil = windows[start:end], self._stencil(lowest[start:end])
            n, p = both.shape[0], self.order
            for i in range(charges.shape[0]):
                values = mesh[i].index_select(0, stencil)
                # The longest rows go first: [n, P_x, P_y P_z], then [n, P_y, 2 P_z], then
                # [n, 4, P_z].
                planes = torch.bmm(both[:, 0].transpose(1, 2), values.view(n, p, p * p))
                planes = planes.view(n, 2, p, p).transpose(1, 2).reshape(n, p, 2 * p)
                lines = torch.bmm(both[:, 1].transpose(1, 2), planes).view(n, 4, p)
                # [n, y, x, z], 0 for the value and 1 for the slope along that axis
                corners = torch.bmm(lines, both[:, 2]).view(n, 2, 2, 2)
                potential[i, start:end] = corners[:, 0, 0, 0]
                slopes = [corners[:, 0, 1, 0], corners[:, 1, 0, 0], corners[:, 0, 0, 1]]
                gradient[start:end] += charges[i, start:end, None] * torch.stack(slopes, dim=1)
        return potential, gradient
