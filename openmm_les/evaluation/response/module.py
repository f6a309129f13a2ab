"""The module behind `SystemModel.response`, scripted before use."""

from typing import Any, List, Tuple

import torch

from openmm_les.electrostatics.protocol import ElectrostaticKernel
from openmm_les.evaluation.assembly import SystemNetwork
from openmm_les.evaluation.response.polarization import (
    PhysicalCharges,
    born_charges,
    polarization_weights,
)


class ResponseModule(SystemNetwork):
    """Charges and Born effective charges of one system, and the energy of its charges.

    Shapes are as static as those of `SpecializedModel`, but nothing records a CUDA graph of it.

    Args:
        electrostatics: the kernel of the model.
        physical: from latent charges to those of the polarization.
        **system: arguments of `openmm_les.evaluation.assembly.SystemNetwork`.
    """

    def __init__(
        self, electrostatics: ElectrostaticKernel, physical: PhysicalCharges, **system: Any
    ) -> None:
        super().__init__(**system)
        self.electrostatics: ElectrostaticKernel = electrostatics
        self.physical: Any = physical

    def forward(
        self, positions: torch.Tensor, cell: torch.Tensor
    ) -> Tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Charges and their response to displacements.

        Args:
            positions: shape [n, 3] [A], float64.
            cell: lattice vectors in rows, shape [3, 3] [A], float64; ignored if not periodic.

        Returns:
            Charges [n] [e], Born effective charges [n, 3, 3] [e] and the energy of the charges []
            [eV], float64, and the status [] int64, with which they are valid only if it is 0.
        """
        atoms = positions.index_select(0, self.order)
        neighbors = self.neighbors(atoms, cell)
        _, latent, tape = self.network.short_range(atoms, neighbors, self.species, self.counts)
        charges = self.physical(latent)
        weights = polarization_weights(atoms, cell, self.periodic)
        rows: List[torch.Tensor] = []
        for row in self.physical.pull_back(weights):
            pulled, _ = self.network.pull_back(torch.zeros_like(row), row, tape, self.counts)
            rows.append(pulled)
        derivatives = torch.stack(rows)
        born = born_charges(charges, derivatives, weights, cell, self.periodic)
        long_range = self.electrostatics(latent, atoms, cell)
        energy = long_range.energy
        broken = ~(torch.isfinite(born).all() & torch.isfinite(energy))
        crowded = self.network.outgrown(tape)
        status = self.status(atoms, cell, neighbors, crowded, long_range.outgrown, broken)
        charges = charges.index_select(0, self.original)
        return charges, born.index_select(0, self.original), energy, status
