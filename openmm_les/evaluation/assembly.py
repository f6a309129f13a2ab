"""Modules for one system, scripted before use: neighbours, network, electrostatics."""

from typing import Any, List, Optional, Sequence, Tuple

import torch
from torch import Tensor, nn

from openmm_les.electrostatics.protocol import ElectrostaticKernel, ElectrostaticTerms
from openmm_les.evaluation.conclusion import Computed, Conclusion, Results
from openmm_les.neighbors.cells import CellGrid
from openmm_les.neighbors.matrix import NeighborSearch, least_heights
from openmm_les.networks.kernels import Kernels
from openmm_les.networks.protocol import Network


class SystemNetwork(nn.Module):
    """Network and neighbours of one system, with atoms sorted by species.

    `ranges` are the periodic images to search along each axis, and `num_others` MM charges follow
    the atoms. With `trim`, slots that a structure does not need are left out (CPU; shapes then
    vary). Triton's kernels do not trim, and those of Numba always do.
    """

    def __init__(
        self,
        network: Network[Any],
        electrostatics: ElectrostaticKernel,
        species: Tensor,
        order: Tensor,
        periodic: bool,
        ranges: Sequence[int],
        capacity: int,
        trim: bool,
        grid: Optional[CellGrid],
        num_others: int = 0,
        kernels: Kernels = "torch",
    ) -> None:
        super().__init__()
        self.network: Network[Any] = network
        self.periodic = periodic
        search, conclusion = NeighborSearch, Conclusion
        if kernels == "triton":
            from openmm_les.evaluation.fused_conclusion import FusedConclusion
            from openmm_les.networks.kernels.triton.ewald import with_kernels
            from openmm_les.networks.kernels.triton.neighbors import FusedNeighborSearch

            electrostatics = with_kernels(electrostatics)
            search, conclusion = NeighborSearch if trim else FusedNeighborSearch, FusedConclusion
        if kernels == "numba" and trim:
            from openmm_les.networks.kernels.numba.neighbors import LoopSearch
            from openmm_les.networks.kernels.numba.pair_sum import loops_for

            search = LoopSearch
            electrostatics = loops_for(electrostatics, len(order))
        self.neighbors = search(periodic, ranges, network.cutoff, capacity, trim, grid)
        self.electrostatics: ElectrostaticKernel = electrostatics
        self.num_others = num_others
        sorted_species = species[order]
        order = torch.cat([order, torch.arange(len(order), len(order) + num_others)])
        self.counts: List[int] = torch.bincount(species).tolist()
        self.species = nn.Buffer(sorted_species)
        self.order = nn.Buffer(order)
        least = least_heights(ranges, network.cutoff, grid)
        self.conclusion = conclusion(periodic, capacity, torch.argsort(order), least)


class SpecializedModel(SystemNetwork):
    """Energy and forces of one system."""

    def forward(
        self, positions: Tensor, cell: Tensor
    ) -> Tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Energy, forces, charges, dE/dstrain and status of `Results`; see `evaluate`."""
        results = self.evaluate(positions, cell)
        return results.energy, results.forces, results.charges, results.strain, results.status

    @torch.jit.export
    def evaluate(self, positions: Tensor, cell: Tensor) -> Results:
        """Interaction energy and its derivatives.

        Positions [n, 3] [A], float64, of others come after those of the atoms. The cell holds
        lattice vectors in rows [3, 3] [A], float64, and is ignored if not periodic.
        """
        positions = positions.index_select(0, self.order)
        atoms = positions[: self.species.shape[0]]
        neighbors = self.neighbors(atoms, cell)
        energies, charges, tape = self.network.short_range(
            atoms, neighbors, self.species, self.counts
        )
        long_range = self.electrostatics(charges, positions, cell)
        pulled, strain = self.network.pull_back(
            torch.ones_like(energies), long_range.potential, tape, self.counts
        )
        charges = with_induced(charges, long_range)
        if self.num_others > 0:
            charges = torch.nn.functional.pad(charges, [0, self.num_others])
            pulled = torch.nn.functional.pad(pulled, [0, 0, 0, self.num_others])
        energy, forces = energies.sum() + long_range.energy, -(pulled + long_range.gradient)
        results: Results = self.conclusion(
            Computed(energy, forces, charges, strain + long_range.strain, long_range.energy),
            positions,
            cell,
            neighbors,
            self.network.outgrown(tape),
            long_range.outgrown,
        )
        return results


def with_induced(latents: Tensor, terms: ElectrostaticTerms) -> Tensor:
    """Latents and what they induce, as `Results.charges`."""
    induced = terms.induced
    return latents if induced is None else torch.cat([latents, induced.to(latents.dtype)])


def order_by_species(species: Tensor) -> Tensor:
    """Indices of atoms in the order in which networks have them, shape [n]."""
    return torch.argsort(species, stable=True)
