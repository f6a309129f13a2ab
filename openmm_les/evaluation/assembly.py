"""Modules for one system, scripted before use: neighbours, network, electrostatics, status."""

from typing import Any, List, Optional, Sequence, Tuple

import torch
from torch import nn

from openmm_les.electrostatics.cell import inverse_and_volume
from openmm_les.evaluation.status import (
    STATUS_BOX,
    STATUS_COINCIDENT,
    STATUS_OVERFLOW,
    STATUS_POSITIONS,
    STATUS_RESULT,
)
from openmm_les.neighbors.cells import CellGrid, grid_suffices
from openmm_les.neighbors.matrix import Neighbors, image_offsets, images_suffice, neighbor_matrix

#: Energy, forces, charges, dE/dstrain, energy of the charges, status.
Results = Tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


class SystemNetwork(nn.Module):
    """Network and neighbours of one system, with atoms sorted by species.

    Args:
        network: short-range network of the species present.
        species: species index of each atom, in the order of the system.
        order: result of `order_by_species` for these.
        periodic: whether the system is periodic.
        ranges: periodic images to look at along each axis.
        capacity: slots of the neighbour matrix.
        trim: leave out slots that a structure does not need (CPU; shapes then vary).
        grid: cells in which to search for neighbours; None compares every pair.
        num_others: positions after those of the atoms that the network does not look at.
    """

    grid: Optional[CellGrid]  # TorchScript would take it for a plain tuple

    def __init__(
        self,
        network: Any,
        species: torch.Tensor,
        order: torch.Tensor,
        periodic: bool,
        ranges: Sequence[int],
        capacity: int,
        trim: bool,
        grid: Optional[CellGrid],
        num_others: int = 0,
    ) -> None:
        super().__init__()
        self.network: Any = network
        self.periodic = periodic
        self.capacity = capacity
        self.trim = trim
        self.grid = grid
        # TorchScript does not see constants of the module.
        self.overflow, self.box = STATUS_OVERFLOW, STATUS_BOX
        self.not_finite, self.coincident = STATUS_POSITIONS, STATUS_COINCIDENT
        self.no_result = STATUS_RESULT
        self.cutoff: float = network.cutoff
        self.num_others = num_others
        sorted_species = species[order]
        order = torch.cat([order, torch.arange(len(order), len(order) + num_others)])
        self.counts: List[int] = torch.bincount(species).tolist()
        self.species: torch.Tensor
        self.order: torch.Tensor
        self.original: torch.Tensor
        self.offsets: torch.Tensor
        self.register_buffer("species", sorted_species)
        self.register_buffer("order", order)
        self.register_buffer("original", torch.argsort(order))
        self.register_buffer("offsets", image_offsets(ranges))

    def short_range(
        self, atoms: torch.Tensor, cell: torch.Tensor
    ) -> Tuple[torch.Tensor, torch.Tensor, List[List[torch.Tensor]], Neighbors]:
        """Energies and charges of sorted atoms, what `pull_back` needs, and their neighbours."""
        neighbors = neighbor_matrix(
            atoms,
            cell,
            self.periodic,
            self.offsets,
            self.cutoff,
            self.capacity,
            self.trim,
            grid=self.grid,
        )
        energies, charges, saved = self.network.short_range(
            atoms,
            neighbors.indices,
            neighbors.shifts,
            neighbors.reverse,
            self.species,
            self.counts,
        )
        if hasattr(self.network, "outgrown"):  # a network with slots of its own
            crowded = neighbors.crowded | self.network.outgrown(saved)
            neighbors = Neighbors(
                neighbors.indices,
                neighbors.shifts,
                neighbors.reverse,
                neighbors.largest,
                neighbors.coincident,
                crowded,
            )
        return energies, charges, saved, neighbors

    def charge_derivatives(
        self, weights: torch.Tensor, saved: List[List[torch.Tensor]]
    ) -> torch.Tensor:
        """Derivatives of weighted sums of charges, d(sum_j w_j q_j)/dr_i, a pull-back for each.

        Args:
            weights: one row for each sum, shape [m, N].
            saved: third result of `short_range`.

        Returns:
            Shape [m, N, 3], in units of the weight times e/A, float64.
        """
        rows: List[torch.Tensor] = []
        for row in weights:
            pulled, _ = self.network.pull_back(torch.zeros_like(row), row, saved, self.counts)
            rows.append(pulled)
        return torch.stack(rows)

    def status(
        self,
        positions: torch.Tensor,
        cell: torch.Tensor,
        neighbors: Neighbors,
        outgrown: torch.Tensor,
        broken: torch.Tensor,
    ) -> torch.Tensor:
        """The status [] int64.

        Args:
            positions: of atoms and others, shape [n, 3].
            cell: shape [3, 3].
            neighbors: of the atoms.
            outgrown: whether other buffers are too small for the box, shape [].
            broken: whether a result is not finite, shape [].
        """
        finite = torch.isfinite(positions).all()
        if self.periodic:
            finite = finite & torch.isfinite(cell).all()
            inverse, _ = inverse_and_volume(cell)
            outgrown = outgrown | ~images_suffice(inverse, self.offsets, self.cutoff)
            grid = self.grid
            if grid is not None:
                outgrown = outgrown | ~grid_suffices(inverse, grid, self.cutoff)
        status = (
            self.overflow * ((neighbors.largest > self.capacity) | (neighbors.crowded & finite))
            + self.box * outgrown
            + self.not_finite * ~finite
            + self.coincident * neighbors.coincident
        )
        return status + self.no_result * (broken & (status == 0))


class SpecializedModel(SystemNetwork):
    """Energy and forces of one system.

    Args:
        electrostatics: a kernel such as `DirectEwald`, or `EmbeddedElectrostatics`, which alone
            looks at other positions than those of the atoms.
        **system: arguments of `SystemNetwork`.
    """

    def __init__(self, electrostatics: Any, **system: Any) -> None:
        super().__init__(**system)
        self.electrostatics: Any = electrostatics

    def forward(
        self, positions: torch.Tensor, cell: torch.Tensor
    ) -> Tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Interaction energy and its derivatives.

        Args:
            positions: shape [n, 3] [A], float64; those of others come after those of the atoms.
            cell: lattice vectors in rows, shape [3, 3] [A], float64; ignored if not periodic.

        Returns:
            Energy [] [eV], forces [n, 3] [eV/A], charges [n] [e] (0 for others), dE/dstrain [3, 3]
            [eV], all float64, and the status [] int64. Where the status is not 0 energy and forces
            are NaN.
        """
        energy, forces, charges, strain, _, status = self.evaluate(positions, cell)
        return energy, forces, charges, strain, status

    @torch.jit.export
    def evaluate(self, positions: torch.Tensor, cell: torch.Tensor) -> Results:
        """The same with the part of the energy that the charges have.

        Args:
            positions: as for `forward`.
            cell: likewise.

        Returns:
            As `forward`, with the energy of the charges [] [eV] before the status.
        """
        positions = positions.index_select(0, self.order)
        atoms = positions[: self.species.shape[0]]
        energies, charges, saved, neighbors = self.short_range(atoms, cell)
        long_range, potential, gradient, strain, outgrown = self.electrostatics(
            charges, positions, cell
        )
        pulled, pulled_strain = self.network.pull_back(
            torch.ones_like(energies), potential, saved, self.counts
        )
        if self.num_others > 0:
            charges = torch.nn.functional.pad(charges, [0, self.num_others])
            pulled = torch.nn.functional.pad(pulled, [0, 0, 0, self.num_others])
        energy, forces = energies.sum() + long_range, -(pulled + gradient)
        strain = pulled_strain + strain
        return self.results(
            energy, forces, charges, strain, long_range, positions, cell, neighbors, outgrown
        )

    def results(
        self,
        energy: torch.Tensor,
        forces: torch.Tensor,
        charges: torch.Tensor,
        strain: torch.Tensor,
        long_range: torch.Tensor,
        positions: torch.Tensor,
        cell: torch.Tensor,
        neighbors: Neighbors,
        outgrown: torch.Tensor,
    ) -> Results:
        """What `evaluate` returns, from results for sorted atoms; see `status`."""
        forces = forces.index_select(0, self.original)
        broken = ~(torch.isfinite(energy) & torch.isfinite(forces).all())
        status = self.status(positions, cell, neighbors, outgrown, broken)
        poison = torch.where(
            status == 0, torch.zeros_like(energy), torch.full_like(energy, float("nan"))
        )
        charges = charges.index_select(0, self.original)
        return energy + poison, forces + poison, charges, strain, long_range + poison, status


def order_by_species(species: torch.Tensor) -> torch.Tensor:
    """Indices of atoms in the order in which networks have them, shape [n]."""
    return torch.argsort(species, stable=True)
