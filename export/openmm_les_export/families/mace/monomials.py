"""MACE's symmetric contraction as polynomials in monomials.

The contraction of order nu is a polynomial sum_k w_k sum_i U[m, i_1 .. i_nu, k] A_i1 .. A_inu
(Batatia et al., NeurIPS 35, 11423 (2022), eq. 10-11). In monomials of A~ = [1, A], the coupling
tensors U of different vintages (full or reduced sets) are the same kind of object: a matrix whose
rows can be reduced to their rank.
"""

from __future__ import annotations

import math
from itertools import combinations_with_replacement
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

#: Highest order of the contraction that the run-time network evaluates.
MAX_ORDER = 4
#: Order of the monomials in which all contractions up to it are written.
CUBIC = 3

#: Singular values below this fraction of the largest are zero but for the rounding of float64.
RANK_TOLERANCE = 1e-14


def monomial_index(size: int, order: int, highest: int = CUBIC) -> torch.Tensor:
    """Which monomial a product A_{i_1} .. A_{i_nu} is, nu = order <= highest, of shape [size] * nu.

    Positions are those in the `combinations_with_replacement` order of `highest` of 1 + size
    variables, A and the leading 1, which missing factors are.
    """
    variables = size + 1
    every = torch.tensor(list(combinations_with_replacement(range(variables), highest)))
    place = torch.tensor([variables**power for power in reversed(range(highest))])
    position = torch.zeros(variables**highest, dtype=torch.int64)
    position[(every * place).sum(1)] = torch.arange(len(every))
    grid = torch.cartesian_prod(*[torch.arange(1, variables)] * order).view(-1, order)
    padded = torch.nn.functional.pad(grid, (highest - order, 0))
    ordered = padded.sort(dim=1).values
    return position[(ordered * place).sum(1)].view([size] * order)


def coupling_monomials(coupling: torch.Tensor, order: int, highest: int = CUBIC) -> torch.Tensor:
    """Monomial coefficients [K, 2L+1, M] of couplings U, [2L+1] + [size] * order + [K], float64."""
    size = coupling.shape[1]
    index = monomial_index(size, order, highest).reshape(-1)
    count = math.comb(size + highest, highest)
    flat = coupling.flatten(1, order).permute(2, 0, 1)
    out = torch.zeros(*flat.shape[:2], count, dtype=torch.float64)
    return out.index_add_(2, index, flat.contiguous())


def reduce_rank(
    bases: Sequence[torch.Tensor], weights: Sequence[torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Joins the couplings of all orders and drops linear dependences.

    Coefficients [K, 2L+1, M] and weights [Z, K, C] of each order become orthonormal coefficients
    [R, 2L+1, M] and weights [Z, R, C] of the same polynomials.
    """
    basis, weight = torch.cat(list(bases)), torch.cat(list(weights), 1)
    left, values, right = torch.linalg.svd(basis.flatten(1), full_matrices=False)
    # At least one row, so that a product that is zero altogether still has a basis.
    rank = max(1, int((values > RANK_TOLERANCE * values[0]).sum()))
    projection = left[:, :rank] * values[:rank]
    reduced = torch.einsum("zkc,kr->zrc", weight, projection)
    return right[:rank].unflatten(1, basis.shape[1:]), reduced
