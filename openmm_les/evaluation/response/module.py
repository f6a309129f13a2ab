"""The module behind `SystemModel.response`, scripted before use."""

from typing import Any, Tuple

import torch

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

    def __init__(self, electrostatics: Any, physical: PhysicalCharges, **system: Any) -> None:
        super().__init__(**system)
        self.electrostatics: Any = electrostatics
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
        _, latent, saved, neighbors = self.short_range(atoms, cell)
        charges = self.physical(latent)
        weights = polarization_weights(atoms, cell, self.periodic)
        derivatives = self.charge_derivatives(self.physical.pull_back(weights), saved)
        born = born_charges(charges, derivatives, weights, cell, self.periodic)
        energy, _, _, _, outgrown = self.electrostatics(latent, atoms, cell)
        broken = ~(torch.isfinite(born).all() & torch.isfinite(energy))
        status = self.status(atoms, cell, neighbors, outgrown, broken)
        charges = charges.index_select(0, self.original)
        return charges, born.index_select(0, self.original), energy, status
