"""A kernel of MACE's convolution that is made of Triton kernels."""

from typing import List, Sequence, Tuple

import torch
import triton
from torch import Tensor, nn

from openmm_les.neighbors.matrix import Neighbors
from openmm_les.networks.blocks.angular import Symbols, degree_offsets, path_couplings
from openmm_les.networks.blocks.convolution import GroupedConvolution
from openmm_les.networks.blocks.tensor_paths import MessageTape
from openmm_les.networks.kernels.triton import messages  # noqa: F401 - registers the operators

#: Slots and channels that a program works on at a time, its warps, and stages of its loops. With
#: more of any some kernels need more registers than there are.
TILES = (16, 32, 4, 2)


class FusedConvolution(nn.Module):
    """The same as a `GroupedConvolution`, which it is on a CPU.

    The other arguments are those of `message_convolution`.
    """

    def __init__(
        self,
        plain: GroupedConvolution,
        radial_weights: Tensor,
        paths: Sequence[Tuple[int, int, int]],
        mixes: Sequence[Tensor],
        channels: int,
        lmax: int,
        symbols: Symbols,
    ) -> None:
        super().__init__()
        self.plain = plain
        self.interpreted: bool = triton.knobs.runtime.interpret
        self.channels = channels
        self.components = (lmax + 1) ** 2
        weights = radial_weights.view(-1, len(paths), channels).transpose(0, 1)
        self.lmax = lmax
        self.degrees: List[int] = [degree for node, _, out in paths for degree in (node, out)]
        self.targets: List[int] = degree_offsets(lmax)
        self.tiles: List[int] = list(TILES)
        self.weights = nn.Buffer(weights.contiguous())
        self.couplings = nn.Buffer(torch.cat(path_couplings(paths, lmax, symbols), 1))
        self.mixes = nn.Buffer(torch.cat(list(mixes)))
        #: First row of each degree in `mixes`, and one more.
        self.firsts: List[int] = [0]
        for mix in mixes:
            self.firsts.append(self.firsts[-1] + mix.shape[0])

    def forward(
        self, harmonics: Tensor, features: Tensor, senders: Tensor, neighbors: Neighbors
    ) -> Tuple[Tensor, MessageTape]:
        """See `Convolution`."""
        if not (harmonics.is_cuda or self.interpreted):
            plain: Tuple[Tensor, MessageTape] = self.plain(harmonics, features, senders, neighbors)
            return plain
        sums = torch.ops.openmm_les.message_sums(
            self._angular(harmonics),
            features,
            senders,
            neighbors.indices,
            neighbors.used,
            self.weights,
            self.degrees,
            self.lmax,
            self.tiles,
        )
        out = senders.new_empty([self.components, self.channels, senders.shape[0]])
        for degree, target in enumerate(self.targets):
            rows = out[target : target + 2 * degree + 1]
            torch.bmm(self._mix(degree).transpose(1, 2), sums[degree].transpose(1, 2), out=rows)
        return out, MessageTape(harmonics, features, senders, neighbors)

    @torch.jit.export
    def backward(
        self, grad: Tensor, tape: MessageTape, reverse: Tensor
    ) -> Tuple[Tensor, Tensor, Tensor]:
        """See `Convolution`."""
        if not (grad.is_cuda or self.interpreted):
            plain: Tuple[Tensor, Tensor, Tensor] = self.plain.backward(grad, tape, reverse)
            return plain
        grad_sums: List[Tensor] = []
        for degree, target in enumerate(self.targets):
            rows = grad[target : target + 2 * degree + 1].transpose(1, 2)
            grad_sums.append(torch.bmm(rows, self._mix(degree).transpose(1, 2)))
        grad_angular, grad_features, grad_senders = torch.ops.openmm_les.message_gradients(
            grad_sums,
            self._angular(tape.harmonics),
            tape.features,
            tape.senders,
            tape.neighbors.indices,
            tape.neighbors.used,
            reverse,
            self.weights,
            self.degrees,
            self.tiles,
        )
        grad_harmonics = torch.mm(grad_angular, self.couplings.t()).view_as(tape.harmonics)
        return grad_harmonics, grad_features, grad_senders

    def _angular(self, harmonics: Tensor) -> Tensor:
        """Angular factors of all paths [N * K, A]."""
        return torch.mm(harmonics.flatten(0, 1), self.couplings)

    def _mix(self, degree: int) -> Tensor:
        """The map of a degree for each of its components, [2l+1, columns, C]."""
        own = self.mixes[self.firsts[degree] : self.firsts[degree + 1]]
        return own.expand(2 * degree + 1, -1, -1)
