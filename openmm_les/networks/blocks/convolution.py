"""Neighbour sums of MACE's later layers: A_i = sum_j R(r_ij) (Y(r_ij) (x) h_j), mixed to channels.

`message_convolution` alone decides which kernel computes them.
"""

from typing import List, Protocol, Sequence, Tuple

import torch
from torch import Tensor, nn

from openmm_les.neighbors.matrix import Neighbors
from openmm_les.networks.blocks.angular import Symbols, degree_offsets, wigner_3j
from openmm_les.networks.blocks.tensor_paths import MessageTape, MixedPathGroup, NeighborSums
from openmm_les.networks.form import Form


class Convolution(Protocol):
    """A kernel: an ``nn.Module`` for TorchScript with these methods."""

    def __call__(
        self, harmonics: Tensor, features: Tensor, senders: Tensor, neighbors: Neighbors
    ) -> Tuple[Tensor, MessageTape]:
        """A of shape [S, C, N], parity order, and the inputs, which `MessageTape` describes."""
        ...

    def backward(
        self, grad: Tensor, tape: MessageTape, reverse: Tensor
    ) -> Tuple[Tensor, Tensor, Tensor]:
        """From dE/dA [S, C, N] to dE/d of (Y [N, K, S], phi [N, K, P], h [N, n_node])."""
        ...


def message_convolution(
    radial_weights: Tensor,
    paths: Sequence[Tuple[int, int, int]],
    mixes: Sequence[Tensor],
    channels: int,
    lmax: int,
    node_lmax: int,
    form: Form,
    symbols: Symbols = wigner_3j,
) -> Convolution:
    """The kernel for a layer.

    Args:
        radial_weights: last layer of the radial MLP, shape [P, paths * C].
        paths: (degree of node, of edge, of output) of each path.
        mixes: for each output degree the map of shape [paths of that degree * C, C].
        form: with few kernels all paths from one node degree form a group of batched products;
            otherwise every path is one.
        symbols: Wigner 3j symbols.
    """
    if form.kernels == "numba":
        from openmm_les.networks.kernels.numba.messages import LoopConvolution

        return LoopConvolution(radial_weights, paths, mixes, channels, lmax, node_lmax, symbols)
    groups = [[p] for p in range(len(paths))]
    if form.few_kernels:
        degrees = range(node_lmax + 1)
        groups = [[p for p, path in enumerate(paths) if path[0] == d] for d in degrees]
    plain = GroupedConvolution(
        radial_weights, paths, mixes, channels, lmax, node_lmax, groups, symbols
    )
    if form.kernels == "torch":
        return plain
    from openmm_les.networks.kernels.triton.convolution import FusedConvolution

    return FusedConvolution(plain, radial_weights, paths, mixes, channels, lmax, symbols)


class GroupedConvolution(nn.Module):
    """Batched matrix products, for one group of paths after the other.

    The groups hold indices of paths, which all start from the same node degree.
    """

    def __init__(
        self,
        radial_weights: Tensor,
        paths: Sequence[Tuple[int, int, int]],
        mixes: Sequence[Tensor],
        channels: int,
        lmax: int,
        node_lmax: int,
        groups: Sequence[Sequence[int]],
        symbols: Symbols,
    ) -> None:
        super().__init__()
        weights = radial_weights.view(-1, len(paths), channels).transpose(0, 1)
        outputs = [path[2] for path in paths]
        own = []
        for p, degree in enumerate(outputs):
            rank = outputs[:p].count(degree)
            own.append(mixes[degree][rank * channels : (rank + 1) * channels])
        first = degree_offsets(node_lmax)
        members = [
            MixedPathGroup(
                [paths[p] for p in group],
                weights[list(group)],
                lmax,
                first[paths[group[0]][0]] * channels,
                [own[p] for p in group],
                symbols,
            )
            for group in groups
        ]
        self.components = (lmax + 1) ** 2
        self.channels = channels
        self.sums = NeighborSums(members)

    def forward(
        self, harmonics: Tensor, features: Tensor, senders: Tensor, neighbors: Neighbors
    ) -> Tuple[Tensor, MessageTape]:
        """See `Convolution`."""
        sums, tape = self.sums(harmonics, features, senders, neighbors)
        out = senders.new_zeros([self.components, self.channels, senders.shape[0]])
        for g, group in enumerate(self.sums.groups):
            group.mix(sums[g], out)
        return out, tape

    @torch.jit.export
    def backward(
        self, grad: Tensor, tape: MessageTape, reverse: Tensor
    ) -> Tuple[Tensor, Tensor, Tensor]:
        """See `Convolution`."""
        grad_sums: List[Tensor] = []
        for group in self.sums.groups:
            grad_sums.append(group.mix_backward(grad).transpose(0, 1))
        grads: Tuple[Tensor, Tensor, Tensor] = self.sums.backward(grad_sums, tape, reverse)
        return grads
