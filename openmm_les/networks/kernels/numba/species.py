"""Neighbour sums of first layers for a CPU, as a loop over pairs and one product for each degree.

Batched products write phi of every pair once for each species, all but one of them zeros.
"""

from typing import Any, List, Tuple

import numpy as np
import torch
from torch import Tensor, nn

from openmm_les.networks.blocks.angular import parity_ordered_degrees
from openmm_les.networks.blocks.species_convolution import SpeciesTape
from openmm_les.networks.kernels.numba import workers
from openmm_les.networks.kernels.numba.compiler import compiled
from openmm_les.networks.kernels.numba.operators import operator


@compiled
def _add_pairs(
    first: int, last: int, harmonics: Any, features: Any, species: Any, width: int, sums: Any
) -> None:
    """Adds Y phi of some slots to sums [S, N, Z, P], from Y [E, S] and phi [E, P] of all.

    `species` [E] are those of the neighbours.
    """
    for slot in range(first, last):
        i, z = slot // width, species[slot]
        phi = features[slot]
        for s in range(harmonics.shape[1]):
            total, y = sums[s, i, z], harmonics[slot, s]
            for p in range(len(phi)):
                total[p] += y * phi[p]


@compiled
def _pull_back_pairs(
    first: int,
    last: int,
    harmonics: Any,
    features: Any,
    species: Any,
    width: int,
    grad_sums: Any,
    grad_harmonics: Any,
    grad_features: Any,
) -> None:
    """Writes dE/dY, and adds to dE/dphi; see `_add_pairs`."""
    dtype = harmonics.dtype
    for slot in range(first, last):
        i, z = slot // width, species[slot]
        phi, grad_phi = features[slot], grad_features[slot]
        for s in range(harmonics.shape[1]):
            grad, y, product = grad_sums[s, i, z], harmonics[slot, s], dtype.type(0.0)
            for p in range(len(phi)):
                grad_phi[p] += y * grad[p]
                product += phi[p] * grad[p]
            grad_harmonics[slot, s] = product


@operator("sum_by_species(Tensor y, Tensor phi, Tensor species, int num_species) -> Tensor")
def _sum_by_species(
    harmonics: Tensor, features: Tensor, species: Tensor, num_species: int
) -> Tensor:
    n, k, size = harmonics.shape
    sums = harmonics.new_zeros([size, n, num_species, features.shape[2]])
    pairs = harmonics.view(n * k, -1), features.view(n * k, -1), species
    arrays, total = [t.numpy() for t in pairs], sums.numpy()

    def work(_: int, part: slice) -> None:
        _add_pairs(part.start, part.stop, *arrays, k, total)

    workers.run(work, workers.shares(np.arange(n + 1) * k, size * features.shape[2]))
    return sums


@operator(
    "pull_back_sums_by_species(Tensor grad, Tensor y, Tensor phi, Tensor species) "
    "-> (Tensor, Tensor)"
)
def _pull_back_by_species(
    grad: Tensor, harmonics: Tensor, features: Tensor, species: Tensor
) -> Tuple[Tensor, Tensor]:
    n, k, size = harmonics.shape
    grad_harmonics, grad_features = torch.empty_like(harmonics), torch.zeros_like(features)
    pairs = harmonics.view(n * k, -1), features.view(n * k, -1), species
    written = grad, grad_harmonics.view(n * k, -1), grad_features.view(n * k, -1)
    arrays, results = [t.numpy() for t in pairs], [t.numpy() for t in written]

    def work(_: int, part: slice) -> None:
        _pull_back_pairs(part.start, part.stop, *arrays, k, *results)

    workers.run(work, workers.shares(np.arange(n + 1) * k, 2 * size * features.shape[2]))
    return grad_harmonics, grad_features


class LoopSpeciesConvolution(nn.Module):
    """`SpeciesConvolution` of the same weights [lmax + 1, C, Z, P]."""

    def __init__(self, weights: Tensor, lmax: int) -> None:
        super().__init__()
        self.num_species = weights.shape[2]
        self.degrees: List[int] = parity_ordered_degrees(lmax)
        self.weights = nn.Buffer(weights.flatten(2).contiguous())

    def forward(
        self, harmonics: Tensor, features: Tensor, neighbors: Tensor, species: Tensor
    ) -> Tuple[Tensor, SpeciesTape]:
        """See `SpeciesConvolution`."""
        features = features.contiguous()
        others = species.index_select(0, neighbors.view(-1))
        sums = torch.ops.openmm_les_loops.sum_by_species(
            harmonics, features, others, self.num_species
        )
        out = harmonics.new_empty([sums.shape[0], sums.shape[1], self.weights.shape[1]])
        first = 0
        for degree in self.degrees:
            end = first + 2 * degree + 1
            rows = sums[first:end].flatten(0, 1).flatten(1)
            torch.mm(rows, self.weights[degree].t(), out=out[first:end].flatten(0, 1))
            first = end
        return out.transpose(1, 2), SpeciesTape(harmonics, features, others)

    @torch.jit.export
    def backward(self, grad: Tensor, tape: SpeciesTape) -> Tuple[Tensor, Tensor]:
        """See `SpeciesConvolution`."""
        size, n, width = grad.shape[0], grad.shape[2], self.weights.shape[2]
        rows = grad.transpose(1, 2).contiguous()
        grad_sums = grad.new_empty([size, n, self.num_species, width // self.num_species])
        first = 0
        for degree in self.degrees:
            end = first + 2 * degree + 1
            own = grad_sums[first:end].view(-1, width)
            torch.mm(rows[first:end].flatten(0, 1), self.weights[degree], out=own)
            first = end
        grads: Tuple[Tensor, Tensor] = torch.ops.openmm_les_loops.pull_back_sums_by_species(
            grad_sums, tape.harmonics, tape.features, tape.neighbor_species
        )
        return grads
