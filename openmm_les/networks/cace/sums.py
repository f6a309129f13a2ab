"""Sums over the neighbours of an atom of products of radial functions and angular monomials.

Sums have the shape [C, L, N, n]: channels, monomials, atoms, radial functions.
"""

from typing import List, Sequence, Tuple

import torch
from torch import nn


class ElementSums(nn.Module):
    """Sums over neighbours that differ by their element only; the first layer has no others.

    A channel is made for each number in a receiver's embedding.
    """

    def __init__(self, num_receivers: int) -> None:
        super().__init__()
        self.num_receivers = num_receivers

    def forward(
        self, angular: torch.Tensor, radial: torch.Tensor, senders: torch.Tensor
    ) -> torch.Tensor:
        """The sums, from monomials [N, K, L], radial functions [N, K, n], senders [N, K, A]."""
        n, k = angular.shape[0], angular.shape[1]
        weighted = (senders.unsqueeze(3) * radial.unsqueeze(2)).view(n, k, -1)
        sums = torch.bmm(weighted.transpose(1, 2), angular)
        sums = sums.view(n, senders.shape[2], -1, angular.shape[2]).permute(1, 3, 0, 2)
        return sums.unsqueeze(1).expand(-1, self.num_receivers, -1, -1, -1).flatten(0, 1)

    @torch.jit.export
    def backward(
        self, grad: torch.Tensor, angular: torch.Tensor, radial: torch.Tensor, senders: torch.Tensor
    ) -> Tuple[torch.Tensor, torch.Tensor]:
        """From dE/d(sums) to dE/d(monomials) and dE/d(radial functions)."""
        n, k, size = angular.shape[0], angular.shape[1], angular.shape[2]
        grad = grad.view(-1, self.num_receivers, size, n, radial.shape[2]).sum(1)
        grad = grad.permute(2, 0, 3, 1).reshape(n, -1, size)
        weighted = (senders.unsqueeze(3) * radial.unsqueeze(2)).view(n, k, -1)
        grad_weighted = torch.bmm(angular, grad.transpose(1, 2))
        grad_weighted = grad_weighted.view(n, k, senders.shape[2], -1)
        return torch.bmm(weighted, grad), (grad_weighted * senders.unsqueeze(3)).sum(2)


class MessageSums(nn.Module):
    """Sums over neighbours with weights that each neighbour brings."""

    def __init__(self, sizes: Sequence[int]) -> None:
        super().__init__()
        self.sizes: List[int] = list(sizes)

    def forward(
        self, angular: torch.Tensor, radial: torch.Tensor, received: torch.Tensor
    ) -> torch.Tensor:
        """The sums, with weights for each degree and channel [N, K, lmax + 1, C]."""
        n, k = angular.shape[0], angular.shape[1]
        parts: List[torch.Tensor] = []
        first = 0
        for degree, size in enumerate(self.sizes):
            own = angular[:, :, first : first + size]
            basis = (own.unsqueeze(3) * radial.unsqueeze(2)).view(n, k, -1)
            part = torch.bmm(received[:, :, degree].transpose(1, 2), basis)
            parts.append(part.view(n, part.shape[1], size, -1).permute(1, 2, 0, 3))
            first += size
        return torch.cat(parts, 1)

    @torch.jit.export
    def backward(
        self,
        grad: torch.Tensor,
        angular: torch.Tensor,
        radial: torch.Tensor,
        received: torch.Tensor,
    ) -> Tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """From dE/d(sums) to dE/d of (monomials, radial functions, received weights)."""
        n, k = angular.shape[0], angular.shape[1]
        grad_angular: List[torch.Tensor] = []
        grad_received: List[torch.Tensor] = []
        grad_radial = torch.zeros_like(radial)
        first = 0
        for degree, size in enumerate(self.sizes):
            own = angular[:, :, first : first + size]
            part = grad[:, first : first + size].permute(2, 0, 1, 3).reshape(n, grad.shape[0], -1)
            basis = (own.unsqueeze(3) * radial.unsqueeze(2)).view(n, k, -1)
            grad_received.append(torch.bmm(basis, part.transpose(1, 2)))
            grad_basis = torch.bmm(received[:, :, degree], part).view(n, k, size, -1)
            grad_angular.append((grad_basis * radial.unsqueeze(2)).sum(3))
            grad_radial = grad_radial + (grad_basis * own.unsqueeze(3)).sum(2)
            first += size
        return torch.cat(grad_angular, 2), grad_radial, torch.stack(grad_received, 2)
