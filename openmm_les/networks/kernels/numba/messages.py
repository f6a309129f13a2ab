"""Messages of MACE's later layers for a CPU, as loops over pairs.

Batched products write and read tensors of all pairs, slots and channels for every path. The loops
keep what belongs to a pair in the first cache, and skip unused slots. Only the radial factors
R = phi V stay a matrix product, of a block of pairs at a time, and of one direction of each pair:
both share phi.
"""

from collections.abc import Iterator
from itertools import accumulate
from typing import Any, List, Sequence, Tuple

import numpy as np
import torch
from torch import Tensor, nn

from openmm_les.neighbors.matrix import Neighbors
from openmm_les.networks.blocks.angular import Symbols, degree_offsets, path_couplings
from openmm_les.networks.blocks.tensor_paths import MessageTape
from openmm_les.networks.kernels.numba import workers
from openmm_les.networks.kernels.numba.compiler import compiled
from openmm_les.networks.kernels.numba.operators import operator

#: Elements of R of the pairs that are processed at a time, which stay in the second cache.
_BLOCK = 2**18
#: Elements of R of all pairs up to which it is kept for the backward pass; beyond, memory traffic
#: costs as much as to compute it again (estimate).
_KEPT = 2**21
#: Columns of the table of paths: first component of the node, number of components, number of rows
#: of the sums, first angular factor, first row, and from one row of the path to the next.
_NODE, _SIZE, _ROWS, _ANGULAR, _FIRST, _STEP = range(6)


@compiled
def _one_of_each_pair(used: Any, reverse: Any, width: int) -> Any:
    """Flat slots of one direction of every pair, and where those of each atom begin, (N + 1,)."""
    slots = np.empty(len(reverse), dtype=np.int64)
    begin = np.zeros(len(used) + 1, dtype=np.int64)
    number = 0
    for atom in range(len(used)):
        for slot in range(atom * width, atom * width + used[atom]):
            if slot <= reverse[slot]:
                slots[number] = slot
                number += 1
        begin[atom + 1] = number
    return slots[:number], begin


@compiled
def _add_messages(
    slots: Any,
    width: int,
    neighbors: Any,
    reverse: Any,
    angular: Any,
    radial: Any,
    nodes: Any,
    paths: Any,
    work: Any,
    sums: Any,
) -> None:
    """Adds to the sums what both directions of pairs, of which `slots` has one, bring their atoms.

    Args:
        slots: flat places in a neighbour matrix with `width` slots a row.
        angular: couplings times harmonics of all slots [N * K, path, node component, row].
        radial: R of the pairs alone [pairs, paths * C].
        nodes: features of atoms [N, components, C].
        work: buffer [2, components, C].
        sums: shape [N, rows, C].
    """
    for e in range(len(slots)):
        slot, back = slots[e], reverse[slots[e]]
        i, j = slot // width, neighbors[slot]
        _add_message(angular[slot], radial[e], nodes[j], paths, work, sums[i])
        if back != slot:
            _add_message(angular[back], radial[e], nodes[i], paths, work, sums[j])


@compiled
def _add_message(x: Any, radial: Any, node: Any, paths: Any, work: Any, sums: Any) -> None:
    """One direction, from features of the sender to the sums of the receiver."""
    channels = node.shape[1]
    for p in range(len(paths)):
        size, rows = paths[p, _SIZE], paths[p, _ROWS]
        r = radial[p * channels : (p + 1) * channels]
        for m in range(size):
            h, message = node[paths[p, _NODE] + m], work[0, m]
            for c in range(channels):
                message[c] = r[c] * h[c]
        for row in range(rows):
            total = sums[paths[p, _FIRST] + row * paths[p, _STEP]]
            for m in range(size):
                message, factor = work[0, m], x[paths[p, _ANGULAR] + m * rows + row]
                for c in range(channels):
                    total[c] += factor * message[c]


@compiled
def _pull_back_messages(
    slots: Any,
    width: int,
    neighbors: Any,
    reverse: Any,
    angular: Any,
    radial: Any,
    nodes: Any,
    grad_sums: Any,
    paths: Any,
    work: Any,
    grad_angular: Any,
    grad_radial: Any,
    grad_nodes: Any,
) -> None:
    """From dE/dsums to what both directions of pairs, of which `slots` has one, have in them.

    Writes dE/d(angular) and dE/dR, which belongs to both directions, and adds to dE/d(nodes); see
    `_add_messages`.
    """
    for e in range(len(slots)):
        slot, back = slots[e], reverse[slots[e]]
        i, j = slot // width, neighbors[slot]
        grad_radial[e] = 0.0
        _pull_back_message(
            angular[slot], radial[e], nodes[j], grad_sums[i], paths, work,
            grad_angular[slot], grad_radial[e], grad_nodes[j],
        )  # fmt: skip
        if back != slot:
            _pull_back_message(
                angular[back], radial[e], nodes[i], grad_sums[j], paths, work,
                grad_angular[back], grad_radial[e], grad_nodes[i],
            )  # fmt: skip


@compiled
def _pull_back_message(
    x: Any,
    radial: Any,
    node: Any,
    grad_sums: Any,
    paths: Any,
    work: Any,
    grad_x: Any,
    grad_radial: Any,
    grad_node: Any,
) -> None:
    """One direction, from dE/dsums of the receiver; the last two arguments are added to."""
    channels = node.shape[1]
    for p in range(len(paths)):
        size, rows, first = paths[p, _SIZE], paths[p, _ROWS], paths[p, _NODE]
        r = radial[p * channels : (p + 1) * channels]
        grad_r = grad_radial[p * channels : (p + 1) * channels]
        for m in range(size):
            h, message, grad = node[first + m], work[0, m], work[1, m]
            for c in range(channels):
                message[c] = r[c] * h[c]
                grad[c] = 0.0
        for row in range(rows):
            g = grad_sums[paths[p, _FIRST] + row * paths[p, _STEP]]
            for m in range(size):
                column = paths[p, _ANGULAR] + m * rows + row
                message, grad, factor, product = work[0, m], work[1, m], x[column], 0.0
                for c in range(channels):
                    grad[c] += factor * g[c]
                    product += message[c] * g[c]
                grad_x[column] = product
        for m in range(size):
            h, grad, grad_h = node[first + m], work[1, m], grad_node[first + m]
            for c in range(channels):
                grad_r[c] += grad[c] * h[c]
                grad_h[c] += grad[c] * r[c]


@operator(
    "sum_messages(Tensor y, Tensor phi, Tensor h, Tensor neighbors, Tensor used, Tensor reverse, "
    "Tensor couplings, Tensor weights, Tensor paths, int rows) -> (Tensor, Tensor)"
)
def _sum_messages(
    harmonics: Tensor,
    features: Tensor,
    senders: Tensor,
    neighbors: Tensor,
    used: Tensor,
    reverse: Tensor,
    couplings: Tensor,
    weights: Tensor,
    paths: Tensor,
    rows: int,
) -> Tuple[Tensor, Tensor]:
    """Sums [N, rows, C] of all paths, and R of the pairs, [pairs, paths * C], or of none if large.

    For the arguments see `LoopConvolution`.
    """
    n, k, channels = len(neighbors), neighbors.shape[1], weights.shape[1] // len(paths)
    slots, begin = _pairs(used, reverse, k)
    phi = features.reshape(n * k, -1)
    angular = torch.mm(harmonics.view(n * k, -1), couplings)
    nodes = senders.view(n, -1, channels)
    parts = workers.shares(begin, weights.shape[1])
    sums = senders.new_zeros([len(parts), n, rows, channels])
    arrays = [t.numpy() for t in (neighbors.view(-1), reverse, angular, nodes, paths, sums)]
    keeps = len(slots) * weights.shape[1] <= _KEPT
    kept = weights.new_empty([len(slots) if keeps else 0, weights.shape[1]])

    def work(number: int, part: slice) -> None:
        for own, radial, buffer in _blocks(slots[part], phi, weights, nodes, kept[part]):
            places, back, x, h, table, out = arrays
            _add_messages(
                own.numpy(), k, places, back, x, radial.numpy(), h, table, buffer, out[number]
            )

    workers.run(work, parts)
    return _total(sums), kept


@operator(
    "pull_back_messages(Tensor grad, Tensor y, Tensor phi, Tensor h, Tensor neighbors, Tensor used,"
    " Tensor reverse, Tensor couplings, Tensor weights, Tensor paths, Tensor kept) "
    "-> (Tensor, Tensor, Tensor)"
)
def _pull_back_sums(
    grad_sums: Tensor,
    harmonics: Tensor,
    features: Tensor,
    senders: Tensor,
    neighbors: Tensor,
    used: Tensor,
    reverse: Tensor,
    couplings: Tensor,
    weights: Tensor,
    paths: Tensor,
    kept: Tensor,
) -> Tuple[Tensor, Tensor, Tensor]:
    """From dE/dsums to dE/d of (Y, phi, h); a pair has dE/dphi of both directions in one slot."""
    n, k, channels = len(neighbors), neighbors.shape[1], weights.shape[1] // len(paths)
    slots, begin = _pairs(used, reverse, k)
    phi = features.reshape(n * k, -1)
    angular = torch.mm(harmonics.view(n * k, -1), couplings)
    nodes = senders.view(n, -1, channels)
    grad_angular, grad_phi = torch.zeros_like(angular), torch.zeros_like(phi)
    parts = workers.shares(begin, weights.shape[1])
    grad_nodes = nodes.new_zeros([len(parts), *nodes.shape])
    inputs = (neighbors.view(-1), reverse, angular, nodes, grad_sums, paths)
    arrays = [t.numpy() for t in (*inputs, grad_angular, grad_nodes)]

    def work(number: int, part: slice) -> None:
        for own, radial, buffer in _blocks(slots[part], phi, weights, nodes, kept[part], True):
            places, back, x, h, g, table, grad_x, grad_h = arrays
            grad_radial = torch.empty_like(radial)
            _pull_back_messages(
                own.numpy(), k, places, back, x, radial.numpy(), h, g, table, buffer,
                grad_x, grad_radial.numpy(), grad_h[number],
            )  # fmt: skip
            grad_phi.index_copy_(0, own, torch.mm(grad_radial, weights.t()))

    workers.run(work, parts)
    grad_harmonics = torch.mm(grad_angular, couplings.t()).view_as(harmonics)
    return grad_harmonics, grad_phi.view(n, k, -1), _total(grad_nodes).view_as(senders)


def _pairs(used: Tensor, reverse: Tensor, width: int) -> Tuple[Tensor, Any]:
    """See `_one_of_each_pair`."""
    slots, begin = _one_of_each_pair(used.numpy(), reverse.numpy(), width)
    return torch.from_numpy(slots), begin


def _total(parts: Tensor) -> Tensor:
    """The sum of what threads have added up."""
    return parts[0] if len(parts) == 1 else parts.sum(0)


def _blocks(
    slots: Tensor,
    features: Tensor,
    weights: Tensor,
    nodes: Tensor,
    kept: Tensor,
    known: bool = False,
) -> Iterator[Tuple[Tensor, Tensor, Any]]:
    """Pairs a block at a time, their R, and a buffer for messages.

    R is written to `kept`, or if it is `known` read there; without rows there, a buffer of all
    blocks holds it.
    """
    step = max(1, _BLOCK // weights.shape[1])
    keeps = len(kept) > 0
    radial = kept if keeps else weights.new_empty([min(step, len(slots)), weights.shape[1]])
    buffer = nodes.new_empty([2, *nodes.shape[1:]]).numpy()
    for start in range(0, len(slots), step):
        own = slots[start : start + step]
        part = radial[start : start + step] if keeps else radial[: len(own)]
        if not (keeps and known):
            torch.mm(features.index_select(0, own), weights, out=part)
        yield own, part, buffer


class LoopConvolution(nn.Module):
    """`Convolution` of the weights, paths and maps that `message_convolution` takes.

    It takes phi to be the same in both directions of a pair, and returns the sum of dE/dphi of both
    in one of the two slots.
    """

    def __init__(
        self,
        radial_weights: Tensor,
        paths: Sequence[Tuple[int, int, int]],
        mixes: Sequence[Tensor],
        channels: int,
        lmax: int,
        node_lmax: int,
        symbols: Symbols,
    ) -> None:
        super().__init__()
        self.channels = channels
        self.components = (lmax + 1) ** 2
        self.degrees: List[int] = degree_offsets(lmax)  #: first component of each degree
        outputs = [out for _, _, out in paths]
        number = [outputs.count(degree) for degree in range(lmax + 1)]
        rows = [(2 * degree + 1) * number[degree] for degree in range(lmax + 1)]
        self.first_rows: List[int] = [0, *accumulate(rows)]
        self.first_maps: List[int] = [0, *(channels * end for end in accumulate(number))]
        self.rows = self.first_rows[-1]
        node_first = degree_offsets(node_lmax)
        table, column = [], 0
        for p, (node, _, out) in enumerate(paths):
            first = self.first_rows[out] + outputs[:p].count(out)
            table.append([node_first[node], 2 * node + 1, 2 * out + 1, column, first, number[out]])
            column += (2 * node + 1) * (2 * out + 1)
        self.paths = nn.Buffer(torch.tensor(table))
        self.couplings = nn.Buffer(torch.cat(path_couplings(paths, lmax, symbols), 1))
        self.weights = nn.Buffer(radial_weights.clone())
        self.mixes = nn.Buffer(torch.cat(list(mixes)))

    def forward(
        self, harmonics: Tensor, features: Tensor, senders: Tensor, neighbors: Neighbors
    ) -> Tuple[Tensor, MessageTape]:
        """See `Convolution`."""
        sums, radial = torch.ops.openmm_les_loops.sum_messages(
            harmonics,
            features,
            senders,
            neighbors.indices,
            neighbors.used,
            neighbors.reverse,
            self.couplings,
            self.weights,
            self.paths,
            self.rows,
        )
        out = sums.new_zeros([sums.shape[0], self.components, self.channels])
        for degree in range(len(self.degrees)):
            own, mix = self._rows(sums, degree), self._mix(degree)
            rows = out[:, self.degrees[degree] : self.degrees[degree] + own.shape[1]]
            maps = mix.expand(own.shape[1], -1, -1)
            torch.bmm(own.transpose(0, 1), maps, out=rows.transpose(0, 1))
        return out.permute(1, 2, 0), MessageTape(harmonics, features, senders, neighbors, radial)

    @torch.jit.export
    def backward(
        self, grad: Tensor, tape: MessageTape, reverse: Tensor
    ) -> Tuple[Tensor, Tensor, Tensor]:
        """See `Convolution`."""
        grad_sums = grad.new_empty([grad.shape[2], self.rows, self.channels])
        for degree in range(len(self.degrees)):
            own, mix = self._rows(grad_sums, degree), self._mix(degree)
            rows = grad[self.degrees[degree] : self.degrees[degree] + own.shape[1]]
            torch.bmm(
                rows.transpose(1, 2), mix.t().expand(own.shape[1], -1, -1), out=own.transpose(0, 1)
            )
        radial = tape.radial
        assert radial is not None
        grads: Tuple[Tensor, Tensor, Tensor] = torch.ops.openmm_les_loops.pull_back_messages(
            grad_sums,
            tape.harmonics,
            tape.features,
            tape.senders,
            tape.neighbors.indices,
            tape.neighbors.used,
            reverse,
            self.couplings,
            self.weights,
            self.paths,
            radial,
        )
        return grads

    def _rows(self, sums: Tensor, degree: int) -> Tensor:
        """Those of a degree, [N, 2l + 1, paths * C]."""
        first, last = self.first_rows[degree], self.first_rows[degree + 1]
        width = self.first_maps[degree + 1] - self.first_maps[degree]
        return sums[:, first:last].view(sums.shape[0], 2 * degree + 1, width)

    def _mix(self, degree: int) -> Tensor:
        """That of a degree, [paths * C, C]."""
        return self.mixes[self.first_maps[degree] : self.first_maps[degree + 1]]
