"""The periodic LES energy as an exact sum over reciprocal vectors, for small and medium systems."""

import math
from collections.abc import Sequence

import torch
from torch import nn

from openmm_les.electrostatics.cell import check_chunk_size, inverse_and_volume, largest_indices
from openmm_les.electrostatics.kernel import ReciprocalKernel, strain_derivative
from openmm_les.errors import InputError

_ELEMENTS_PER_CHUNK = 2**19
"""Size that the largest temporary array is kept to when no chunk size is given."""

_SIGN_PAIRS = ((1, 1), (1, -1), (-1, 1), (-1, -1))
"""Signs of (n1, n2); n0 is never negative, since k and -k contribute alike."""


def k_limits_for(cell: torch.Tensor, k_max: float, margin: float = 1.0) -> list[int]:
    """Integer bounds with which `DirectEwald` serves a cell.

    Args:
        cell: lattice vectors in rows [A], shape [3, 3].
        k_max: radius beyond which no vector has a weight, `ReciprocalKernel.k_max` [1/A].
        margin: factor by which each lattice vector may grow before the bounds are outgrown.

    Returns:
        The largest integer coordinate along each of the three axes.
    """
    return [int(n) for n in largest_indices(cell * margin, k_max).tolist()]


class DirectEwald(nn.Module):
    r"""Sum over all reciprocal vectors inside a hard spherical cutoff.

    .. math::
        E = \frac{c}{V} \sum_{0 < |k| \le 2\pi/dl} \frac{e^{-\sigma^2 k^2/2}}{k^2}
            \Big|\sum_i q_i e^{i k \cdot r_i}\Big|^2
            - \Big[\frac{c}{\sigma (2\pi)^{3/2}} \sum_i q_i^2\Big]

    with the bracket only where the model removes the self-interaction (Cheng, npj Comput. Mater.
    11, 80 (2025); King et al., Nat. Commun. 16, 8763 (2025)). Charges are not
    neutralised: a net charge is answered by the background that dropping k = 0 implies.

    The cutoff is part of a trained model, so the set of vectors inside it is taken anew for every
    box, in float64 whatever the dtype. Arrays have static shapes, sized by ``k_limits``; a box that
    needs more is reported, never truncated. As a box changes, the energy jumps where a vector
    crosses the cutoff; the derivatives are those between jumps.

    The exponential factorises over the three axes, which turns the sum over atoms into one real
    matrix product ``T = A^T B`` (A: charge x cos|sin along axes 0 and 1, B: cos|sin along axis 2,
    non-negative integers only). A constant 8x8 matrix of signs makes the structure factors of
    ``(n0, +-n1, +-n2)`` from T, in any triclinic cell. The way back is the transpose of each step.
    Its precision in float32 relies on true float32 products: leave TF32 off, as torch does.
    """

    grid: torch.Tensor
    multiplicity: torch.Tensor
    limits: torch.Tensor
    harmonic: torch.Tensor
    axis: torch.Tensor
    signs: torch.Tensor

    def __init__(
        self,
        k_limits: Sequence[int],
        kernel: ReciprocalKernel,
        *,
        dtype: torch.dtype,
        chunk_size: int | None = None,
    ) -> None:
        """Set up the static grid of integers.

        Args:
            k_limits: largest integer coordinate along each axis, see `k_limits_for`. Larger ones
                than a box needs cost time and change nothing.
            kernel: the interaction.
            dtype: precision of the sums over atoms.
            chunk_size: atoms worked on at a time; by default, so many that memory stays within some
                tens of MB, which suits a CPU's cache too. Larger ones mean fewer kernels on a GPU.
                Changes the result by rounding only.

        Raises:
            InputError: if a parameter is out of range.
        """
        super().__init__()
        if len(k_limits) != 3 or min(k_limits) < 0:
            raise InputError(f"k_limits: expected 3 integers >= 0, got {list(k_limits)}")
        check_chunk_size(chunk_size)
        self.kernel = kernel
        self.dtype = dtype
        self.size0, self.size1, self.size2 = (int(n) + 1 for n in k_limits)
        per_atom = 8 * self.size0 * self.size1
        self.chunk_size = chunk_size or max(1, _ELEMENTS_PER_CHUNK // per_atom)

        sizes = (self.size0, self.size1, self.size2)
        # Grids are integers, so that Module.float() cannot round them.
        axes = [torch.arange(n) for n in sizes]
        self.register_buffer("limits", torch.tensor(sizes) - 1)
        self.register_buffer("harmonic", torch.cat(axes))
        self.register_buffer("axis", torch.repeat_interleave(torch.arange(3), torch.tensor(sizes)))
        octant = torch.cartesian_prod(*axes)
        octants = [octant * torch.tensor((1, *signs)) for signs in _SIGN_PAIRS]
        self.register_buffer("grid", torch.cat(octants))
        # k and -k are one term of the half space n0 >= 0 and count twice, but the plane n0 = 0
        # holds both; n1 = 0 and n2 = 0 appear once for each sign.
        on_plane = torch.tensor([1.0, 0.5, 0.5], dtype=torch.float64)
        off_plane = torch.tensor([2.0, 1.0, 1.0], dtype=torch.float64)
        counts = torch.where(self.grid == 0, on_plane, off_plane).prod(dim=1)
        self.register_buffer("multiplicity", counts)
        self.register_buffer("signs", _sign_matrix().to(dtype))

    def forward(
        self, charges: torch.Tensor, positions: torch.Tensor, cell: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Energy and its first derivatives, outside the autograd graph.

        Args:
            charges: latent charges [e], shape [n].
            positions: coordinates [A], float64, shape [n, 3]; atoms may lie outside the cell.
            cell: lattice vectors in rows [A], float64, shape [3, 3]. The sum does not depend on the
                handedness of the cell.

        Returns:
            A tuple of

            - the energy [eV], float64, shape []; NaN if the box has outgrown the grid,
            - dE/dq at fixed positions [eV/e], shape [n],
            - dE/dr at fixed charges [eV/A], shape [n, 3],
            - dE/dstrain at fixed charges and fractional coordinates [eV], float64, shape [3, 3],
            - whether the box has outgrown the grid (true also if the cell is NaN), bool, shape [].
        """
        with torch.no_grad():
            charges = charges.to(self.dtype)
            inverse, volume = inverse_and_volume(cell)
            k, weights, slopes = self.kernel(self.grid, inverse, volume)
            fractional = positions.to(torch.float64) @ inverse
            fractional = fractional - torch.round(fractional)

            factors = self._structure_factors(charges, fractional)
            power = (factors.to(torch.float64) ** 2).sum(dim=0) * self.multiplicity
            energy = (weights * power).sum()
            strain = strain_derivative(k, slopes, power, energy)

            response = (2.0 * weights * self.multiplicity).to(self.dtype) * factors
            potential, gradient = self._pull_back(response, fractional)
            gradient = charges[:, None] * (gradient @ inverse.t().to(self.dtype))

            energy = energy - self.kernel.self_energy * (charges.to(torch.float64) ** 2).sum()
            potential = potential - 2.0 * self.kernel.self_energy * charges
            outgrown = torch.logical_not(
                (largest_indices(cell, self.kernel.k_max) <= self.limits).all()
            )
            energy = torch.where(outgrown, torch.full_like(energy, float("nan")), energy)
            return energy, potential, gradient, strain, outgrown

    def _phases(self, fractional: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """cos|sin of 2 pi n s and their slopes along s, for each of the three axes.

        Angles are reduced to half a turn in float64, before they are rounded to the model's dtype.

        Returns:
            For each axis an array [n, 2 (value | slope), 2 (cos | sin) * size of the axis].
        """
        turns = fractional.index_select(1, self.axis) * self.harmonic
        angles = ((turns - torch.round(turns)) * (2.0 * math.pi)).to(self.dtype)
        frequency = (2.0 * math.pi) * self.harmonic.to(self.dtype)
        cos, sin = torch.cos(angles), torch.sin(angles)
        pairs = torch.stack([cos, sin, -sin * frequency, cos * frequency], dim=1)
        x, y, z = torch.split(pairs, [self.size0, self.size1, self.size2], dim=2)
        n = fractional.shape[0]
        return x.reshape(n, 2, -1), y.reshape(n, 2, -1), z.reshape(n, 2, -1)

    def _structure_factors(self, charges: torch.Tensor, fractional: torch.Tensor) -> torch.Tensor:
        """Real and imaginary part of sum_i q_i exp(i k . r_i), shape [2, m]."""
        n = charges.shape[0]
        products = charges.new_zeros([4 * self.size0 * self.size1, 2 * self.size2])
        for start in range(0, n, self.chunk_size):
            x, y, z = self._phases(fractional[start : start + self.chunk_size])
            charged = x[:, 0] * charges[start : start + self.chunk_size, None]
            plane = (charged[:, :, None] * y[:, 0, None, :]).flatten(1)
            products = torch.addmm(products, plane.t(), z[:, 0])
        products = products.view(2, self.size0, 2, self.size1, 2, self.size2)
        products = products.permute(0, 2, 4, 1, 3, 5).reshape(8, -1)
        return (self.signs @ products).view(2, -1)

    def _pull_back(
        self, response: torch.Tensor, fractional: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """From dE/d(structure factors) [2, m] to dE/dq [n] and dE/d(fractional) / q [n, 3]."""
        products = self.signs.t() @ response.view(8, -1)
        products = products.view(2, 2, 2, self.size0, self.size1, self.size2)
        products = products.permute(2, 5, 0, 3, 1, 4).reshape(2 * self.size2, -1)
        # Written in place: a list of small results would pin the freed blocks of large temporary
        # arrays, and the heap would grow with every chunk.
        potential = response.new_empty([fractional.shape[0]])
        gradient = response.new_empty([fractional.shape[0], 3])
        for start in range(0, fractional.shape[0], self.chunk_size):
            end = start + self.chunk_size
            x, y, z = self._phases(fractional[start:end])
            n = x.shape[0]
            planes = (z.reshape(2 * n, -1) @ products).view(n, 4 * self.size0, 2 * self.size1)
            lines = torch.bmm(planes, y.transpose(1, 2)).view(n, 2, 2 * self.size0, 2)
            # [n, z, x, y], 0 for the value and 1 for the slope along that axis
            corners = torch.matmul(x[:, None], lines)
            potential[start:end] = corners[:, 0, 0, 0]
            slopes = [corners[:, 0, 1, 0], corners[:, 0, 0, 1], corners[:, 1, 0, 0]]
            gradient[start:end] = torch.stack(slopes, dim=1)
        return potential, gradient


def _sign_matrix() -> torch.Tensor:
    """Matrix [8, 8] from products of cos|sin to structure factors.

    ``exp(i (n0 u + s1 n1 v + s2 n2 w))`` is the product of three factors cos + i s sin. Column
    4 a + 2 b + c stands for the product with sin (1) or cos (0) along the three axes; rows 0-3 are
    the real parts for `_SIGN_PAIRS`, rows 4-7 the imaginary ones.
    """
    matrix = torch.zeros(8, 8, dtype=torch.float64)
    for row, (s1, s2) in enumerate(_SIGN_PAIRS):
        for column in range(8):
            a, b, c = column >> 2, column >> 1 & 1, column & 1
            value = 1j ** (a + b + c) * s1**b * s2**c
            matrix[row, column] = value.real
            matrix[row + 4, column] = value.imag
    return matrix
