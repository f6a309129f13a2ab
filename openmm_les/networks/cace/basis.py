"""Radial functions and angular monomials of the pairs of a neighbour matrix, and back."""

from typing import List, Sequence, Tuple

import torch
from torch import Tensor, nn

from openmm_les.neighbors.matrix import Neighbors
from openmm_les.networks.blocks.geometry import PairTape, pair_vectors, pull_back_vectors
from openmm_les.networks.blocks.radial import BesselBasis

#: Added to distances [A] where the original divides vectors by them; 1e-9 relative in the energy.
_DISTANCE_OFFSET = 1e-9


class AngularMonomials(nn.Module):
    """Products of the components of unit vectors, x^a y^b z^c, those of lower degree first."""

    def __init__(self, exponents: Sequence[Sequence[int]]) -> None:
        super().__init__()
        known = [tuple(int(e) for e in entry) for entry in exponents]
        # Each one is a component times one of lower degree; the first is 1.
        self.axes: List[int] = [entry.index(max(entry)) for entry in known]
        self.parents: List[int] = [
            known.index(tuple(e - (a == axis) for a, e in enumerate(entry))) if any(entry) else 0
            for entry, axis in zip(known, self.axes, strict=True)
        ]

    def forward(self, unit: Tensor) -> Tensor:
        """From unit vectors [E, 3] to monomials [E, L]."""
        values: List[Tensor] = [torch.ones_like(unit[:, 0])]
        for i, parent in enumerate(self.parents):
            if i > 0:
                values.append(values[parent] * unit[:, self.axes[i]])
        return torch.stack(values, 1)

    @torch.jit.export
    def backward(self, grad: Tensor, unit: Tensor, values: Tensor) -> Tensor:
        """From dE/d(monomials), unit vectors and monomials to dE/d(unit vectors)."""
        pending: List[Tensor] = []
        for i in range(len(self.parents)):
            pending.append(grad[:, i])
        components: List[Tensor] = [torch.zeros_like(unit[:, 0]) for _ in range(3)]
        for back in range(len(self.parents) - 1):
            i = len(self.parents) - 1 - back
            axis, parent = self.axes[i], self.parents[i]
            pending[parent] = pending[parent] + pending[i] * unit[:, axis]
            components[axis] = components[axis] + pending[i] * values[:, parent]
        return torch.stack(components, 1)


class PairBasis(nn.Module):
    """Radial functions and angular monomials of all slots of a neighbour matrix."""

    def __init__(self, radial: BesselBasis, angular: AngularMonomials) -> None:
        super().__init__()
        self.radial = radial
        self.angular = angular
        self.offset = _DISTANCE_OFFSET

    def forward(self, positions: Tensor, neighbors: Neighbors) -> Tuple[Tensor, Tensor, PairTape]:
        """Monomials [N, K, L] and radial functions [N, K, n]."""
        n, k = neighbors.indices.shape[0], neighbors.indices.shape[1]
        vectors = pair_vectors(positions, neighbors, self.radial.frequencies.dtype)
        distances = torch.sqrt((vectors * vectors).sum(1, keepdim=True))
        unit = vectors / (distances + self.offset)
        angular = self.angular(unit)
        radial, slopes = self.radial(distances.squeeze(1))
        tape = PairTape(vectors, distances, unit, angular, slopes)
        return angular.view(n, k, -1), radial.view(n, k, -1), tape

    @torch.jit.export
    def backward(
        self,
        grad_angular: Tensor,
        grad_radial: Tensor,
        grad_distances: Tensor,
        tape: PairTape,
        reverse: Tensor,
    ) -> Tuple[Tensor, Tensor]:
        """From dE/d of monomials, radial functions and distances; see `pull_back_vectors`."""
        vectors, distances, unit, angular, slopes = tape
        n, k = grad_angular.shape[0], grad_angular.shape[1]
        grad_unit = self.angular.backward(grad_angular.view(n * k, -1), unit, angular)
        along = (grad_unit * unit).sum(1, keepdim=True) / (distances + self.offset)
        grad_distance = (grad_radial.view(n * k, -1) * slopes).sum(1, keepdim=True) - along
        grad_distance = grad_distance + grad_distances.view(n * k, 1)
        direction = vectors / distances
        grad_vectors = grad_unit / (distances + self.offset) + grad_distance * direction
        return pull_back_vectors(grad_vectors, vectors, reverse, n)
