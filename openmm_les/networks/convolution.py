"""Neighbour sums of MACE: A_i = sum_j R(r_ij) (Y(r_ij) (x) h_j), mixed to channels of each degree.

Node tensors are [components, C, N] or [components, N, C], pair tensors [N, K, ...] over the padded
neighbour matrix; components are in parity order (`angular`). Padded slots carry R = R' = 0.
"""

from typing import List, Sequence, Tuple

import numpy as np
import torch
from torch import nn

from openmm_les.networks.angular import degree_offsets, parity_ordered_degrees, wigner_3j
from openmm_les.networks.blocking import CACHE_ELEMENTS


class SpeciesConvolution(nn.Module):
    """First layer, where the neighbour's features depend on its species only.

    Everything but the pair functions then commutes with the neighbour sum, so that no tensor with
    a pair and a channel index ever exists: B = sum_j Y (x) phi (x) onehot_j, then A = W B.

    Args:
        weights: W of shape [lmax + 1, C, Z, P], one map for each degree.
        lmax: highest degree of the harmonics.
    """

    def __init__(self, weights: torch.Tensor, lmax: int) -> None:
        super().__init__()
        self.num_species = weights.shape[2]
        self.num_features = weights.shape[3]
        rows = [d for d in parity_ordered_degrees(lmax) for _ in range(2 * d + 1)]
        self.weights: torch.Tensor
        self.register_buffer("weights", weights.flatten(2)[rows].contiguous())

    def forward(
        self, harmonics: torch.Tensor, features: torch.Tensor, neighbor_onehot: torch.Tensor
    ) -> Tuple[torch.Tensor, List[torch.Tensor]]:
        """Neighbour sum.

        Args:
            harmonics: Y of shape [N, K, S].
            features: phi of shape [N, K, P].
            neighbor_onehot: species of the neighbour, shape [N, K, Z].

        Returns:
            A of shape [S, C, N] and the tensors `backward` needs.
        """
        pairs = (neighbor_onehot.unsqueeze(3) * features.unsqueeze(2)).flatten(2)
        moments = torch.bmm(harmonics.transpose(1, 2), pairs)
        out = torch.bmm(self.weights, moments.permute(1, 2, 0))
        return out, [harmonics, pairs, neighbor_onehot]

    @torch.jit.export
    def backward(
        self, grad: torch.Tensor, saved: List[torch.Tensor]
    ) -> Tuple[torch.Tensor, torch.Tensor]:
        """From dE/dA [S, C, N] to (dE/dY [N, K, S], dE/dphi [N, K, P])."""
        harmonics, pairs, neighbor_onehot = saved[0], saved[1], saved[2]
        n, k = pairs.shape[0], pairs.shape[1]
        moments = torch.bmm(grad.transpose(1, 2), self.weights).transpose(0, 1)
        grad_harmonics = torch.bmm(pairs, moments.transpose(1, 2))
        grad_pairs = torch.bmm(harmonics, moments).view(n, k, self.num_species, self.num_features)
        return grad_harmonics, (grad_pairs * neighbor_onehot.unsqueeze(3)).sum(2)


class MessageConvolution(nn.Module):
    """Later layers: the neighbour's features h_j of degrees 0..node_lmax through all paths.

    Args:
        radial_weights: last layer of the radial MLP, shape [P, paths * C].
        paths: (degree of node, of edge, of output) of each path.
        mixes: for each output degree the map of shape [paths of that degree * C, C].
        channels: C.
        lmax: highest degree of harmonics and of the output.
        node_lmax: highest degree of the node features.
    """

    def __init__(
        self,
        radial_weights: torch.Tensor,
        paths: Sequence[Tuple[int, int, int]],
        mixes: Sequence[torch.Tensor],
        channels: int,
        lmax: int,
        node_lmax: int,
    ) -> None:
        super().__init__()
        self.channels = channels
        self.cache_elements = CACHE_ELEMENTS
        self.degrees: List[int] = parity_ordered_degrees(lmax)
        self.edge_offsets: List[int] = degree_offsets(lmax)
        self.node_offsets: List[int] = degree_offsets(node_lmax)
        self.node_degree: List[int] = [path[0] for path in paths]
        self.edge_degree: List[int] = [path[1] for path in paths]
        self.out_degree: List[int] = [path[2] for path in paths]
        # Position of each path among those of the same output degree.
        self.rank: List[int] = [self.out_degree[:p].count(d) for p, d in enumerate(self.out_degree)]

        weights = radial_weights.view(-1, len(paths), channels).transpose(0, 1).clone()
        couplings = []
        self.coupling_offsets: List[int] = []
        width = 0
        size = (lmax + 1) ** 2
        for p, (node, edge, out) in enumerate(paths):
            self.coupling_offsets.append(width)
            if node == 0:
                # w3j(0, l, l) is the identity over sqrt(2l + 1): no coupling matrix is needed.
                weights[p] *= wigner_3j(0, edge, out)[0, 0, 0]
                continue
            coupling = np.zeros((size, 2 * node + 1, 2 * out + 1))
            first = self.edge_offsets[edge]
            coupling[first : first + 2 * edge + 1] = wigner_3j(node, edge, out).transpose(1, 0, 2)
            couplings.append(torch.from_numpy(coupling.reshape(size, -1)).to(weights.dtype))
            width += couplings[-1].shape[1]
        self.has_couplings = len(couplings) > 0
        self.radial_weights: torch.Tensor
        self.couplings: torch.Tensor
        self.mixes: torch.Tensor
        self.register_buffer("radial_weights", weights)
        self.register_buffer(
            "couplings", torch.cat(couplings, 1) if couplings else weights.new_zeros(size, 0)
        )
        self.mix_offsets: List[int] = [0]
        for mix in mixes:
            self.mix_offsets.append(self.mix_offsets[-1] + mix.shape[0])
        self.register_buffer("mixes", torch.cat(list(mixes)))

    def _mix(self, degree: int) -> torch.Tensor:
        return self.mixes[self.mix_offsets[degree] : self.mix_offsets[degree + 1]]

    def _block_size(self, neighbors: torch.Tensor) -> int:
        """Atoms worked on at a time: on a CPU, so many that pair tensors stay in the cache."""
        if neighbors.is_cuda:
            return neighbors.shape[0]
        return max(1, self.cache_elements // (neighbors.shape[1] * self.channels))

    def _couple(self, harmonics: torch.Tensor) -> torch.Tensor:
        return harmonics @ self.couplings if self.has_couplings else harmonics

    def forward(
        self,
        harmonics: torch.Tensor,
        features: torch.Tensor,
        senders: torch.Tensor,
        neighbors: torch.Tensor,
    ) -> Tuple[torch.Tensor, List[torch.Tensor]]:
        """Neighbour sum.

        Args:
            harmonics: Y of shape [N, K, S].
            features: phi of shape [N, K, P].
            senders: h of shape [N, (node_lmax + 1)^2 * C].
            neighbors: neighbour indices [N, K].

        Returns:
            A of shape [S, C, N] and the tensors `backward` needs. Messages are not among them:
            they are the largest tensors by far, and made again from cache faster than kept.
        """
        step = self._block_size(neighbors)
        blocks: List[torch.Tensor] = []
        for start in range(0, neighbors.shape[0], step):
            y, phi = harmonics[start : start + step], features[start : start + step]
            blocks.append(self._block(y, phi, senders, neighbors[start : start + step]))
        out = blocks[0] if len(blocks) == 1 else torch.cat(blocks, 2)
        return out, [harmonics, features, senders, neighbors]

    def _block(
        self,
        harmonics: torch.Tensor,
        features: torch.Tensor,
        senders: torch.Tensor,
        neighbors: torch.Tensor,
    ) -> torch.Tensor:
        n, k, c = neighbors.shape[0], neighbors.shape[1], self.channels
        nodes = senders.index_select(0, neighbors.reshape(-1)).view(n, k, -1, c)
        flat = features.reshape(n * k, -1)
        coupled = self._couple(harmonics)
        sums: List[List[torch.Tensor]] = []
        for _ in range(len(self.degrees)):
            empty: List[torch.Tensor] = []
            sums.append(empty)
        for p in range(len(self.out_degree)):
            radial = torch.mm(flat, self.radial_weights[p]).view(n, k, 1, c)
            angular, node = self._factors(p, harmonics, coupled, nodes)
            messages = (radial * node).view(n, -1, c)
            sums[self.out_degree[p]].append(torch.bmm(angular.transpose(1, 2), messages))
        out: List[torch.Tensor] = []
        for degree in self.degrees:
            stacked = torch.cat(sums[degree], 2).permute(1, 2, 0)
            out.append(torch.matmul(self._mix(degree).t(), stacked))
        return torch.cat(out)

    def _factors(
        self, p: int, harmonics: torch.Tensor, coupled: torch.Tensor, nodes: torch.Tensor
    ) -> Tuple[torch.Tensor, torch.Tensor]:
        """Angular factor [n, K * d_node, d_out] and node features [n, K, d_node, C] of path p."""
        n, k = harmonics.shape[0], harmonics.shape[1]
        size = 2 * self.out_degree[p] + 1
        if self.node_degree[p] == 0:
            first = self.edge_offsets[self.edge_degree[p]]
            return harmonics[:, :, first : first + size], nodes[:, :, :1]
        node_size = 2 * self.node_degree[p] + 1
        first, node_first = self.coupling_offsets[p], self.node_offsets[self.node_degree[p]]
        angular = coupled[:, :, first : first + node_size * size].reshape(n, k * node_size, size)
        return angular, nodes[:, :, node_first : node_first + node_size]

    @torch.jit.export
    def backward(
        self, grad: torch.Tensor, saved: List[torch.Tensor]
    ) -> Tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """From dE/dA [S, C, N] to dE/d of (Y [N, K, S], phi [N, K, P], h_j [N * K, n_node * C])."""
        harmonics, features, senders, neighbors = saved[0], saved[1], saved[2], saved[3]
        step = self._block_size(neighbors)
        grad_y: List[torch.Tensor] = []
        grad_phi: List[torch.Tensor] = []
        grad_nodes: List[torch.Tensor] = []
        for start in range(0, neighbors.shape[0], step):
            y, phi, h = self._block_backward(
                grad[:, :, start : start + step],
                harmonics[start : start + step],
                features[start : start + step],
                senders,
                neighbors[start : start + step],
            )
            grad_y.append(y)
            grad_phi.append(phi)
            grad_nodes.append(h)
        if len(grad_y) == 1:
            return grad_y[0], grad_phi[0], grad_nodes[0]
        return torch.cat(grad_y), torch.cat(grad_phi), torch.cat(grad_nodes)

    def _block_backward(
        self,
        grad: torch.Tensor,
        harmonics: torch.Tensor,
        features: torch.Tensor,
        senders: torch.Tensor,
        neighbors: torch.Tensor,
    ) -> Tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        n, k, c = neighbors.shape[0], neighbors.shape[1], self.channels
        nodes = senders.index_select(0, neighbors.reshape(-1)).view(n, k, -1, c)
        flat = features.reshape(n * k, -1)
        coupled = self._couple(harmonics)
        grad_sums: List[torch.Tensor] = []
        for degree in range(len(self.degrees)):
            first = self.edge_offsets[degree]
            rows = grad[first : first + 2 * degree + 1].transpose(1, 2)
            grad_sums.append(torch.matmul(rows, self._mix(degree).t()).transpose(0, 1))
        grad_harmonics = torch.zeros_like(harmonics)
        grad_coupled = torch.zeros_like(coupled)
        grad_flat = torch.zeros_like(flat)
        grad_nodes = torch.zeros_like(nodes)
        for p in range(len(self.out_degree)):
            degree, size = self.out_degree[p], 2 * self.out_degree[p] + 1
            node_degree, node_size = self.node_degree[p], 2 * self.node_degree[p] + 1
            radial = torch.mm(flat, self.radial_weights[p]).view(n, k, 1, c)
            angular, node = self._factors(p, harmonics, coupled, nodes)
            column = self.rank[p] * c
            grad_sum = grad_sums[degree][:, :, column : column + c]
            grad_messages = torch.bmm(angular, grad_sum).view(n, k, node_size, c)
            messages = (radial * node).view(n, -1, c)
            grad_angular = torch.bmm(messages, grad_sum.transpose(1, 2))
            if node_degree == 0:
                first = self.edge_offsets[degree]
                grad_harmonics[:, :, first : first + size] += grad_angular
                grad_radial = grad_messages * node
            else:
                first = self.coupling_offsets[p]
                flat_angular = grad_angular.view(n, k, node_size * size)
                grad_coupled[:, :, first : first + node_size * size] = flat_angular
                grad_radial = (grad_messages * node).sum(2)
            node_first = self.node_offsets[node_degree]
            grad_nodes[:, :, node_first : node_first + node_size].addcmul_(grad_messages, radial)
            grad_flat.addmm_(grad_radial.view(n * k, c), self.radial_weights[p].t())
        if self.has_couplings:
            grad_harmonics = grad_harmonics + grad_coupled @ self.couplings.t()
        return grad_harmonics, grad_flat.view(n, k, -1), grad_nodes.view(n * k, -1)
