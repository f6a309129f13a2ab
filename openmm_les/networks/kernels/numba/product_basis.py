"""MACE's product basis for a CPU, as a sum over its monomials.

Symmetry leaves few of them: 98 of 969 for scalars of degrees up to 3, where the cubic forms of
`openmm_les.networks.blocks.product_basis` have 1281 entries. One atom follows the other, so that
everything stays in cache.
"""

from itertools import combinations_with_replacement
from typing import Any, List, Sequence, Tuple

import numpy as np
import torch
from torch import Tensor, nn

from openmm_les.networks.blocks.angular import parity_ordered_degrees, parity_permutation
from openmm_les.networks.kernels.numba import workers
from openmm_les.networks.kernels.numba.compiler import compiled
from openmm_les.networks.kernels.numba.operators import operator

#: Coefficients smaller than this part of the largest are zeros that were rounded.
_ROUNDED = 1e-13


@compiled
def _add_monomials(species: Any, a: Any, table: Any, weights: Any, out: Any) -> None:
    """Adds to B [N, outputs, C] the monomials of A~ [N, D, C], species [N].

    A row of the table names an output and three factors; `weights` are [Z, monomials, C].
    """
    for n in range(len(a)):
        for m in range(len(table)):
            total, weight = out[n, table[m, 0]], weights[species[n], m]
            x, y, z = a[n, table[m, 1]], a[n, table[m, 2]], a[n, table[m, 3]]
            for c in range(a.shape[2]):
                total[c] += weight[c] * x[c] * y[c] * z[c]


@compiled
def _add_derivatives(
    species: Any, a: Any, grad_out: Any, table: Any, weights: Any, grad: Any
) -> None:
    """Adds dE/dA~ from dE/dB.

    A row of the table names a factor to differentiate by, the two others, an output, a monomial,
    and how often it has the factor.
    """
    for n in range(len(a)):
        for t in range(len(table)):
            total, x, y = grad[n, table[t, 0]], a[n, table[t, 1]], a[n, table[t, 2]]
            g, weight = grad_out[n, table[t, 3]], weights[species[n], table[t, 4]]
            times = a.dtype.type(table[t, 5])
            for c in range(a.shape[2]):
                total[c] += times * weight[c] * g[c] * x[c] * y[c]


@operator(
    "product_basis(Tensor species, Tensor a, Tensor table, Tensor weights, int outputs) -> Tensor"
)
def _product_basis(
    species: Tensor, a: Tensor, table: Tensor, weights: Tensor, outputs: int
) -> Tensor:
    out = a.new_zeros([a.shape[0], outputs, a.shape[2]])
    arrays = [t.numpy() for t in (species, a, table, weights, out)]

    def work(_: int, part: slice) -> None:
        z, x, rows, w, total = arrays
        _add_monomials(z[part], x[part], rows, w, total[part])

    workers.run(work, workers.shares(np.arange(len(a) + 1), weights[0].numel()))
    return out


@operator(
    "pull_back_products(Tensor species, Tensor a, Tensor grad, Tensor table, Tensor weights) "
    "-> Tensor"
)
def _pull_back_products(
    species: Tensor, a: Tensor, grad: Tensor, table: Tensor, weights: Tensor
) -> Tensor:
    out = torch.zeros_like(a)
    arrays = [t.numpy() for t in (species, a, grad, table, weights, out)]

    def work(_: int, part: slice) -> None:
        z, x, g, rows, w, total = arrays
        _add_derivatives(z[part], x[part], g[part], rows, w, total[part])

    workers.run(work, workers.shares(np.arange(len(a) + 1), 2 * weights[0].numel()))
    return out


class LoopProductBasis(nn.Module):
    """`ProductBasis` of order 3 from the same bases and weights, with folded weights."""

    def __init__(self, bases: Sequence[Tensor], weights: Sequence[Tensor], lmax: int) -> None:
        super().__init__()
        monomials = list(combinations_with_replacement(range(1 + (lmax + 1) ** 2), 3))
        row_of = {0: 0} | {1 + i: 1 + row for row, i in enumerate(parity_permutation(lmax))}
        table: List[List[int]] = []
        derivatives: List[List[int]] = []
        folded: List[Tensor] = []
        output = 0
        for degree in parity_ordered_degrees(len(bases) - 1):
            basis = bases[degree]
            largest = basis.abs().amax(0)
            for component in range(2 * degree + 1):
                columns = torch.nonzero(largest[component] > _ROUNDED * largest.max()).view(-1)
                for monomial in columns.tolist():
                    factors = [row_of[i] for i in monomials[monomial]]
                    for factor in set(factors) - {0}:
                        at, times = factors.index(factor), factors.count(factor)
                        x, y = factors[:at] + factors[at + 1 :]
                        derivatives.append([factor, x, y, output, len(table), times])
                    table.append([output, *factors])
                folded.append(
                    torch.einsum("zrc,rm->zmc", weights[degree], basis[:, component, columns])
                )
                output += 1
        self.num_species = weights[0].shape[0]
        self.outputs = output
        self.table = nn.Buffer(torch.tensor(table))
        self.derivatives = nn.Buffer(torch.tensor(sorted(derivatives)))
        self.weights = nn.Buffer(torch.cat(folded, 1).contiguous())

    def forward(self, sums: Tensor, counts: List[int]) -> Tuple[Tensor, List[List[Tensor]]]:
        """See `ProductBasis.forward`; in place of J there are A~ [N, D, C] and the species [N]."""
        species = torch.arange(self.num_species).repeat_interleave(torch.tensor(counts))
        a = sums.new_ones([sums.shape[2], 1 + sums.shape[0], sums.shape[1]])
        a[:, 1:] = sums.permute(2, 0, 1)
        out = torch.ops.openmm_les_loops.product_basis(
            species, a, self.table, self.weights, self.outputs
        )
        return out.permute(1, 2, 0), [[a, species]]

    @torch.jit.export
    def backward(self, grad: Tensor, jacobians: List[List[Tensor]]) -> Tensor:
        """See `ProductBasis.backward`."""
        a, species = jacobians[0]
        grads: Tensor = torch.ops.openmm_les_loops.pull_back_products(
            species, a, grad.permute(2, 0, 1).contiguous(), self.derivatives, self.weights
        )
        return grads[:, 1:].permute(1, 2, 0)
