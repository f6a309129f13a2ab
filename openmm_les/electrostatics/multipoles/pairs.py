"""Multipoles in a system that is not periodic: a sum over all pairs."""

import math
from typing import List

import torch
from torch import Tensor, nn

from openmm_les.electrostatics.cell import check_chunk_size
from openmm_les.electrostatics.multipoles.geometry import Geometry
from openmm_les.electrostatics.multipoles.moments import count_indices, places_of_sums, signs
from openmm_les.electrostatics.multipoles.recursion import (
    boys,
    cartesian_derivatives,
    recursion_steps,
)
from openmm_les.errors import InputError

#: Numbers of a pair that are in memory at a time, and pairs processed at a time when no chunk size
#: is given: fits a CPU's cache.
ARRAYS_OF_A_PAIR = 126
_PAIRS_PER_CHUNK = 2**14


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
        self.steps = recursion_steps()
        self.combined = nn.Buffer(places_of_sums(3, 2))
        self.signs = nn.Buffer(signs(2).to(dtype))
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
        x = separations.permute(2, 0, 1)
        factor = 1.0
        functions: List[Tensor] = []
        for value in boys((separations * separations).sum(dim=2), highest):
            functions.append(value * factor)
            factor = -2.0 * factor
        products = [value @ sources for value in cartesian_derivatives(functions, x, self.steps)]
        return torch.stack(products, dim=1).flatten(1)
