"""CACE with latent charges: atomic energies and charges, and their pull-back to positions.

Cheng, npj Comput. Mater. 10, 157 (2024), in the algebra of a static neighbour matrix. The paper's
edge basis is a product of a radial function, an angular monomial, and the embeddings of both
elements; for each pair that is a thousand numbers. Here the receiver's embedding stands outside of
the sum over neighbours, and the sums are matrix products over the slots.
"""

from typing import Any, List, Mapping, Sequence, Tuple

import torch
from torch import nn

from openmm_les.networks.blocks.dense import DenseNetwork, strip_prefix
from openmm_les.networks.blocks.geometry import pair_vectors, pull_back_vectors
from openmm_les.networks.blocks.radial import BesselBasis
from openmm_les.networks.cace.invariants import InvariantFeatures

State = Mapping[str, torch.Tensor]

#: Added to distances [A] where the original divides vectors by them; 1e-9 relative in the energy.
_DISTANCE_OFFSET = 1e-9


class AngularMonomials(nn.Module):
    """Products of the components of unit vectors, x^a y^b z^c.

    Args:
        exponents: (a, b, c) of each monomial, those of lower degree first.
    """

    def __init__(self, exponents: Sequence[Sequence[int]]) -> None:
        super().__init__()
        known = [tuple(int(e) for e in entry) for entry in exponents]
        # Each one is a component times one of lower degree; the first is 1.
        self.axes: List[int] = [entry.index(max(entry)) for entry in known]
        self.parents: List[int] = [
            known.index(tuple(e - (a == axis) for a, e in enumerate(entry))) if any(entry) else 0
            for entry, axis in zip(known, self.axes, strict=True)
        ]

    def forward(self, unit: torch.Tensor) -> torch.Tensor:
        """From unit vectors [E, 3] to monomials [E, L]."""
        values: List[torch.Tensor] = [torch.ones_like(unit[:, 0])]
        for i, parent in enumerate(self.parents):
            if i > 0:
                values.append(values[parent] * unit[:, self.axes[i]])
        return torch.stack(values, 1)

    @torch.jit.export
    def backward(
        self, grad: torch.Tensor, unit: torch.Tensor, values: torch.Tensor
    ) -> torch.Tensor:
        """From dE/d(monomials) [E, L], unit vectors and monomials to dE/d(unit) [E, 3]."""
        pending: List[torch.Tensor] = []
        for i in range(len(self.parents)):
            pending.append(grad[:, i])
        components: List[torch.Tensor] = [torch.zeros_like(unit[:, 0]) for _ in range(3)]
        for back in range(len(self.parents) - 1):
            i = len(self.parents) - 1 - back
            axis, parent = self.axes[i], self.parents[i]
            pending[parent] = pending[parent] + pending[i] * unit[:, axis]
            components[axis] = components[axis] + pending[i] * values[:, parent]
        return torch.stack(components, 1)


class PairBasis(nn.Module):
    """Radial functions and angular monomials of all slots of a neighbour matrix.

    Args:
        radial: from distances [E] to functions and their derivatives, each [E, n].
        angular: of unit vectors.
    """

    def __init__(self, radial: BesselBasis, angular: AngularMonomials) -> None:
        super().__init__()
        self.radial = radial
        self.angular = angular
        self.offset = _DISTANCE_OFFSET

    def forward(
        self, positions: torch.Tensor, neighbors: torch.Tensor, shifts: torch.Tensor
    ) -> Tuple[torch.Tensor, torch.Tensor, List[torch.Tensor]]:
        """Monomials [N, K, L], radial functions [N, K, n], and what `backward` needs.

        Args:
            positions: shape [N, 3] [A], float64.
            neighbors: neighbour of each slot, shape [N, K].
            shifts: the pair vector is r_i - r_j + shift, shape [N, K, 3] [A], float64.
        """
        n, k = neighbors.shape[0], neighbors.shape[1]
        vectors = pair_vectors(positions, neighbors, shifts, self.radial.frequencies.dtype)
        distances = torch.sqrt((vectors * vectors).sum(1, keepdim=True))
        unit = vectors / (distances + self.offset)
        angular = self.angular(unit)
        radial, slopes = self.radial(distances.squeeze(1))
        saved = [vectors, distances, unit, angular, slopes]
        return angular.view(n, k, -1), radial.view(n, k, -1), saved

    @torch.jit.export
    def backward(
        self,
        grad_angular: torch.Tensor,
        grad_radial: torch.Tensor,
        saved: List[torch.Tensor],
        reverse: torch.Tensor,
    ) -> Tuple[torch.Tensor, torch.Tensor]:
        """From dE/d(monomials) and dE/d(radial functions) to dE/dr and dE/dstrain.

        Args:
            grad_angular: shape [N, K, L].
            grad_radial: shape [N, K, n].
            saved: third result of `forward`.
            reverse: the flat slot in which the neighbour holds the same pair, shape [N * K].

        Returns:
            dE/dr of shape [N, 3] [eV/A] and dE/dstrain of shape [3, 3] [eV], float64.
        """
        vectors, distances, unit, angular, slopes = saved
        n, k = grad_angular.shape[0], grad_angular.shape[1]
        grad_unit = self.angular.backward(grad_angular.view(n * k, -1), unit, angular)
        along = (grad_unit * unit).sum(1, keepdim=True) / (distances + self.offset)
        grad_distance = (grad_radial.view(n * k, -1) * slopes).sum(1, keepdim=True) - along
        direction = vectors / distances
        grad_vectors = grad_unit / (distances + self.offset) + grad_distance * direction
        return pull_back_vectors(grad_vectors, vectors, reverse, n)


class ElementSums(nn.Module):
    """Sums over neighbours that differ by their element only; the first layer has no others.

    Args:
        num_receivers: numbers in a receiver's embedding, for each of which a channel is made.
    """

    def __init__(self, num_receivers: int) -> None:
        super().__init__()
        self.num_receivers = num_receivers

    def forward(
        self, angular: torch.Tensor, radial: torch.Tensor, senders: torch.Tensor
    ) -> torch.Tensor:
        """The sums [C, L, N, n].

        Args:
            angular: monomials [N, K, L].
            radial: radial functions [N, K, n].
            senders: embedding of the neighbours' elements [N, K, A].
        """
        n, k = angular.shape[0], angular.shape[1]
        weighted = (senders.unsqueeze(3) * radial.unsqueeze(2)).view(n, k, -1)
        sums = torch.bmm(weighted.transpose(1, 2), angular)
        sums = sums.view(n, senders.shape[2], -1, angular.shape[2]).permute(1, 3, 0, 2)
        return sums.unsqueeze(1).expand(-1, self.num_receivers, -1, -1, -1).flatten(0, 1)

    @torch.jit.export
    def backward(
        self,
        grad: torch.Tensor,
        angular: torch.Tensor,
        radial: torch.Tensor,
        senders: torch.Tensor,
    ) -> Tuple[torch.Tensor, torch.Tensor]:
        """From dE/d(sums) to dE/d(monomials) [N, K, L] and dE/d(radial functions) [N, K, n]."""
        n, k, size = angular.shape[0], angular.shape[1], angular.shape[2]
        grad = grad.view(-1, self.num_receivers, size, n, radial.shape[2]).sum(1)
        grad = grad.permute(2, 0, 3, 1).reshape(n, -1, size)
        weighted = (senders.unsqueeze(3) * radial.unsqueeze(2)).view(n, k, -1)
        grad_weighted = torch.bmm(angular, grad.transpose(1, 2))
        grad_weighted = grad_weighted.view(n, k, senders.shape[2], -1)
        return torch.bmm(weighted, grad), (grad_weighted * senders.unsqueeze(3)).sum(2)


class MessageSums(nn.Module):
    """Sums over neighbours with weights that each neighbour brings.

    Args:
        sizes: number of monomials of each degree.
    """

    def __init__(self, sizes: Sequence[int]) -> None:
        super().__init__()
        self.sizes: List[int] = list(sizes)

    def forward(
        self, angular: torch.Tensor, radial: torch.Tensor, received: torch.Tensor
    ) -> torch.Tensor:
        """The sums [C, L, N, n].

        Args:
            angular: monomials [N, K, L].
            radial: radial functions [N, K, n].
            received: weights for each degree and channel [N, K, lmax + 1, C].
        """
        n, k = angular.shape[0], angular.shape[1]
        parts: List[torch.Tensor] = []
        first = 0
        for degree, size in enumerate(self.sizes):
            own = angular[:, :, first : first + size]
            basis = (own.unsqueeze(3) * radial.unsqueeze(2)).view(n, k, -1)
            part = torch.bmm(received[:, :, degree].transpose(1, 2), basis)
            parts.append(part.view(n, part.shape[1], size, -1).permute(1, 2, 0, 3))
            first += size
        return torch.cat(parts, 1)

    @torch.jit.export
    def backward(
        self,
        grad: torch.Tensor,
        angular: torch.Tensor,
        radial: torch.Tensor,
        received: torch.Tensor,
    ) -> Tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """From dE/d(sums) to dE/d of (monomials, radial functions, received weights)."""
        n, k = angular.shape[0], angular.shape[1]
        grad_angular: List[torch.Tensor] = []
        grad_received: List[torch.Tensor] = []
        grad_radial = torch.zeros_like(radial)
        first = 0
        for degree, size in enumerate(self.sizes):
            own = angular[:, :, first : first + size]
            part = grad[:, first : first + size].permute(2, 0, 1, 3).reshape(n, grad.shape[0], -1)
            basis = (own.unsqueeze(3) * radial.unsqueeze(2)).view(n, k, -1)
            grad_received.append(torch.bmm(basis, part.transpose(1, 2)))
            grad_basis = torch.bmm(received[:, :, degree], part).view(n, k, size, -1)
            grad_angular.append((grad_basis * radial.unsqueeze(2)).sum(3))
            grad_radial = grad_radial + (grad_basis * own.unsqueeze(3)).sum(2)
            first += size
        return torch.cat(grad_angular, 2), grad_radial, torch.stack(grad_received, 2)


class CACENetwork(nn.Module):
    """CACE energies and latent charges for inference.

    Dense networks are float64 whatever the dtype, as `MACENetwork._cast` explains.

    Args:
        hyper: canonical hyper-parameters of family ``cace`` (``docs/design.md``).
        state: canonical weights, float64.
        species: indices of the elements to keep, in the order in which atoms are sorted.
        dtype: dtype of all that is done for pairs, and of the products of neighbour sums.
        **_: options that only other families have.
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
        basis = BesselBasis(
            state["bessel_frequencies"].to(dtype),
            float(hyper["bessel_prefactor"]),
            self.cutoff,
            int(hyper["cutoff_order"]),
        )
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
        self.energy = DenseNetwork(strip_prefix(state, "energy."))
        self.charge = DenseNetwork(strip_prefix(state, "charge."))
        # Channels are pairs of a sender's and a receiver's number, the latter running faster.
        self.sender: torch.Tensor
        self.sender_channels: torch.Tensor
        self.receiver_channels: torch.Tensor
        self.register_buffer("sender", sender)
        self.register_buffer("sender_channels", sender.repeat_interleave(receiver.shape[1], 1))
        self.register_buffer("receiver_channels", receiver.repeat(1, sender.shape[1]))

    @torch.jit.export
    def short_range(
        self,
        positions: torch.Tensor,
        neighbors: torch.Tensor,
        shifts: torch.Tensor,
        reverse: torch.Tensor,
        species: torch.Tensor,
        counts: List[int],
    ) -> Tuple[torch.Tensor, torch.Tensor, List[List[torch.Tensor]]]:
        """See `openmm_les.networks.mace.network.MACENetwork.short_range`."""
        n, k = neighbors.shape[0], neighbors.shape[1]
        angular, radial, saved_pairs = self.geometry(positions, neighbors, shifts)
        flat = neighbors.view(-1)
        senders = self.sender.index_select(0, species.index_select(0, flat)).view(n, k, -1)
        receivers = self.receiver_channels.index_select(0, species).t()
        own = self.sender_channels.index_select(0, species).unsqueeze(1)
        features, mixed = self.features(self.first(angular, radial, senders), receivers)
        saved = [saved_pairs, [angular, radial, senders, receivers, own, neighbors, reverse]]
        saved.append([mixed])
        collected: List[torch.Tensor] = [features]
        for message in self.messages:
            weights, hidden = message(features)
            weights = weights.to(own.dtype).view(n, self.degrees, -1) * own
            received = weights.index_select(0, flat).view(n, k, self.degrees, -1)
            features, mixed = self.features(self.sums(angular, radial, received), receivers)
            saved.append([mixed, weights] + hidden)
            collected.append(features)
        everything = torch.cat(collected, 1)
        energies, saved_energy = self.energy(everything)
        charges, saved_charge = self.charge(everything)
        saved.append(saved_energy)
        saved.append(saved_charge)
        return energies.squeeze(1), charges.squeeze(1), saved

    @torch.jit.export
    def pull_back(
        self,
        grad_energies: torch.Tensor,
        grad_charges: torch.Tensor,
        saved: List[List[torch.Tensor]],
        counts: List[int],
    ) -> Tuple[torch.Tensor, torch.Tensor]:
        """See `openmm_les.networks.mace.network.MACENetwork.pull_back`."""
        angular, radial, senders, receivers, own, neighbors, reverse = saved[1]
        n, k = neighbors.shape[0], neighbors.shape[1]
        everything = self.energy.backward(grad_energies.unsqueeze(1), saved[-2])
        charge_part = self.charge.backward(grad_charges.to(torch.float64).unsqueeze(1), saved[-1])
        by_layer = (everything + charge_part).chunk(len(self.messages) + 1, 1)

        grad_angular, grad_radial = torch.zeros_like(angular), torch.zeros_like(radial)
        grad = by_layer[-1]
        for t, message in enumerate(self.reversed):
            layer = saved[len(saved) - 3 - t]
            mixed, weights = layer[0], layer[1]
            received = weights.index_select(0, neighbors.view(-1)).view(n, k, self.degrees, -1)
            sums = self.features.backward(grad.contiguous(), receivers, mixed)
            one, other, brought = self.sums.backward(sums, angular, radial, received)
            grad_angular, grad_radial = grad_angular + one, grad_radial + other
            # Slot reverse(i, k) holds the same pair seen from the neighbour: a gather, no scatter.
            brought = brought.view(n * k, -1).index_select(0, reverse).view(n, k, -1).sum(1)
            brought = (brought.view(n, self.degrees, -1) * own).view(n, -1).to(torch.float64)
            grad = by_layer[len(by_layer) - 2 - t] + message.backward(brought, layer[2:])
        sums = self.features.backward(grad.contiguous(), receivers, saved[2][0])
        one, other = self.first.backward(sums, angular, radial, senders)
        return self.geometry.backward(grad_angular + one, grad_radial + other, saved[0], reverse)
