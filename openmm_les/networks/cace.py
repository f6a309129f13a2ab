"""CACE with latent charges: atomic energies and charges of pair vectors, to be differentiated.

Cheng, npj Comput. Mater. 10, 157 (2024), eqs. 1-9, in the algebra of a static neighbour matrix. The
paper's edge basis is a product of radial function, angular monomial, and the embeddings of both
elements; per pair it would be a thousand numbers. Here the receiver's embedding stands outside of
the sum over neighbours, and the sums are matrix products over the slots.
"""

from typing import Any, Dict, List, Mapping, Sequence, Tuple

import torch
from torch import nn

from openmm_les.networks.differentiated import DifferentiatedNetwork
from openmm_les.networks.radial import BesselBasis

State = Mapping[str, torch.Tensor]

#: Added to distances [A] where the original divides vectors by them; 1e-9 relative in the energy.
_DISTANCE_OFFSET = 1e-9


def cace_network(
    hyper: Mapping[str, Any],
    state: State,
    species: Sequence[int],
    *,
    dtype: torch.dtype,
    **_: bool,
) -> DifferentiatedNetwork:
    """The network of a canonical model of family ``cace`` (``docs/design.md``).

    Args:
        hyper: canonical hyper-parameters.
        state: canonical weights, float64.
        species: indices of the elements to keep, in the order in which atoms are sorted.
        dtype: dtype of all that is done for pairs, and of the products of neighbour sums.
        **_: what only other families know how to use.
    """
    return DifferentiatedNetwork(CACENetwork(hyper, state, species, dtype), float(hyper["cutoff"]))


class AngularMonomials(nn.Module):
    """Products of the components of unit vectors, x^a y^b z^c.

    Args:
        exponents: (a, b, c) of each monomial, those of lower degree first.
    """

    def __init__(self, exponents: Sequence[Sequence[int]]) -> None:
        super().__init__()
        known = [tuple(int(e) for e in entry) for entry in exponents]
        # Each one is a component times one of lower degree.
        self.axes: List[int] = [max(range(3), key=lambda a, e=e: e[a]) for e in known]  # type: ignore[misc]
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


class RadialTransform(nn.Module):
    """Mixes radial functions, with other weights for each channel.

    Args:
        weight: shape [C, n, M].
    """

    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__()
        self.weight: torch.Tensor
        self.register_buffer("weight", weight)

    def forward(self, sums: torch.Tensor) -> torch.Tensor:
        """From sums of one degree [C, L, N, n] to [L, C, N * M]."""
        channels, size, n = sums.shape[0], sums.shape[1], sums.shape[2]
        mixed = torch.bmm(sums.reshape(channels, size * n, -1), self.weight)
        return mixed.view(channels, size, -1).transpose(0, 1)


class Invariants(nn.Module):
    """Rotationally invariant polynomials of neighbour sums.

    Args:
        terms: for each invariant its terms: indices of the sums to multiply, and the factor.
        size: number of sums L.
        dtype: dtype of the sums.
    """

    def __init__(
        self, terms: Sequence[Sequence[Sequence[Any]]], size: int, dtype: torch.dtype
    ) -> None:
        super().__init__()
        flat = [
            (i, [int(f) for f in factors], float(c))
            for i, own in enumerate(terms)
            for factors, c in own
        ]
        self.order: int = max(len(factors) for _, factors, _ in flat)
        # Factors are picked by a product with zeros and ones: its derivative is one too, where that
        # of indexing adds up in another order each time on a GPU. Entry L of the sums is one.
        select = torch.zeros(self.order, len(flat), size + 1, dtype=dtype)
        collect = torch.zeros(len(terms), len(flat), dtype=dtype)
        for term, (invariant, factors, coefficient) in enumerate(flat):
            for k in range(self.order):
                select[k, term, factors[k] if k < len(factors) else size] = 1.0
            collect[invariant, term] = coefficient
        self.select: torch.Tensor
        self.collect: torch.Tensor
        self.register_buffer("select", select)
        self.register_buffer("collect", collect)

    def forward(self, sums: torch.Tensor) -> torch.Tensor:
        """From sums [L + 1, X], of which the last are ones, to invariants [S, X]."""
        products = torch.mm(self.select[0], sums)
        for k in range(1, self.order):
            products = products * torch.mm(self.select[k], sums)
        return torch.mm(self.collect, products)


class Dense(nn.Module):
    """A linear map with a bias.

    Args:
        weight: shape [in, out].
        bias: shape [out].
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor) -> None:
        super().__init__()
        self.weight: torch.Tensor
        self.bias: torch.Tensor
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """From [N, in] to [N, out]."""
        return torch.addmm(self.bias, x, self.weight)


class DenseNetwork(nn.Module):
    """Linear maps with silu between them, and a linear map beside them if there is one.

    Args:
        state: ``0.weight``, ``0.bias``, ``1.weight``, ... and ``linear.weight``, ``linear.bias``.
    """

    def __init__(self, state: State) -> None:
        super().__init__()
        depth = sum(name.endswith(".weight") for name in state) - ("linear.weight" in state)
        self.layers = nn.ModuleList(
            Dense(state[f"{k}.weight"], state[f"{k}.bias"]) for k in range(depth)
        )
        self.beside = nn.ModuleList(
            Dense(state[f"{k}.weight"], state[f"{k}.bias"])
            for k in ("linear",)
            if "linear.weight" in state
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """From [N, in] to [N, out]."""
        y = x
        for k, layer in enumerate(self.layers):
            if k > 0:
                y = torch.nn.functional.silu(y)
            y = layer(y)
        for linear in self.beside:
            y = y + linear(x)
        return y


class CACENetwork(nn.Module):
    """CACE for `DifferentiatedNetwork`.

    Dense networks are float64 whatever the dtype, as `openmm_les.networks.mace.MACENetwork._cast`
    explains.

    Args:
        hyper: canonical hyper-parameters of family ``cace`` (``docs/design.md``).
        state: canonical weights, float64.
        species: indices of the elements to keep, in the order in which atoms are sorted.
        dtype: dtype of all that is done for pairs, and of the products of neighbour sums.
    """

    def __init__(
        self, hyper: Mapping[str, Any], state: State, species: Sequence[int], dtype: torch.dtype
    ) -> None:
        super().__init__()
        index = torch.tensor(list(species), dtype=torch.int64)
        sender, receiver = (
            state[name].index_select(0, index).to(dtype) for name in ("sender", "receiver")
        )
        exponents = hyper["monomials"]
        degrees = [sum(entry) for entry in exponents]
        self.offset = _DISTANCE_OFFSET
        self.sizes: List[int] = [degrees.count(d) for d in range(max(degrees) + 1)]
        self.num_senders, self.num_receivers = sender.shape[1], receiver.shape[1]
        self.basis = BesselBasis(
            state["bessel_frequencies"].to(dtype),
            float(hyper["bessel_prefactor"]),
            float(hyper["cutoff"]),
            int(hyper["cutoff_order"]),
        )
        self.angular = AngularMonomials(exponents)
        self.radial = nn.ModuleList(
            RadialTransform(state[f"radial.{d}"].to(dtype)) for d in range(len(self.sizes))
        )
        self.invariants = Invariants(hyper["invariants"], len(exponents), dtype)
        self.messages = nn.ModuleList(
            DenseNetwork(_below(state, f"message.{t}.")) for t in range(int(hyper["num_messages"]))
        )
        self.energy = DenseNetwork(_below(state, "energy."))
        self.charge = DenseNetwork(_below(state, "charge."))
        # Channels are pairs of a sender's and a receiver's number, the latter running faster.
        self.sender: torch.Tensor
        self.sender_channels: torch.Tensor
        self.receiver_channels: torch.Tensor
        self.register_buffer("sender", sender)
        self.register_buffer("sender_channels", sender.repeat_interleave(receiver.shape[1], 1))
        self.register_buffer("receiver_channels", receiver.repeat(1, sender.shape[1]))

    def forward(
        self,
        vectors: torch.Tensor,
        neighbors: torch.Tensor,
        reverse: torch.Tensor,
        species: torch.Tensor,
    ) -> Tuple[torch.Tensor, torch.Tensor]:
        """Energies [N] [eV] and charges [N] [e], float64; see `DifferentiatedNetwork`."""
        n, k = neighbors.shape[0], neighbors.shape[1]
        flat = vectors.view(-1, 3).to(self.sender.dtype)
        distances = torch.sqrt((flat * flat).sum(1, keepdim=True))
        angular = self.angular(flat / (distances + self.offset)).view(n, k, -1)
        radial = self.basis(distances.squeeze(1))[0].view(n, k, -1)

        receivers = self.receiver_channels.index_select(0, species).t()
        senders = self.sender.index_select(0, species.index_select(0, neighbors.view(-1)))
        features = self._features(self._sums(angular, radial, senders.view(n, k, -1)), receivers)
        collected: List[torch.Tensor] = [features]
        own = self.sender_channels.index_select(0, species).unsqueeze(1)
        for message in self.messages:
            weights = message(features).to(own.dtype).view(n, len(self.sizes), -1) * own
            # What slot (i, j) receives from j is what slot (j, i) has at hand. Seen that way, the
            # derivative is a sum over slots, and no scatter.
            mine = weights.view(n, 1, -1).expand(n, k, -1).reshape(n * k, -1)
            received = mine.index_select(0, reverse).view(n, k, len(self.sizes), -1)
            features = self._features(self._weighted(angular, radial, received), receivers)
            collected.append(features)
        everything = torch.cat(collected, 1)
        return self.energy(everything).squeeze(1), self.charge(everything).squeeze(1)

    def _sums(
        self, angular: torch.Tensor, radial: torch.Tensor, senders: torch.Tensor
    ) -> torch.Tensor:
        """Sums over neighbours that differ by their element only, [C, L, N, n].

        Args:
            angular: monomials [N, K, L].
            radial: radial functions [N, K, n].
            senders: embedding of the neighbours' elements [N, K, A].
        """
        n, k = angular.shape[0], angular.shape[1]
        weighted = (senders.unsqueeze(3) * radial.unsqueeze(2)).view(n, k, -1)
        sums = torch.bmm(weighted.transpose(1, 2), angular)
        sums = sums.view(n, self.num_senders, -1, angular.shape[2]).permute(1, 3, 0, 2)
        sums = sums.unsqueeze(1)
        return sums.expand(-1, self.num_receivers, -1, -1, -1).flatten(0, 1)

    def _weighted(
        self, angular: torch.Tensor, radial: torch.Tensor, received: torch.Tensor
    ) -> torch.Tensor:
        """Sums over neighbours with weights of their own, [C, L, N, n].

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

    def _features(self, sums: torch.Tensor, receivers: torch.Tensor) -> torch.Tensor:
        """Invariant features [N, C * S * M], float64.

        Args:
            sums: over neighbours [C, L, N, n].
            receivers: embedding of the atoms themselves [C, N].
        """
        channels, n = receivers.shape[0], receivers.shape[1]
        sums = sums * receivers.view(channels, 1, n, 1)
        parts: List[torch.Tensor] = []
        first = 0
        for degree, transform in enumerate(self.radial):
            last = first + self.sizes[degree]
            parts.append(transform(sums[:, first:last]))
            first = last
        parts.append(torch.ones_like(parts[0][:1]))
        mixed = torch.cat(parts)
        invariants: torch.Tensor = self.invariants(mixed.view(mixed.shape[0], -1))
        invariants = invariants.view(-1, channels, n, mixed.shape[2] // n)
        return invariants.permute(2, 1, 0, 3).reshape(n, -1).to(torch.float64)


def _below(state: State, prefix: str) -> Dict[str, torch.Tensor]:
    """The part of a state whose names begin with a prefix, without it."""
    return {name[len(prefix) :]: t for name, t in state.items() if name.startswith(prefix)}
