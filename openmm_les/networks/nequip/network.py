"""NequIP with latent charges: atomic energies and latents, and their pull-back to positions.

Batzner et al., Nat. Commun. 13, 2453 (2022) in the algebra of a static neighbour matrix. Features
come in slots, each of one degree and parity with channels of its own. A layer sums products of the
neighbours' features and harmonics, mixes them, adds what each element makes of the atom's own
features, and gates the result. In the first layer features are those of the element alone.
"""

from typing import Any, List, Mapping, NamedTuple, Sequence, Tuple

import torch
from torch import Tensor, nn

from openmm_les.neighbors.matrix import Neighbors
from openmm_les.networks.blocks.angular import degree_offsets, wigner_3j
from openmm_les.networks.blocks.dense import Dense, EnergyAndCharge, HeadsTape
from openmm_les.networks.blocks.geometry import PairTape, pair_geometry
from openmm_les.networks.blocks.radial import last_radial, radial_features
from openmm_les.networks.blocks.readout import SpeciesLinear
from openmm_les.networks.blocks.species_convolution import SpeciesTape, species_convolution
from openmm_les.networks.blocks.tensor_paths import MessageTape, NeighborSums, PathGroup
from openmm_les.networks.blocks.weights import State, cast, select_species, strip_prefix
from openmm_les.networks.form import Form
from openmm_les.networks.kernels import Kernels
from openmm_les.networks.moments import latent_rows
from openmm_les.networks.nequip.moments import NodeCharges, NodeMoments, NodeTape
from openmm_les.networks.protocol import NetworkModule

Spec = Mapping[str, Any]

#: What happens to the slots of a layer's output.
_SILU, _TANH, _GATE = 0, 1, 2
_KINDS = {"silu": _SILU, "tanh": _TANH, "gate": _GATE}


#: Parts of the names of tensors whose first axis runs over the elements.
_PER_SPECIES = ("embedding", "reference_energies", "energy_scales", ".skip.")


class GateTape(NamedTuple):
    """Slopes of the even scalars, their activations with those of the gates, and all columns."""

    slopes: Tensor
    activated: Tensor
    columns: List[Tensor]


class FirstTape(NamedTuple):
    """What `FirstLayer.backward` needs."""

    convolution: SpeciesTape
    gate: GateTape


class InteractionTape(NamedTuple):
    """What `Interaction.backward` needs."""

    convolution: MessageTape
    gate: GateTape


class NequIPTape(NamedTuple):
    """What `NequIPNetwork.pull_back` needs; scales are those of the energy of each atom [N]."""

    pairs: PairTape
    reverse: Tensor
    scales: Tensor
    first: FirstTape
    layers: List[InteractionTape]
    heads: HeadsTape
    latents: NodeTape


def column_counts(outputs: Sequence[Sequence[Any]]) -> List[int]:
    """Columns of each output slot before the gate: the even scalars also carry the gates.

    A slot has a degree, a number of channels and a kind.
    """
    gates = sum(channels for _, channels, kind in outputs if kind == "gate")
    return [channels + gates if kind == "silu" else channels for _, channels, kind in outputs]


class Gate(nn.Module):
    """Activations of scalars, and silu of further scalars as factors of everything else.

    The kind of a slot is ``"silu"`` for even scalars, of which there is one slot, ``"tanh"`` for
    odd scalars, ``"gate"`` for all others.
    """

    def __init__(self, outputs: Sequence[Sequence[Any]]) -> None:
        super().__init__()
        self.kinds: List[int] = [_KINDS[kind] for _, _, kind in outputs]
        self.scalars = self.kinds.index(_SILU)
        self.silu, self.tanh = _SILU, _TANH
        self.channels: List[int] = [channels for _, channels, _ in outputs]
        self.starts: List[int] = []
        first = self.channels[self.scalars]
        for _, channels, kind in outputs:
            self.starts.append(first)
            first += channels if kind == "gate" else 0

    def forward(self, columns: List[Tensor]) -> Tuple[List[Tensor], GateTape]:
        """From columns of each slot [2l+1, N, columns] to features [2l+1, N, C]."""
        even = columns[self.scalars]
        s = torch.sigmoid(even)
        activated = even * s
        nodes: List[Tensor] = []
        for i, kind in enumerate(self.kinds):
            if kind == self.silu:
                nodes.append(activated[:, :, : self.channels[i]])
            elif kind == self.tanh:
                nodes.append(torch.tanh(columns[i]))
            else:
                start = self.starts[i]
                nodes.append(columns[i] * activated[:, :, start : start + self.channels[i]])
        return nodes, GateTape(s * (1.0 + even * (1.0 - s)), activated, columns)

    @torch.jit.export
    def backward(self, grad: List[Tensor], tape: GateTape) -> List[Tensor]:
        """From dE/d(features) to dE/d(columns)."""
        parts: List[Tensor] = [grad[self.scalars]]
        grads: List[Tensor] = []
        for i, kind in enumerate(self.kinds):
            own, column = grad[i], tape.columns[i]
            if kind == self.silu:
                grads.append(own)  # its place; gates have to come first
            elif kind == self.tanh:
                value = torch.tanh(column)
                grads.append(own * (1.0 - value * value))
            else:
                start = self.starts[i]
                grads.append(own * tape.activated[:, :, start : start + self.channels[i]])
                parts.append((own * column).sum(0, keepdim=True))
        grads[self.scalars] = torch.cat(parts, 2) * tape.slopes
        return grads


class Interaction(nn.Module):
    """A layer after the first.

    `spec` is its entry of the hyper-parameters, `state` its weights without the ``layers.T.``
    prefix, `radial_weights` the last map of the radial MLP for the features in use [P, columns].
    With `few_kernels` all paths from one slot form a group, as in `message_convolution`.
    """

    def __init__(
        self, spec: Spec, state: State, radial_weights: Tensor, lmax: int, few_kernels: bool
    ) -> None:
        super().__init__()
        nodes, outputs, paths = spec["nodes"], spec["outputs"], spec["paths"]
        self.node_sizes: List[int] = [2 * degree + 1 for degree, _ in nodes]
        self.node_channels: List[int] = [channels for _, channels in nodes]
        self.output_sizes: List[int] = [2 * degree + 1 for degree, _, _ in outputs]
        self.output_columns: List[int] = column_counts(outputs)
        firsts = [0]
        for size, channels in zip(self.node_sizes, self.node_channels, strict=True):
            firsts.append(firsts[-1] + size * channels)

        sizes = [self.node_channels[slot] for slot, _, _ in paths]
        blocks = torch.split(radial_weights, sizes, 1)
        groups = [[p] for p in range(len(paths))]
        if few_kernels:
            slots = dict.fromkeys(slot for slot, _, _ in paths)
            groups = [[p for p, path in enumerate(paths) if path[0] == slot] for slot in slots]
        members: List[PathGroup] = []
        self.groups: List[int] = [0] * len(paths)
        self.rows: List[int] = [0] * len(paths)
        for g, group in enumerate(groups):
            degrees = [(nodes[paths[p][0]][0], paths[p][1], outputs[paths[p][2]][0]) for p in group]
            weights = torch.stack([blocks[p] for p in group])
            members.append(PathGroup(degrees, weights, lmax, firsts[paths[group[0]][0]]))
            row = 0
            for p, (_, _, degree) in zip(group, degrees, strict=True):
                self.groups[p], self.rows[p] = g, row
                row += 2 * degree + 1
        self.sums = NeighborSums(members)
        self.targets: List[int] = [slot for _, _, slot in paths]
        self.ups: Any = nn.ModuleList(Dense(state[f"up.{s}"]) for s in range(len(nodes)))
        self.mixes: Any = nn.ModuleList(Dense(state[f"mix.{p}"]) for p in range(len(paths)))
        self.skip_nodes: List[int] = [node for node, _ in spec["skips"]]
        self.skip_outputs: List[int] = [slot for _, slot in spec["skips"]]
        self.skips = nn.ModuleList(SpeciesLinear(state[f"skip.{s}"]) for s in self.skip_outputs)
        self.gate = Gate(outputs)

    def forward(
        self,
        nodes: List[Tensor],
        harmonics: Tensor,
        features: Tensor,
        neighbors: Neighbors,
        counts: List[int],
    ) -> Tuple[List[Tensor], InteractionTape]:
        """Next node features [2l+1, N, C], float64, from those of each slot.

        Takes Y [N, K, S], radial features of this layer [N, K, P], and the neighbours.
        """
        n = harmonics.shape[0]
        raised: List[Tensor] = []
        for slot, up in enumerate(self.ups):
            raised.append(up(nodes[slot].to(harmonics.dtype)).transpose(0, 1).reshape(n, -1))
        sums, messages = self.sums(harmonics, features, torch.cat(raised, 1), neighbors)
        columns: List[Tensor] = []
        for slot, size in enumerate(self.output_sizes):
            shape = [size, n, self.output_columns[slot]]
            columns.append(torch.zeros(shape, dtype=torch.float64, device=harmonics.device))
        for p, mix in enumerate(self.mixes):
            row, target = self.rows[p], self.targets[p]
            own = sums[self.groups[p]][:, row : row + self.output_sizes[target]]
            columns[target] = columns[target] + mix(own).transpose(0, 1)
        for i, skip in enumerate(self.skips):
            target = self.skip_outputs[i]
            columns[target] = columns[target] + skip(nodes[self.skip_nodes[i]], counts, False)
        updated, gate = self.gate(columns)
        return updated, InteractionTape(messages, gate)

    @torch.jit.export
    def backward(
        self, grad_nodes: List[Tensor], tape: InteractionTape, reverse: Tensor, counts: List[int]
    ) -> Tuple[List[Tensor], Tensor, Tensor]:
        """From dE/d(output) to dE/d of (input nodes, Y, radial features)."""
        grad_columns = self.gate.backward(grad_nodes, tape.gate)
        harmonics = tape.convolution.harmonics
        n = harmonics.shape[0]
        grad_sums: List[Tensor] = []
        for group in self.sums.groups:
            grad_sums.append(harmonics.new_empty([n, group.rows, group.channels]))
        for p, mix in enumerate(self.mixes):
            row, target = self.rows[p], self.targets[p]
            own = grad_columns[target].transpose(0, 1).to(harmonics.dtype)
            rows = grad_sums[self.groups[p]][:, row : row + self.output_sizes[target]]
            rows.copy_(mix.backward(own))
        grad_harmonics, grad_features, senders = self.sums.backward(
            grad_sums, tape.convolution, reverse
        )
        grads: List[Tensor] = []
        first = 0
        for slot, up in enumerate(self.ups):
            size, channels = self.node_sizes[slot], self.node_channels[slot]
            own = senders[:, first : first + size * channels].reshape(n, size, channels)
            grads.append(up.backward(own.transpose(0, 1)).to(torch.float64))
            first += size * channels
        for i, skip in enumerate(self.skips):
            node = self.skip_nodes[i]
            grads[node] = grads[node] + skip(grad_columns[self.skip_outputs[i]], counts, True)
        return grads, grad_harmonics, grad_features


class FirstLayer(nn.Module):
    """The first layer: one path to each degree, from features that depend on the element alone.

    The weights [lmax + 1, columns, Z, P] are the radial MLP's last map, embedding, linear maps in
    one.
    """

    def __init__(self, spec: Spec, weights: Tensor, lmax: int, kernels: Kernels) -> None:
        super().__init__()
        offsets = degree_offsets(lmax)
        self.firsts: List[int] = [offsets[degree] for degree, _, _ in spec["outputs"]]
        self.sizes: List[int] = [2 * degree + 1 for degree, _, _ in spec["outputs"]]
        self.columns: List[int] = column_counts(spec["outputs"])
        self.shape: List[int] = [(lmax + 1) ** 2, weights.shape[1]]
        self.convolution: Any = species_convolution(weights, lmax, kernels)
        self.gate = Gate(spec["outputs"])

    def forward(
        self, harmonics: Tensor, features: Tensor, neighbors: Tensor, species: Tensor
    ) -> Tuple[List[Tensor], FirstTape]:
        """Node features of each slot [2l+1, N, C], float64; see `SpeciesConvolution`."""
        sums, convolution = self.convolution(harmonics, features, neighbors, species)
        columns: List[Tensor] = []
        for slot, first in enumerate(self.firsts):
            own = sums[first : first + self.sizes[slot], : self.columns[slot]]
            columns.append(own.transpose(1, 2).to(torch.float64))
        nodes, gate = self.gate(columns)
        return nodes, FirstTape(convolution, gate)

    @torch.jit.export
    def backward(self, grad_nodes: List[Tensor], tape: FirstTape) -> Tuple[Tensor, Tensor]:
        """From dE/d(nodes) to dE/d of (Y, radial features)."""
        grad_columns = self.gate.backward(grad_nodes, tape.gate)
        harmonics = tape.convolution.harmonics
        grad_sums = harmonics.new_zeros([self.shape[0], self.shape[1], harmonics.shape[0]])
        for slot, first in enumerate(self.firsts):
            own = grad_sums[first : first + self.sizes[slot], : self.columns[slot]]
            own.copy_(grad_columns[slot].transpose(1, 2))
        grads: Tuple[Tensor, Tensor] = self.convolution.backward(grad_sums, tape.convolution)
        return grads


class NequIPNetwork(NetworkModule):
    """NequIP energies and latent charges for inference."""

    def __init__(
        self,
        hyper: Mapping[str, Any],
        state: State,
        species: Sequence[int],
        form: Form,
    ) -> None:
        super().__init__()
        self.cutoff = float(hyper["cutoff"])
        specs = hyper["layers"]
        # Harmonics start at degree 1; a model without them has no weights for it.
        lmax = max(1, int(hyper["lmax"]))
        state = select_species(state, species, _PER_SPECIES)
        layers = [strip_prefix(state, f"layers.{t}.") for t in range(len(specs))]
        outputs = [_first_layer_map(specs[0], layers[0], state["embedding"], lmax)]
        outputs += [last_radial(layer) for layer in layers[1:]]
        radial, outputs = radial_features(hyper, state, layers, outputs, form)
        self.widths: List[int] = [output.shape[0] for output in outputs]

        self.geometry: Any = pair_geometry(radial, lmax, 0, form.kernels)
        columns = max(column_counts(specs[0]["outputs"]))
        first = outputs[0].T.reshape(lmax + 1, columns, len(species), self.widths[0])
        self.first = FirstLayer(specs[0], first, lmax, form.kernels)
        interactions = [
            Interaction(spec, layer, output, lmax, form.few_kernels)
            for spec, layer, output in zip(specs[1:], layers[1:], outputs[1:], strict=True)
        ]
        self.interactions = nn.ModuleList(interactions)
        self.reversed: Any = nn.ModuleList(interactions[::-1])
        self.heads = EnergyAndCharge(state)
        self.energy_scales = nn.Buffer(state["energy_scales"])
        self.rows = latent_rows(hyper)
        self.latents: Any = NodeMoments(hyper, state) if hyper.get("moments") else NodeCharges()
        maps = [m for m in self.modules() if isinstance(m, SpeciesLinear)]
        cast(self, form.dtype, [self, *self.heads.modules(), *self.latents.modules(), *maps])

    @torch.jit.export
    def short_range(
        self, positions: Tensor, neighbors: Neighbors, species: Tensor, counts: List[int]
    ) -> Tuple[Tensor, Tensor, NequIPTape]:
        """See `Network.short_range`."""
        harmonics, features, pairs = self.geometry(positions, neighbors, species)
        by_layer = features.split(self.widths, 2)
        nodes, first = self.first(harmonics, by_layer[0], neighbors.indices, species)
        layers: List[InteractionTape] = []
        entering = nodes
        for t, interaction in enumerate(self.interactions):
            entering = nodes
            nodes, layer = interaction(nodes, harmonics, by_layer[t + 1], neighbors, counts)
            layers.append(layer)
        energies, charges, heads = self.heads(nodes[0][0])
        latents, readouts = self.latents(charges, entering, species)
        scales = self.energy_scales.index_select(0, species)
        tape = NequIPTape(pairs, neighbors.reverse, scales, first, layers, heads, readouts)
        return energies * scales, latents, tape

    @torch.jit.export
    def pull_back(
        self, grad_energies: Tensor, grad_charges: Tensor, tape: NequIPTape, counts: List[int]
    ) -> Tuple[Tensor, Tensor]:
        """See `Network.pull_back`."""
        grad_charges, entering = self.latents.backward(grad_charges, tape.latents)
        grad = self.heads.backward(grad_energies * tape.scales, grad_charges, tape.heads)
        grad_nodes: List[Tensor] = [grad.unsqueeze(0)]
        grad_features: List[Tensor] = []
        grad_harmonics: List[Tensor] = []
        layers = tape.layers[::-1]
        for t, interaction in enumerate(self.reversed):
            grad_nodes, grad_y, grad_phi = interaction.backward(
                grad_nodes, layers[t], tape.reverse, counts
            )
            grad_harmonics.append(grad_y)
            grad_features.append(grad_phi)
            if t == 0:
                for i, slot in enumerate(self.latents.slots):
                    grad_nodes[slot] = grad_nodes[slot] + entering[i]
        grad_y, grad_phi = self.first.backward(grad_nodes, tape.first)
        grad_features.append(grad_phi)
        grad_features.reverse()
        for other in grad_harmonics:
            grad_y = grad_y.add_(other)
        grad = torch.cat(grad_features, 2)
        gradients: Tuple[Tensor, Tensor] = self.geometry.backward(
            grad_y, grad, tape.pairs, tape.reverse
        )
        return gradients


def _first_layer_map(spec: Spec, layer: State, embedding: Tensor, lmax: int) -> Tensor:
    """Everything linear between the radial features and the sums, [P, (lmax + 1) * columns * Z]."""
    last, channels = last_radial(layer), embedding.shape[1]
    senders = embedding @ layer["up.0"]
    width = max(column_counts(spec["outputs"]))
    out = torch.zeros(lmax + 1, width, len(embedding), last.shape[0], dtype=torch.float64)
    for p, (_, degree, _) in enumerate(spec["paths"]):
        coupling = float(wigner_3j(0, degree, degree)[0, 0, 0])
        radial = coupling * last[:, p * channels : (p + 1) * channels]
        mix = layer[f"mix.{p}"]
        out[degree, : mix.shape[1]] = torch.einsum("pk,zk,kc->czp", radial, senders, mix)
    return out.flatten(0, 2).T
