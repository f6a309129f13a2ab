"""From sums over neighbours to rotationally invariant features of an atom, and back.

Cheng, npj Comput. Mater. 10, 157 (2024), eqs. 6-8: radial functions are mixed, then products of
sums are added up such that no rotation changes them.
"""

from typing import Any, List, Sequence, Tuple

import torch
from torch import nn


class RadialTransform(nn.Module):
    """Mixes radial functions, with other weights for each channel, [C, n, M]."""

    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__()
        self.weight = nn.Buffer(weight)

    def forward(self, sums: torch.Tensor) -> torch.Tensor:
        """From sums of one degree [C, L, N, n] to [L, C, N * M]."""
        channels, size = sums.shape[0], sums.shape[1]
        mixed = torch.bmm(sums.reshape(channels, -1, sums.shape[3]), self.weight)
        return mixed.view(channels, size, -1).transpose(0, 1)

    @torch.jit.export
    def backward(self, grad: torch.Tensor) -> torch.Tensor:
        """From dE/d(output) [L, C, N * M] to dE/d(sums) [C, L, N, n]."""
        size, channels = grad.shape[0], grad.shape[1]
        flat = grad.transpose(0, 1).reshape(channels, -1, self.weight.shape[2])
        back = torch.bmm(flat, self.weight.transpose(1, 2))
        return back.view(channels, size, -1, self.weight.shape[1])


class InvariantFeatures(nn.Module):
    """Invariant polynomials of neighbour sums.

    Args:
        radial: weights [C, n, M] of each angular degree.
        terms: for each invariant its terms: indices of the sums to multiply, and the factor.
        sizes: number of angular functions of each degree.
    """

    def __init__(
        self,
        radial: Sequence[torch.Tensor],
        terms: Sequence[Sequence[Sequence[Any]]],
        sizes: Sequence[int],
    ) -> None:
        super().__init__()
        self.sizes: List[int] = list(sizes)
        self.functions: int = radial[0].shape[2]
        self.radial: Any = nn.ModuleList(RadialTransform(weight) for weight in radial)
        flat = [
            (i, [int(f) for f in factors], float(c))
            for i, own in enumerate(terms)
            for factors, c in own
        ]
        self.order: int = max(len(factors) for _, factors, _ in flat)
        # Factors are picked by a product with zeros and ones: its derivative is one too, where that
        # of indexing adds up in another order each time on a GPU. The last of the sums is one.
        total, dtype = sum(self.sizes), radial[0].dtype
        select = torch.zeros(self.order, len(flat), total + 1, dtype=dtype)
        collect = torch.zeros(len(terms), len(flat), dtype=dtype)
        for term, (invariant, factors, coefficient) in enumerate(flat):
            for k in range(self.order):
                select[k, term, factors[k] if k < len(factors) else total] = 1.0
            collect[invariant, term] = coefficient
        self.select = nn.Buffer(select)
        self.collect = nn.Buffer(collect)

    def forward(
        self, sums: torch.Tensor, receivers: torch.Tensor
    ) -> Tuple[torch.Tensor, torch.Tensor]:
        """Features [N, C * S * M], float64, and mixed sums, from sums over neighbours [C, L, N, n].

        Receivers are factors of the atoms themselves [C, N].
        """
        channels, n = receivers.shape[0], receivers.shape[1]
        sums = sums * receivers.view(channels, 1, n, 1)
        parts: List[torch.Tensor] = []
        first = 0
        for degree, transform in enumerate(self.radial):
            last = first + self.sizes[degree]
            parts.append(transform(sums[:, first:last]))
            first = last
        parts.append(torch.ones_like(parts[0][:1]))
        mixed = torch.cat(parts).flatten(1)
        products = torch.matmul(self.select[0], mixed)
        for k in range(1, self.order):
            products = products * torch.matmul(self.select[k], mixed)
        features = torch.matmul(self.collect, products).view(-1, channels, n, self.functions)
        return features.permute(2, 1, 0, 3).reshape(n, -1).to(torch.float64), mixed

    @torch.jit.export
    def backward(
        self, grad: torch.Tensor, receivers: torch.Tensor, mixed: torch.Tensor
    ) -> torch.Tensor:
        """From dE/d(features) to dE/d(sums)."""
        channels, n = receivers.shape[0], receivers.shape[1]
        grad = grad.to(mixed.dtype).view(n, channels, -1, self.functions)
        grad = grad.permute(2, 1, 0, 3).reshape(self.collect.shape[0], -1)
        by_term = torch.matmul(self.collect.t(), grad)
        factors: List[torch.Tensor] = []
        for k in range(self.order):
            factors.append(torch.matmul(self.select[k], mixed))
        grad_mixed = torch.zeros_like(mixed)
        for k in range(self.order):
            others = by_term
            for other in range(self.order):
                if other != k:
                    others = others * factors[other]
            grad_mixed = grad_mixed + torch.matmul(self.select[k].t(), others)
        grad_mixed = grad_mixed.view(mixed.shape[0], channels, -1)
        parts: List[torch.Tensor] = []
        first = 0
        for degree, transform in enumerate(self.radial):
            last = first + self.sizes[degree]
            parts.append(transform.backward(grad_mixed[first:last]))
            first = last
        return torch.cat(parts, 1) * receivers.view(channels, 1, n, 1)
