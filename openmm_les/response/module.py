"""The module behind `SystemModel.response`, scripted before use."""

from typing import Any, Tuple

import torch

from openmm_les.response.polarization import (
    PhysicalCharges,
    born_charges,
    polarization_weights,
)
from openmm_les.specialized import SystemNetwork


class ResponseModule(SystemNetwork):
    """Charges and Born effective charges of one system.

    Shapes are as static as those of `SpecializedModel`, but nothing records a CUDA graph of it.

    Args:
        physical: from latent charges to those of the polarization.
        **system: arguments of `openmm_les.specialized.SystemNetwork`.
    """

    def __init__(self, physical: PhysicalCharges, **system: Any) -> None:
        super().__init__(**system)
        self.physical: Any = physical

    def forward(
        self, positions: torch.Tensor, cell: torch.Tensor
    ) -> Tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Charges and their response to displacements.

        Args:
            positions: shape [n, 3] [A], float64.
            cell: lattice vectors in rows, shape [3, 3] [A], float64; ignored if not periodic.

        Returns:
            Charges [n] [e] and Born effective charges [n, 3, 3] [e], float64, and the status []
            int64, with which they are not valid unless it is 0.
        """
        atoms = positions.index_select(0, self.order)
        _, latent, saved, neighbors = self.short_range(atoms, cell)
        charges = self.physical(latent)
        weights = polarization_weights(atoms, cell, self.periodic)
        derivatives = self.charge_derivatives(self.physical.pull_back(weights), saved)
        born = born_charges(charges, derivatives, weights, cell, self.periodic)
        broken = ~torch.isfinite(born).all()
        status = self.status(atoms, cell, neighbors, torch.zeros_like(broken), broken)
        charges = charges.index_select(0, self.original)
        return charges, born.index_select(0, self.original), status
