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
        """Charges [n] [e], Born effective charges [n, 3, 3] [e], energy of the charges [] [eV].

        They are valid only if the last result, the status [], is 0.
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
