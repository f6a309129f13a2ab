"""The module inside an artifact: complete by itself, for every system, without this package."""

from typing import Any, List, Mapping, Sequence, Tuple

import torch
from torch import Tensor, nn

from openmm_les.electrostatics.build import build_electrostatics, reciprocal_kernel
from openmm_les.electrostatics.cell import inverse_and_volume
from openmm_les.electrostatics.dense import dense_ewald
from openmm_les.electrostatics.multipoles import (
    LatentLayout,
    dense_latent_multipoles,
    latent_multipoles,
)
from openmm_les.evaluation.assembly import with_induced
from openmm_les.neighbors.matrix import neighbor_matrix
from openmm_les.networks.protocol import Network

#: Atomic numbers above this do not exist.
MAX_ATOMIC_NUMBER = 118


class AnyCharges(nn.Module):
    """The electrostatics of charges, for every system."""

    def __init__(self, les: Mapping[str, Any]) -> None:
        super().__init__()
        kernel = reciprocal_kernel(les)
        self.sigma, self.prefactor = float(les["sigma"]), kernel.prefactor
        self.k_max, self.n_max = kernel.k_max, kernel.n_max
        self.self_energy = kernel.self_energy
        self.pairs: Any = build_electrostatics(les, False, None, torch.float64, num_atoms=1)

    def forward(
        self, charges: Tensor, positions: Tensor, cell: Tensor, periodic: bool
    ) -> Tuple[Tensor, Tensor, Tensor, Tensor]:
        """Energy [] [eV], dE/dq, dE/dr [n, 3] [eV/A] at fixed charges, and the charges."""
        if periodic:
            energy, potential, gradient = dense_ewald(
                charges,
                positions,
                cell,
                self.sigma,
                self.k_max,
                self.prefactor,
                self.self_energy,
                self.n_max,
            )
            return energy, potential, gradient, charges
        terms = self.pairs(charges, positions, cell)
        return terms.energy, terms.potential, terms.gradient, charges


class AnyMoments(nn.Module):
    """The electrostatics of latent moments, for every system."""

    def __init__(self, les: Mapping[str, Any], layout: LatentLayout) -> None:
        super().__init__()
        self.open: Any = latent_multipoles(
            layout, les=les, periodic=False, cell=None, dtype=torch.float64, num_atoms=1
        )
        self.periodic: Any = dense_latent_multipoles(layout, les)

    def forward(
        self, latents: Tensor, positions: Tensor, cell: Tensor, periodic: bool
    ) -> Tuple[Tensor, Tensor, Tensor, Tensor]:
        """Energy [] [eV], dE/d(latents) [rows, n], dE/dr [n, 3] [eV/A] at fixed latents, moments.

        The latter, [rows + 4, n], are the latents and after them the induced charges and dipoles.
        """
        if periodic:
            terms = self.periodic(latents, positions, cell)
        else:
            terms = self.open(latents, positions, cell)
        return terms.energy, terms.potential, terms.gradient, with_induced(latents, terms)


class PortableModel(nn.Module):
    """Total energy, forces and latent charges of any structure made of the model's elements.

    Programs may compose ``network`` with electrostatics and neighbours of their own.
    """

    def __init__(
        self,
        network: Network[Any],
        elements: Sequence[int],
        reference_energies: Tensor,
        les: Mapping[str, Any],
        layout: LatentLayout | None = None,
    ) -> None:
        super().__init__()
        self.network: Network[Any] = network
        self.cutoff: float = network.cutoff
        self.num_species = len(elements)
        self.rows = 0 if layout is None else layout.rows
        self.electrostatics: Any = AnyCharges(les) if layout is None else AnyMoments(les, layout)
        species_of = torch.full((MAX_ATOMIC_NUMBER + 1,), -1, dtype=torch.int64)
        species_of[torch.tensor(list(elements))] = torch.arange(self.num_species)
        self.species_of = nn.Buffer(species_of)
        self.reference_energies = nn.Buffer(reference_energies.to(torch.float64))

    def forward(
        self, positions: Tensor, numbers: Tensor, cell: Tensor, periodic: bool
    ) -> Tuple[Tensor, Tensor, Tensor]:
        """Total energy [] [eV], forces [n, 3] [eV/A] and latent charges [n] [e] of a structure.

        The energy has isolated-atom references. All are float64, and charges have the model's own
        sign, and the shape [n, channels] where atoms have several; of models with moments they are
        permanent and induced ones. Refuses elements that the model does not know, two atoms at one
        place, and coordinates that are not finite.

        Args:
            positions: shape [n, 3] [A], float64.
            numbers: atomic numbers, shape [n], int64.
            cell: lattice vectors in rows, shape [3, 3] [A]; ignored if not periodic.
            periodic: periodic in all three directions, or in none.
        """
        energy, forces, charges = self.evaluate(positions, numbers, cell, periodic)
        if self.rows > 0:
            charges = charges[:, 0] + charges[:, self.rows]
        return energy, forces, charges

    @torch.jit.export
    def evaluate(
        self, positions: Tensor, numbers: Tensor, cell: Tensor, periodic: bool
    ) -> Tuple[Tensor, Tensor, Tensor]:
        """The same with all latents of models with moments, shape [n, rows + 4].

        They are in the order of `LatentLayout`; the induced charge and dipole follow.
        """
        positions, cell = positions.to(torch.float64), cell.to(torch.float64)
        if not bool(torch.isfinite(positions).all()):
            raise RuntimeError("positions: expected finite coordinates, got NaN or infinity")
        species = self.species_of.index_select(0, numbers.clamp(0, 118))
        if bool((species < 0).any()):
            raise RuntimeError("numbers: an atomic number is not among the elements of this model")
        species, order = torch.sort(species, stable=True)
        counts: List[int] = torch.bincount(species, minlength=self.num_species).tolist()
        positions = positions.index_select(0, order)

        neighbors = neighbor_matrix(
            positions, cell, periodic, self._image_offsets(cell, periodic), self.cutoff, 0
        )
        if bool(neighbors.coincident):
            raise RuntimeError("positions: two atoms are at the same place")
        energies, charges, tape = self.network.short_range(positions, neighbors, species, counts)
        long_range, potential, gradient, charges = self.electrostatics(
            charges, positions, cell, periodic
        )
        pulled, _ = self.network.pull_back(torch.ones_like(energies), potential, tape, counts)

        energy = energies.sum() + long_range
        energy = energy + self.reference_energies.index_select(0, species).sum()
        back = torch.argsort(order)
        charges = charges.index_select(-1, back).t().contiguous()
        return energy, -(pulled + gradient).index_select(0, back), charges

    def _image_offsets(self, cell: Tensor, periodic: bool) -> Tensor:
        """Images that can lie within the cutoff in this box, [S, 3]."""
        if not periodic:
            return torch.zeros(1, 3, dtype=torch.int64, device=cell.device)
        inverse, _ = inverse_and_volume(cell)
        ranges = torch.floor(self.cutoff * torch.sqrt((inverse * inverse).sum(0)) + 0.5)
        limits: List[int] = ranges.to(torch.int64).tolist()
        axes = [torch.arange(-n, n + 1, device=cell.device) for n in limits]
        return torch.cartesian_prod(axes[0], axes[1], axes[2])
