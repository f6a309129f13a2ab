"""A message-passing layer of MACE after the first."""

from typing import Any, List, Mapping, NamedTuple, Tuple

import torch
from torch import nn

from openmm_les.networks.blocks.angular import parity_ordered_degrees
from openmm_les.networks.blocks.convolution import Convolution, message_convolution
from openmm_les.networks.blocks.readout import SpeciesLinear
from openmm_les.networks.blocks.tensor_paths import MessageTape
from openmm_les.networks.blocks.weights import State
from openmm_les.networks.mace.node_update import NodeUpdate, UpdateTape


class InteractionTape(NamedTuple):
    """What `Interaction.backward` needs."""

    convolution: MessageTape
    update: UpdateTape


class Interaction(nn.Module):
    """A message-passing layer after the first; see `NodeUpdate` and `message_convolution`."""

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
        self.degrees: List[int] = parity_ordered_degrees(node_lmax)
        self.up = nn.Buffer(torch.stack([state[f"up.{d}"] for d in range(node_lmax + 1)]))
        self.convolution: Convolution = message_convolution(
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
    ) -> Tuple[List[torch.Tensor], torch.Tensor, InteractionTape]:
        """Next node features and readouts [N, 2], from features of each degree [2l+1, N, C].

        Takes Y [N, K, S], radial features of this layer [N, K, P], and neighbour indices [N, K];
        for the others see `NodeUpdate`.
        """
        raised: List[torch.Tensor] = []
        for degree in self.degrees:
            raised.append(torch.matmul(nodes[degree].to(self.up.dtype), self.up[degree]))
        senders = torch.cat(raised).transpose(0, 1).reshape(neighbors.shape[0], -1)
        sums, messages = self.convolution(harmonics, features, senders, neighbors)
        skips: List[torch.Tensor] = []
        for degree, skip in enumerate(self.skips):
            skips.append(skip(nodes[degree], counts, False))
        updated, readout, update = self.update(sums, density, skips, counts)
        return updated, readout, InteractionTape(messages, update)

    @torch.jit.export
    def backward(
        self,
        grad_nodes: List[torch.Tensor],
        grad_readout: torch.Tensor,
        tape: InteractionTape,
        reverse: torch.Tensor,
        counts: List[int],
    ) -> Tuple[List[torch.Tensor], torch.Tensor, List[torch.Tensor]]:
        """From dE/d(output) to dE/d of (input nodes, Y [N, K, S], list of radial features).

        The list holds those of the radial features [N, K, P] and, if there is one, the density.
        """
        grad_sums, grad_total, grad_density = self.update.backward(
            grad_nodes, grad_readout, tape.update, counts
        )
        grad_harmonics, grad_features, senders = self.convolution.backward(
            grad_sums, tape.convolution, reverse
        )
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
