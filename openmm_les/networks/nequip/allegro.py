"""Allegro with latent charges: atomic energies and latents, and their pull-back to positions.

Musaelian et al., Nat. Commun. 14, 579 (2023) in the algebra of a static neighbour matrix. Every
pair of an atom and a neighbour has scalars and tensors; in each layer its tensors are multiplied
with a sum over the atom's neighbours. That sum belongs to the atom, so that here it becomes a
matrix which acts on the tensors of all pairs of the atom. Nothing passes from atom to atom.
"""

from typing import Any, List, Mapping, NamedTuple, Sequence, Tuple

import torch
from torch import Tensor, nn

from openmm_les.neighbors.matrix import Neighbors
from openmm_les.networks.blocks.angular import parity_ordered_degrees, parity_permutation
from openmm_les.networks.blocks.dense import Dense, DenseNetwork, EnergyAndCharge, HeadsTape
from openmm_les.networks.blocks.geometry import PairGeometry, PairTape, species_pairs
from openmm_les.networks.blocks.radial import bessel_basis
from openmm_les.networks.blocks.weights import State, cast, strip_prefix
from openmm_les.networks.form import Form
from openmm_les.networks.moments import latent_rows
from openmm_les.networks.nequip.moments import EdgeCharges, EdgeMoments, EdgeTape
from openmm_les.networks.protocol import NetworkModule


class LayerTape(NamedTuple):
    """Inputs of `Layer`, matrices of its `TensorTrack`, and slopes of its latent network."""

    tensors: Tensor
    weights: Tensor
    matrices: Tensor
    latent: List[Tensor]


class AllegroTape(NamedTuple):
    """What `AllegroNetwork.pull_back` needs."""

    pairs: PairTape
    reverse: Tensor
    harmonics: Tensor  #: Y of shape [N, K, S].
    scales: Tensor  #: of the energy of each atom [N].
    types: Tensor  #: factors of the radial features by the pair of species, [N, K, ...].
    embedding: List[Tensor]  #: slopes of the embedding network.
    tensor_weights: Tensor  #: weights of the first tensors.
    layers: List[LayerTape]
    heads: HeadsTape
    latents: EdgeTape


class WeightedHarmonics(nn.Module):
    """Harmonics of a pair times weights for each channel and degree."""

    def __init__(self, lmax: int, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.degrees = lmax + 1
        rows = [d for d in parity_ordered_degrees(lmax) for _ in range(2 * d + 1)]
        spread = torch.zeros(lmax + 1, len(rows), dtype=torch.float64)
        spread[rows, list(range(len(rows)))] = 1.0
        self.spread = nn.Buffer(spread)

    def _by_channel(self, weights: Tensor) -> Tensor:
        """From [N, K, C * degrees] to [N, C, K, degrees]."""
        n, k = weights.shape[0], weights.shape[1]
        return weights.view(n, k, self.channels, self.degrees).transpose(1, 2)

    def forward(self, harmonics: Tensor, weights: Tensor) -> Tensor:
        """Tensors of every pair, [N, C, K, S], from Y [N, K, S] and weights [N, K, C * degrees]."""
        return torch.matmul(self._by_channel(weights), self.spread) * harmonics.unsqueeze(1)

    @torch.jit.export
    def backward(self, grad: Tensor, harmonics: Tensor, weights: Tensor) -> Tuple[Tensor, Tensor]:
        """From dE/d(tensors) to dE/dY and dE/d(weights)."""
        spread = torch.matmul(self._by_channel(weights), self.spread)
        grad_weights = torch.matmul(grad * harmonics.unsqueeze(1), self.spread.t())
        return (grad * spread).sum(1), grad_weights.transpose(1, 2).flatten(2)

    @torch.jit.export
    def summed(self, harmonics: Tensor, weights: Tensor) -> Tensor:
        """The same tensors summed over the neighbours of an atom, [N, C, S]."""
        n = weights.shape[0]
        products = torch.bmm(weights.transpose(1, 2), harmonics)
        return (products.view(n, self.channels, self.degrees, -1) * self.spread).sum(2)

    @torch.jit.export
    def summed_backward(
        self, grad: Tensor, harmonics: Tensor, weights: Tensor
    ) -> Tuple[Tensor, Tensor]:
        """From dE/d(sums) to dE/dY and dE/d(weights)."""
        products = (grad.unsqueeze(2) * self.spread).flatten(1, 2)
        grad_weights = torch.bmm(harmonics, products.transpose(1, 2))
        return torch.bmm(weights, products), grad_weights


class TensorTrack(nn.Module):
    """Products of the tensors of a pair with the surroundings of its atom, by [C, in, S, out]."""

    def __init__(self, weights: Tensor) -> None:
        super().__init__()
        self.inputs, self.outputs = weights.shape[1], weights.shape[3]
        self.weights = nn.Buffer(weights.transpose(1, 2).flatten(2).contiguous())

    def forward(self, tensors: Tensor, surroundings: Tensor) -> Tuple[Tensor, Tensor]:
        """Products [N, C, K, out], and the matrices [N, C, in, out] that make them.

        From tensors of pairs [N, C, K, in] and surroundings of atoms [N, C, S].
        """
        matrices = torch.bmm(surroundings.transpose(0, 1), self.weights).transpose(0, 1)
        matrices = matrices.reshape(matrices.shape[0], matrices.shape[1], self.inputs, -1)
        return torch.matmul(tensors, matrices), matrices

    @torch.jit.export
    def backward(self, grad: Tensor, tensors: Tensor, matrices: Tensor) -> Tuple[Tensor, Tensor]:
        """From dE/d(products) to dE/d(tensors) and dE/d(surroundings)."""
        grad_matrices = torch.matmul(tensors.transpose(2, 3), grad).flatten(2)
        surroundings = torch.bmm(grad_matrices.transpose(0, 1), self.weights.transpose(1, 2))
        return torch.matmul(grad, matrices.transpose(2, 3)), surroundings.transpose(0, 1)


class Layer(nn.Module):
    """A product of tensors, and the network from the scalars of a pair to further ones."""

    def __init__(self, state: State, scalars: int, harmonics: WeightedHarmonics) -> None:
        super().__init__()
        self.scalars = scalars
        self.harmonics = harmonics
        self.track = TensorTrack(state["couplings"])
        self.latent = DenseNetwork(strip_prefix(state, "latent."))

    def forward(
        self, tensors: Tensor, features: Tensor, weights: Tensor, harmonics: Tensor
    ) -> Tuple[Tensor, Tensor, Tensor, LayerTape]:
        """Next tensors [N, C, K, out], scalars [N, K, ...] and weights of the harmonics.

        From tensors [N, C, K, in], all scalars so far [N, K, F], weights of the harmonics in the
        surroundings [N, K, C * degrees], and Y [N, K, S].
        """
        surroundings = self.harmonics.summed(harmonics, weights)
        products, matrices = self.track(tensors, surroundings)
        invariants = products[:, :, :, 0].transpose(1, 2)
        latent, slopes = self.latent(torch.cat([features, invariants], 2))
        more = torch.cat([features, latent[:, :, : self.scalars]], 2)
        tape = LayerTape(tensors, weights, matrices, slopes)
        return products, more, latent[:, :, self.scalars :], tape

    @torch.jit.export
    def backward(
        self,
        grad_tensors: Tensor,
        grad_features: Tensor,
        grad_weights: Tensor,
        harmonics: Tensor,
        tape: LayerTape,
    ) -> Tuple[Tensor, Tensor, Tensor, Tensor]:
        """From dE/d(outputs) to dE/d of (tensors, features, weights, Y)."""
        before = grad_features.shape[2] - self.scalars
        grad_latent = torch.cat([grad_features[:, :, before:], grad_weights], 2)
        grad = self.latent.backward(grad_latent, tape.latent)
        features = grad_features[:, :, :before] + grad[:, :, :before]
        invariants = grad[:, :, before:].transpose(1, 2).unsqueeze(3)
        grad_products = torch.cat(
            [grad_tensors[:, :, :, :1] + invariants, grad_tensors[:, :, :, 1:]], 3
        )
        grad_inputs, surroundings = self.track.backward(grad_products, tape.tensors, tape.matrices)
        grad_y, own_weights = self.harmonics.summed_backward(surroundings, harmonics, tape.weights)
        return grad_inputs, features, own_weights, grad_y


class AllegroNetwork(NetworkModule):
    """Allegro energies and latent charges for inference."""

    def __init__(
        self,
        hyper: Mapping[str, Any],
        state: State,
        species: Sequence[int],
        form: Form,
    ) -> None:
        super().__init__()
        self.cutoff = float(hyper["cutoff"])
        lmax = int(hyper["lmax"])
        index = torch.tensor(list(species), dtype=torch.int64)
        self.num_species = len(species)
        pair_types = state["pair_types"].index_select(0, index).index_select(1, index)
        basis = bessel_basis(hyper, state["bessel_frequencies"])
        self.geometry = PairGeometry(basis, lmax)
        self.basis = Dense(state["basis"])
        self.embedding = DenseNetwork(strip_prefix(state, "embedding."))
        self.tensors = Dense(state["tensors"])
        self.projection = Dense(state["projection"])
        harmonics = WeightedHarmonics(lmax, int(hyper["channels"]))
        self.harmonics = harmonics
        self.scalars = int(hyper["scalars"])
        layers = [
            Layer(
                _parity_ordered(strip_prefix(state, f"layers.{t}."), t, lmax),
                self.scalars,
                harmonics,
            )
            for t in range(int(hyper["num_layers"]))
        ]
        self.layers = nn.ModuleList(layers)
        self.reversed: Any = nn.ModuleList(layers[::-1])
        self.heads = EnergyAndCharge(state)
        self.pair_types = nn.Buffer(pair_types.flatten(0, 1))
        cast(self, form.dtype)
        self.energy_scales = nn.Buffer(state["energy_scales"].index_select(0, index))
        self.rows = latent_rows(hyper)
        self.latents: Any = EdgeMoments(hyper, state) if hyper.get("moments") else EdgeCharges()

    @torch.jit.export
    def short_range(
        self, positions: Tensor, neighbors: Neighbors, species: Tensor, counts: List[int]
    ) -> Tuple[Tensor, Tensor, AllegroTape]:
        """See `Network.short_range`."""
        n, k = neighbors.indices.shape[0], neighbors.indices.shape[1]
        harmonics, radial, geometry = self.geometry(positions, neighbors, species)
        pairs = species_pairs(species, neighbors.indices, self.num_species)
        types = self.pair_types.index_select(0, pairs).view(n, k, -1)
        scalars, embedding = self.embedding(self.basis(radial) * types)
        tensor_weights = self.tensors(scalars)
        projected = self.projection(scalars)
        features, weights = projected[:, :, : self.scalars], projected[:, :, self.scalars :]
        tensors = self.harmonics(harmonics, tensor_weights)
        layers: List[LayerTape] = []
        for layer in self.layers:
            tensors, features, weights, tape = layer(tensors, features, weights, harmonics)
            layers.append(tape)
        energies, charges, heads = self.heads(features)
        scales = self.energy_scales.index_select(0, species)
        latents, sums = self.latents(charges, harmonics, species)
        return (
            energies.to(torch.float64).sum(1) * scales,
            latents,
            AllegroTape(
                geometry,
                neighbors.reverse,
                harmonics,
                scales,
                types,
                embedding,
                tensor_weights,
                layers,
                heads,
                sums,
            ),
        )

    @torch.jit.export
    def pull_back(
        self, grad_energies: Tensor, grad_charges: Tensor, tape: AllegroTape, counts: List[int]
    ) -> Tuple[Tensor, Tensor]:
        """See `Network.pull_back`."""
        harmonics = tape.harmonics
        n, k, dtype = harmonics.shape[0], harmonics.shape[1], harmonics.dtype
        by_energy = (grad_energies * tape.scales).to(dtype).view(n, 1).expand(n, k)
        by_charge, grad_harmonics = self.latents.backward(grad_charges, harmonics, tape.latents)
        features = self.heads.backward(by_energy, by_charge, tape.heads)
        # Nothing reads the tensors of the last layer, and it makes no weights.
        tensors = harmonics.new_zeros([n, self.harmonics.channels, k, 1])
        weights = harmonics.new_zeros([n, k, 0])
        layers = tape.layers[::-1]
        for t, layer in enumerate(self.reversed):
            tensors, features, weights, grad_y = layer.backward(
                tensors, features, weights, harmonics, layers[t]
            )
            grad_harmonics = grad_harmonics + grad_y
        grad_y, by_tensors = self.harmonics.backward(tensors, harmonics, tape.tensor_weights)
        scalars = self.projection.backward(torch.cat([features, weights], 2))
        scalars = scalars + self.tensors.backward(by_tensors)
        radial = self.basis.backward(self.embedding.backward(scalars, tape.embedding) * tape.types)
        return self.geometry.backward(grad_harmonics + grad_y, radial, tape.pairs, tape.reverse)


def _parity_ordered(state: State, layer: int, lmax: int) -> State:
    """The weights of a layer with harmonics in the order of `angular`, even degrees first."""
    order = torch.tensor(parity_permutation(lmax))
    couplings = state["couplings"].index_select(2, order)
    if layer == 0:
        couplings = couplings.index_select(1, order)
    return {**state, "couplings": couplings}
