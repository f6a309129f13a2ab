"""MACE with latent charges: atomic energies and charges, and their pull-back to positions.

Batatia et al., NeurIPS 35, 11423 (2022) in the algebra of a static neighbour matrix: every shape is
known beforehand, the backward pass is written by hand, and there is no scatter. The function is
split where long-range electrostatics enters: `short_range` gives energies e_i and charges q_i,
`pull_back` takes dE/de_i and dE/dq_i to forces and strain derivative.
"""

from typing import Any, Dict, List, Mapping, Sequence, Tuple

import torch
from torch import nn

from openmm_les.networks.blocks.angular import parity_ordered_degrees, wigner_3j
from openmm_les.networks.blocks.blocking import block_limits
from openmm_les.networks.blocks.convolution import MessageConvolution, SpeciesConvolution, collect
from openmm_les.networks.blocks.dense import strip_prefix
from openmm_les.networks.blocks.geometry import PairGeometry
from openmm_les.networks.blocks.radial_layers import last_radial, radial_features
from openmm_les.networks.blocks.readout import Readout, SpeciesLinear
from openmm_les.networks.blocks.repulsion import WithRepulsion, ZBLRepulsion
from openmm_les.networks.mace.node_update import NodeUpdate, State


class Interaction(nn.Module):
    """A message-passing layer after the first.

    Args:
        spec: the layer's entry of the hyper-parameters.
        state: weights of the layer, names without the ``layers.T.`` prefix.
        radial_weights: last map of the radial MLP for the features in use, [P, paths * C].
        channels: C.
        lmax: highest degree of the edge harmonics.
        fold: see `ProductBasis`.
        few_kernels: see `ProductBasis` and `MessageConvolution`.
    """

    def __init__(
        self,
        spec: Mapping[str, Any],
        state: State,
        radial_weights: torch.Tensor,
        channels: int,
        lmax: int,
        fold: bool,
        few_kernels: bool,
    ) -> None:
        super().__init__()
        node_lmax = int(spec["node_lmax"])
        self.channels = channels
        self.limits = block_limits()
        self.degrees: List[int] = parity_ordered_degrees(node_lmax)
        self.up: torch.Tensor
        self.register_buffer("up", torch.stack([state[f"up.{d}"] for d in range(node_lmax + 1)]))
        self.convolution = MessageConvolution(
            radial_weights,
            [(int(a), int(b), int(c)) for a, b, c in spec["paths"]],
            [state[f"mix.{d}"] for d in range(lmax + 1)],
            channels,
            lmax,
            node_lmax,
            few_kernels,
        )
        skips = min(node_lmax, int(spec["output_lmax"])) + 1
        self.skips = nn.ModuleList(
            SpeciesLinear(state[f"skip.{d}"]) for d in range(skips) if f"skip.{d}" in state
        )
        self.update = NodeUpdate(spec, state, lmax, fold, few_kernels)

    def forward(
        self,
        nodes: List[torch.Tensor],
        harmonics: torch.Tensor,
        features: torch.Tensor,
        density: torch.Tensor,
        neighbors: torch.Tensor,
        counts: List[int],
    ) -> Tuple[List[torch.Tensor], torch.Tensor, List[List[torch.Tensor]]]:
        """Next node features, readouts [N, 2], and what `backward` needs.

        Args:
            nodes: features of each degree, [2l+1, N, C].
            harmonics: Y of shape [N, K, S].
            features: radial features of this layer, [N, K, P].
            density: see `NodeUpdate`.
            neighbors: neighbour indices [N, K].
            counts: number of atoms of each species.
        """
        raised: List[torch.Tensor] = []
        for degree in self.degrees:
            raised.append(torch.matmul(nodes[degree].to(self.up.dtype), self.up[degree]))
        senders = torch.cat(raised).transpose(0, 1).reshape(neighbors.shape[0], -1)
        sums, saved = self.convolution(harmonics, features, senders, neighbors)
        skips: List[torch.Tensor] = []
        for degree, skip in enumerate(self.skips):
            skips.append(skip(nodes[degree], counts, False))
        updated, readout, saved_update = self.update(sums, density, skips, counts)
        return updated, readout, [saved] + saved_update

    @torch.jit.export
    def backward(
        self,
        grad_nodes: List[torch.Tensor],
        grad_readout: torch.Tensor,
        saved: List[List[torch.Tensor]],
        reverse: torch.Tensor,
        counts: List[int],
    ) -> Tuple[List[torch.Tensor], torch.Tensor, List[torch.Tensor]]:
        """From dE/d(output) to dE/d of (input nodes, Y [N, K, S], list of radial features).

        The list holds those of the radial features [N, K, P] and, if there is one, the density.
        """
        grad_sums, grad_total, grad_density = self.update.backward(
            grad_nodes, grad_readout, saved[1:], counts
        )
        grad_harmonics, grad_features, grad_gathered = self.convolution.backward(
            grad_sums, saved[0]
        )
        senders = collect(grad_gathered, reverse, self.limits)
        senders = senders.view(senders.shape[0], -1, self.channels).transpose(0, 1)
        grads: List[torch.Tensor] = [senders] * len(self.degrees)
        first = 0
        for degree in self.degrees:
            size = 2 * degree + 1
            grad_node = torch.matmul(senders[first : first + size], self.up[degree].t())
            grads[degree] = grad_node.to(torch.float64)
            first += size
        for degree, skip in enumerate(self.skips):
            grads[degree] = grads[degree] + skip(grad_total[degree], counts, True)
        return grads, grad_harmonics, [grad_features] + grad_density


#: Canonical tensors whose first axis runs over the elements.
_PER_SPECIES = ("embedding", "reference_energies", "skip.", "selector.", "weights", "radii")


def select_species(state: State, species: Sequence[int]) -> Dict[str, torch.Tensor]:
    """The canonical state with only some of the model's elements.

    Args:
        state: canonical state, see ``docs/design.md``.
        species: indices into the model's list of elements.
    """
    index = torch.tensor(list(species), dtype=torch.int64)
    return {
        name: tensor.index_select(0, index)
        if any(part in name for part in _PER_SPECIES)
        else tensor
        for name, tensor in state.items()
    }


class MACENetwork(nn.Module):
    """MACE energies and latent charges for inference.

    Args:
        hyper: canonical hyper-parameters of family ``mace`` (``docs/design.md``).
        state: canonical weights, float64.
        species: indices of the elements to keep, in the order in which atoms are sorted.
        dtype: dtype of the network.
        exact_radial: evaluate the radial MLP instead of its table (needed beyond 1e-7 accuracy).
        fold: see `ProductBasis`.
        few_kernels: see `ProductBasis` and `MessageConvolution`.
    """

    def __init__(
        self,
        hyper: Mapping[str, Any],
        state: State,
        species: Sequence[int],
        *,
        dtype: torch.dtype,
        exact_radial: bool,
        fold: bool,
        few_kernels: bool,
    ) -> None:
        super().__init__()
        self.cutoff = float(hyper["cutoff"])
        self.energy_shift = float(hyper["energy_shift"])
        self.num_species = len(species)
        channels, lmax = int(hyper["channels"]), int(hyper["lmax"])
        specs = hyper["layers"]
        state = select_species(state, species)
        layers = [strip_prefix(state, f"layers.{t}.") for t in range(len(specs))]

        outputs = [_first_layer_map(specs[0], layers[0], state["embedding"], channels, lmax)]
        outputs += [last_radial(layer) for layer in layers[1:]]
        radial, outputs = radial_features(hyper, state, layers, outputs, dtype, exact_radial)
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

        self.geometry = PairGeometry(radial, lmax, self.num_species if by_pair else 0)
        first_map = outputs[0].T.reshape(lmax + 1, channels, self.num_species, self.widths[0])
        self.first = SpeciesConvolution(first_map, lmax)
        self.first_skip: torch.Tensor
        skip = torch.zeros(self.num_species, channels, dtype=torch.float64)
        if "skip.0" in layers[0]:
            skip = torch.bmm(state["embedding"].unsqueeze(1), layers[0]["skip.0"]).squeeze(1)
        self.register_buffer("first_skip", skip)
        self.first_update = NodeUpdate(specs[0], layers[0], lmax, fold, few_kernels)
        self.interactions = nn.ModuleList(
            Interaction(spec, layer, output, channels, lmax, fold, few_kernels)
            for spec, layer, output in zip(specs[1:], layers[1:], outputs[1:], strict=True)
        )
        # TorchScript cannot iterate a ModuleList backwards; these are the same modules.
        self.reversed: Any = nn.ModuleList(reversed(list(self.interactions)))
        self.onehot: torch.Tensor
        self.register_buffer("onehot", torch.eye(self.num_species, dtype=torch.float64))
        self._cast(dtype)

    def _cast(self, dtype: torch.dtype) -> None:
        """Casts all weights but those that act on single nodes, and the repulsion.

        Node features, self-connections and readouts stay float64. Rounding them to float32 costs
        1e-7 e in the charge of a lone atom, times the slope of its self-energy 2e-6 eV; and they
        are so small that double precision costs nothing.
        """
        for module in self.modules():
            if isinstance(module, Readout | SpeciesLinear | ZBLRepulsion):
                continue
            for name, buffer in module.named_buffers(recurse=False):
                if buffer.is_floating_point() and name != "first_skip":
                    setattr(module, name, buffer.to(dtype))

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
        """Atomic energies and latent charges.

        Args:
            positions: shape [N, 3] [A], float64, atoms sorted by species.
            neighbors: neighbour matrix [N, K]; unused slots hold the atom itself.
            shifts: [N, K, 3] [A], float64: the pair vector is r_i - r_j + shift; in unused slots a
                vector longer than the cutoff.
            reverse: [N * K], the flat slot in which the neighbour holds the same pair.
            species: species index of each atom [N], sorted.
            counts: number of atoms of each species.

        Returns:
            Energies without isolated-atom references [N] [eV] and charges [N] [e], both float64,
            and saved tensors.
        """
        n, k = neighbors.shape[0], neighbors.shape[1]
        harmonics, features, saved_pairs = self.geometry(positions, neighbors, shifts, species)
        columns = features.split(self.widths, 2)

        onehot = self.onehot.index_select(0, species)
        onehot = onehot.index_select(0, neighbors.view(-1)).view(n, k, -1)
        sums, saved_first = self.first(harmonics, columns[0], onehot)
        skip = self.first_skip.index_select(0, species).unsqueeze(0)
        nodes, readout, saved_update = self.first_update(sums, columns[1], [skip], counts)
        saved = [saved_pairs + [reverse], saved_first] + saved_update
        for t, interaction in enumerate(self.interactions):
            nodes, values, saved_layer = interaction(
                nodes, harmonics, columns[2 * t + 2], columns[2 * t + 3], neighbors, counts
            )
            readout = readout + values
            saved += saved_layer
        energies = readout[:, 0] + self.energy_shift
        if self.has_repulsion:
            energies = energies + columns[len(columns) - 1].to(torch.float64).sum([1, 2])
        return energies, readout[:, 1], saved

    @torch.jit.export
    def pull_back(
        self,
        grad_energies: torch.Tensor,
        grad_charges: torch.Tensor,
        saved: List[List[torch.Tensor]],
        counts: List[int],
    ) -> Tuple[torch.Tensor, torch.Tensor]:
        """Gradient of a function of energies and charges.

        Args:
            grad_energies, grad_charges: dE/de_i and dE/dq_i, shape [N].
            saved: third result of `short_range`.
            counts: as given to `short_range`.

        Returns:
            dE/dr of shape [N, 3] [eV/A] and dE/dstrain of shape [3, 3] [eV], float64.
        """
        saved_pairs, reverse = saved[0][:-1], saved[0][-1]
        grad_readout = torch.stack([grad_energies, grad_charges.to(torch.float64)], 1)
        grad_nodes: List[torch.Tensor] = []
        grad_features: List[torch.Tensor] = []
        grad_harmonics: List[torch.Tensor] = []
        last = len(saved)
        for interaction in self.reversed:
            grad_nodes, grad_y, grad_phi = interaction.backward(
                grad_nodes, grad_readout, saved[last - 4 : last], reverse, counts
            )
            grad_harmonics.append(grad_y)
            grad_features = grad_phi + grad_features
            last -= 4
        grad_sums, _, grad_density = self.first_update.backward(
            grad_nodes, grad_readout, saved[2:5], counts
        )
        grad_y, grad_first = self.first.backward(grad_sums, saved[1])
        grad_features = [grad_first] + grad_density + grad_features
        if self.has_repulsion:
            slots = grad_first[:, :, :1]
            grad_features.append(grad_energies.to(slots.dtype).view(-1, 1, 1).expand_as(slots))
        for other in grad_harmonics:
            grad_y = grad_y.add_(other)
        return self.geometry.backward(grad_y, torch.cat(grad_features, 2), saved_pairs, reverse)


def _first_layer_map(
    spec: Mapping[str, Any], layer: State, embedding: torch.Tensor, channels: int, lmax: int
) -> torch.Tensor:
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
