"""MACE's symmetric product basis: invariant and covariant polynomials of the neighbour sums.

With a leading constant, A~ = [1, A], every polynomial of degree up to 3 is a cubic form, P = sum_a
A~_a J_a with J_a = (1/3) dP/dA~_a (Euler). J is quadratic: one matrix product with all pair
products Q = A~ (x) A~ gives value and Jacobian at once, so the backward pass costs almost nothing.
Parity splits A~ into even and odd rows: a result of given parity couples even rows to one half of Q
and odd rows to the other.

Polynomials of degree 4 are quartic forms in the same way, J = (1/4) dP/dA~ with all products of
three: six times the arithmetic, in one block.

Batatia et al., NeurIPS 35, 11423 (2022), eq. 10-11, rewritten.
"""

from itertools import combinations_with_replacement
from typing import Any, List, Sequence, Tuple

import torch
from torch import Tensor, nn

from openmm_les.networks.blocks.angular import parity_ordered_degrees, parity_permutation
from openmm_les.networks.blocks.blocking import block_limits, block_size
from openmm_les.networks.form import Form


def _pairs(rows: Sequence[int]) -> List[Tuple[int, ...]]:
    return list(combinations_with_replacement(rows, 2))


def _dense_forms(bases: Sequence[Tensor], lmax: int, products: Sequence[Tuple[int, ...]]) -> Tensor:
    """Forms that give J from products, [R of all degrees, outputs, rows, products], float64.

    Outputs and rows are in parity order; `products` are the rows that are multiplied, each once and
    in ascending order. Forms of different degrees share one matrix, zero where the rank index
    belongs to another degree.
    """
    size, order = 1 + (lmax + 1) ** 2, len(products[0]) + 1
    monomials = list(combinations_with_replacement(range(size), order))
    for basis in bases:
        if basis.shape[2] != len(monomials):
            raise ValueError(
                f"basis: expected {len(monomials)} monomials of {size} variables, got "
                f"{basis.shape[2]}"
            )
    row_of = {0: 0} | {1 + i: 1 + row for row, i in enumerate(parity_permutation(lmax))}
    column_of = {product: column for column, product in enumerate(products)}
    rows = [[row_of[index] for index in monomial] for monomial in monomials]
    ranks = [basis.shape[0] for basis in bases]
    degrees = parity_ordered_degrees(len(bases) - 1)
    forms = torch.zeros(
        sum(ranks), sum(2 * d + 1 for d in degrees), size * len(products), dtype=torch.float64
    )
    for factor in range(order):
        # Derivatives by each factor; equal factors visit the same place and add up.
        others = [tuple(sorted(row[:factor] + row[factor + 1 :])) for row in rows]
        places = [
            row[factor] * len(products) + column_of[other]
            for row, other in zip(rows, others, strict=True)
        ]
        index = torch.tensor(places)
        output = 0
        for degree in degrees:
            first, width = sum(ranks[:degree]), 2 * degree + 1
            own = forms[first : first + ranks[degree], output : output + width]
            own.index_add_(2, index, bases[degree] / order)
            output += width
    return forms.view(sum(ranks), -1, size, len(products))


def _contract(
    forms: Tensor, weights: Tensor, folded: bool, first: int, products: Tensor, counts: List[int]
) -> Tensor:
    """J of shape [c, rows, N] from products [size, c, N] of channels from `first` on."""
    by_channel = products.transpose(0, 1)
    c, size = by_channel.shape[0], by_channel.shape[1]
    parts: List[Tensor] = []
    atom = 0
    for z, count in enumerate(counts):
        if count > 0:
            if folded:
                form = forms[z, first : first + c]
            else:
                form = (weights[z, first : first + c] @ forms).view(c, -1, size)
            parts.append(torch.bmm(form, by_channel[:, :, atom : atom + count]))
            atom += count
    return parts[0] if len(parts) == 1 else torch.cat(parts, 2)


class _SplitForms(nn.Module):
    """The forms in four blocks of nonzero parity: least arithmetic.

    Forms are those of `_dense_forms`, weights [Z, C, R]; `parity` holds the numbers of even rows,
    of pairs of the same parity, and of even outputs.
    """

    def __init__(
        self, forms: Tensor, weights: Tensor, parity: Tuple[int, int, int], fold: bool
    ) -> None:
        super().__init__()
        self.fold = fold
        self.num_even, self.same_size, self.even_outputs = parity
        self.num_odd = forms.shape[2] - self.num_even
        self.odd_outputs = forms.shape[1] - self.even_outputs
        self.cross_size = forms.shape[3] - self.same_size
        rank, even, at = forms.shape[0], self.num_even, self.even_outputs
        same, cross = forms[..., : self.same_size], forms[..., self.same_size :]
        same_parts = [same[:, :at, :even], same[:, at:, even:]]
        cross_parts = [cross[:, :at, even:], cross[:, at:, :even]]
        same = torch.cat([part.reshape(rank, -1) for part in same_parts], 1)
        cross = torch.cat([part.reshape(rank, -1) for part in cross_parts], 1)
        # Folded: [Z, C, rows, pairs]; else the species-independent forms [R, rows * pairs].
        self.weights = nn.Buffer(weights)
        self.same = nn.Buffer(_folded(weights, same, self.same_size) if fold else same)
        self.cross = nn.Buffer(_folded(weights, cross, self.cross_size) if fold else cross)

    def forward(self, a: Tensor, first: int, counts: List[int]) -> Tuple[Tensor, List[Tensor]]:
        """B [c, outputs, N] of A~ [D, c, N] (channels from `first` on), and J in its parts."""
        pairs = a.new_empty([self.same_size + self.cross_size, a.shape[1], a.shape[2]])
        even, odd = a[: self.num_even], a[self.num_even :]
        at = 0
        for rows in (even, odd):
            size = rows.shape[0]
            for i in range(size):
                torch.mul(rows[i], rows[i:], out=pairs[at : at + size - i])
                at += size - i
        cross = pairs[at:].view(self.num_even, self.num_odd, a.shape[1], a.shape[2])
        torch.mul(even.unsqueeze(1), odd.unsqueeze(0), out=cross)
        j_same = _contract(self.same, self.weights, self.fold, first, pairs[:at], counts)
        j_cross = _contract(self.cross, self.weights, self.fold, first, pairs[at:], counts)
        even, odd = even.transpose(0, 1).unsqueeze(1), odd.transpose(0, 1).unsqueeze(1)
        same_even, same_odd = self._split(j_same, self.num_even)
        cross_even, cross_odd = self._split(j_cross, self.num_odd)
        out = (same_even * even).sum(2) + (cross_even * odd).sum(2)
        if self.odd_outputs > 0:
            out = torch.cat([out, (same_odd * odd).sum(2) + (cross_odd * even).sum(2)], 1)
        return out, [j_same, j_cross]

    @torch.jit.export
    def backward(self, grad: Tensor, jacobian: List[Tensor]) -> Tensor:
        """From dE/dB [c, outputs, N] to dE/dA / 3 [c, D - 1, N]."""
        j_same, j_cross = jacobian
        same_even, same_odd = self._split(j_same, self.num_even)
        cross_even, cross_odd = self._split(j_cross, self.num_odd)
        g = grad.unsqueeze(2)
        g_even, g_odd = g[:, : self.even_outputs], g[:, self.even_outputs :]
        # Row 0 is the constant: it has no gradient.
        even = (g_even * same_even[:, :, 1:]).sum(1)
        odd = (g_even * cross_even).sum(1)
        if self.odd_outputs > 0:
            even = even + (g_odd * cross_odd[:, :, 1:]).sum(1)
            odd = odd + (g_odd * same_odd).sum(1)
        return torch.cat([even, odd], 1)

    def _split(self, j: Tensor, even_rows: int) -> Tuple[Tensor, Tensor]:
        """J of even and of odd outputs, [C, outputs, rows, N]."""
        c, n = j.shape[0], j.shape[2]
        at = self.even_outputs * even_rows
        odd_rows = self.num_even + self.num_odd - even_rows
        return (
            j[:, :at].reshape(c, self.even_outputs, even_rows, n),
            j[:, at:].reshape(c, self.odd_outputs, odd_rows, n),
        )


class _DenseForms(nn.Module):
    """The forms in one block with the zeros of parity: fewest kernels, and every order.

    Forms and weights are as for `_SplitForms`; `products` are the rows of each, two or three.
    """

    def __init__(
        self, forms: Tensor, weights: Tensor, products: Sequence[Tuple[int, ...]], fold: bool
    ) -> None:
        super().__init__()
        self.fold = fold
        self.outputs, self.num_rows, self.size = forms.shape[1], forms.shape[2], len(products)
        flat = forms.flatten(1)
        self.weights = nn.Buffer(weights)
        self.forms = nn.Buffer(_folded(weights, flat, self.size) if fold else flat)
        self.left = nn.Buffer(torch.tensor([product[0] for product in products]))
        self.right = nn.Buffer(torch.tensor([product[1] for product in products]))
        self.third = nn.Buffer(torch.tensor([product[-1] for product in products]))
        self.cubic = len(products[0]) == 2

    def forward(self, a: Tensor, first: int, counts: List[int]) -> Tuple[Tensor, List[Tensor]]:
        """See `_SplitForms.forward`."""
        c, n = a.shape[1], a.shape[2]
        products = a.index_select(0, self.left) * a.index_select(0, self.right)
        if not self.cubic:
            products = products * a.index_select(0, self.third)
        j = _contract(self.forms, self.weights, self.fold, first, products, counts)
        j = j.view(c, self.outputs, self.num_rows, n)
        return (j * a.transpose(0, 1).unsqueeze(1)).sum(2), [j]

    @torch.jit.export
    def backward(self, grad: Tensor, jacobian: List[Tensor]) -> Tensor:
        """From dE/dB [c, outputs, N] to dE/dA / order [c, D - 1, N]."""
        # Row 0 is the constant: it has no gradient.
        return (grad.unsqueeze(2) * jacobian[0][:, :, 1:]).sum(1)


def _folded(weights: Tensor, forms: Tensor, size: int) -> Tensor:
    """Forms of every species and channel [Z, C, rows, size], from forms [R, rows * size]."""
    folded = torch.matmul(weights, forms)
    return folded.view(folded.shape[0], folded.shape[1], -1, size)


class ProductBasis(nn.Module):
    """Product basis of one layer, for all channels and the species present.

    Args:
        bases: for each output degree L the monomial coefficients of shape [R, 2L + 1, M], natural
            component order, M = number of monomials of `order` in 1 + (lmax + 1)^2 variables,
            float64.
        weights: for each output degree the weights of shape [Z, R, C].
        fold: multiply bases and weights once, here (fast; memory grows with species and channels),
            or at each call (small files: the portable module).
        few_kernels: for systems so small that launches cost more than arithmetic; needs `fold`.
        order: 3, which lower ones are cases of, or 4.
    """

    def __init__(
        self,
        bases: Sequence[Tensor],
        weights: Sequence[Tensor],
        lmax: int,
        fold: bool,
        few_kernels: bool,
        order: int = 3,
    ) -> None:
        super().__init__()
        self.limits = block_limits()
        self.order = order
        self.channels = weights[0].shape[2]
        num_even = 1 + sum(2 * d + 1 for d in range(0, lmax + 1, 2))
        num_rows = 1 + (lmax + 1) ** 2
        even, odd = range(num_even), range(num_even, num_rows)
        same = _pairs(even) + _pairs(odd)
        products = same + [(a, b) for a in even for b in odd]
        if order > 3:
            products = list(combinations_with_replacement(range(num_rows), order - 1))
        self.num_products = len(products)
        forms = _dense_forms(bases, lmax, products)
        stacked = torch.cat(list(weights), 1).transpose(1, 2)  # [Z, C, R of all degrees]
        even_outputs = sum(2 * d + 1 for d in range(0, len(bases), 2))
        self.forms: Any
        if few_kernels or order > 3:
            self.forms = _DenseForms(forms, stacked, products, fold)
        else:
            self.forms = _SplitForms(forms, stacked, (num_even, len(same), even_outputs), fold)

    def forward(self, sums: Tensor, counts: List[int]) -> Tuple[Tensor, List[List[Tensor]]]:
        """Polynomials B [(output_lmax + 1)^2, C, N] of A [S, C, N], and J by blocks."""
        step = block_size(sums, self.num_products * sums.shape[2], self.limits)
        outs: List[Tensor] = []
        jacobians: List[List[Tensor]] = []
        a = torch.cat([torch.ones_like(sums[:1]), sums])
        for first in range(0, self.channels, step):
            out, jacobian = self.forms(a[:, first : first + step], first, counts)
            outs.append(out)
            jacobians.append(jacobian)
        out = outs[0] if len(outs) == 1 else torch.cat(outs)
        return out.transpose(0, 1), jacobians

    @torch.jit.export
    def backward(self, grad: Tensor, jacobians: List[List[Tensor]]) -> Tensor:
        """From dE/dB [outputs, C, N] to dE/dA [S, C, N]."""
        outs: List[Tensor] = []
        by_channel = grad.transpose(0, 1)
        first = 0
        for jacobian in jacobians:
            last = first + jacobian[0].shape[0]
            outs.append(self.forms.backward(by_channel[first:last], jacobian))
            first = last
        out = outs[0] if len(outs) == 1 else torch.cat(outs)
        return float(self.order) * out.transpose(0, 1)


def product_basis(
    bases: Sequence[Tensor],
    weights: Sequence[Tensor],
    lmax: int,
    form: Form,
    order: int,
) -> Any:
    """A `ProductBasis`; in kernels or loops, where it is folded and of order 3."""
    kernels = form.kernels if form.fold and order == 3 else "torch"
    if kernels == "numba":
        from openmm_les.networks.kernels.numba.product_basis import LoopProductBasis

        return LoopProductBasis(bases, weights, lmax)
    few_kernels = form.few_kernels or kernels == "triton"
    plain = ProductBasis(bases, weights, lmax, form.fold, few_kernels, order)
    if kernels == "torch":
        return plain
    from openmm_les.networks.kernels.triton.product_basis import FusedProductBasis

    return FusedProductBasis(plain, lmax)
