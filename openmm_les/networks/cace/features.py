"""From neighbours to rotationally invariant features of an atom, and back.

Cheng, npj Comput. Mater. 10, 157 (2024), eqs. 6-8: products of radial functions and angular
monomials are summed over neighbours to [C, L, N, n] (channels, monomials, atoms, radial functions),
radial functions are mixed, then products of sums are added up such that no rotation changes them.
"""

from typing import Any, List, Sequence, Tuple

import torch
from torch import Tensor, nn


class ElementSums(nn.Module):
    """Sums over neighbours that differ by their element only; the first layer has no others.

    A channel is made for each number in a receiver's embedding.
    """

    def __init__(self, num_receivers: int) -> None:
        super().__init__()
        self.num_receivers = num_receivers

    def forward(self, angular: Tensor, radial: Tensor, senders: Tensor) -> Tensor:
        """The sums, from monomials [N, K, L], radial functions [N, K, n], senders [N, K, A]."""
        n, k = angular.shape[0], angular.shape[1]
        weighted = (senders.unsqueeze(3) * radial.unsqueeze(2)).view(n, k, -1)
        sums = torch.bmm(weighted.transpose(1, 2), angular)
        sums = sums.view(n, senders.shape[2], -1, angular.shape[2]).permute(1, 3, 0, 2)
        return sums.unsqueeze(1).expand(-1, self.num_receivers, -1, -1, -1).flatten(0, 1)

    @torch.jit.export
    def backward(
        self, grad: Tensor, angular: Tensor, radial: Tensor, senders: Tensor
    ) -> Tuple[Tensor, Tensor]:
        """From dE/d(sums) to dE/d of monomials, and of senders x radial functions [N, K, A, n]."""
        n, k, size = angular.shape[0], angular.shape[1], angular.shape[2]
        grad = grad.view(-1, self.num_receivers, size, n, radial.shape[2]).sum(1)
        grad = grad.permute(2, 0, 3, 1).reshape(n, -1, size)
        weighted = (senders.unsqueeze(3) * radial.unsqueeze(2)).view(n, k, -1)
        grad_weighted = torch.bmm(angular, grad.transpose(1, 2))
        return torch.bmm(weighted, grad), grad_weighted.view(n, k, senders.shape[2], -1)


class MessageSums(nn.Module):
    """Sums over neighbours with weights that each neighbour brings."""

    def __init__(self, sizes: Sequence[int]) -> None:
        super().__init__()
        self.sizes: List[int] = list(sizes)

    def forward(self, angular: Tensor, radial: Tensor, received: Tensor) -> Tensor:
        """The sums, with weights for each degree and channel [N, K, lmax + 1, C]."""
        n, k = angular.shape[0], angular.shape[1]
        parts: List[Tensor] = []
        for degree, own in enumerate(torch.split(angular, self.sizes, 2)):
            basis = (own.unsqueeze(3) * radial.unsqueeze(2)).view(n, k, -1)
            part = torch.bmm(received[:, :, degree].transpose(1, 2), basis)
            parts.append(part.view(n, part.shape[1], own.shape[2], -1).permute(1, 2, 0, 3))
        return torch.cat(parts, 1)

    @torch.jit.export
    def backward(
        self, grad: Tensor, angular: Tensor, radial: Tensor, received: Tensor
    ) -> Tuple[Tensor, Tensor, Tensor]:
        """From dE/d(sums) to dE/d of (monomials, radial functions, received weights)."""
        n, k = angular.shape[0], angular.shape[1]
        grad_angular: List[Tensor] = []
        grad_received: List[Tensor] = []
        grad_radial = torch.zeros_like(radial)
        by_degree = torch.split(grad, self.sizes, 1)
        for degree, own in enumerate(torch.split(angular, self.sizes, 2)):
            part = by_degree[degree].permute(2, 0, 1, 3).reshape(n, grad.shape[0], -1)
            basis = (own.unsqueeze(3) * radial.unsqueeze(2)).view(n, k, -1)
            grad_received.append(torch.bmm(basis, part.transpose(1, 2)))
            grad_basis = torch.bmm(received[:, :, degree], part).view(n, k, own.shape[2], -1)
            grad_angular.append((grad_basis * radial.unsqueeze(2)).sum(3))
            grad_radial = grad_radial + (grad_basis * own.unsqueeze(3)).sum(2)
        return torch.cat(grad_angular, 2), grad_radial, torch.stack(grad_received, 2)


class RadialTransform(nn.Module):
    """Mixes radial functions, with other weights for each channel, [C, n, M]."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Buffer(weight)

    def forward(self, sums: Tensor) -> Tensor:
        """From sums of one degree [C, L, N, n] to [L, C, N * M]."""
        channels, size = sums.shape[0], sums.shape[1]
        mixed = torch.bmm(sums.reshape(channels, -1, sums.shape[3]), self.weight)
        return mixed.view(channels, size, -1).transpose(0, 1)

    @torch.jit.export
    def backward(self, grad: Tensor) -> Tensor:
        """From dE/d(output) [L, C, N * M] to dE/d(sums) [C, L, N, n]."""
        size, channels = grad.shape[0], grad.shape[1]
        flat = grad.transpose(0, 1).reshape(channels, -1, self.weight.shape[2])
        back = torch.bmm(flat, self.weight.transpose(1, 2))
        return back.view(channels, size, -1, self.weight.shape[1])


class RadialMixing(nn.Module):
    """Mixes the radial functions of neighbour sums, with weights [C, n, M] of each degree.

    `sizes` are the numbers of angular functions of each degree.
    """

    def __init__(self, weights: Sequence[Tensor], sizes: Sequence[int]) -> None:
        super().__init__()
        self.sizes: List[int] = list(sizes)
        self.radial: Any = nn.ModuleList(RadialTransform(weight) for weight in weights)

    def forward(self, sums: Tensor, receivers: Tensor) -> Tensor:
        """Mixed sums and a last row of ones, [L + 1, C * N * M], from sums [C, L, N, n].

        Receivers are factors of the atoms themselves [C, N].
        """
        channels, n = receivers.shape[0], receivers.shape[1]
        sums = sums * receivers.view(channels, 1, n, 1)
        parts: List[Tensor] = []
        by_degree = torch.split(sums, self.sizes, 1)
        for degree, transform in enumerate(self.radial):
            parts.append(transform(by_degree[degree]))
        parts.append(torch.ones_like(parts[0][:1]))
        return torch.cat(parts).flatten(1)

    @torch.jit.export
    def backward(self, grad: Tensor, receivers: Tensor) -> Tensor:
        """From dE/d(mixed sums), of whose last row nothing is used, to dE/d(sums)."""
        channels, n = receivers.shape[0], receivers.shape[1]
        grad = grad.view(grad.shape[0], channels, -1)
        parts: List[Tensor] = []
        by_degree = torch.split(grad[:-1], self.sizes)
        for degree, transform in enumerate(self.radial):
            parts.append(transform.backward(by_degree[degree]))
        return torch.cat(parts, 1) * receivers.view(channels, 1, n, 1)


class Invariants(nn.Module):
    """Invariant polynomials of mixed sums.

    Args:
        terms: for each invariant its terms: indices of the sums to multiply, and the factor.
        total: number of the sums L.
        functions: number of mixed radial functions M.
    """

    def __init__(
        self,
        terms: Sequence[Sequence[Sequence[Any]]],
        total: int,
        functions: int,
        dtype: torch.dtype,
    ) -> None:
        super().__init__()
        self.functions = functions
        flat = [
            (i, [int(f) for f in factors], float(c))
            for i, own in enumerate(terms)
            for factors, c in own
        ]
        self.order: int = max(len(factors) for _, factors, _ in flat)
        # Factors are picked by a product with zeros and ones: its derivative is one too, where that
        # of indexing adds up in another order each time on a GPU. The last of the sums is one.
        select = torch.zeros(self.order, len(flat), total + 1, dtype=dtype)
        collect = torch.zeros(len(terms), len(flat), dtype=dtype)
        for term, (invariant, factors, coefficient) in enumerate(flat):
            for k in range(self.order):
                select[k, term, factors[k] if k < len(factors) else total] = 1.0
            collect[invariant, term] = coefficient
        self.select = nn.Buffer(select)
        self.collect = nn.Buffer(collect)

    def forward(self, mixed: Tensor, n: int) -> Tensor:
        """Features [N, C * S * M], float64, of `RadialMixing`'s [L + 1, C * N * M]."""
        products = torch.matmul(self.select[0], mixed)
        for k in range(1, self.order):
            products = products * torch.matmul(self.select[k], mixed)
        features = torch.matmul(self.collect, products)
        features = features.view(features.shape[0], -1, n, self.functions)
        return features.permute(2, 1, 0, 3).reshape(n, -1).to(torch.float64)

    @torch.jit.export
    def backward(self, grad: Tensor, mixed: Tensor) -> Tensor:
        """From dE/d(features) to dE/d(mixed sums)."""
        invariants, n = self.collect.shape[0], grad.shape[0]
        grad = grad.to(mixed.dtype).reshape(n, -1, invariants, self.functions)
        grad = grad.permute(2, 1, 0, 3).reshape(invariants, -1)
        by_term = torch.matmul(self.collect.t(), grad)
        factors: List[Tensor] = []
        for k in range(self.order):
            factors.append(torch.matmul(self.select[k], mixed))
        grad_mixed = torch.zeros_like(mixed)
        for k in range(self.order):
            others = by_term
            for other in range(self.order):
                if other != k:
                    others = others * factors[other]
            grad_mixed = grad_mixed + torch.matmul(self.select[k].t(), others)
        return grad_mixed
