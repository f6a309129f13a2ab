"""CACE with latent charges: atomic energies and charges, and their pull-back to positions.

Cheng, npj Comput. Mater. 10, 157 (2024), in the algebra of a static neighbour matrix. The paper's
edge basis is a product of a radial function, an angular monomial, and the embeddings of both
elements; for each pair that is a thousand numbers. Here the receiver's embedding stands outside of
the sum over neighbours, and the sums are matrix products over the slots.
"""

from typing import Any, List, Mapping, NamedTuple, Optional, Sequence, Tuple

import torch
from torch import Tensor, nn

from openmm_les.neighbors.matrix import Neighbors
from openmm_les.networks.blocks.dense import EnergyAndCharge, HeadsTape
from openmm_les.networks.blocks.geometry import PairTape
from openmm_les.networks.blocks.radial import bessel_basis
from openmm_les.networks.blocks.weights import State, strip_prefix
from openmm_les.networks.cace.basis import AngularMonomials, PairBasis
from openmm_les.networks.cace.conditions import with_conditions
from openmm_les.networks.cace.features import ElementSums, Invariants, RadialMixing
from openmm_les.networks.cace.messages import MessageLayer, MessageTape, Surroundings
from openmm_les.networks.form import Form
from openmm_les.networks.protocol import NetworkModule


class CACETape(NamedTuple):
    """What `CACENetwork.pull_back` needs."""

    pairs: PairTape
    around: Surroundings
    mixed: List[Tensor]  #: of all layers.
    messages: List[MessageTape]  #: of the layers after the first.
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
        form: Form,
        *,
        conditions: Optional[Tensor] = None,
    ) -> None:
        super().__init__()
        dtype = form.dtype
        if conditions is not None:
            state = with_conditions(state, conditions[0])
        index = torch.tensor(list(species), dtype=torch.int64)
        sender, receiver = (
            state[name].index_select(0, index).to(dtype) for name in ("sender", "receiver")
        )
        degrees = [sum(entry) for entry in hyper["monomials"]]
        sizes = [degrees.count(d) for d in range(max(degrees) + 1)]
        radial = [state[f"radial.{d}"].to(dtype) for d in range(len(sizes))]
        self.cutoff = float(hyper["cutoff"])
        self.rows = int(hyper.get("charge_channels", 1))
        basis = bessel_basis(hyper, state["bessel_frequencies"].to(dtype))
        self.geometry = PairBasis(basis, AngularMonomials(hyper["monomials"]))
        self.first = ElementSums(receiver.shape[1])
        self.mixing = RadialMixing(radial, sizes)
        functions = radial[0].shape[2]
        self.invariants = Invariants(hyper["invariants"], len(degrees), functions, dtype)
        layers = [
            MessageLayer(
                _of_layer(state, t),
                self.mixing,
                shared=bool(hyper.get("shared_messages", False)),
                num_receivers=receiver.shape[1],
                cutoff=self.cutoff,
                order=int(hyper["cutoff_order"]),
                dtype=dtype,
            )
            for t in range(int(hyper["num_messages"]))
        ]
        self.messages = nn.ModuleList(layers)
        self.reversed: Any = nn.ModuleList(layers[::-1])
        self.heads = EnergyAndCharge(state)
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
        around = Surroundings(
            angular,
            radial,
            pairs.distances.view(n, k),
            self.sender.index_select(0, species.index_select(0, flat)).view(n, k, -1),
            self.receiver_channels.index_select(0, species).t(),
            self.sender_channels.index_select(0, species).unsqueeze(1),
            neighbors.indices,
            neighbors.reverse,
        )
        sums = self.first(angular, radial, around.senders)
        mixed: List[Tensor] = [self.mixing(sums, around.receivers)]
        features: List[Tensor] = [self.invariants(mixed[0], n)]
        messages: List[MessageTape] = []
        for layer in self.messages:
            following, message = layer(features[-1], mixed[-1], around)
            mixed.append(following)
            features.append(self.invariants(following, n))
            messages.append(message)
        energies, charges, heads = self.heads(torch.cat(features, 1))
        return energies, charges, CACETape(pairs, around, mixed, messages, heads)

    @torch.jit.export
    def pull_back(
        self, grad_energies: Tensor, grad_charges: Tensor, tape: CACETape, counts: List[int]
    ) -> Tuple[Tensor, Tensor]:
        """See `Network.pull_back`."""
        around, mixed = tape.around, tape.mixed
        everything = self.heads.backward(grad_energies, grad_charges, tape.heads)
        by_layer = everything.chunk(len(self.messages) + 1, 1)
        angular, radial = torch.zeros_like(around.angular), torch.zeros_like(around.radial)
        distances = torch.zeros_like(around.distances)
        last = len(self.messages)
        grad = self.invariants.backward(by_layer[last], mixed[last])
        for back, layer in enumerate(self.reversed):
            t = last - 1 - back
            by_features, by_mixed, of_pairs = layer.backward(
                grad, mixed[t], tape.messages[t], around
            )
            angular, radial = angular + of_pairs.angular, radial + of_pairs.radial
            distances = distances + of_pairs.distances
            grad = by_mixed + self.invariants.backward(by_layer[t] + by_features, mixed[t])
        sums = self.mixing.backward(grad, around.receivers)
        one, by_product = self.first.backward(sums, around.angular, around.radial, around.senders)
        other = (by_product * around.senders.unsqueeze(3)).sum(2)
        return self.geometry.backward(
            angular + one, radial + other, distances, tape.pairs, around.reverse
        )


def _of_layer(state: State, t: int) -> State:
    """The weights of the messages of one layer, without its number."""
    kinds = ("message", "memory", "decay")
    return {
        f"{kind}.{name}": tensor
        for kind in kinds
        for name, tensor in strip_prefix(state, f"{kind}.{t}.").items()
    }
