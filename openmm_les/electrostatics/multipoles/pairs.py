"""Multipoles in a system that is not periodic: a sum over all pairs."""

import math
from typing import List, Tuple

import torch
from torch import Tensor, nn

from openmm_les.electrostatics.cell import check_chunk_size
from openmm_les.electrostatics.multipoles.geometry import Geometry
from openmm_les.electrostatics.multipoles.moments import count_indices, multi_indices
from openmm_les.errors import InputError

#: Numbers of a pair that are in memory at a time, and pairs processed at a time when no chunk size
#: is given: fits a CPU's cache.
ARRAYS_OF_A_PAIR = 126
_PAIRS_PER_CHUNK = 2**14
#: Highest degree of a derivative: the gradient between two quadrupoles.
_HIGHEST = 5


def boys(squared: Tensor, highest: int) -> List[Tensor]:
    """``F_m(T) = int_0^1 t^(2m) exp(-T t^2) dt`` for m = 0 ... highest and any T >= 0.

    Derivatives of ``erf(x)/x`` are made of them: ``(d/dx / x)^m`` of it is ``2 (-2)^m F_m(x^2) /
    sqrt(pi)``. See Helgaker, Jorgensen and Olsen, Molecular Electronic-Structure Theory (2000),
    section 9.8.
    """
    # exp(-81) is no digit of the sums below; smaller numbers would be subnormal and slow.
    gauss = torch.exp(-squared.clamp(max=81.0))
    # The highest from recursion upwards, which loses two digits at T = 2, below from its series.
    large, small = squared.clamp(min=2.0), squared.clamp(max=2.0)
    root, half = torch.sqrt(large), 0.5 / large
    upwards = torch.erf(root) / root * (0.5 * math.sqrt(math.pi))
    for m in range(highest):
        upwards = (upwards * (2 * m + 1) - gauss) * half
    series = torch.ones_like(small)
    for k in range(20, 0, -1):
        series = series.mul_(small).mul_(2.0 / (2 * (highest + k) + 1)).add_(1.0)
    series = series.mul_(gauss).mul_(1.0 / (2 * highest + 1))
    values = [torch.where(squared < 2.0, series, upwards)]
    twice = 2.0 * squared
    for i in range(highest):  # downwards, which is stable for every T
        values.append(torch.addcmul(gauss, twice, values[-1]) / (2 * (highest - i) - 1))
    return values[::-1]


class PairMultipoles(nn.Module):
    r"""Derivatives at all sites of the potential of all Gaussian multipoles, without cutoff.

    A unit charge has the potential ``c erf(a r) / (2 pi r)``. Derivative t of the potential at a
    site is the sum, over all sites and multi-indices s, of (-1)^s times coefficient s times
    derivative t + s of this function, which follows from Boys functions (McMurchie and Davidson, J.
    Comput. Phys. 26, 218 (1978)). Lengths are in units of 1/a = sqrt2 sigma.

    As in `PairSum`, the sum includes i = j, where everything is finite: the self-interaction.
    """

    def __init__(
        self,
        *,
        sigma: float,
        prefactor: float,
        degree: int,
        dtype: torch.dtype,
        chunk_size: int | None = None,
    ) -> None:
        """Set up the recursion; see `PairSum`. `degree` is that of the highest moments."""
        super().__init__()
        if not sigma > 0.0:
            raise InputError(f"sigma: expected a length > 0 A, got {sigma}")
        check_chunk_size(chunk_size)
        self.inverse_length = 1.0 / (math.sqrt(2.0) * sigma)
        self.scale = prefactor / (2.0 * math.pi) * self.inverse_length * 2.0 / math.sqrt(math.pi)
        self.degree = degree
        self.dtype = dtype
        self.chunk_size = chunk_size or 0
        self.pairs_per_chunk = _PAIRS_PER_CHUNK
        self.steps = _recursion()
        places = {index: place for place, index in enumerate(multi_indices(_HIGHEST))}
        combined = [
            [places[t[0] + s[0], t[1] + s[1], t[2] + s[2]] for s in multi_indices(2)]
            for t in multi_indices(3)
        ]
        self.combined = nn.Buffer(torch.tensor(combined))
        signs = torch.tensor([(-1.0) ** sum(s) for s in multi_indices(2)])
        self.signs = nn.Buffer(signs.to(dtype))
        self.identity = nn.Buffer(torch.eye(3, dtype=torch.float64))

    def prepare(self, positions: Tensor, cell: Tensor) -> Geometry:
        """Positions as they are; there is no box to outgrow."""
        positions = positions.to(torch.float64)
        none = positions.new_zeros([0])
        outgrown = torch.zeros([], dtype=torch.bool, device=positions.device)
        basis = self.identity * self.inverse_length
        return Geometry(basis, positions, none.view(0, 3), none, none, outgrown)

    def sources(self, coefficients: Tensor, geometry: Geometry, degree: int) -> Tensor:
        """Coefficients up to the highest degree of the module, [n, count_indices(self.degree)]."""
        missing = count_indices(self.degree) - coefficients.shape[1]
        return torch.nn.functional.pad(coefficients, [0, missing])

    def derivatives(self, sources: Tensor, geometry: Geometry, degree: int) -> Tensor:
        """Derivatives of the potential at the sites, [n, count_indices(degree)]."""
        n, number = sources.shape
        sources = sources * self.signs[:number] * self.scale
        combined = self.combined[: count_indices(degree), :number]
        columns = combined * number + torch.arange(number, device=sources.device)
        chunk = self.chunk_size if self.chunk_size > 0 else max(1, self.pairs_per_chunk // n)
        places = geometry.places
        # Written in place, as in `StructureFactors`.
        found = sources.new_empty([n, combined.shape[0]])
        for start in range(0, n, chunk):
            separations = places[start : start + chunk, None, :] - places
            separations = (separations * self.inverse_length).to(self.dtype)
            products = self._products(separations, sources, degree + self.degree)
            terms = products.index_select(1, columns.flatten())
            found[start : start + chunk] = terms.view(-1, combined.shape[0], number).sum(dim=2)
        return found

    def _products(self, separations: Tensor, sources: Tensor, highest: int) -> Tensor:
        """Every derivative up to the highest [m, n] times the sources [n, s], [m, indices * s]."""
        x = separations.unbind(2)
        factor = 1.0
        functions: List[Tensor] = []
        for value in boys((separations * separations).sum(dim=2), highest):
            functions.append(value * factor)
            factor = -2.0 * factor
        # For each multi-index its derivatives of all functions that those after it need.
        ladder = [torch.stack(functions)]
        products = [functions[0] @ sources]
        for total, axis, parent, grandparent, factor in self.steps[: count_indices(highest) - 1]:
            rows = highest - total + 1
            value = ladder[parent][1:] * x[axis]
            if grandparent >= 0:
                value.add_(ladder[grandparent][1 : rows + 1], alpha=factor)
            ladder.append(value)
            products.append(value[0] @ sources)
        return torch.stack(products, dim=1).flatten(1)


def _recursion() -> List[Tuple[int, int, int, int, float]]:
    """How each multi-index but the first follows from those with one and two less along an axis.

    As its total, the axis, the places of the two (-1 where there is none) and a factor.
    """
    indices = multi_indices(_HIGHEST)
    places = {index: place for place, index in enumerate(indices)}
    steps = []
    for index in indices[1:]:
        axis = max(d for d in range(3) if index[d] > 0)
        less = [tuple(n - by * (d == axis) for d, n in enumerate(index)) for by in (1, 2)]
        parent, grandparent = (places.get((a, b, c), -1) for a, b, c in less)
        steps.append((sum(index), axis, parent, grandparent, float(index[axis] - 1)))
    return steps
