"""CACE with latent charges: atomic energies and charges, and their pull-back to positions.

Cheng, npj Comput. Mater. 10, 157 (2024), in the algebra of a static neighbour matrix. The paper's
edge basis is a product of a radial function, an angular monomial, and the embeddings of both
elements; for each pair that is a thousand numbers. Here the receiver's embedding stands outside of
the sum over neighbours, and the sums are matrix products over the slots.
"""

from typing import Any, List, Mapping, NamedTuple, Sequence, Tuple

import torch
from torch import Tensor, nn

from openmm_les.neighbors.matrix import Neighbors
from openmm_les.networks.blocks.blocking import block_limits
from openmm_les.networks.blocks.dense import DenseNetwork, EnergyAndCharge, HeadsTape
from openmm_les.networks.blocks.geometry import (
    PairTape,
    collect,
    gather,
    pair_vectors,
    pull_back_vectors,
)
from openmm_les.networks.blocks.radial import BesselBasis, bessel_basis
from openmm_les.networks.blocks.weights import State, strip_prefix
from openmm_les.networks.cace.features import ElementSums, InvariantFeatures, MessageSums
from openmm_les.networks.protocol import NetworkModule

#: Added to distances [A] where the original divides vectors by them; 1e-9 relative in the energy.
_DISTANCE_OFFSET = 1e-9


class AngularMonomials(nn.Module):
    """Products of the components of unit vectors, x^a y^b z^c, those of lower degree first."""

    def __init__(self, exponents: Sequence[Sequence[int]]) -> None:
        super().__init__()
        known = [tuple(int(e) for e in entry) for entry in exponents]
        # Each one is a component times one of lower degree; the first is 1.
        self.axes: List[int] = [entry.index(max(entry)) for entry in known]
        self.parents: List[int] = [
            known.index(tuple(e - (a == axis) for a, e in enumerate(entry))) if any(entry) else 0
            for entry, axis in zip(known, self.axes, strict=True)
        ]

    def forward(self, unit: Tensor) -> Tensor:
        """From unit vectors [E, 3] to monomials [E, L]."""
        values: List[Tensor] = [torch.ones_like(unit[:, 0])]
        for i, parent in enumerate(self.parents):
            if i > 0:
                values.append(values[parent] * unit[:, self.axes[i]])
        return torch.stack(values, 1)

    @torch.jit.export
    def backward(self, grad: Tensor, unit: Tensor, values: Tensor) -> Tensor:
        """From dE/d(monomials), unit vectors and monomials to dE/d(unit vectors)."""
        pending: List[Tensor] = []
        for i in range(len(self.parents)):
            pending.append(grad[:, i])
        components: List[Tensor] = [torch.zeros_like(unit[:, 0]) for _ in range(3)]
        for back in range(len(self.parents) - 1):
            i = len(self.parents) - 1 - back
            axis, parent = self.axes[i], self.parents[i]
            pending[parent] = pending[parent] + pending[i] * unit[:, axis]
            components[axis] = components[axis] + pending[i] * values[:, parent]
        return torch.stack(components, 1)


class PairBasis(nn.Module):
    """Radial functions and angular monomials of all slots of a neighbour matrix."""

    def __init__(self, radial: BesselBasis, angular: AngularMonomials) -> None:
        super().__init__()
        self.radial = radial
        self.angular = angular
        self.offset = _DISTANCE_OFFSET

    def forward(self, positions: Tensor, neighbors: Neighbors) -> Tuple[Tensor, Tensor, PairTape]:
        """Monomials [N, K, L] and radial functions [N, K, n]."""
        n, k = neighbors.indices.shape[0], neighbors.indices.shape[1]
        vectors = pair_vectors(positions, neighbors, self.radial.frequencies.dtype)
        distances = torch.sqrt((vectors * vectors).sum(1, keepdim=True))
        unit = vectors / (distances + self.offset)
        angular = self.angular(unit)
        radial, slopes = self.radial(distances.squeeze(1))
        tape = PairTape(vectors, distances, unit, angular, slopes)
        return angular.view(n, k, -1), radial.view(n, k, -1), tape

    @torch.jit.export
    def backward(
        self, grad_angular: Tensor, grad_radial: Tensor, tape: PairTape, reverse: Tensor
    ) -> Tuple[Tensor, Tensor]:
        """From dE/d(monomials) and dE/d(radial functions); see `pull_back_vectors`."""
        vectors, distances, unit, angular, slopes = tape
        n, k = grad_angular.shape[0], grad_angular.shape[1]
        grad_unit = self.angular.backward(grad_angular.view(n * k, -1), unit, angular)
        along = (grad_unit * unit).sum(1, keepdim=True) / (distances + self.offset)
        grad_distance = (grad_radial.view(n * k, -1) * slopes).sum(1, keepdim=True) - along
        direction = vectors / distances
        grad_vectors = grad_unit / (distances + self.offset) + grad_distance * direction
        return pull_back_vectors(grad_vectors, vectors, reverse, n)


class MessageTape(NamedTuple):
    """Of a layer after the first."""

    weights: Tensor  #: which an atom sends, for each degree and channel [N, lmax + 1, C].
    network: List[Tensor]  #: slopes of the network that makes them.
    mixed: Tensor  #: of `InvariantFeatures`.


class CACETape(NamedTuple):
    """What `CACENetwork.pull_back` needs."""

    pairs: PairTape
    neighbors: Neighbors
    angular: Tensor  #: functions of the pairs [N, K, L] and [N, K, n].
    radial: Tensor  #: functions of the pairs [N, K, L] and [N, K, n].
    senders: Tensor  #: embedding of the neighbours' elements [N, K, A].
    receivers: Tensor  #: factors of the atoms for each channel [C, N].
    own: Tensor  #: the atoms' embedding as senders, for each channel [N, 1, C].
    mixed: Tensor  #: of the first layer.
    messages: List[MessageTape]  #: of the others.
    heads: HeadsTape


class CACENetwork(NetworkModule):
    """CACE energies and latent charges for inference.

    Dense networks are float64 whatever the dtype, as `cast` in `blocks.weights` explains.
    """

    def __init__(
        self,
        hyper: Mapping[str, Any],
        state: State,
        species: Sequence[int],
        *,
        dtype: torch.dtype,
        **_: bool,
    ) -> None:
        super().__init__()
        index = torch.tensor(list(species), dtype=torch.int64)
        sender, receiver = (
            state[name].index_select(0, index).to(dtype) for name in ("sender", "receiver")
        )
        degrees = [sum(entry) for entry in hyper["monomials"]]
        sizes = [degrees.count(d) for d in range(max(degrees) + 1)]
        self.cutoff = float(hyper["cutoff"])
        self.degrees = len(sizes)
        basis = bessel_basis(hyper, state["bessel_frequencies"].to(dtype))
        self.geometry = PairBasis(basis, AngularMonomials(hyper["monomials"]))
        self.first = ElementSums(receiver.shape[1])
        self.sums = MessageSums(sizes)
        radial = [state[f"radial.{d}"].to(dtype) for d in range(len(sizes))]
        self.features = InvariantFeatures(radial, hyper["invariants"], sizes)
        messages = [
            DenseNetwork(strip_prefix(state, f"message.{t}."))
            for t in range(int(hyper["num_messages"]))
        ]
        self.messages = nn.ModuleList(messages)
        # TorchScript cannot iterate a ModuleList backwards; these are the same modules.
        self.reversed: Any = nn.ModuleList(messages[::-1])
        self.heads = EnergyAndCharge(state)
        self.limits = block_limits()
        # Channels are pairs of a sender's and a receiver's number, the latter running faster.
        self.sender = nn.Buffer(sender)
        self.sender_channels = nn.Buffer(sender.repeat_interleave(receiver.shape[1], 1))
        self.receiver_channels = nn.Buffer(receiver.repeat(1, sender.shape[1]))

    @torch.jit.export
    def short_range(
        self, positions: Tensor, neighbors: Neighbors, species: Tensor, counts: List[int]
    ) -> Tuple[Tensor, Tensor, CACETape]:
        """See `Network.short_range`."""
        n, k = neighbors.indices.shape[0], neighbors.indices.shape[1]
        angular, radial, pairs = self.geometry(positions, neighbors)
        flat = neighbors.indices.view(-1)
        senders = self.sender.index_select(0, species.index_select(0, flat)).view(n, k, -1)
        receivers = self.receiver_channels.index_select(0, species).t()
        own = self.sender_channels.index_select(0, species).unsqueeze(1)
        features, first_mixed = self.features(self.first(angular, radial, senders), receivers)
        collected: List[Tensor] = [features]
        messages: List[MessageTape] = []
        for message in self.messages:
            weights, network = message(features)
            weights = weights.to(own.dtype).view(n, self.degrees, -1) * own
            received = self._received(weights, neighbors.indices)
            features, mixed = self.features(self.sums(angular, radial, received), receivers)
            messages.append(MessageTape(weights, network, mixed))
            collected.append(features)
        energies, charges, heads = self.heads(torch.cat(collected, 1))
        return (
            energies,
            charges,
            CACETape(
                pairs,
                neighbors,
                angular,
                radial,
                senders,
                receivers,
                own,
                first_mixed,
                messages,
                heads,
            ),
        )

    def _received(self, weights: Tensor, neighbors: Tensor) -> Tensor:
        """Weights of the neighbours [N, K, lmax + 1, C]."""
        n, k = neighbors.shape[0], neighbors.shape[1]
        return gather(weights.flatten(1), neighbors).view(n, k, self.degrees, -1)

    @torch.jit.export
    def pull_back(
        self, grad_energies: Tensor, grad_charges: Tensor, tape: CACETape, counts: List[int]
    ) -> Tuple[Tensor, Tensor]:
        """See `Network.pull_back`."""
        angular, radial, receivers = tape.angular, tape.radial, tape.receivers
        n, k, reverse = angular.shape[0], angular.shape[1], tape.neighbors.reverse
        everything = self.heads.backward(grad_energies, grad_charges, tape.heads)
        by_layer = everything.chunk(len(self.messages) + 1, 1)[::-1]

        grad_angular, grad_radial = torch.zeros_like(angular), torch.zeros_like(radial)
        grad = by_layer[0]
        messages = tape.messages[::-1]
        for t, message in enumerate(self.reversed):
            layer = messages[t]
            received = self._received(layer.weights, tape.neighbors.indices)
            sums = self.features.backward(grad.contiguous(), receivers, layer.mixed)
            one, other, by_weights = self.sums.backward(sums, angular, radial, received)
            grad_angular, grad_radial = grad_angular + one, grad_radial + other
            sent = collect(by_weights.view(n, k, -1), reverse, self.limits)
            sent = (sent.view(n, self.degrees, -1) * tape.own).view(n, -1).to(torch.float64)
            grad = by_layer[t + 1] + message.backward(sent, layer.network)
        sums = self.features.backward(grad.contiguous(), receivers, tape.mixed)
        one, other = self.first.backward(sums, angular, radial, tape.senders)
        return self.geometry.backward(grad_angular + one, grad_radial + other, tape.pairs, reverse)
