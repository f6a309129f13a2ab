"""Latent moments of an ML region among MM charges: the model's own energy plus the coupling."""

from typing import Any

import torch
from torch import Tensor, nn

from openmm_les.electrostatics.embedding.charges import ChargeCorrection
from openmm_les.electrostatics.embedding.moments.coupling import MomentCoupling
from openmm_les.electrostatics.embedding.sites import Sites
from openmm_les.electrostatics.multipoles import LatentLayout, LatentMultipoles, site_moments
from openmm_les.electrostatics.multipoles.moments import Multipoles, traceless
from openmm_les.electrostatics.protocol import ElectrostaticTerms


class EmbeddedMoments(nn.Module):
    """`EmbeddedElectrostatics` for latents [rows, n].

    Charges couple as those of a model that has nothing else. So do dipoles and quadrupoles of ML
    atoms; those of link atoms, which are not where the molecule has atoms, do not couple.
    """

    layout: LatentLayout  # TorchScript would take it for a plain tuple

    def __init__(
        self,
        own: LatentMultipoles,
        coupling: MomentCoupling,
        correction: ChargeCorrection,
        sites: Sites,
        mm_charges: Tensor,
    ) -> None:
        """See `EmbeddedElectrostatics`."""
        super().__init__()
        self.own: LatentMultipoles = own
        self.layout = own.layout
        self.coupling: Any = coupling
        self.correction: Any = correction
        self.sites: Any = sites
        self.factor = correction.sign
        self.mm_charges = nn.Buffer(mm_charges)

    def forward(self, latents: Tensor, positions: Tensor, cell: Tensor) -> ElectrostaticTerms:
        """Energy and its first derivatives; see `EmbeddedElectrostatics.forward`."""
        n = latents.shape[1]
        with torch.no_grad():
            alone = self.own(latents, positions[:n], cell)
            permanent = self._physical(latents.to(torch.float64))
            places = self.sites.of(positions)
            around = self.coupling.around(permanent, places, self.mm_charges, positions[n:], cell)
            coupled = self.coupling.derive(around, permanent, None)
            energy = alone.energy + around.energy
            nan = torch.full_like(energy, float("nan"))
            gradient = alone.gradient.to(torch.float64) + self.sites.on_atoms(coupled.gradient)
            return ElectrostaticTerms(
                torch.where(around.outgrown, nan, energy),
                alone.potential.to(torch.float64) + self._by_latents(coupled.derivatives),
                torch.cat([gradient, coupled.mm_gradient]),
                alone.strain + coupled.strain,
                alone.outgrown | around.outgrown,
                alone.induced,
            )

    def _physical(self, latents: Tensor) -> Multipoles:
        """Moments of the ML atoms as MM charges see them [e, e A, e A^2]."""
        moments = site_moments(latents, self.layout)
        charges = self.correction(self.sites.folded(moments.charges))
        dipoles = charges.new_zeros([charges.shape[0], 3])
        quadrupoles = charges.new_zeros([charges.shape[0], 3, 3])
        if moments.dipoles is not None:
            dipoles = self.factor * self.sites.of(moments.dipoles)
        if moments.quadrupoles is not None:
            quadrupoles = self.factor * self.sites.of(moments.quadrupoles)
        return Multipoles(charges, dipoles, quadrupoles)

    def _by_latents(self, derivatives: Multipoles) -> Tensor:
        """Derivatives by latents [rows, n] from those by what `_physical` returns."""
        potential: Tensor = self.sites.unfolded(self.correction.pull_back(derivatives.charges))
        found = potential.new_zeros([self.layout.rows, potential.shape[0]])
        found[0] = potential
        if self.layout.dipoles >= 0:
            slopes = self.sites.on_atoms(self.factor * derivatives.dipoles)
            found[self.layout.dipoles : self.layout.dipoles + 3] = slopes.t()
        if self.layout.quadrupoles >= 0:
            tensors = self.sites.on_atoms(self.factor * traceless(derivatives.quadrupoles))
            found[self.layout.quadrupoles : self.layout.quadrupoles + 9] = tensors.flatten(1).t()
        return found
