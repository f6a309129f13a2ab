"""Neighbour sums of features that depend on the species of the neighbour only: first layers."""

from typing import Any, NamedTuple, Tuple

import torch
from torch import Tensor, nn

from openmm_les.networks.blocks.angular import parity_ordered_degrees
from openmm_les.networks.blocks.blocking import block_limits, block_size, prefix_view
from openmm_les.networks.blocks.geometry import gather
from openmm_les.networks.kernels import Kernels


class SpeciesTape(NamedTuple):
    """What the backward pass of a first layer needs."""

    harmonics: Tensor  #: Y of shape [N, K, S].
    features: Tensor  #: phi of shape [N, K, P].
    neighbor_species: Tensor  #: of the neighbours, one-hot [N, K, Z]; in loops indices [N * K].


def species_convolution(weights: Tensor, lmax: int, kernels: Kernels) -> Any:
    """The kernel for a first layer, from its map [lmax + 1, C, Z, P]; this alone chooses it."""
    if kernels == "numba":
        from openmm_les.networks.kernels.numba.species import LoopSpeciesConvolution

        return LoopSpeciesConvolution(weights, lmax)
    return SpeciesConvolution(weights, lmax)


class SpeciesConvolution(nn.Module):
    """First layer, where the neighbour's features depend on its species only.

    Everything but the pair functions then commutes with the neighbour sum, so that no tensor with a
    pair and a channel index ever exists: B = sum_j Y (x) phi (x) onehot_j, then A = W B. W has the
    shape [lmax + 1, C, Z, P], one map for each degree.
    """

    def __init__(self, weights: Tensor, lmax: int) -> None:
        super().__init__()
        self.limits = block_limits()
        self.num_species = weights.shape[2]
        self.num_features = weights.shape[3]
        self.onehot = nn.Buffer(torch.eye(self.num_species, dtype=weights.dtype))
        rows = [d for d in parity_ordered_degrees(lmax) for _ in range(2 * d + 1)]
        self.weights = nn.Buffer(weights.flatten(2)[rows].contiguous())

    def forward(
        self, harmonics: Tensor, features: Tensor, neighbors: Tensor, species: Tensor
    ) -> Tuple[Tensor, SpeciesTape]:
        """The sums A [S, C, N], from Y [N, K, S], phi [N, K, P], neighbours [N, K], species [N]."""
        neighbor_onehot = gather(self.onehot.index_select(0, species), neighbors)
        n, k = harmonics.shape[0], harmonics.shape[1]
        step, work = self._buffer(harmonics)
        moments = harmonics.new_empty([n, harmonics.shape[2], self.weights.shape[2]])
        for start in range(0, n, step):
            end = min(n, start + step)
            pairs = prefix_view(work, [end - start, k, self.num_species, self.num_features])
            onehot, phi = neighbor_onehot[start:end], features[start:end]
            torch.mul(onehot.unsqueeze(3), phi.unsqueeze(2), out=pairs)
            y = harmonics[start:end].transpose(1, 2)
            torch.bmm(y, pairs.flatten(2), out=moments[start:end])
        out = torch.bmm(self.weights, moments.permute(1, 2, 0))
        return out, SpeciesTape(harmonics, features, neighbor_onehot)

    @torch.jit.export
    def backward(self, grad: Tensor, tape: SpeciesTape) -> Tuple[Tensor, Tensor]:
        """From dE/dA [S, C, N] to (dE/dY [N, K, S], dE/dphi [N, K, P])."""
        harmonics, features, neighbor_onehot = tape
        n, k = harmonics.shape[0], harmonics.shape[1]
        grad_moments = torch.bmm(grad.transpose(1, 2), self.weights).transpose(0, 1)
        grad_harmonics = torch.empty_like(harmonics)
        grad_features = harmonics.new_empty(features.shape)
        step, work = self._buffer(harmonics)
        for start in range(0, n, step):
            end = min(n, start + step)
            pairs = prefix_view(work, [end - start, k, self.num_species, self.num_features])
            onehot, phi = neighbor_onehot[start:end].unsqueeze(3), features[start:end].unsqueeze(2)
            own = grad_moments[start:end]
            torch.mul(onehot, phi, out=pairs)
            torch.bmm(pairs.flatten(2), own.transpose(1, 2), out=grad_harmonics[start:end])
            torch.bmm(harmonics[start:end], own, out=pairs.flatten(2))
            torch.sum(pairs.mul_(onehot), [2], out=grad_features[start:end])
        return grad_harmonics, grad_features

    def _buffer(self, harmonics: Tensor) -> Tuple[int, Tensor]:
        """Atoms processed at a time, and a buffer for their phi (x) onehot."""
        n, width = harmonics.shape[0], harmonics.shape[1] * self.weights.shape[2]
        step = min(n, block_size(harmonics, width, self.limits))
        return step, harmonics.new_empty([step * width])
