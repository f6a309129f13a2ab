"""The energy of responding multipoles and all its first derivatives, by any interaction."""

from typing import Any, Final, Optional, Tuple

import torch
from torch import Tensor, nn

from openmm_les.electrostatics.multipoles.geometry import Geometry, reciprocal_strain
from openmm_les.electrostatics.multipoles.moments import (
    MomentAlgebra,
    Multipoles,
    SiteMoments,
    deformation,
    multipoles_of,
    traceless,
)
from openmm_les.electrostatics.multipoles.response import respond
from openmm_les.electrostatics.multipoles.terms import MultipoleTerms


class MultipoleSum(nn.Module):
    r"""Energy of Gaussian sites with charges, dipoles and quadrupoles that respond to their field.

    With moments M = (q, u, Q), and P what turns moments into the potential, its gradient and half
    of its second derivatives at the sites,

    .. math::
        E = \frac12 M \cdot P M - E_\mathrm{self}
            - \frac12 \sum \kappa \phi^2 - \frac12 \sum F \cdot \alpha F,

    where the potential and field are those of M alone (arXiv 2605.05746, 2026; King et al., Nat.
    Commun. 16, 8763 (2025)). Induced moments m = (-kappa phi, alpha F) enter the derivatives as if
    frozen: all of them are those of ``M.PM / 2 + m.PM``, which takes a second pass with M + m.

    The self-interaction of an unscreened site, ``s (q^2 + u^2 / 3 sigma^2 + Q:Q / 10 sigma^4)``, is
    in every sum; a model that removes it does so in potential and field too.

    Interactions have ``prepare``, ``sources`` and ``derivatives`` like `DirectMultipoles`.
    """

    degree: Final[int]
    induced_degree: Final[int]
    periodic: Final[bool]

    def __init__(
        self,
        interaction: nn.Module,
        *,
        sigma: float,
        self_energy: float,
        degree: int,
        induced_degree: int,
        periodic: bool,
        dtype: torch.dtype,
    ) -> None:
        """Set up the constants.

        Args:
            interaction: what moments do at the sites.
            sigma: width of the Gaussians [A].
            self_energy: coefficient of sum q^2 that the model subtracts [eV / e^2].
            degree: highest moments of the model: 0 charges, 1 dipoles, 2 quadrupoles.
            induced_degree: highest moments that respond: -1 none, 0 charges, 1 dipoles.
            periodic: whether the interaction is a sum over reciprocal vectors.
            dtype: precision of the sums over sites.
        """
        super().__init__()
        self.interaction: Any = interaction
        self.algebra = MomentAlgebra()
        self.degree = degree
        self.induced_degree = induced_degree
        #: Derivatives of the permanent potential that energy, response and forces take.
        self.first_degree = max(degree, induced_degree + 1) if induced_degree >= 0 else degree + 1
        self.periodic = periodic
        self.dtype = dtype
        #: Factors of q, u and Q in what the model subtracts from dE/dq, dE/du and dE/dQ.
        self.own_charge = 2.0 * self_energy
        self.own_dipole = 2.0 * self_energy / (3.0 * sigma**2)
        self.own_quadrupole = 2.0 * self_energy / (10.0 * sigma**4)

    def forward(
        self,
        moments: SiteMoments,
        positions: Tensor,
        cell: Tensor,
        external_potential: Optional[Tensor] = None,
        external_field: Optional[Tensor] = None,
    ) -> MultipoleTerms:
        """The energy and its first derivatives.

        Args:
            moments: what the sites have.
            positions: coordinates [A], float64, shape [n, 3]; sites may lie outside the cell.
            cell: lattice vectors in rows [A], float64, shape [3, 3]; ignored in open systems.
            external_potential: what kappa responds to beside the permanent moments, [n] [V]. The
                energy of the permanent moments in it is not included.
            external_field: what alpha responds to beside them, [3] or [n, 3] [V/A]; likewise.
        """
        with torch.no_grad():
            positions = positions.to(torch.float64)
            geometry: Geometry = self.interaction.prepare(positions, cell)
            permanent = multipoles_of(
                moments.charges.to(self.dtype), moments.dipoles, moments.quadrupoles
            )
            coefficients = self.algebra.coefficients(permanent, geometry.basis, self.degree)
            sources: Tensor = self.interaction.sources(coefficients, geometry, self.degree)
            first: Tensor = self.interaction.derivatives(sources, geometry, self.first_degree)

            at_sites = self.algebra.cartesian(first, geometry.basis)
            own = self._own(permanent)
            potential = at_sites.charges - own.charges
            field = own.dipoles - at_sites.dipoles
            if external_potential is not None:
                potential = potential + external_potential.to(self.dtype)
            if external_field is not None:
                field = field + external_field.to(self.dtype)
            induced = respond(potential, field, moments.kappa, moments.alpha)
            response = multipoles_of(_or_zeros(induced.charges, potential), induced.dipoles, None)
            by_moments, gradient, strain = self._mutual(
                positions, geometry, permanent, response, coefficients, sources, first
            )
            energy = 0.5 * (_product(coefficients, first) - _inner(permanent, own))
            energy = energy + induced.energy
            return MultipoleTerms(
                torch.where(geometry.outgrown, torch.full_like(energy, float("nan")), energy),
                by_moments.charges,
                None if moments.dipoles is None else by_moments.dipoles,
                None if moments.quadrupoles is None else by_moments.quadrupoles,
                induced.kappa,
                induced.alpha,
                gradient,
                strain,
                potential,
                field,
                induced.charges,
                induced.dipoles,
                geometry.outgrown,
            )

    def _mutual(
        self,
        positions: Tensor,
        geometry: Geometry,
        permanent: Multipoles,
        response: Multipoles,
        coefficients: Tensor,
        sources: Tensor,
        first: Tensor,
    ) -> Tuple[Multipoles, Tensor, Tensor]:
        """Derivatives of M.PM / 2 + m.PM by M (less the self-interaction), positions and strain."""
        energy = 0.5 * _product(coefficients, first)
        total, last, basis = sources, first, geometry.basis
        gradient = torch.zeros_like(permanent.dipoles)
        if self.induced_degree >= 0:
            induced = self.algebra.coefficients(response, basis, self.induced_degree)
            energy = energy + _product(induced, first)
            total = sources + self.interaction.sources(induced, geometry, self.induced_degree)
            last = self.interaction.derivatives(total, geometry, self.degree + 1)
            gradient = self.algebra.gradient(induced, first, basis)
        gradient = gradient + self.algebra.gradient(coefficients, last, basis)
        by_moments = self.algebra.cartesian(last, basis)
        if self.periodic:
            # At fixed coefficients moments would deform with the box.
            strain = reciprocal_strain(
                geometry, self.interaction.multiplicity, sources, total, energy
            )
            strain = strain - deformation(permanent, by_moments)
            strain = strain - deformation(response, self.algebra.cartesian(first, basis))
        else:
            # The forces sum to zero, so that any origin will do; the centre rounds least.
            strain = gradient.to(torch.float64).t() @ (positions - positions.mean(dim=0))
        own, other = self._own(permanent), self._own(response)
        by_moments = Multipoles(
            by_moments.charges - own.charges - other.charges,
            by_moments.dipoles - own.dipoles - other.dipoles,
            traceless(by_moments.quadrupoles) - own.quadrupoles,
        )
        return by_moments, gradient, strain

    def _own(self, moments: Multipoles) -> Multipoles:
        """What the model subtracts from the derivatives by moments: those of the self-energy."""
        return Multipoles(
            self.own_charge * moments.charges,
            self.own_dipole * moments.dipoles,
            self.own_quadrupole * moments.quadrupoles,
        )


def _product(one: Tensor, other: Tensor) -> Tensor:
    """Their inner product in float64, over as many columns as the first has."""
    return (one.to(torch.float64) * other[:, : one.shape[1]]).sum()


def _inner(one: Multipoles, other: Multipoles) -> Tensor:
    """The inner product of moments and derivatives by them, float64."""
    charges = (one.charges.to(torch.float64) * other.charges).sum()
    dipoles = (one.dipoles.to(torch.float64) * other.dipoles).sum()
    return charges + dipoles + (one.quadrupoles.to(torch.float64) * other.quadrupoles).sum()


def _or_zeros(values: Optional[Tensor], like: Tensor) -> Tensor:
    return torch.zeros_like(like) if values is None else values
