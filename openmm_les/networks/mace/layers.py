"""The layers of MACE: neighbour sums, and what becomes of them."""

from typing import Any, List, Mapping, NamedTuple, Optional, Sequence, Tuple

import torch
from torch import Tensor, nn

from openmm_les.neighbors.matrix import Neighbors
from openmm_les.networks.blocks.angular import Symbols, parity_ordered_degrees
from openmm_les.networks.blocks.convolution import Convolution, message_convolution
from openmm_les.networks.blocks.product_basis import product_basis
from openmm_les.networks.blocks.readout import Readout, SpeciesLinear
from openmm_les.networks.blocks.tensor_paths import MessageTape
from openmm_les.networks.blocks.weights import State
from openmm_les.networks.form import Form
from openmm_les.networks.mace.moments import LayerMoments, MomentTape


class DensityTape(NamedTuple):
    """Quotients [S, C, N], the factors 1 / (1 + rho) [N], and d of every slot [N, K, 1]."""

    quotients: Tensor
    factors: Tensor
    density: Tensor


class DensityNormalization(nn.Module):
    """Divides neighbour sums by 1 + rho_i, rho_i = sum_j d(r_ij) with a learned function d."""

    def forward(self, sums: Tensor, density: Tensor) -> Tuple[Tensor, DensityTape]:
        """The quotients of A [S, C, N], with d of every slot [N, K, 1]."""
        factors = 1.0 / (1.0 + density.sum([1, 2]))
        out = sums * factors
        return out, DensityTape(out, factors, density)

    @torch.jit.export
    def backward(self, grad: Tensor, tape: DensityTape) -> Tuple[Tensor, Tensor]:
        """From dE/d(quotients) to dE/dA and dE/dd."""
        grad_rho = -tape.factors * (grad * tape.quotients).sum([0, 1])
        return grad * tape.factors, grad_rho.view(-1, 1, 1).expand_as(tape.density)


class SpeciesMixing(nn.Module):
    """Maps channels of neighbour sums by the species of the atom, by [Z, C, C] for each degree."""

    def __init__(self, maps: Sequence[Tensor]) -> None:
        super().__init__()
        self.degrees: List[int] = parity_ordered_degrees(len(maps) - 1)
        self.maps = nn.Buffer(torch.stack(list(maps), 1).transpose(2, 3).contiguous())

    def forward(self, sums: Tensor, counts: List[int], transpose: bool) -> Tensor:
        """A [S, C, N] of atoms sorted by species to [S, C, N], or with the transposed maps."""
        species: List[Tensor] = []
        atom = 0
        for z, count in enumerate(counts):
            if count > 0:
                parts: List[Tensor] = []
                first = 0
                for degree in self.degrees:
                    rows = sums[first : first + 2 * degree + 1, :, atom : atom + count]
                    own = self.maps[z, degree].t() if transpose else self.maps[z, degree]
                    parts.append(torch.matmul(own, rows))
                    first += 2 * degree + 1
                species.append(torch.cat(parts))
                atom += count
        return species[0] if len(species) == 1 else torch.cat(species, 2)


class UpdateTape(NamedTuple):
    """Of `ProductBasis`, `Readout`, and if there are any `DensityNormalization`, `LayerMoments`."""

    jacobians: List[List[Tensor]]
    readout: Tensor
    densities: List[DensityTape]
    moments: List[MomentTape]


class NodeUpdate(nn.Module):
    """From neighbour sums to the next node features: product basis, linear map, skip, readout.

    Blocks that are normalised by a density, or not residual, change the sums first. `spec` is the
    layer's entry of the hyper-parameters, `state` its weights without the ``layers.T.`` prefix,
    `lmax` the highest degree of the sums, and `moments` reads more than energy and charge.
    """

    def __init__(
        self,
        spec: Mapping[str, Any],
        state: State,
        lmax: int,
        form: Form,
        moments: Optional[LayerMoments],
    ) -> None:
        super().__init__()
        output_lmax = int(spec["output_lmax"])
        self.degrees: List[int] = parity_ordered_degrees(output_lmax)
        outputs = range(output_lmax + 1)
        # Lists of one module or none, as TorchScript likes them.
        normalizations = [DensityNormalization()] if "density" in state else []
        self.normalizations: Any = nn.ModuleList(normalizations)
        maps = [state[f"selector.{d}"] for d in range(lmax + 1) if f"selector.{d}" in state]
        self.selectors = nn.ModuleList([SpeciesMixing(maps)] if maps else [])
        self.product: Any = product_basis(
            [state[f"product.{d}.basis"] for d in outputs],
            [state[f"product.{d}.weights"] for d in outputs],
            lmax,
            form,
            max(3, int(spec["correlation"])),
        )
        self.output = nn.Buffer(torch.stack([state[f"output.{d}"] for d in outputs]))
        names = ["0"] if spec["readout"] == "linear" else ["0", "1"]
        self.readout = Readout(
            [state[f"energy.{name}"] for name in names], [state[f"charge.{name}"] for name in names]
        )
        self.moments: Any = nn.ModuleList([] if moments is None else [moments])

    def forward(
        self, sums: Tensor, density: Tensor, skips: List[Tensor], counts: List[int]
    ) -> Tuple[List[Tensor], Tensor, UpdateTape]:
        """Node features of each degree [2l+1, N, C] and readouts [N, 2 or more].

        These are float64, but for features that no readout reads and nothing is added to.

        Takes A [S, C, N], what each slot adds to the density [N, K, 1] ([N, K, 0] without one), and
        self-connections of the first degrees [2l+1, N, C].
        """
        densities: List[DensityTape] = []
        for selector in self.selectors:
            sums = selector(sums, counts, False)
        for normalization in self.normalizations:
            sums, density_tape = normalization(sums, density)
            densities.append(density_tape)
        products, jacobians = self.product(sums, counts)
        nodes: List[Tensor] = [products] * len(self.degrees)
        first = 0
        for degree in self.degrees:
            size = 2 * degree + 1
            rows = products[first : first + size].transpose(1, 2)
            node = torch.matmul(rows, self.output[degree])
            if degree < len(skips):
                node = node + skips[degree]
            elif degree == 0 or len(self.moments) > 0:
                node = node.to(torch.float64)
            nodes[degree] = node
            first += size
        readout, slopes = self.readout(nodes[0][0])
        moment_tapes: List[MomentTape] = []
        for moments in self.moments:
            values, moment_tape = moments(nodes)
            readout = torch.cat([readout, values], 1)
            moment_tapes.append(moment_tape)
        return nodes, readout, UpdateTape(jacobians, slopes, densities, moment_tapes)

    @torch.jit.export
    def backward(
        self, grad_nodes: List[Tensor], grad_readout: Tensor, tape: UpdateTape, counts: List[int]
    ) -> Tuple[Tensor, List[Tensor], List[Tensor]]:
        """From dE/dnodes (empty: none) and dE/dreadout [N, 2 or more] to what comes before.

        These are dE/dsums, the total dE/dnodes, and dE/d(density) in a list, empty without one.
        """
        own = grad_readout
        for _ in self.moments:
            own = grad_readout[:, :2]
        scalars = self.readout.backward(own, tape.readout).unsqueeze(0)
        if len(grad_nodes) == 0:
            # No layer reads the covariant features of the last one.
            total = [scalars]
            for degree in range(1, len(self.degrees)):
                total.append(torch.zeros_like(scalars).repeat(2 * degree + 1, 1, 1))
        else:
            total = [grad_nodes[0] + scalars] + grad_nodes[1:]
        for t, moments in enumerate(self.moments):
            total = moments.backward(grad_readout[:, 2:], total, tape.moments[t])
        grad_products: List[Tensor] = []
        for degree in self.degrees:
            grad_node = total[degree].transpose(1, 2).to(self.output.dtype)
            grad_products.append(torch.matmul(self.output[degree], grad_node))
        grad_sums = self.product.backward(torch.cat(grad_products), tape.jacobians)
        grad_density: List[Tensor] = []
        for t, normalization in enumerate(self.normalizations):
            grad_sums, grad = normalization.backward(grad_sums, tape.densities[t])
            grad_density.append(grad)
        for selector in self.selectors:
            grad_sums = selector(grad_sums, counts, True)
        return grad_sums, total, grad_density


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
        radial_weights: Tensor,
        channels: int,
        lmax: int,
        form: Form,
        moments: Optional[LayerMoments],
        symbols: Symbols,
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
            form,
            symbols,
        )
        skips = min(node_lmax, int(spec["output_lmax"])) + 1
        self.skips = nn.ModuleList(
            SpeciesLinear(state[f"skip.{d}"]) for d in range(skips) if f"skip.{d}" in state
        )
        self.update = NodeUpdate(spec, state, lmax, form, moments)

    def forward(
        self,
        nodes: List[Tensor],
        harmonics: Tensor,
        features: Tensor,
        density: Tensor,
        neighbors: Neighbors,
        counts: List[int],
    ) -> Tuple[List[Tensor], Tensor, InteractionTape]:
        """Next node features and readouts, from features of each degree [2l+1, N, C].

        Takes Y [N, K, S], radial features of this layer [N, K, P], and the neighbours;
        for the others see `NodeUpdate`.
        """
        raised: List[Tensor] = []
        for degree in self.degrees:
            raised.append(torch.matmul(nodes[degree].to(self.up.dtype), self.up[degree]))
        senders = torch.cat(raised).transpose(0, 1).reshape(harmonics.shape[0], -1)
        sums, messages = self.convolution(harmonics, features, senders, neighbors)
        skips: List[Tensor] = []
        for degree, skip in enumerate(self.skips):
            skips.append(skip(nodes[degree], counts, False))
        updated, readout, update = self.update(sums, density, skips, counts)
        return updated, readout, InteractionTape(messages, update)

    @torch.jit.export
    def backward(
        self,
        grad_nodes: List[Tensor],
        grad_readout: Tensor,
        tape: InteractionTape,
        reverse: Tensor,
        counts: List[int],
    ) -> Tuple[List[Tensor], Tensor, List[Tensor]]:
        """From dE/d(output) to dE/d of (input nodes, Y, list of radial features and density)."""
        grad_sums, grad_total, grad_density = self.update.backward(
            grad_nodes, grad_readout, tape.update, counts
        )
        grad_harmonics, grad_features, senders = self.convolution.backward(
            grad_sums, tape.convolution, reverse
        )
        senders = senders.view(senders.shape[0], -1, self.channels).transpose(0, 1)
        grads: List[Tensor] = [senders] * len(self.degrees)
        first = 0
        for degree in self.degrees:
            size = 2 * degree + 1
            grads[degree] = torch.matmul(senders[first : first + size], self.up[degree].t())
            first += size
        for degree, skip in enumerate(self.skips):
            grads[degree] = grads[degree] + skip(grad_total[degree], counts, True)
        return grads, grad_harmonics, [grad_features] + grad_density
