"""MACE with latent charges or moments: atomic energies, latents, their pull-back to positions.

Batatia et al., NeurIPS 35, 11423 (2022) in the algebra of a static neighbour matrix: every shape is
known beforehand, the backward pass is written by hand, and there is no scatter.
"""

from typing import Any, List, Mapping, NamedTuple, Optional, Sequence, Tuple

import torch
from torch import Tensor, nn

from openmm_les.neighbors.matrix import Neighbors
from openmm_les.networks.blocks.angular import rounded_wigner_3j, wigner_3j
from openmm_les.networks.blocks.geometry import PairTape, pair_geometry
from openmm_les.networks.blocks.radial import last_radial, radial_features
from openmm_les.networks.blocks.readout import Readout, SpeciesLinear
from openmm_les.networks.blocks.repulsion import WithRepulsion, ZBLRepulsion
from openmm_les.networks.blocks.species_convolution import SpeciesTape, species_convolution
from openmm_les.networks.blocks.tensors import FinalLatents
from openmm_les.networks.blocks.weights import State, cast, select_species, strip_prefix
from openmm_les.networks.form import Form
from openmm_les.networks.mace.conditions import with_conditions
from openmm_les.networks.mace.layers import Interaction, InteractionTape, NodeUpdate, UpdateTape
from openmm_les.networks.mace.moments import LayerMoments, final_latents, layer_moments
from openmm_les.networks.moments import latent_rows
from openmm_les.networks.protocol import NetworkModule

#: Parts of the names of tensors whose first axis runs over the elements.
_PER_SPECIES = (
    *("embedding", "reference_energies", "skip.", "selector.", "weights", "radii"),
    *("fixed_charges", "atomic_alpha"),
)


class MACETape(NamedTuple):
    """What `MACENetwork.pull_back` needs: of the pairs, the first layer, the others, and moments.

    The latter are latents before they are final [rows, N], in a list, which may be empty.
    """

    pairs: PairTape
    reverse: Tensor
    first: SpeciesTape
    first_update: UpdateTape
    layers: List[InteractionTape]
    raw: List[Tensor]


class MACENetwork(NetworkModule):
    """MACE energies, and latent charges or moments, for inference."""

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
        self.cutoff = float(hyper["cutoff"])
        self.num_species = len(species)
        channels, lmax = int(hyper["channels"]), int(hyper["lmax"])
        specs = hyper["layers"]
        state = select_species(state, species, _PER_SPECIES)
        shifts = torch.zeros(self.num_species, dtype=torch.float64)
        if conditions is not None:
            state, shifts = with_conditions(hyper, state, conditions)
        self.energy_shifts = nn.Buffer(shifts + float(hyper["energy_shift"]))
        self.rows = latent_rows(hyper)
        self.has_fixed_charges = "fixed_charges" in state
        self.fixed_charges = nn.Buffer(state.get("fixed_charges", torch.zeros_like(shifts)))
        self.final: Any = nn.ModuleList(final_latents(hyper, state))
        layers = [strip_prefix(state, f"layers.{t}.") for t in range(len(specs))]

        outputs = [_first_layer_map(specs[0], layers[0], state["embedding"], channels, lmax)]
        outputs += [last_radial(layer) for layer in layers[1:]]
        radial, outputs = radial_features(hyper, state, layers, outputs, form)
        #: Columns of the radial features: those of each layer and its density, and repulsion.
        self.widths: List[int] = []
        for layer, output in zip(layers, outputs, strict=True):
            self.widths += [output.shape[0], int("density" in layer)]
        self.has_repulsion = "zbl" in hyper
        by_pair = self.has_repulsion or "distance_transform" in hyper
        if self.has_repulsion:
            numbers = [hyper["elements"][index] for index in species]
            repulsion = ZBLRepulsion(hyper["zbl"], state["zbl.radii"], numbers, self.cutoff)
            radial = WithRepulsion(radial, repulsion)
            self.widths.append(1)

        kinds = self.num_species if by_pair else 0
        self.geometry: Any = pair_geometry(radial, lmax, kinds, form.kernels)
        first_map = outputs[0].T.reshape(lmax + 1, channels, self.num_species, self.widths[0])
        self.first: Any = species_convolution(first_map, lmax, form.kernels)
        self.first_skip = nn.Buffer(_first_skip(layers[0], state["embedding"], channels))
        moments = layer_moments(hyper, state, layers)
        symbols = rounded_wigner_3j if hyper.get("rounded_symbols") else wigner_3j
        self.first_update = NodeUpdate(specs[0], layers[0], lmax, form, moments[0])
        self.interactions = nn.ModuleList(
            Interaction(specs[t], layers[t], outputs[t], channels, lmax, form, moments[t], symbols)
            for t in range(1, len(specs))
        )
        self.reversed: Any = nn.ModuleList(reversed(list(self.interactions)))
        # Node features, self-connections and readouts stay float64, and so does the repulsion.
        single_nodes = Readout | SpeciesLinear | ZBLRepulsion | LayerMoments | FinalLatents
        kept = [m for m in self.modules() if isinstance(m, single_nodes)]
        cast(self, form.dtype, [self, *(part for m in kept for part in m.modules())])

    @torch.jit.export
    def short_range(
        self, positions: Tensor, neighbors: Neighbors, species: Tensor, counts: List[int]
    ) -> Tuple[Tensor, Tensor, MACETape]:
        """See `Network.short_range`."""
        harmonics, features, pairs = self.geometry(positions, neighbors, species)
        columns = features.split(self.widths, 2)
        sums, first = self.first(harmonics, columns[0], neighbors.indices, species)
        skip = self.first_skip.index_select(0, species).unsqueeze(0)
        nodes, readout, first_update = self.first_update(sums, columns[1], [skip], counts)
        layers: List[InteractionTape] = []
        for t, interaction in enumerate(self.interactions):
            nodes, values, layer = interaction(
                nodes, harmonics, columns[2 * t + 2], columns[2 * t + 3], neighbors, counts
            )
            readout = readout + values
            layers.append(layer)
        energies = readout[:, 0] + self.energy_shifts.index_select(0, species)
        if self.has_repulsion:
            energies = energies + columns[len(columns) - 1].to(torch.float64).sum([1, 2])
        latents = readout[:, 1]
        if self.has_fixed_charges:
            latents = latents + self.fixed_charges.index_select(0, species)
        raw: List[Tensor] = []
        for final in self.final:
            raw.append(torch.cat([latents.unsqueeze(0), readout[:, 2:].t()]))
            latents = final(raw[0], species)
        tape = MACETape(pairs, neighbors.reverse, first, first_update, layers, raw)
        return energies, latents, tape

    @torch.jit.export
    def pull_back(
        self, grad_energies: Tensor, grad_charges: Tensor, tape: MACETape, counts: List[int]
    ) -> Tuple[Tensor, Tensor]:
        """See `Network.pull_back`."""
        grad_latents = grad_charges.to(torch.float64)
        for final in self.final:
            grad_latents = final.backward(grad_latents, tape.raw[0])
        grad_rows = list(grad_latents.reshape(self.rows, -1).unbind(0))
        grad_readout = torch.stack([grad_energies] + grad_rows, 1)
        grad_nodes: List[Tensor] = []
        grad_features: List[Tensor] = []
        grad_harmonics: List[Tensor] = []
        layers = tape.layers[::-1]
        for t, interaction in enumerate(self.reversed):
            grad_nodes, grad_y, grad_phi = interaction.backward(
                grad_nodes, grad_readout, layers[t], tape.reverse, counts
            )
            grad_harmonics.append(grad_y)
            grad_features = grad_phi + grad_features
        grad_sums, _, grad_density = self.first_update.backward(
            grad_nodes, grad_readout, tape.first_update, counts
        )
        grad_y, grad_first = self.first.backward(grad_sums, tape.first)
        grad_features = [grad_first] + grad_density + grad_features
        if self.has_repulsion:
            slots = grad_first[:, :, :1]
            grad_features.append(grad_energies.to(slots.dtype).view(-1, 1, 1).expand_as(slots))
        for other in grad_harmonics:
            grad_y = grad_y.add_(other)
        grad = torch.cat(grad_features, 2)
        gradients: Tuple[Tensor, Tensor] = self.geometry.backward(
            grad_y, grad, tape.pairs, tape.reverse
        )
        return gradients


def _first_layer_map(
    spec: Mapping[str, Any], layer: State, embedding: Tensor, channels: int, lmax: int
) -> Tensor:
    """Radial MLP's last map, embedding, linear_up and mixing in one: [P, (lmax + 1) * C * Z]."""
    last = last_radial(layer)
    senders = embedding @ layer["up.0"]
    out = torch.zeros(lmax + 1, channels, len(embedding), last.shape[0], dtype=torch.float64)
    for p, (_, _, degree) in enumerate(spec["paths"]):
        radial = last[:, p * channels : (p + 1) * channels] * float(
            wigner_3j(0, degree, degree)[0, 0, 0]
        )
        out[degree] = torch.einsum("pk,zk,kc->czp", radial, senders, layer[f"mix.{degree}"])
    return out.flatten(0, 2).T


def _first_skip(layer: State, embedding: Tensor, channels: int) -> Tensor:
    """The self-connection of the first layer by species [Z, C]; zeros if it has none."""
    if "skip.0" not in layer:
        return embedding.new_zeros(len(embedding), channels)
    return torch.bmm(embedding.unsqueeze(1), layer["skip.0"]).squeeze(1)
