"""From positions to what a pair of atoms contributes, and back: harmonics and radial features."""

from typing import List, Optional, Tuple

import torch
from torch import nn

from openmm_les.networks.blocks.angular import SphericalHarmonics


def pair_vectors(
    positions: torch.Tensor, neighbors: torch.Tensor, shifts: torch.Tensor, dtype: torch.dtype
) -> torch.Tensor:
    """Vectors r_i - r_j + shift of all slots, shape [N * K, 3] [A].

    Args:
        positions: shape [N, 3] [A], float64.
        neighbors: neighbour of each slot, shape [N, K].
        shifts: shape [N, K, 3] [A], float64.
        dtype: of the result. Differences of coordinates need double precision, what follows does
            not.
    """
    n, k = neighbors.shape[0], neighbors.shape[1]
    others = positions.index_select(0, neighbors.view(-1)).view(n, k, 3)
    return (positions.unsqueeze(1) - others + shifts).view(-1, 3).to(dtype)


def pull_back_vectors(
    grad_vectors: torch.Tensor, vectors: torch.Tensor, reverse: torch.Tensor, atoms: int
) -> Tuple[torch.Tensor, torch.Tensor]:
    """From dE/d(pair vectors) to dE/dr of shape [N, 3] [eV/A] and dE/dstrain [3, 3] [eV], float64.

    Args:
        grad_vectors: shape [N * K, 3].
        vectors: of `pair_vectors`.
        reverse: the flat slot in which the neighbour holds the same pair, shape [N * K].
        atoms: N.
    """
    pairs = grad_vectors - grad_vectors.index_select(0, reverse)
    grad_positions = pairs.view(atoms, -1, 3).sum(1)
    grad_strain = grad_vectors.t() @ vectors
    return grad_positions.to(torch.float64), grad_strain.to(torch.float64)


def species_pairs(species: torch.Tensor, neighbors: torch.Tensor, num_species: int) -> torch.Tensor:
    """Which pair of species each slot is, first * Z + second, shape [N * K].

    Args:
        species: species index of each atom, shape [N].
        neighbors: neighbour of each slot, shape [N, K].
        num_species: Z.
    """
    others = species.index_select(0, neighbors.view(-1)).view(neighbors.shape)
    return (species.unsqueeze(1) * num_species + others).view(-1)


class PairGeometry(nn.Module):
    """Spherical harmonics and radial features of all slots of a neighbour matrix.

    Args:
        radial: from distances [E], and pairs of species [E], to features and their derivatives,
            each [E, P].
        lmax: highest degree of the harmonics.
        num_species: Z, where radial features depend on the species of both atoms; 0 where they are
            the same for all pairs.
    """

    def __init__(self, radial: nn.Module, lmax: int, num_species: int = 0) -> None:
        super().__init__()
        self.radial = radial
        self.num_species = num_species
        self.harmonics = SphericalHarmonics(lmax, torch.float64)

    def forward(
        self,
        positions: torch.Tensor,
        neighbors: torch.Tensor,
        shifts: torch.Tensor,
        species: torch.Tensor,
    ) -> Tuple[torch.Tensor, torch.Tensor, List[torch.Tensor]]:
        """Functions of the pairs.

        Args:
            positions: shape [N, 3] [A], float64.
            neighbors: neighbour of each slot, shape [N, K].
            shifts: the pair vector is r_i - r_j + shift, shape [N, K, 3] [A], float64.
            species: species index of each atom, shape [N].

        Returns:
            Y of shape [N, K, S], phi of shape [N, K, P], both in the dtype of the harmonics, and
            what `backward` needs.
        """
        n, k = neighbors.shape[0], neighbors.shape[1]
        vectors = pair_vectors(positions, neighbors, shifts, self.harmonics.gradient.dtype)
        distances = torch.sqrt((vectors * vectors).sum(1, keepdim=True))
        unit = vectors / distances
        values = self.harmonics(unit)
        pairs: Optional[torch.Tensor] = None
        if self.num_species > 0:
            pairs = species_pairs(species, neighbors, self.num_species)
        features, slopes = self.radial(distances.squeeze(1), pairs)
        saved = [vectors, distances, unit, values, slopes]
        return values.view(n, k, -1), features.view(n, k, -1), saved

    @torch.jit.export
    def backward(
        self,
        grad_harmonics: torch.Tensor,
        grad_features: torch.Tensor,
        saved: List[torch.Tensor],
        reverse: torch.Tensor,
    ) -> Tuple[torch.Tensor, torch.Tensor]:
        """From dE/dY [N, K, S] and dE/dphi [N, K, P] to dE/dr and dE/dstrain.

        Args:
            grad_harmonics: dE/dY.
            grad_features: dE/dphi.
            saved: third result of `forward`.
            reverse: the flat slot in which the neighbour holds the same pair, shape [N * K].

        Returns:
            dE/dr of shape [N, 3] [eV/A] and dE/dstrain of shape [3, 3] [eV], float64.
        """
        vectors, distances, unit, values, slopes = saved
        n, k = grad_harmonics.shape[0], grad_harmonics.shape[1]
        grad_distance = (grad_features.view(n * k, -1) * slopes).sum(1, keepdim=True)
        grad_unit = self.harmonics.backward(grad_harmonics.view(n * k, -1), values)
        radial = (grad_unit * unit).sum(1, keepdim=True)
        grad_vectors = (grad_unit - radial * unit) / distances + grad_distance * unit
        return pull_back_vectors(grad_vectors, vectors, reverse, n)
