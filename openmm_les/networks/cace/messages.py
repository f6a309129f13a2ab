"""From the atoms of one layer to the mixed sums of the next, and back.

Cheng, npj Comput. Mater. 10, 157 (2024), eqs. 9-11: neighbour sums whose terms are weighted by a
network of the neighbour's features (B chi), sums of the neighbours' mixed sums that decay with the
distance (A r), and a memory of the atom's own mixed sums (M). Mixed sums are those of
`RadialMixing`, of shape [L + 1, C * N * M].
"""

from typing import Any, List, NamedTuple, Sequence, Tuple

import torch
from torch import Tensor, nn

from openmm_les.networks.blocks.blocking import block_limits, block_size
from openmm_les.networks.blocks.dense import DenseNetwork
from openmm_les.networks.blocks.geometry import collect, gather
from openmm_les.networks.blocks.radial import polynomial_envelope
from openmm_les.networks.blocks.weights import State, strip_prefix
from openmm_les.networks.cace.features import ElementSums, MessageSums, RadialMixing


class Surroundings(NamedTuple):
    """What all layers know of atoms and pairs."""

    angular: Tensor  #: monomials of the pairs [N, K, L].
    radial: Tensor  #: radial functions of the pairs [N, K, n].
    distances: Tensor  #: of the pairs [N, K] [A].
    senders: Tensor  #: embedding of the neighbours' elements [N, K, A].
    receivers: Tensor  #: factors of the atoms for each channel [C, N].
    own: Tensor  #: the atoms' embedding as senders, for each channel [N, 1, C].
    indices: Tensor  #: neighbour of each slot [N, K].
    reverse: Tensor  #: flat index of the reverse slot [N * K].


class MessageTape(NamedTuple):
    """Of the network of a layer's messages; empty without one."""

    weights: Tensor  #: which an atom sends.
    network: List[Tensor]  #: slopes of the network that makes them.


class PairGradients(NamedTuple):
    """dE/d of the pairs' monomials [N, K, L], radial functions [N, K, n] and distances [N, K]."""

    angular: Tensor
    radial: Tensor
    distances: Tensor


class WeightedMessages(nn.Module):
    """Neighbour sums with weights for each degree and channel, which the neighbour's network makes.

    `network` is that from features to [degrees * C], `sizes` those of `RadialMixing`.
    """

    def __init__(self, network: DenseNetwork, sizes: Sequence[int]) -> None:
        super().__init__()
        self.network: Any = network
        self.sums = MessageSums(sizes)
        self.degrees = len(sizes)
        self.limits = block_limits()

    def forward(self, features: Tensor, around: Surroundings) -> Tuple[Tensor, MessageTape]:
        """Sums [C, L, N, n], from features of the layer before [N, F], float64."""
        weights, slopes = self.network(features)
        weights = weights.to(around.own.dtype).view(features.shape[0], self.degrees, -1)
        weights = weights * around.own
        sums = self.sums(around.angular, around.radial, self._received(weights, around))
        return sums, MessageTape(weights, slopes)

    @torch.jit.export
    def backward(
        self, grad: Tensor, tape: MessageTape, around: Surroundings
    ) -> Tuple[Tensor, Tensor, Tensor]:
        """From dE/d(sums) to dE/d of features, monomials and radial functions."""
        n, k = around.indices.shape[0], around.indices.shape[1]
        received = self._received(tape.weights, around)
        angular, radial, by_weights = self.sums.backward(
            grad, around.angular, around.radial, received
        )
        sent = collect(by_weights.view(n, k, -1), around.reverse, self.limits)
        sent = (sent.view(n, self.degrees, -1) * around.own).view(n, -1).to(torch.float64)
        return self.network.backward(sent, tape.network), angular, radial

    def _received(self, weights: Tensor, around: Surroundings) -> Tensor:
        """Weights of the neighbours [N, K, degrees, C]."""
        n, k = around.indices.shape[0], around.indices.shape[1]
        return gather(weights.flatten(1), around.indices).view(n, k, self.degrees, -1)


class SharedMessages(nn.Module):
    """Neighbour sums with one weight for each neighbour, which its network makes.

    `num_receivers` is that of `ElementSums`.
    """

    def __init__(self, network: DenseNetwork, num_receivers: int) -> None:
        super().__init__()
        self.network: Any = network
        self.sums = ElementSums(num_receivers)
        self.limits = block_limits()

    def forward(self, features: Tensor, around: Surroundings) -> Tuple[Tensor, MessageTape]:
        """See `WeightedMessages.forward`."""
        weights, slopes = self.network(features)
        weights = weights.to(around.senders.dtype)
        senders = around.senders * gather(weights, around.indices)
        return self.sums(around.angular, around.radial, senders), MessageTape(weights, slopes)

    @torch.jit.export
    def backward(
        self, grad: Tensor, tape: MessageTape, around: Surroundings
    ) -> Tuple[Tensor, Tensor, Tensor]:
        """See `WeightedMessages.backward`."""
        received = gather(tape.weights, around.indices)
        senders = around.senders * received
        angular, by_product = self.sums.backward(grad, around.angular, around.radial, senders)
        radial = (by_product * senders.unsqueeze(3)).sum(2)
        by_sender = (by_product * around.radial.unsqueeze(2)).sum(3)
        by_weight = (by_sender * around.senders).sum(2, keepdim=True)
        sent = collect(by_weight, around.reverse, self.limits).to(torch.float64)
        return self.network.backward(sent, tape.network), angular, radial


class Memory(nn.Module):
    """Mixed sums of the atom itself, times a coefficient for each degree, [degrees, C, M]."""

    def __init__(self, coefficients: Tensor, sizes: Sequence[int]) -> None:
        super().__init__()
        by_function = coefficients.repeat_interleave(torch.tensor(list(sizes)), 0)
        # The row of ones is no sum.
        by_function = torch.cat([by_function, torch.zeros_like(by_function[:1])])
        self.coefficients = nn.Buffer(by_function.unsqueeze(2))

    def forward(self, mixed: Tensor, n: int) -> Tensor:
        """What is remembered of mixed sums; of its derivatives, those by the mixed sums."""
        size, channels = self.coefficients.shape[0], self.coefficients.shape[1]
        return (mixed.view(size, channels, n, -1) * self.coefficients).view_as(mixed)


class DecayingMessages(nn.Module):
    """Mixed sums of the neighbours, times factor * exp(-rate r) and the envelope.

    Args:
        factors: for each degree, channel and radial function [degrees, C, M].
        rates: the same [1/A].
        sizes: see `RadialMixing`.
        cutoff: where the envelope vanishes [A].
        order: of the envelope.
    """

    def __init__(
        self, factors: Tensor, rates: Tensor, sizes: Sequence[int], cutoff: float, order: int
    ) -> None:
        super().__init__()
        self.sizes: List[int] = list(sizes)
        self.channels: int = factors.shape[1]
        self.cutoff, self.order = cutoff, order
        self.factors = nn.Buffer(factors.flatten(1))
        self.rates = nn.Buffer(rates.flatten(1))
        self.limits = block_limits()

    def forward(self, mixed: Tensor, around: Surroundings) -> Tensor:
        """What neighbours send, in the shape of the mixed sums."""
        n, k = around.indices.shape[0], around.indices.shape[1]
        rows = self._by_atom(mixed, n)
        sums = torch.zeros_like(rows)
        step = block_size(rows, k * rows.shape[1] * rows.shape[2], self.limits)
        for start in range(0, n, step):
            end = min(n, start + step)
            theirs = self._received(rows, around.indices[start:end])
            weights, _ = self._weights(around.distances[start:end])
            sums[start:end] = self._weighted(theirs, weights)
        return self._by_function(sums)

    @torch.jit.export
    def backward(self, grad: Tensor, mixed: Tensor, around: Surroundings) -> Tuple[Tensor, Tensor]:
        """From dE/d(what they send) to dE/d of the mixed sums and of the distances."""
        n, k = around.indices.shape[0], around.indices.shape[1]
        rows, grads = self._by_atom(mixed, n), self._by_atom(grad, n)
        grad_rows, grad_distances = torch.zeros_like(rows), torch.zeros_like(around.distances)
        step = block_size(rows, k * rows.shape[1] * rows.shape[2], self.limits)
        for start in range(0, n, step):
            end = min(n, start + step)
            indices = around.indices[start:end]
            weights, slopes = self._weights(around.distances[start:end])
            # A pair has one weight in both directions, so that this sum is its own transpose.
            grad_rows[start:end] = self._weighted(self._received(grads, indices), weights)
            products = self._received(rows, indices) * grads[start:end].unsqueeze(1)
            for degree, part in enumerate(torch.split(products, self.sizes, 2)):
                along = (part.sum(2) * slopes[:, :, degree]).sum(2)
                grad_distances[start:end] = grad_distances[start:end] + along
        return self._by_function(grad_rows), grad_distances

    def _weights(self, distances: Tensor) -> Tuple[Tensor, Tensor]:
        """Weights of pairs and their derivatives by the distance, [n, K, degrees, C * M]."""
        r = distances.unsqueeze(2).unsqueeze(3)
        envelope, slope = polynomial_envelope(r / self.cutoff, self.order)
        # Unused slots lie beyond the cutoff, where a growing exponential must not overflow.
        decay = self.factors * torch.exp(-self.rates * r.clamp(max=self.cutoff))
        return decay * envelope, decay * (slope / self.cutoff - self.rates * envelope)

    def _weighted(self, theirs: Tensor, weights: Tensor) -> Tensor:
        """Sums over slots of [n, K, L, C * M], with weights for each degree."""
        parts: List[Tensor] = []
        for degree, part in enumerate(torch.split(theirs, self.sizes, 2)):
            parts.append((part * weights[:, :, degree : degree + 1]).sum(1))
        return torch.cat(parts, 1)

    def _received(self, rows: Tensor, indices: Tensor) -> Tensor:
        """Rows of the neighbours [n, K, L, C * M]."""
        chosen = rows.index_select(0, indices.reshape(-1))
        return chosen.view(indices.shape[0], indices.shape[1], rows.shape[1], rows.shape[2])

    def _by_atom(self, mixed: Tensor, n: int) -> Tensor:
        """Mixed sums as [N, L, C * M], without the ones."""
        rows = mixed[:-1].view(mixed.shape[0] - 1, self.channels, n, -1)
        return rows.permute(2, 0, 1, 3).reshape(n, mixed.shape[0] - 1, -1)

    def _by_function(self, rows: Tensor) -> Tensor:
        """Back from [N, L, C * M], with zeros where the ones were."""
        n, size = rows.shape[0], rows.shape[1]
        mixed = rows.view(n, size, self.channels, -1).permute(1, 2, 0, 3).reshape(size, -1)
        return torch.cat([mixed, torch.zeros_like(mixed[:1])])


class MessageLayer(nn.Module):
    """A layer after the first: its mixed sums from features and mixed sums of the one before.

    Args:
        state: weights of the layer, as ``message.K.weight``, ``memory.D``, ``decay.D.factor`` and
            ``decay.D.rate``; kinds of messages that it lacks are missing.
        mixing: that of all layers.
        shared: whether the network makes one weight for all degrees and channels.
        num_receivers, cutoff, order: see `SharedMessages` and `DecayingMessages`.
    """

    def __init__(
        self,
        state: State,
        mixing: RadialMixing,
        *,
        shared: bool,
        num_receivers: int,
        cutoff: float,
        order: int,
        dtype: torch.dtype,
    ) -> None:
        super().__init__()
        self.mixing: Any = mixing
        sizes, degrees = mixing.sizes, range(len(mixing.sizes))
        weighted: List[nn.Module] = []
        memories: List[nn.Module] = []
        decaying: List[nn.Module] = []
        if "message.0.weight" in state:
            network = DenseNetwork(strip_prefix(state, "message."))
            made = (
                SharedMessages(network, num_receivers)
                if shared
                else WeightedMessages(network, sizes)
            )
            weighted.append(made)

        def stacked(name: str) -> Tensor:
            return torch.stack([state[name.format(d)] for d in degrees]).to(dtype)

        if "memory.0" in state:
            memories.append(Memory(stacked("memory.{}"), sizes))
        if "decay.0.rate" in state:
            factors, rates = stacked("decay.{}.factor"), stacked("decay.{}.rate")
            decaying.append(DecayingMessages(factors, rates, sizes, cutoff, order))
        # None or one of each: TorchScript compiles only the loops that run.
        self.weighted: Any = nn.ModuleList(weighted)
        self.memories: Any = nn.ModuleList(memories)
        self.decaying: Any = nn.ModuleList(decaying)

    def forward(
        self, features: Tensor, before: Tensor, around: Surroundings
    ) -> Tuple[Tensor, MessageTape]:
        """Mixed sums, from features [N, F] and mixed sums of the layer before."""
        n = features.shape[0]
        slopes: List[Tensor] = []
        tape = MessageTape(features, slopes)
        mixed = torch.cat([torch.zeros_like(before[:-1]), before[-1:]])
        for weighted in self.weighted:
            sums, tape = weighted(features, around)
            mixed = self.mixing(sums, around.receivers)
        for memory in self.memories:
            mixed = mixed + memory(before, n)
        for decaying in self.decaying:
            mixed = mixed + decaying(before, around)
        return mixed, tape

    @torch.jit.export
    def backward(
        self, grad: Tensor, before: Tensor, tape: MessageTape, around: Surroundings
    ) -> Tuple[Tensor, Tensor, PairGradients]:
        """From dE/d(mixed sums) to dE/d of features and mixed sums before, and of the pairs."""
        n = around.indices.shape[0]
        grad_features = torch.zeros(1, dtype=torch.float64, device=grad.device)
        grad_before = torch.zeros_like(before)
        angular, radial = torch.zeros_like(around.angular), torch.zeros_like(around.radial)
        distances = torch.zeros_like(around.distances)
        for weighted in self.weighted:
            sums = self.mixing.backward(grad, around.receivers)
            grad_features, angular, radial = weighted.backward(sums, tape, around)
        for memory in self.memories:
            grad_before = grad_before + memory(grad, n)
        for decaying in self.decaying:
            own, distances = decaying.backward(grad, before, around)
            grad_before = grad_before + own
        return grad_features, grad_before, PairGradients(angular, radial, distances)
