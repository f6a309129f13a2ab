"""Readouts: scalars of a layer's node features to an energy and a latent charge of each atom."""

from typing import List, Tuple

import torch
from torch import Tensor, nn


class Readout(nn.Module):
    """Energy and charge readout side by side: linear, or one hidden silu layer each.

    Weights are ``[W]`` with W of shape [C, 1] (linear), or ``[W0, W1]`` of [C, H] and [H, 1].
    """

    def __init__(self, energy: List[Tensor], charge: List[Tensor]) -> None:
        super().__init__()
        self.nonlinear = len(energy) == 2
        self.inner = nn.Buffer(torch.cat([energy[0], charge[0]], 1))
        width = energy[0].shape[1]
        outer = torch.zeros(2 * width, 2, dtype=energy[0].dtype)
        if self.nonlinear:
            outer[:width, :1], outer[width:, 1:] = energy[1], charge[1]
        self.outer = nn.Buffer(outer)
        self.slope_inner = nn.Buffer(self.inner.t().contiguous())

    def forward(self, scalars: Tensor) -> Tuple[Tensor, Tensor]:
        """From scalars [N, C] to (energy, charge) as [N, 2], and the slopes if there is a silu."""
        x = scalars @ self.inner
        if not self.nonlinear:
            return x, x
        s = torch.sigmoid(x)
        y = x * s
        return y @ self.outer, torch.addcmul(s + y, y, s, value=-1.0)

    @torch.jit.export
    def backward(self, grad: Tensor, slopes: Tensor) -> Tensor:
        """From dE/d(energy, charge) [N, 2] to dE/dscalars [N, C], in the dtype of the network."""
        if self.nonlinear:
            grad = (grad @ self.outer.t()) * slopes
        return grad.to(self.slope_inner.dtype) @ self.slope_inner


class SpeciesLinear(nn.Module):
    """One linear map [C_in, C_out] for each species, applied to atoms sorted by species."""

    def __init__(self, weights: Tensor) -> None:
        super().__init__()
        self.weights = nn.Buffer(weights)
        self.slope_weights = nn.Buffer(weights.clone())

    def forward(self, x: Tensor, counts: List[int], transpose: bool) -> Tensor:
        """x [d, N, C_in] to [d, N, C_out], or with the transposed maps (the backward pass)."""
        weights = self.slope_weights if transpose else self.weights
        x = x.to(weights.dtype)
        parts: List[Tensor] = []
        first = 0
        for z, count in enumerate(counts):
            if count > 0:
                weight = weights[z].t() if transpose else weights[z]
                parts.append(torch.matmul(x[:, first : first + count], weight))
                first += count
        return parts[0] if len(parts) == 1 else torch.cat(parts, 1)
