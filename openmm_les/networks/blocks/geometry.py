"""From positions to what a pair of atoms contributes, and back: harmonics and radial features."""

from typing import Any, List, NamedTuple, Optional, Tuple

import torch
from torch import Tensor, nn

from openmm_les.neighbors.matrix import Neighbors
from openmm_les.networks.blocks.angular import SphericalHarmonics
from openmm_les.networks.blocks.blocking import block_size
from openmm_les.networks.blocks.radial import TabulatedRadial
from openmm_les.networks.kernels import Kernels


class PairTape(NamedTuple):
    """Functions of all E = N * K slots."""

    vectors: Tensor  #: pair vectors [E, 3] [A].
    distances: Tensor  #: their lengths [E, 1] [A].
    unit: Tensor  #: their directions [E, 3].
    angular: Tensor  #: angular functions [E, S].
    slopes: Tensor  #: derivatives of the radial functions by the distance [E, P].


def pair_vectors(positions: Tensor, neighbors: Neighbors, dtype: torch.dtype) -> Tensor:
    """Vectors r_i - r_j + shift of all slots, shape [N * K, 3] [A].

    Differences of positions [N, 3] need double precision; what follows, in the dtype, does not.
    """
    others = positions.index_select(0, neighbors.indices.view(-1)).view_as(neighbors.shifts)
    return (positions.unsqueeze(1) - others + neighbors.shifts).view(-1, 3).to(dtype)


def pull_back_vectors(
    grad_vectors: Tensor, vectors: Tensor, reverse: Tensor, atoms: int
) -> Tuple[Tensor, Tensor]:
    """From dE/d(pair vectors) to dE/dr [N, 3] [eV/A] and dE/dstrain [3, 3] [eV], float64."""
    pairs = grad_vectors - grad_vectors.index_select(0, reverse)
    grad_positions = pairs.view(atoms, -1, 3).sum(1)
    grad_strain = grad_vectors.t() @ vectors
    return grad_positions.to(torch.float64), grad_strain.to(torch.float64)


def gather(values: Tensor, neighbors: Tensor) -> Tensor:
    """Values of the neighbour of each slot, [N, K, width], from those of atoms [N, width]."""
    n, k = neighbors.shape[0], neighbors.shape[1]
    return values.index_select(0, neighbors.view(-1)).view(n, k, -1)


def collect(pairs: Tensor, reverse: Tensor, limits: List[int]) -> Tensor:
    """Sum over all atoms that have an atom as neighbour, of what they hold for it.

    Takes [N, K, width] to [N, width]; `reverse` is that of `Neighbors`, `limits` of `block_limits`.
    """
    n, k, width = pairs.shape[0], pairs.shape[1], pairs.shape[2]
    flat = pairs.view(n * k, width)
    step = block_size(pairs, k * width, limits)
    sums = pairs.new_empty([n, width])
    for start in range(0, n, step):
        # Slot reverse(i, k) holds the same pair seen from the neighbour: a gather, no scatter.
        end = min(n, start + step)
        own = flat.index_select(0, reverse[start * k : end * k]).view(-1, k, width)
        torch.sum(own, [1], out=sums[start:end])
    return sums


def species_pairs(species: Tensor, neighbors: Tensor, num_species: int) -> Tensor:
    """Which pair of species each slot is, first * Z + second, shape [N * K]."""
    others = species.index_select(0, neighbors.view(-1)).view(neighbors.shape)
    return (species.unsqueeze(1) * num_species + others).view(-1)


class PairGeometry(nn.Module):
    """Spherical harmonics and radial features of all slots of a neighbour matrix.

    Args:
        radial: from distances [E], and pairs of species [E], to features and their derivatives,
            each [E, P].
        lmax: highest degree of the harmonics.
        num_species: Z, where radial features depend on the species of both atoms; 0 where not.
    """

    def __init__(self, radial: nn.Module, lmax: int, num_species: int = 0) -> None:
        super().__init__()
        self.radial = radial
        self.num_species = num_species
        self.harmonics = SphericalHarmonics(lmax, torch.float64)

    def forward(
        self, positions: Tensor, neighbors: Neighbors, species: Tensor
    ) -> Tuple[Tensor, Tensor, PairTape]:
        """Y of shape [N, K, S] and phi of shape [N, K, P], in the dtype of the harmonics."""
        n, k = neighbors.indices.shape[0], neighbors.indices.shape[1]
        vectors = pair_vectors(positions, neighbors, self.harmonics.gradient.dtype)
        distances = torch.sqrt((vectors * vectors).sum(1, keepdim=True))
        unit = vectors / distances
        values = self.harmonics(unit)
        pairs: Optional[Tensor] = None
        if self.num_species > 0:
            pairs = species_pairs(species, neighbors.indices, self.num_species)
        features, slopes = self.radial(distances.squeeze(1), pairs)
        tape = PairTape(vectors, distances, unit, values, slopes)
        return values.view(n, k, -1), features.view(n, k, -1), tape

    @torch.jit.export
    def backward(
        self, grad_harmonics: Tensor, grad_features: Tensor, tape: PairTape, reverse: Tensor
    ) -> Tuple[Tensor, Tensor]:
        """From dE/dY and dE/dphi; see `pull_back_vectors` for the results."""
        n, k = grad_harmonics.shape[0], grad_harmonics.shape[1]
        grad_distance = (grad_features.view(n * k, -1) * tape.slopes).sum(1, keepdim=True)
        grad_unit = self.harmonics.backward(grad_harmonics.view(n * k, -1), tape.angular)
        radial = (grad_unit * tape.unit).sum(1, keepdim=True)
        grad_vectors = (grad_unit - radial * tape.unit) / tape.distances
        grad_vectors = grad_vectors + grad_distance * tape.unit
        return pull_back_vectors(grad_vectors, tape.vectors, reverse, n)


def pair_geometry(radial: nn.Module, lmax: int, num_species: int, kernels: Kernels) -> Any:
    """A `PairGeometry`, in loops, or in Triton's kernels where the radial features are a table."""
    plain = PairGeometry(radial, lmax, num_species)
    if kernels == "numba":
        from openmm_les.networks.kernels.numba.geometry import LoopPairGeometry

        return LoopPairGeometry(plain, lmax)
    if kernels == "triton" and isinstance(radial, TabulatedRadial):
        from openmm_les.networks.kernels.triton.geometry import FusedPairGeometry

        return FusedPairGeometry(plain, lmax)
    return plain
