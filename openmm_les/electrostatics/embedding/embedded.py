"""Electrostatics of an ML region among MM charges: the model's own energy plus the coupling."""

from typing import Any

import torch
from torch import nn

from openmm_les.electrostatics.embedding.charges import ChargeCorrection
from openmm_les.electrostatics.embedding.sites import Sites
from openmm_les.electrostatics.protocol import ElectrostaticKernel, ElectrostaticTerms


class EmbeddedElectrostatics(nn.Module):
    """Energy of latent charges by themselves and among MM charges.

    It is called like the kernels of `openmm_les.electrostatics`, but with the positions of more
    atoms: first those of the model, then those of the MM charges. Its gradient has as many rows.

    Link atoms do not interact with MM charges: their latent charges are added to those of the ML
    atoms that they are bonded to, before all are corrected (`ChargeCorrection`) and coupled.
    """

    mm_charges: torch.Tensor

    def __init__(
        self,
        own: ElectrostaticKernel,
        coupling: nn.Module,
        correction: ChargeCorrection,
        sites: Sites,
        mm_charges: torch.Tensor,
    ) -> None:
        """Join the kernel of the model and the coupling of its sites to MM charges [m] [e]."""
        super().__init__()
        self.own: ElectrostaticKernel = own
        self.coupling: Any = coupling
        self.correction: Any = correction
        self.sites: Any = sites
        self.register_buffer("mm_charges", mm_charges)

    def forward(
        self, charges: torch.Tensor, positions: torch.Tensor, cell: torch.Tensor
    ) -> ElectrostaticTerms:
        """Energy and its first derivatives, outside the autograd graph.

        Args:
            charges: latent charges, shape [n].
            positions: of the n atoms of the model, in one piece, and of the m MM charges [A],
                float64, shape [n + m, 3].
            cell: lattice vectors in rows [A], float64, shape [3, 3]; ignored if not periodic.
        """
        n = charges.shape[0]
        with torch.no_grad():
            alone = self.own(charges, positions[:n], cell)
            coupled = self.coupling(
                self.correction(self.sites.folded(charges.to(torch.float64))),
                self.sites.of(positions),
                self.mm_charges,
                positions[n:],
                cell,
            )
            response = self.sites.unfolded(self.correction.pull_back(coupled.potential))
            gradient = alone.gradient.to(torch.float64) + self.sites.on_atoms(coupled.gradient)
            return ElectrostaticTerms(
                alone.energy + coupled.energy,
                alone.potential.to(torch.float64) + response,
                torch.cat([gradient, coupled.mm_gradient]),
                alone.strain + coupled.strain,
                alone.outgrown | coupled.outgrown,
            )
