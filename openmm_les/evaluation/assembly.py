"""Modules for one system, scripted before use: neighbours, network, electrostatics, status."""

from typing import Any, List, NamedTuple, Optional, Sequence, Tuple

import torch
from torch import Tensor, nn

from openmm_les.electrostatics.cell import inverse_and_volume
from openmm_les.electrostatics.protocol import ElectrostaticKernel, ElectrostaticTerms
from openmm_les.evaluation.status import (
    STATUS_BOX,
    STATUS_COINCIDENT,
    STATUS_OVERFLOW,
    STATUS_POSITIONS,
    STATUS_RESULT,
)
from openmm_les.neighbors.cells import CellGrid
from openmm_les.neighbors.matrix import Neighbors, NeighborSearch
from openmm_les.networks.kernels import Kernels
from openmm_les.networks.protocol import Network


class Results(NamedTuple):
    """What the module of a system returns, in the order of the system."""

    energy: Tensor  #: interaction energy [] [eV], float64; NaN unless the status is 0.
    forces: Tensor  #: shape [n, 3] [eV/A], float64; NaN unless the status is 0.
    #: latent charges [n] or [channels, n] [e], or moments [rows, n] followed by induced charges
    #: and dipoles [4, n]; float64, 0 for others than the atoms.
    charges: Tensor
    strain: Tensor  #: dE/dstrain, shape [3, 3] [eV], float64.
    charge_energy: Tensor  #: the part of the energy that the charges have [] [eV], float64.
    status: Tensor  #: status bits [], int64, see `openmm_les.evaluation.status`.


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
        self.capacity = capacity
        search = NeighborSearch
        if kernels == "triton":
            from openmm_les.networks.kernels.triton.ewald import with_kernels
            from openmm_les.networks.kernels.triton.neighbors import FusedNeighborSearch

            electrostatics = with_kernels(electrostatics)
            search = NeighborSearch if trim else FusedNeighborSearch
        if kernels == "numba" and trim:
            from openmm_les.networks.kernels.numba.neighbors import LoopSearch
            from openmm_les.networks.kernels.numba.pair_sum import loops_for

            search = LoopSearch
            electrostatics = loops_for(electrostatics, len(order))
        self.neighbors = search(periodic, ranges, network.cutoff, capacity, trim, grid)
        self.electrostatics: ElectrostaticKernel = electrostatics
        # In the order of `status`. TorchScript does not see constants of the module.
        bits = [STATUS_OVERFLOW, STATUS_BOX, STATUS_POSITIONS, STATUS_COINCIDENT]
        self.bits = nn.Buffer(torch.tensor(bits))
        self.no_result = STATUS_RESULT
        self.num_others = num_others
        sorted_species = species[order]
        order = torch.cat([order, torch.arange(len(order), len(order) + num_others)])
        self.counts: List[int] = torch.bincount(species).tolist()
        self.species = nn.Buffer(sorted_species)
        self.order = nn.Buffer(order)
        self.original = nn.Buffer(torch.argsort(order))

    def status(
        self,
        positions: Tensor,
        cell: Tensor,
        neighbors: Neighbors,
        crowded: Optional[Tensor],
        outgrown: Tensor,
        broken: Tensor,
    ) -> Tensor:
        """The status [], from `Network.outgrown` (`crowded`), other buffers and broken results."""
        zero = zero_if_finite(positions)
        if self.periodic:
            zero = zero + zero_if_finite(cell)
            inverse, _ = inverse_and_volume(cell)
            outgrown = outgrown | ~self.neighbors.suffices(inverse)
        too_many = neighbors.crowded
        if crowded is not None:
            too_many = too_many | crowded
        overflow = (neighbors.largest > self.capacity) | (too_many & (zero == 0.0))
        found = torch.stack([overflow, outgrown, zero != 0.0, neighbors.coincident])
        status = (found * self.bits).sum()
        return status + self.no_result * (broken & (status == 0))

    def ordered(self, results: Results) -> Results:
        """Results for sorted atoms in the order of the system, NaN unless the status is 0."""
        valid = results.status == 0
        one = valid / valid  # or NaN
        return Results(
            results.energy * one,
            results.forces.index_select(0, self.original) * one,
            results.charges.index_select(-1, self.original),
            results.strain,
            results.charge_energy * one,
            results.status,
        )


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
        broken = are_broken(energy, forces)
        crowded = self.network.outgrown(tape)
        status = self.status(positions, cell, neighbors, crowded, long_range.outgrown, broken)
        strain = strain + long_range.strain
        return self.ordered(Results(energy, forces, charges, strain, long_range.energy, status))


def zero_if_finite(values: Tensor) -> Tensor:
    """NaN if any number is not finite, shape []; in fewer kernels than `torch.isfinite` takes."""
    return (0.0 * values).sum()


def are_broken(energy: Tensor, forces: Tensor) -> Tensor:
    """Whether an energy [] or forces [n, 3] are not finite, shape []."""
    return zero_if_finite(forces) + 0.0 * energy != 0.0


def with_induced(latents: Tensor, terms: ElectrostaticTerms) -> Tensor:
    """Latents and what they induce, as `Results.charges`."""
    induced = terms.induced
    return latents if induced is None else torch.cat([latents, induced.to(latents.dtype)])


def order_by_species(species: Tensor) -> Tensor:
    """Indices of atoms in the order in which networks have them, shape [n]."""
    return torch.argsort(species, stable=True)
