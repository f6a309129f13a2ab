"""What a layer of MACE does with its neighbour sums: products, linear map, skip, readouts."""

from typing import Any, List, Mapping, NamedTuple, Tuple

import torch
from torch import nn

from openmm_les.networks.blocks.angular import parity_ordered_degrees
from openmm_les.networks.blocks.normalization import (
    DensityNormalization,
    DensityTape,
    SpeciesMixing,
)
from openmm_les.networks.blocks.product_basis import ProductBasis
from openmm_les.networks.blocks.readout import Readout
from openmm_les.networks.blocks.weights import State


class UpdateTape(NamedTuple):
    """Of `ProductBasis`, `Readout`, and `DensityNormalization` if there is one."""

    jacobians: List[List[torch.Tensor]]
    readout: torch.Tensor
    densities: List[DensityTape]


class NodeUpdate(nn.Module):
    """From neighbour sums to the next node features: product basis, linear map, skip, readout.

    Blocks that are normalised by a density, or not residual, change the sums first. `spec` is the
    layer's entry of the hyper-parameters, `state` its weights without the ``layers.T.`` prefix, and
    `lmax` the highest degree of the sums.
    """

    def __init__(
        self, spec: Mapping[str, Any], state: State, lmax: int, fold: bool, few_kernels: bool
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
        self.product = ProductBasis(
            [state[f"product.{d}.basis"] for d in outputs],
            [state[f"product.{d}.weights"] for d in outputs],
            lmax,
            fold,
            few_kernels,
            order=max(3, int(spec["correlation"])),
        )
        self.output = nn.Buffer(torch.stack([state[f"output.{d}"] for d in outputs]))
        names = ["0"] if spec["readout"] == "linear" else ["0", "1"]
        self.readout = Readout(
            [state[f"energy.{name}"] for name in names], [state[f"charge.{name}"] for name in names]
        )

    def forward(
        self,
        sums: torch.Tensor,
        density: torch.Tensor,
        skips: List[torch.Tensor],
        counts: List[int],
    ) -> Tuple[List[torch.Tensor], torch.Tensor, UpdateTape]:
        """Node features of each degree [2l+1, N, C] and readouts [N, 2], float64.

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
        nodes: List[torch.Tensor] = [products] * len(self.degrees)
        first = 0
        for degree in self.degrees:
            size = 2 * degree + 1
            rows = products[first : first + size].transpose(1, 2)
            node = torch.matmul(rows, self.output[degree]).to(torch.float64)
            if degree < len(skips):
                node = node + skips[degree]
            nodes[degree] = node
            first += size
        readout, slopes = self.readout(nodes[0][0])
        return nodes, readout, UpdateTape(jacobians, slopes, densities)

    @torch.jit.export
    def backward(
        self,
        grad_nodes: List[torch.Tensor],
        grad_readout: torch.Tensor,
        tape: UpdateTape,
        counts: List[int],
    ) -> Tuple[torch.Tensor, List[torch.Tensor], List[torch.Tensor]]:
        """From dE/dnodes (empty: none) and dE/dreadout [N, 2] to what comes before.

        These are dE/dsums, the total dE/dnodes, and dE/d(density) in a list, empty without one.
        """
        scalars = self.readout.backward(grad_readout, tape.readout).unsqueeze(0)
        if len(grad_nodes) == 0:
            # Nothing reads the covariant features of the last layer.
            total = [scalars]
            for degree in range(1, len(self.degrees)):
                total.append(torch.zeros_like(scalars).repeat(2 * degree + 1, 1, 1))
        else:
            total = [grad_nodes[0] + scalars] + grad_nodes[1:]
        grad_products: List[torch.Tensor] = []
        for degree in self.degrees:
            grad_node = total[degree].transpose(1, 2).to(self.output.dtype)
            grad_products.append(torch.matmul(self.output[degree], grad_node))
        grad_sums = self.product.backward(torch.cat(grad_products), tape.jacobians)
        grad_density: List[torch.Tensor] = []
        for t, normalization in enumerate(self.normalizations):
            grad_sums, grad = normalization.backward(grad_sums, tape.densities[t])
            grad_density.append(grad)
        for selector in self.selectors:
            grad_sums = selector(grad_sums, counts, True)
        return grad_sums, total, grad_density
