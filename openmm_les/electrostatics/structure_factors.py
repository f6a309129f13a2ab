"""Structure factors of point charges, factorised over the axes of the cell."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from openmm_les.electrostatics.cell import check_chunk_size
from openmm_les.errors import InputError

#: Size that the largest temporary array is kept to when no chunk size is given.
_ELEMENTS_PER_CHUNK = 2**19
#: Signs of (n1, n2); n0 is never negative, since k and -k contribute alike.
_SIGN_PAIRS = ((1, 1), (1, -1), (-1, 1), (-1, -1))


class StructureFactors(nn.Module):
    r"""Sums over atoms ``S(k) = sum_i q_i exp(i k . r_i)``, and the way back to the atoms.

    The exponential factorises over the three axes, which turns the sum over atoms into one real
    matrix product ``T = A^T B`` (A: charge x cos|sin along axes 0 and 1, B: cos|sin along axis 2,
    non-negative integers only). A constant 8x8 matrix of signs makes the structure factors of
    ``(n0, +-n1, +-n2)`` from T, in any triclinic cell. The way back is the transpose of each step.
    Its precision in float32 relies on true float32 products: leave TF32 off, as torch does.

    The buffer `grid` holds the integer coordinates of the vectors of one half space [m, 3], and
    `multiplicity` how many vectors of the full space each stands for [m].
    """

    def __init__(
        self, k_limits: Sequence[int], *, dtype: torch.dtype, chunk_size: int | None = None
    ) -> None:
        """Set up the static grid of integers.

        Args:
            k_limits: largest integer coordinate along each axis.
            dtype: precision of the sums over atoms.
            chunk_size: atoms processed at a time; by default memory stays within some tens of MB,
                which suits a CPU's cache too. Larger chunks mean fewer kernels on a GPU. Changes
                the result by rounding only.
        """
        super().__init__()
        if len(k_limits) != 3 or min(k_limits) < 0:
            raise InputError(f"k_limits: expected 3 integers >= 0, got {list(k_limits)}")
        check_chunk_size(chunk_size)
        self.dtype = dtype
        self.size0, self.size1, self.size2 = (int(n) + 1 for n in k_limits)
        per_atom = 8 * self.size0 * self.size1
        self.chunk_size = chunk_size or max(1, _ELEMENTS_PER_CHUNK // per_atom)

        sizes = (self.size0, self.size1, self.size2)
        # Grids are integers, so that Module.float() cannot round them.
        axes = [torch.arange(n) for n in sizes]
        self.limits = nn.Buffer(torch.tensor(sizes) - 1)
        self.harmonic = nn.Buffer(torch.cat(axes))
        self.axis = nn.Buffer(torch.repeat_interleave(torch.arange(3), torch.tensor(sizes)))
        octant = torch.cartesian_prod(*axes)
        octants = [octant * torch.tensor((1, *signs)) for signs in _SIGN_PAIRS]
        self.grid = nn.Buffer(torch.cat(octants))
        # k and -k are one term of the half space n0 >= 0 and count twice, but the plane n0 = 0
        # holds both; n1 = 0 and n2 = 0 appear once for each sign.
        on_plane = torch.tensor([1.0, 0.5, 0.5], dtype=torch.float64)
        off_plane = torch.tensor([2.0, 1.0, 1.0], dtype=torch.float64)
        counts = torch.where(self.grid == 0, on_plane, off_plane).prod(dim=1)
        self.multiplicity = nn.Buffer(counts)
        self.signs = nn.Buffer(_sign_matrix().to(dtype))

    def sums(self, charges: Tensor, fractional: Tensor) -> Tensor:
        """Real and imaginary part of S for every vector of the grid, [2, m] [e].

        From charges [n] in the module's dtype, and fractional coordinates [n, 3], float64. Charges
        [channels, n] give [channels, 2, m], from the same phases.
        """
        c = 1 if charges.dim() == 1 else charges.shape[0]  # there may be no charges at all
        columns = charges.view(c, charges.shape[-1]).t()
        products = charges.new_zeros([4 * self.size0 * self.size1, c * 2 * self.size2])
        for start in range(0, columns.shape[0], self.chunk_size):
            x, y, z = self.phases(fractional[start : start + self.chunk_size])
            plane = (x[:, 0, :, None] * y[:, 0, None, :]).flatten(1)
            charged = columns[start : start + self.chunk_size, :, None] * z[:, :1]
            products = torch.addmm(products, plane.t(), charged.flatten(1))
        products = products.view(2, self.size0, 2, self.size1, c, 2, self.size2)
        products = products.permute(4, 0, 2, 5, 1, 3, 6).reshape(c, 8, -1)
        return (self.signs @ products).view(list(charges.shape[:-1]) + [2, -1])

    def pull_back(self, response: Tensor, fractional: Tensor) -> tuple[Tensor, Tensor]:
        """From dE/dS [2, m] to dE/dq [n], and derivatives by fractional coordinates [n, 3].

        The latter are for unit charges. [channels, 2, m] gives [channels, n] and [channels, n, 3].
        """
        c, shape = response.numel() // (2 * self.grid.shape[0]), list(response.shape[:-2])
        products = self.signs.t() @ response.view(c, 8, -1)
        products = products.view(c, 2, 2, 2, self.size0, self.size1, self.size2)
        products = products.permute(3, 6, 0, 1, 4, 2, 5).reshape(2 * self.size2, -1)
        # Written in place: a list of small results would pin the freed blocks of large temporary
        # arrays, and the heap would grow with every chunk.
        number, chunk_size = fractional.shape[0], max(1, self.chunk_size // c)
        potential, gradient = response.new_empty([number, c]), response.new_empty([number, c, 3])
        for start in range(0, number, chunk_size):
            end = start + chunk_size
            x, y, z = self.phases(fractional[start:end])
            n = x.shape[0]
            planes = (z.reshape(2 * n, -1) @ products).view(n, 4 * c * self.size0, -1)
            lines = torch.bmm(planes, y.transpose(1, 2)).view(n, 2 * c, 2 * self.size0, 2)
            # [n, z, channel, x, y], 0 for the value and 1 for the slope along that axis
            corners = torch.matmul(x[:, None], lines).view(n, 2, c, 2, 2)
            potential[start:end] = corners[:, 0, :, 0, 0]
            slopes = [corners[:, 0, :, 1, 0], corners[:, 0, :, 0, 1], corners[:, 1, :, 0, 0]]
            gradient[start:end] = torch.stack(slopes, dim=2)
        potential, gradient = potential.t().contiguous(), gradient.transpose(0, 1).contiguous()
        return potential.view(shape + [number]), gradient.view(shape + [number, 3])

    def phases(self, fractional: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """cos|sin of 2 pi n s and their slopes along s, for each of the three axes.

        Each is [n, 2 (value | slope), 2 (cos | sin) * size of the axis]. Angles are reduced to half
        a turn in float64, before they are rounded to the model's dtype.
        """
        return self.phases_by_torch(fractional)

    def phases_by_torch(self, fractional: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The same, by torch code in every subclass."""
        turns = fractional.index_select(1, self.axis) * self.harmonic
        angles = ((turns - torch.round(turns)) * (2.0 * math.pi)).to(self.dtype)
        frequency = (2.0 * math.pi) * self.harmonic.to(self.dtype)
        cos, sin = torch.cos(angles), torch.sin(angles)
        pairs = torch.stack([cos, sin, -sin * frequency, cos * frequency], dim=1)
        x, y, z = torch.split(pairs, [self.size0, self.size1, self.size2], dim=2)
        n = fractional.shape[0]
        return x.reshape(n, 2, -1), y.reshape(n, 2, -1), z.reshape(n, 2, -1)


def _sign_matrix() -> Tensor:
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
