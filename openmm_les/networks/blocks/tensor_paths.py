"""Neighbour sums of tensor products with the features of the neighbours, as batched products.

Node tensors are [components, C, N] or [components, N, C], pair tensors [N, K, ...] over the padded
neighbour matrix; components are in parity order (`angular`). Padded slots carry R = R' = 0.
"""

from typing import Any, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np
import torch
from torch import Tensor, nn

from openmm_les.neighbors.matrix import Neighbors
from openmm_les.networks.blocks.angular import Symbols, degree_offsets, wigner_3j
from openmm_les.networks.blocks.blocking import block_limits, block_size, prefix_view
from openmm_les.networks.blocks.geometry import collect


class MessageTape(NamedTuple):
    """Inputs of a convolution; most else is computed again in the backward pass."""

    harmonics: Tensor  #: Y of shape [N, K, S].
    features: Tensor  #: phi of shape [N, K, P].
    senders: Tensor  #: node features h of shape [N, n_node].
    neighbors: Neighbors
    radial: Optional[Tensor] = None  #: radial factors, where a kernel keeps them


class PathGroup(nn.Module):
    """Tensor-product paths from node features of one degree, computed together.

    A group of one path does no more arithmetic than it must. A group of several needs fewer
    kernels, but its angular factors are a block-sparse matrix, mostly of zeros. Every component of
    every path is a row of the neighbour sums.

    Args:
        paths: (degree of node, of edge, of output) of each path; all have the same first degree.
        radial_weights: radial weights of these paths, shape [paths, P, C].
        lmax: highest degree of the harmonics.
        node_first: first column of these paths' node features among those of an atom.
        symbols: Wigner 3j symbols.
    """

    def __init__(
        self,
        paths: Sequence[Tuple[int, int, int]],
        radial_weights: Tensor,
        lmax: int,
        node_first: int,
        symbols: Symbols = wigner_3j,
    ) -> None:
        super().__init__()
        degree, size, offsets = paths[0][0], (lmax + 1) ** 2, degree_offsets(lmax)
        self.channels = radial_weights.shape[2]
        self.num_paths = len(paths)
        self.node_size = 2 * degree + 1
        self.node_first = node_first
        self.node_last = self.node_first + self.node_size * self.channels
        self.rows = sum(2 * path[2] + 1 for path in paths)
        couplings = np.zeros((size, len(paths), self.node_size, self.rows))
        first = 0
        for p, (node, edge, out) in enumerate(paths):
            here = slice(offsets[edge], offsets[edge] + 2 * edge + 1)
            row = slice(first, first + 2 * out + 1)
            couplings[here, p, :, row] = symbols(node, edge, out).transpose(1, 0, 2)
            first += 2 * out + 1
        weights = radial_weights.transpose(0, 1).flatten(1)
        # w3j(0, l, l) is the identity over sqrt(2l + 1): one path needs the harmonics alone.
        self.is_plain = degree == 0 and len(paths) == 1
        self.first = offsets[paths[0][1]]
        if self.is_plain:
            weights = weights * couplings[self.first, 0, 0, 0]
            couplings = couplings[:, :0]
        self.weights = nn.Buffer(weights.contiguous())
        coupling_matrix = torch.from_numpy(couplings.reshape(size, -1))
        self.couplings = nn.Buffer(coupling_matrix.to(weights.dtype))

    def _angular(self, harmonics: Tensor) -> Tensor:
        """Angular factors [n, K * paths * d_node, rows] of harmonics [n, K, S]."""
        n, k, size = harmonics.shape[0], harmonics.shape[1], harmonics.shape[2]
        if self.is_plain:
            return harmonics[:, :, self.first : self.first + self.rows]
        return torch.mm(harmonics.reshape(n * k, size), self.couplings).view(n, -1, self.rows)

    def forward(
        self, harmonics: Tensor, features: Tensor, nodes: Tensor, work: List[Tensor], sums: Tensor
    ) -> None:
        """Neighbour sums of a block of n atoms, written into `sums` [n, rows, C].

        `nodes` are features of the neighbours [n, K, n_node * C], `work` two buffers for pair
        tensors.
        """
        shape, radial_shape = self._shapes(harmonics)
        radial = prefix_view(work[0], radial_shape)
        messages = prefix_view(work[1], shape)
        torch.mm(features.flatten(0, 1), self.weights, out=radial.view(-1, self.weights.shape[1]))
        torch.mul(radial, self._own(nodes), out=messages)
        angular = self._angular(harmonics)
        torch.bmm(angular.transpose(1, 2), messages.view(shape[0], -1, self.channels), out=sums)

    @torch.jit.export
    def backward(
        self,
        grad_sums: Tensor,
        harmonics: Tensor,
        features: Tensor,
        nodes: Tensor,
        work: List[Tensor],
        grad_harmonics: Tensor,
        grad_features: Tensor,
        grad_nodes: Tensor,
    ) -> None:
        """Adds the gradients of a block of n atoms.

        The last three arguments get dE/dY [n, K, S], dE/dphi [n * K, P], and dE/d(nodes) [n, K,
        n_node * C]; `work` are three buffers for pair tensors.
        """
        shape, radial_shape = self._shapes(harmonics)
        n, k, columns = shape[0], shape[1], self.weights.shape[1]
        radial = prefix_view(work[0], radial_shape)
        messages, grad_messages = prefix_view(work[1], shape), prefix_view(work[2], shape)
        node, grad_node = self._own(nodes), self._own(grad_nodes)
        angular = self._angular(harmonics)
        torch.bmm(angular, grad_sums, out=grad_messages.view(n, -1, self.channels))
        torch.mm(features.flatten(0, 1), self.weights, out=radial.view(-1, columns))
        torch.mul(radial, node, out=messages)
        grad_angular = torch.bmm(messages.view(n, -1, self.channels), grad_sums.transpose(1, 2))
        if self.is_plain:
            grad_harmonics[:, :, self.first : self.first + self.rows] += grad_angular
        else:
            flat = grad_harmonics.view(n * k, -1)
            flat.addmm_(grad_angular.view(n * k, -1), self.couplings.t())
        if self.num_paths == 1:
            grad_node.addcmul_(grad_messages, radial)
        else:
            torch.mul(grad_messages, radial, out=messages)
            grad_node.add_(messages.sum(2, keepdim=True))
        grad_messages.mul_(node)
        if self.node_size > 1:
            torch.sum(grad_messages, [3], True, out=radial)
            grad_messages = radial
        grad_features.addmm_(grad_messages.view(n * k, columns), self.weights.t())

    def _shapes(self, harmonics: Tensor) -> Tuple[List[int], List[int]]:
        """Shapes [n, K, paths, d_node, C] of messages and [n, K, paths, 1, C] of radial factors."""
        n, k = harmonics.shape[0], harmonics.shape[1]
        return (
            [n, k, self.num_paths, self.node_size, self.channels],
            [n, k, self.num_paths, 1, self.channels],
        )

    def _own(self, nodes: Tensor) -> Tensor:
        """Features of this group's degree, [n, K, 1, d_node, C], of [n, K, n_node * C]."""
        own = nodes[:, :, self.node_first : self.node_last]
        return own.view(own.shape[0], own.shape[1], 1, self.node_size, self.channels)


class MixedPathGroup(PathGroup):
    """A group of paths whose sums are mixed to channels, each path's by a map [C, C] of its own."""

    def __init__(
        self,
        paths: Sequence[Tuple[int, int, int]],
        radial_weights: Tensor,
        lmax: int,
        node_first: int,
        mixes: Sequence[Tensor],
        symbols: Symbols,
    ) -> None:
        super().__init__(paths, radial_weights, lmax, node_first, symbols)
        offsets = degree_offsets(lmax)
        components = [c for _, _, d in paths for c in range(offsets[d], offsets[d] + 2 * d + 1)]
        self.target = components[0]
        self.is_single = len(paths) == 1
        assignment = torch.zeros((lmax + 1) ** 2, self.rows, dtype=radial_weights.dtype)
        assignment[components, list(range(self.rows))] = 1.0
        maps = [mix for path, mix in zip(paths, mixes, strict=True) for _ in range(2 * path[2] + 1)]
        self.components = nn.Buffer(torch.tensor(components))
        self.assignment = nn.Buffer(assignment)
        self.mixes = nn.Buffer(mixes[0].unsqueeze(0) if self.is_single else torch.stack(maps))

    @torch.jit.export
    def mix(self, sums: Tensor, out: Tensor) -> None:
        """Adds sums [N, rows, C], mixed, to A of shape [S, C, N]."""
        columns = sums.permute(1, 2, 0)
        if self.is_single:
            rows = out[self.target : self.target + self.rows]
            rows.baddbmm_(self.mixes.transpose(1, 2).expand(self.rows, -1, -1), columns)
        else:
            mixed = torch.bmm(self.mixes.transpose(1, 2), columns)
            out.view(out.shape[0], -1).addmm_(self.assignment, mixed.view(self.rows, -1))

    @torch.jit.export
    def mix_backward(self, grad: Tensor) -> Tensor:
        """From dE/dA [S, C, N] to dE/dsums [rows, N, C]."""
        if self.is_single:
            rows = grad[self.target : self.target + self.rows]
            return torch.matmul(rows.transpose(1, 2), self.mixes[0].t())
        rows = grad.index_select(0, self.components)
        return torch.bmm(rows.transpose(1, 2), self.mixes.transpose(1, 2))


class NeighborSums(nn.Module):
    """Sums over neighbours of their features through tensor-product paths.

    Messages are not kept for the backward pass: they are the largest tensors by far, and made again
    from cache faster than kept. Pair tensors live in buffers that all blocks and paths share, since
    fresh memory costs a CPU more than the arithmetic on it.
    """

    def __init__(self, groups: Sequence[PathGroup]) -> None:
        super().__init__()
        self.limits = block_limits()
        #: Elements of the largest pair tensor, for each pair.
        self.width = max(g.channels * g.num_paths * g.node_size for g in groups)
        self.groups: Any = nn.ModuleList(groups)

    def _block_size(self, neighbors: Tensor) -> int:
        return block_size(neighbors, neighbors.shape[1] * self.width, self.limits)

    def _workspace(self, like: Tensor, number: int, pairs: int) -> List[Tensor]:
        buffers: List[Tensor] = []
        for _ in range(number):
            buffers.append(like.new_empty([pairs * self.width]))
        return buffers

    def forward(
        self, harmonics: Tensor, features: Tensor, senders: Tensor, neighbors: Neighbors
    ) -> Tuple[List[Tensor], MessageTape]:
        """The sums of each group, [N, rows, C]."""
        indices = neighbors.indices
        n, k = indices.shape[0], indices.shape[1]
        step = min(n, self._block_size(indices))
        work = self._workspace(senders, 2, step * k)
        gathered = senders.new_empty([step * k * senders.shape[1]])
        sums: List[Tensor] = []
        for group in self.groups:
            sums.append(senders.new_empty([n, group.rows, group.channels]))
        for start in range(0, n, step):
            end = min(n, start + step)
            nodes = prefix_view(gathered, [end - start, k, senders.shape[1]])
            own = indices[start:end].reshape(-1)
            torch.index_select(senders, 0, own, out=nodes.flatten(0, 1))
            for g, member in enumerate(self.groups):
                y, phi = harmonics[start:end], features[start:end]
                member(y, phi, nodes, work, sums[g][start:end])
        return sums, MessageTape(harmonics, features, senders, neighbors)

    @torch.jit.export
    def backward(
        self, grad_sums: List[Tensor], tape: MessageTape, reverse: Tensor
    ) -> Tuple[Tensor, Tensor, Tensor]:
        """From dE/dsums of each group to dE/d of (Y, phi, h)."""
        harmonics, features, senders, neighbors, _ = tape
        indices = neighbors.indices
        n, k = indices.shape[0], indices.shape[1]
        grad_y, grad_phi = torch.zeros_like(harmonics), harmonics.new_zeros(features.shape)
        grad_nodes = senders.new_zeros([n, k, senders.shape[1]])
        step = min(n, self._block_size(indices))
        work = self._workspace(senders, 3, step * k)
        gathered = senders.new_empty([step * k * senders.shape[1]])
        for start in range(0, n, step):
            end = min(n, start + step)
            nodes = prefix_view(gathered, [end - start, k, senders.shape[1]])
            own = indices[start:end].reshape(-1)
            torch.index_select(senders, 0, own, out=nodes.flatten(0, 1))
            for g, member in enumerate(self.groups):
                member.backward(
                    grad_sums[g][start:end],
                    harmonics[start:end],
                    features[start:end],
                    nodes,
                    work,
                    grad_y[start:end],
                    grad_phi[start:end].flatten(0, 1),
                    grad_nodes[start:end],
                )
        return grad_y, grad_phi, collect(grad_nodes, reverse, self.limits)
