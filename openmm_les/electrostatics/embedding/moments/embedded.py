"""Latent moments of an ML region among MM charges: the model's own energy plus the coupling."""

from typing import Any, Optional, Tuple

import torch
from torch import Tensor, nn

from openmm_les.electrostatics.embedding.charges import ChargeCorrection
from openmm_les.electrostatics.embedding.moments.coupling import (
    MomentCoupling,
    MomentTerms,
    SurroundingField,
)
from openmm_les.electrostatics.embedding.sites import Sites
from openmm_les.electrostatics.multipoles import LatentLayout, LatentMultipoles, site_moments
from openmm_les.electrostatics.multipoles.moments import Multipoles, multipoles_of, traceless
from openmm_les.electrostatics.protocol import ElectrostaticTerms


class EmbeddedMoments(nn.Module):
    r"""`EmbeddedElectrostatics` for latents [rows, n].

    Charges couple as those of a model that has nothing else. So do dipoles and quadrupoles of ML
    atoms; those of link atoms, which are not where the molecule has atoms, do not couple.

    With `polarizes`, ML atoms respond to the MM charges, and to the images of the region, as they
    do to the permanent moments of the region: the energy is

    .. math::
        E = E_\mathrm{perm} + E_X - \frac12 \sum_i \kappa_i (\phi_i + \varphi_i - \bar\varphi)^2
            - \frac12 \sum_i (F_i + \mathcal F_i) \cdot \alpha_i (F_i + \mathcal F_i),

    with phi and F those of the permanent latent moments, the others those of the surroundings. With
    `conserves`, the mean of the potential, weighted by kappa, is taken out: the charge induced by
    the surroundings, which minimises the energy, adds up to nothing.
    """

    layout: LatentLayout  # TorchScript would take it for a plain tuple

    def __init__(
        self,
        own: LatentMultipoles,
        coupling: MomentCoupling,
        correction: ChargeCorrection,
        sites: Sites,
        mm_charges: Tensor,
        *,
        polarizes: bool = False,
        conserves: bool = True,
    ) -> None:
        """See `EmbeddedElectrostatics`."""
        super().__init__()
        self.own: LatentMultipoles = own
        self.layout = own.layout
        self.coupling: Any = coupling
        self.correction: Any = correction
        self.sites: Any = sites
        self.factor = correction.sign
        self.polarizes = polarizes
        self.conserves = conserves and own.layout.kappa >= 0
        self.mm_charges = nn.Buffer(mm_charges)

    def forward(self, latents: Tensor, positions: Tensor, cell: Tensor) -> ElectrostaticTerms:
        """Energy and its first derivatives; see `EmbeddedElectrostatics.forward`."""
        n = latents.shape[1]
        with torch.no_grad():
            permanent = self._physical(latents.to(torch.float64))
            places = self.sites.of(positions)
            outer: SurroundingField = self.coupling.field_of_surroundings(
                permanent, places, self.mm_charges, positions[n:], cell
            )
            induced: Optional[Multipoles] = None
            if self.polarizes:
                shares, potential = self._inducing(latents, outer)
                field = -self.factor * outer.inducing.dipoles
                alone = self.own(
                    latents,
                    positions[:n],
                    cell,
                    self.sites.on_atoms(potential),
                    self.sites.on_atoms(field),
                )
                net, induced = self._induced(alone, shares)
                by_latents = alone.potential.to(torch.float64)
                if self.conserves:
                    slopes = self.sites.on_atoms(
                        -net / self._total(self._kappa(latents)) * potential
                    )
                    by_latents[self.layout.kappa] += slopes
            else:
                alone = self.own(latents, positions[:n], cell)
                by_latents = alone.potential.to(torch.float64)
            coupled: MomentTerms = self.coupling.derive(outer, permanent, induced)
            energy = alone.energy + outer.energy
            nan = torch.full_like(energy, float("nan"))
            gradient = alone.gradient.to(torch.float64) + self.sites.on_atoms(coupled.gradient)
            return ElectrostaticTerms(
                torch.where(outer.outgrown, nan, energy),
                by_latents + self._by_latents(coupled.derivatives),
                torch.cat([gradient, coupled.mm_gradient]),
                alone.strain + coupled.strain,
                alone.outgrown | outer.outgrown,
                alone.induced,
            )

    def _kappa(self, latents: Tensor) -> Tensor:
        kappa: Tensor = self.sites.of(latents[self.layout.kappa]).to(torch.float64)
        return kappa

    def _total(self, kappa: Tensor) -> Tensor:
        """Their sum, 1 if there is nothing to divide up."""
        total = kappa.sum()
        return torch.where(total == 0.0, torch.ones_like(total), total)

    def _inducing(self, latents: Tensor, outer: SurroundingField) -> Tuple[Tensor, Tensor]:
        """Shares of the ML atoms in a charge, and the potential that they respond to [V]."""
        potential = self.factor * outer.inducing.charges
        shares = torch.zeros_like(potential)
        if self.conserves:
            kappa = self._kappa(latents)
            shares = kappa / self._total(kappa)
            potential = potential - (shares * potential).sum()
        return shares, potential

    def _induced(self, alone: ElectrostaticTerms, shares: Tensor) -> Tuple[Tensor, Multipoles]:
        """Net latent induced charge, and the induced moments that the surroundings see.

        They are the derivatives of the energy by potential and gradient of the surroundings.
        """
        induced = alone.induced
        assert induced is not None
        found = self.sites.of(induced.to(torch.float64).t())
        net = found[:, 0].sum()
        charges = self.factor * (found[:, 0] - shares * net)
        none = charges.new_zeros([charges.shape[0], 3, 3])
        return net, Multipoles(charges, self.factor * found[:, 1:], none)

    def _physical(self, latents: Tensor) -> Multipoles:
        """Moments of the ML atoms as MM charges see them [e, e A, e A^2]."""
        moments = site_moments(latents, self.layout)
        every = multipoles_of(moments.charges, moments.dipoles, moments.quadrupoles)
        return Multipoles(
            self.correction(self.sites.folded(every.charges)),
            self.factor * self.sites.of(every.dipoles),
            self.factor * self.sites.of(every.quadrupoles),
        )

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
