"""MACE's symmetric product basis: invariant and covariant cubic polynomials of the neighbour sums.

With a leading constant, A~ = [1, A], every polynomial of degree up to 3 is a cubic form
P = sum_abc T_abc A~_a A~_b A~_c with symmetric T. One matrix product with all pair products
Q = A~ (x) A~ gives J_a = sum_bc T_abc Q_bc; then P = sum_a A~_a J_a and dP/dA_a = 3 J_a (Euler), so
the backward pass costs almost nothing. Parity splits A~ into even and odd rows: a result of given
parity couples even rows to one half of Q and odd rows to the other.

Batatia et al., NeurIPS 35, 11423 (2022), eq. 10-11, rewritten.
"""

from itertools import combinations_with_replacement, permutations
from typing import List, Sequence, Tuple

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from openmm_les.networks.angular import parity_ordered_degrees, parity_permutation
from openmm_les.networks.blocking import CACHE_ELEMENTS


def _symmetric_tensor(monomials: torch.Tensor, size: int) -> npt.NDArray[np.float64]:
    """Symmetric T of shape [R, size, size, size] from monomial coefficients [R, M]."""
    index = np.array(list(combinations_with_replacement(range(size), 3)))
    if monomials.shape[1] != len(index):
        raise ValueError(
            f"basis: expected {len(index)} monomials of {size} variables, got {monomials.shape[1]}"
        )
    tensor = torch.zeros(monomials.shape[0], size**3, dtype=torch.float64)
    for a, b, c in permutations(range(3)):
        # With repeated indices some visits coincide, and their shares of 1/6 add up.
        flat = (index[:, a] * size + index[:, b]) * size + index[:, c]
        tensor.index_add_(1, torch.from_numpy(flat), monomials / 6.0)
    return tensor.numpy().reshape(-1, size, size, size)


def _pairs(rows: Sequence[int]) -> List[Tuple[int, int]]:
    return list(combinations_with_replacement(rows, 2))


def _form_matrix(
    tensor: npt.NDArray[np.float64], rows: Sequence[int], pairs: Sequence[Tuple[int, int]]
) -> npt.NDArray[np.float64]:
    """Matrix [R, rows, pairs] from pair products to J; off-diagonal pairs count twice."""
    left, right = np.array(pairs).T
    block = tensor[:, rows][:, :, left, right]
    return np.asarray(block * np.where(left == right, 1.0, 2.0))


class ProductBasis(nn.Module):
    """Product basis of one layer, for all channels and the species present.

    Args:
        bases: for each output degree L the monomial coefficients of shape [R, 2L + 1, M], natural
            component order, M = number of cubic monomials of 1 + (lmax + 1)^2 variables, float64.
        weights: for each output degree the weights of shape [Z, R, C].
        lmax: highest degree of the input.
        fold: multiply bases and weights once, here (fast; memory grows with species and channels),
            or at each call (small files: the portable module).
    """

    def __init__(
        self,
        bases: Sequence[torch.Tensor],
        weights: Sequence[torch.Tensor],
        lmax: int,
        fold: bool,
    ) -> None:
        super().__init__()
        self.fold = fold
        self.cache_elements = CACHE_ELEMENTS
        self.channels = weights[0].shape[2]
        self.num_even = 1 + sum(2 * d + 1 for d in range(0, lmax + 1, 2))
        self.num_odd = sum(2 * d + 1 for d in range(1, lmax + 1, 2))
        self.even_outputs = sum(2 * d + 1 for d in range(0, len(bases), 2))
        self.odd_outputs = sum(2 * d + 1 for d in range(1, len(bases), 2))
        self.same_size = len(_pairs(range(self.num_even))) + len(_pairs(range(self.num_odd)))
        self.cross_size = self.num_even * self.num_odd

        same, cross = self._forms(bases, lmax)
        stacked = torch.cat(list(weights), 1).transpose(1, 2)  # [Z, C, R of all degrees]
        self.weights: torch.Tensor
        self.same: torch.Tensor
        self.cross: torch.Tensor
        # Folded: [Z, C, rows, pairs]; else the species-independent forms [R, rows * pairs].
        self.register_buffer("weights", stacked)
        self.register_buffer("same", self._folded(stacked, same, self.same_size) if fold else same)
        self.register_buffer(
            "cross", self._folded(stacked, cross, self.cross_size) if fold else cross
        )

    @staticmethod
    def _folded(weights: torch.Tensor, forms: torch.Tensor, size: int) -> torch.Tensor:
        folded = torch.matmul(weights, forms)
        return folded.view(folded.shape[0], folded.shape[1], -1, size)

    def _forms(self, bases: Sequence[torch.Tensor], lmax: int) -> Tuple[torch.Tensor, torch.Tensor]:
        """Forms acting on pairs of the same and of opposite parity, each [R, rows * pairs].

        Rows: the J of every output component, even outputs first. The forms of all degrees share
        one matrix, zero where the rank index belongs to another degree.
        """
        order = [0] + [1 + i for i in parity_permutation(lmax)]
        even, odd = range(self.num_even), range(self.num_even, self.num_even + self.num_odd)
        pairs_same, pairs_cross = _pairs(even) + _pairs(odd), [(a, b) for a in even for b in odd]
        ranks = [basis.shape[0] for basis in bases]
        same_blocks: List[npt.NDArray[np.float64]] = []
        cross_blocks: List[npt.NDArray[np.float64]] = []
        for degree in parity_ordered_degrees(len(bases) - 1):
            first = sum(ranks[:degree])
            for component in range(2 * degree + 1):
                tensor = _symmetric_tensor(bases[degree][:, component], len(order))
                tensor = tensor[:, order][:, :, order][:, :, :, order]
                matching, opposite = (even, odd) if degree % 2 == 0 else (odd, even)
                for blocks, rows, pairs in (
                    (same_blocks, matching, pairs_same),
                    (cross_blocks, opposite, pairs_cross),
                ):
                    block = np.zeros((sum(ranks), len(rows), len(pairs)))
                    block[first : first + ranks[degree]] = _form_matrix(tensor, rows, pairs)
                    blocks.append(block)
        return (
            torch.from_numpy(np.concatenate(same_blocks, 1)).flatten(1),
            torch.from_numpy(np.concatenate(cross_blocks, 1)).flatten(1),
        )

    def _pair_products(self, a: torch.Tensor) -> Tuple[torch.Tensor, torch.Tensor]:
        """Products of rows with the same parity [pairs, c, N] and with opposite parity."""
        even, odd = a[: self.num_even], a[self.num_even :]
        same: List[torch.Tensor] = []
        for i in range(self.num_even):
            same.append(even[i] * even[i:])
        for i in range(self.num_odd):
            same.append(odd[i] * odd[i:])
        return torch.cat(same), (even.unsqueeze(1) * odd.unsqueeze(0)).flatten(0, 1)

    def _contract(
        self, forms: torch.Tensor, size: int, first: int, pairs: torch.Tensor, counts: List[int]
    ) -> torch.Tensor:
        """J of shape [c, rows, N] from pair products [pairs, c, N] of channels from `first` on."""
        by_channel = pairs.transpose(0, 1)
        last = first + by_channel.shape[0]
        parts: List[torch.Tensor] = []
        atom = 0
        for z, count in enumerate(counts):
            if count > 0:
                if self.fold:
                    form = forms[z, first:last]
                else:
                    form = (self.weights[z, first:last] @ forms).view(last - first, -1, size)
                parts.append(torch.bmm(form, by_channel[:, :, atom : atom + count]))
                atom += count
        return parts[0] if len(parts) == 1 else torch.cat(parts, 2)

    def _split(self, j: torch.Tensor, even_rows: int) -> Tuple[torch.Tensor, torch.Tensor]:
        """J of even and of odd outputs, [C, outputs, rows, N]."""
        c, n = j.shape[0], j.shape[2]
        at = self.even_outputs * even_rows
        odd_rows = self.num_even + self.num_odd - even_rows
        return (
            j[:, :at].reshape(c, self.even_outputs, even_rows, n),
            j[:, at:].reshape(c, self.odd_outputs, odd_rows, n),
        )

    def forward(
        self, sums: torch.Tensor, counts: List[int]
    ) -> Tuple[torch.Tensor, List[torch.Tensor]]:
        """Polynomials of the neighbour sums.

        Args:
            sums: A of shape [S, C, N], parity order, atoms sorted by species.
            counts: number of atoms of each species.

        Returns:
            B of shape [(output_lmax + 1)^2, C, N], parity order, and what `backward` needs.
        """
        step = self.channels
        if not sums.is_cuda:
            pairs = self.same_size + self.cross_size
            step = max(1, self.cache_elements // (pairs * sums.shape[2]))
        outs: List[torch.Tensor] = []
        saved: List[torch.Tensor] = []
        for first in range(0, self.channels, step):
            out, j_same, j_cross = self._block(sums[:, first : first + step], first, counts)
            outs.append(out)
            saved += [j_same, j_cross]
        out = outs[0] if len(outs) == 1 else torch.cat(outs)
        return out.transpose(0, 1), saved

    def _block(
        self, sums: torch.Tensor, first: int, counts: List[int]
    ) -> Tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """B [c, outputs, N] and both J of a block of channels."""
        a = torch.cat([torch.ones_like(sums[:1]), sums])
        same, cross = self._pair_products(a)
        j_same = self._contract(self.same, self.same_size, first, same, counts)
        j_cross = self._contract(self.cross, self.cross_size, first, cross, counts)
        even = a[: self.num_even].transpose(0, 1).unsqueeze(1)
        odd = a[self.num_even :].transpose(0, 1).unsqueeze(1)
        same_even, same_odd = self._split(j_same, self.num_even)
        cross_even, cross_odd = self._split(j_cross, self.num_odd)
        out = (same_even * even).sum(2) + (cross_even * odd).sum(2)
        if self.odd_outputs > 0:
            out = torch.cat([out, (same_odd * odd).sum(2) + (cross_odd * even).sum(2)], 1)
        return out, j_same, j_cross

    @torch.jit.export
    def backward(self, grad: torch.Tensor, saved: List[torch.Tensor]) -> torch.Tensor:
        """From dE/dB [outputs, C, N] to dE/dA [S, C, N]."""
        outs: List[torch.Tensor] = []
        first = 0
        for block in range(len(saved) // 2):
            j_same, j_cross = saved[2 * block], saved[2 * block + 1]
            last = first + j_same.shape[0]
            outs.append(self._block_backward(grad[:, first:last], j_same, j_cross))
            first = last
        return outs[0] if len(outs) == 1 else torch.cat(outs, 1)

    def _block_backward(
        self, grad: torch.Tensor, j_same: torch.Tensor, j_cross: torch.Tensor
    ) -> torch.Tensor:
        same_even, same_odd = self._split(j_same, self.num_even)
        cross_even, cross_odd = self._split(j_cross, self.num_odd)
        g = grad.transpose(0, 1).unsqueeze(2)
        g_even, g_odd = g[:, : self.even_outputs], g[:, self.even_outputs :]
        # Row 0 is the constant: it has no gradient.
        even = (g_even * same_even[:, :, 1:]).sum(1)
        odd = (g_even * cross_even).sum(1)
        if self.odd_outputs > 0:
            even = even + (g_odd * cross_odd[:, :, 1:]).sum(1)
            odd = odd + (g_odd * same_odd).sum(1)
        return 3.0 * torch.cat([even, odd], 1).transpose(0, 1)
