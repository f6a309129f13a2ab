"""Vectors of pairs and spherical harmonics for a CPU, and their pull-back, each as one loop.

A step of a small system consists of some hundred operations of torch, most of which take longer to
start than to compute; these loops replace about thirty of them.
"""

from typing import Any, Optional, Tuple

import numpy as np
import torch
from torch import Tensor, nn

from openmm_les.neighbors.matrix import Neighbors
from openmm_les.networks.blocks.angular import harmonic_couplings, parity_permutation
from openmm_les.networks.blocks.geometry import PairGeometry, PairTape, species_pairs
from openmm_les.networks.kernels.numba.compiler import compiled
from openmm_les.networks.kernels.numba.operators import operator

#: Slots whose harmonics are computed side by side, in vector instructions.
_SLOTS = 16


@compiled
def _describe(
    positions: Any,
    neighbors: Any,
    shifts: Any,
    terms: Any,
    factors: Any,
    vectors: Any,
    distances: Any,
    harmonics: Any,
) -> None:
    """Writes the last three arguments: vectors [E, 3] and distances [E] of slots, and Y [E, S].

    Terms are those of `harmonic_couplings` without their `factors`.
    """
    width, size = neighbors.shape[1], harmonics.shape[1]
    unit, y = np.empty((3, _SLOTS), vectors.dtype), np.empty((size, _SLOTS), vectors.dtype)
    for start in range(0, len(vectors), _SLOTS):
        here = min(_SLOTS, len(vectors) - start)
        unit[:] = 0.0
        for e in range(here):
            i, k = (start + e) // width, (start + e) % width
            j = neighbors[i, k]
            v = vectors[start + e]
            for axis in range(3):  # in float64; what follows need not be
                v[axis] = positions[i, axis] - positions[j, axis] + shifts[i, k, axis]
            distance = np.sqrt(v[0] * v[0] + v[1] * v[1] + v[2] * v[2])
            distances[start + e] = distance
            for axis in range(3):
                unit[axis, e] = v[axis] / distance
        y[:] = 0.0
        y[0] = 1.0
        for t in range(len(terms)):
            total, lower, u = y[terms[t, 0]], y[terms[t, 1]], unit[terms[t, 2]]
            factor = factors[t]
            for e in range(_SLOTS):
                total[e] += factor * lower[e] * u[e]
        for e in range(here):
            for s in range(size):
                harmonics[start + e, s] = y[s, e]


@compiled
def _pull_back(
    grad_harmonics: Any,
    grad_features: Any,
    vectors: Any,
    harmonics: Any,
    slopes: Any,
    reverse: Any,
    width: int,
    terms: Any,
    factors: Any,
    grad_positions: Any,
    grad_strain: Any,
) -> None:
    """Adds to the last two arguments, float64; `factors` are those of the solid harmonics."""
    size, dtype = harmonics.shape[1], vectors.dtype
    grad_unit = np.empty((3, _SLOTS), dtype)
    y, grad_y = np.zeros((size, _SLOTS), dtype), np.zeros((size, _SLOTS), dtype)
    for start in range(0, len(vectors), _SLOTS):
        here = min(_SLOTS, len(vectors) - start)
        for e in range(here):
            for s in range(size):
                y[s, e], grad_y[s, e] = harmonics[start + e, s], grad_harmonics[start + e, s]
        grad_unit[:] = 0.0
        for t in range(len(terms)):
            total, lower, g = grad_unit[terms[t, 2]], y[terms[t, 1]], grad_y[terms[t, 0]]
            factor = factors[t]
            for e in range(_SLOTS):
                total[e] += factor * lower[e] * g[e]
        for e in range(here):
            slot = start + e
            v, g, slope = vectors[slot], grad_features[slot], slopes[slot]
            distance = np.sqrt(v[0] * v[0] + v[1] * v[1] + v[2] * v[2])
            along = dtype.type(0.0)
            for p in range(slopes.shape[1]):
                along += g[p] * slope[p]
            radial = dtype.type(0.0)
            for axis in range(3):
                radial += grad_unit[axis, e] * v[axis] / distance
            # The reverse slot lies in the row of the neighbour.
            i, j = slot // width, reverse[slot] // width
            for axis in range(3):
                u = v[axis] / distance
                grad = (grad_unit[axis, e] - radial * u) / distance + along * u
                grad_positions[i, axis] += grad
                grad_positions[j, axis] -= grad
                for other in range(3):
                    grad_strain[axis, other] += np.float64(grad) * v[other]


@operator(
    "pair_geometry(Tensor positions, Tensor neighbors, Tensor shifts, Tensor terms, "
    "Tensor factors, int size) -> (Tensor, Tensor, Tensor)"
)
def _pair_geometry(
    positions: Tensor, neighbors: Tensor, shifts: Tensor, terms: Tensor, factors: Tensor, size: int
) -> Tuple[Tensor, Tensor, Tensor]:
    slots = neighbors.numel()
    vectors, distances = factors.new_empty([slots, 3]), factors.new_empty([slots])
    harmonics = factors.new_empty([slots, size])
    inputs = positions.contiguous(), neighbors, shifts, terms, factors
    _describe(*(t.numpy() for t in (*inputs, vectors, distances, harmonics)))
    return vectors, distances, harmonics


@operator(
    "pull_back_geometry(Tensor grad_harmonics, Tensor grad_features, Tensor vectors, "
    "Tensor harmonics, Tensor slopes, Tensor reverse, Tensor terms, Tensor factors) "
    "-> (Tensor, Tensor)"
)
def _pull_back_geometry(
    grad_harmonics: Tensor,
    grad_features: Tensor,
    vectors: Tensor,
    harmonics: Tensor,
    slopes: Tensor,
    reverse: Tensor,
    terms: Tensor,
    factors: Tensor,
) -> Tuple[Tensor, Tensor]:
    n, width, slots = grad_harmonics.shape[0], grad_harmonics.shape[1], len(vectors)
    grad_positions = vectors.new_zeros([n, 3], dtype=torch.float64)
    grad_strain = vectors.new_zeros([3, 3], dtype=torch.float64)
    grads = [grad.reshape(slots, -1).contiguous() for grad in (grad_harmonics, grad_features)]
    tape = [t.numpy() for t in (*grads, vectors, harmonics, slopes.contiguous(), reverse)]
    rest = [t.numpy() for t in (terms, factors, grad_positions, grad_strain)]
    _pull_back(*tape, width, *rest)
    return grad_positions, grad_strain


class LoopPairGeometry(nn.Module):
    """`PairGeometry` in loops, with its radial features; distances stay in its dtype."""

    def __init__(self, plain: PairGeometry, lmax: int) -> None:
        super().__init__()
        self.radial: Any = plain.radial
        self.num_species = plain.num_species
        self.size = (lmax + 1) ** 2
        row_of = {i: row for row, i in enumerate(parity_permutation(lmax))}
        couplings = harmonic_couplings(lmax)
        terms = [[row_of[a], row_of[b], axis] for a, b, axis, _ in couplings]
        values = torch.tensor([factor for *_, factor in couplings], dtype=torch.float64)
        degrees = torch.tensor([int(a**0.5) for a, *_ in couplings])
        self.terms = nn.Buffer(torch.tensor(terms))
        self.factors = nn.Buffer(values)
        self.slope_factors = nn.Buffer(values * degrees)

    def forward(
        self, positions: Tensor, neighbors: Neighbors, species: Tensor
    ) -> Tuple[Tensor, Tensor, PairTape]:
        """See `PairGeometry.forward`; the tape has no directions."""
        n, k = neighbors.indices.shape[0], neighbors.indices.shape[1]
        vectors, distances, values = torch.ops.openmm_les_loops.pair_geometry(
            positions, neighbors.indices, neighbors.shifts, self.terms, self.factors, self.size
        )
        pairs: Optional[Tensor] = None
        if self.num_species > 0:
            pairs = species_pairs(species, neighbors.indices, self.num_species)
        features, slopes = self.radial(distances, pairs)
        tape = PairTape(vectors, distances, vectors[:0], values, slopes)
        return values.view(n, k, -1), features.view(n, k, -1), tape

    @torch.jit.export
    def backward(
        self, grad_harmonics: Tensor, grad_features: Tensor, tape: PairTape, reverse: Tensor
    ) -> Tuple[Tensor, Tensor]:
        """See `PairGeometry.backward`."""
        gradients: Tuple[Tensor, Tensor] = torch.ops.openmm_les_loops.pull_back_geometry(
            grad_harmonics,
            grad_features,
            tape.vectors,
            tape.angular,
            tape.slopes,
            reverse,
            self.terms,
            self.slope_factors,
        )
        return gradients
