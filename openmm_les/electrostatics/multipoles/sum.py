"""The energy of responding multipoles and all its first derivatives, by any interaction."""

from typing import Any, Final, List, NamedTuple, Optional, Tuple

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
from openmm_les.electrostatics.multipoles.response import Induced, respond, slopes
from openmm_les.electrostatics.multipoles.terms import MultipoleTerms


class PermanentField(NamedTuple):
    """Permanent moments and what they make at the sites."""

    geometry: Geometry
    moments: Multipoles
    coefficients: Tensor
    sources: Tensor
    first: Tensor  #: derivatives of the potential, as many as energy and response take.
    own: Multipoles  #: what the model subtracts from them.


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
            made = self._permanent(moments, positions, cell)
            potential, field = self._at_sites(made)
            if external_potential is not None:
                potential = potential + external_potential.to(self.dtype)
            if external_field is not None:
                field = field + external_field.to(self.dtype)
            induced = respond(potential, field, moments.kappa, moments.alpha)
            response = multipoles_of(_or_zeros(induced.charges, potential), induced.dipoles, None)
            by_moments, gradient, strain = self._mutual(positions, made, response)
            energy = 0.5 * (
                _product(made.coefficients, made.first) - _inner(made.moments, made.own)
            )
            energy = energy + induced.energy
            outgrown = made.geometry.outgrown
            return MultipoleTerms(
                torch.where(outgrown, torch.full_like(energy, float("nan")), energy),
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
                outgrown,
            )

    @torch.jit.export
    def weighted(
        self,
        moments: SiteMoments,
        positions: Tensor,
        cell: Tensor,
        weights: Tensor,
        directions: Tensor,
        induced_directions: Tensor,
    ) -> List[Tuple[SiteMoments, Tensor]]:
        r"""First derivatives of weighted sums of charges and dipoles, induced ones included.

        They are those, by moments and by positions at fixed moments [n, 3], of

        .. math:: \sum_j w_j (q_j + dq_j) + e \cdot \sum_j u_j + e' \cdot \sum_j du_j.

        Both induced moments are linear in the permanent ones: the sum of theirs is ``m.PM`` with
        m = (-kappa w, -alpha e').

        Args:
            moments, positions, cell: see `forward`.
            weights: w of several sums, shape [m, n].
            directions, induced_directions: e and e', shape [m, 3].
        """
        with torch.no_grad():
            made = self._permanent(moments, positions.to(torch.float64), cell)
            at_sites = self._at_sites(made)
            found: List[Tuple[SiteMoments, Tensor]] = []
            for i in range(weights.shape[0]):
                probe = respond(
                    weights[i].to(self.dtype),
                    -induced_directions[i].to(self.dtype).expand(positions.shape[0], 3),
                    moments.kappa,
                    moments.alpha,
                )
                by_moments, gradient = self._of_probe(made, probe)
                by_response = slopes(at_sites, weights[i], induced_directions[i], moments)
                dipoles = by_moments.dipoles + directions[i].to(self.dtype)
                derivatives = SiteMoments(
                    by_moments.charges + weights[i].to(self.dtype),
                    None if moments.dipoles is None else dipoles,
                    None if moments.quadrupoles is None else by_moments.quadrupoles,
                    by_response[0],
                    by_response[1],
                )
                found.append((derivatives, gradient))
            return found

    def _permanent(self, moments: SiteMoments, positions: Tensor, cell: Tensor) -> PermanentField:
        geometry: Geometry = self.interaction.prepare(positions, cell)
        permanent = multipoles_of(
            moments.charges.to(self.dtype), moments.dipoles, moments.quadrupoles
        )
        coefficients = self.algebra.coefficients(permanent, geometry.basis, self.degree)
        sources: Tensor = self.interaction.sources(coefficients, geometry, self.degree)
        first: Tensor = self.interaction.derivatives(sources, geometry, self.first_degree)
        own = self._own(permanent)
        return PermanentField(geometry, permanent, coefficients, sources, first, own)

    def _at_sites(self, made: PermanentField) -> Tuple[Tensor, Tensor]:
        """Potential [n] and field [n, 3] of the permanent moments."""
        at_sites = self.algebra.cartesian(made.first, made.geometry.basis)
        return at_sites.charges - made.own.charges, made.own.dipoles - at_sites.dipoles

    def _mutual(
        self, positions: Tensor, made: PermanentField, response: Multipoles
    ) -> Tuple[Multipoles, Tensor, Tensor]:
        """Derivatives of M.PM / 2 + m.PM by M (less the self-interaction), positions and strain."""
        permanent, geometry, first = made.moments, made.geometry, made.first
        energy = 0.5 * _product(made.coefficients, first)
        total, last, basis = made.sources, first, geometry.basis
        gradient = torch.zeros_like(permanent.dipoles)
        if self.induced_degree >= 0:
            induced = self.algebra.coefficients(response, basis, self.induced_degree)
            energy = energy + _product(induced, first)
            total = total + self.interaction.sources(induced, geometry, self.induced_degree)
            last = self.interaction.derivatives(total, geometry, self.degree + 1)
            gradient = self.algebra.gradient(induced, first, basis)
        gradient = gradient + self.algebra.gradient(made.coefficients, last, basis)
        by_moments = self.algebra.cartesian(last, basis)
        if self.periodic:
            # At fixed coefficients moments would deform with the box.
            strain = reciprocal_strain(
                geometry, self.interaction.multiplicity, made.sources, total, energy
            )
            strain = strain - deformation(permanent, by_moments)
            strain = strain - deformation(response, self.algebra.cartesian(first, basis))
        else:
            # The forces sum to zero, so that any origin will do; the centre rounds least.
            strain = gradient.to(torch.float64).t() @ (positions - positions.mean(dim=0))
        return self._less_own(by_moments, [made.own, self._own(response)]), gradient, strain

    def _of_probe(self, made: PermanentField, probe: Induced) -> Tuple[Multipoles, Tensor]:
        """Derivatives of m.PM by M (less the self-interaction) and positions."""
        permanent, geometry, basis = made.moments, made.geometry, made.geometry.basis
        response = multipoles_of(_or_zeros(probe.charges, permanent.charges), probe.dipoles, None)
        gradient = torch.zeros_like(permanent.dipoles)
        if self.induced_degree < 0:
            return response, gradient
        induced = self.algebra.coefficients(response, basis, self.induced_degree)
        sources: Tensor = self.interaction.sources(induced, geometry, self.induced_degree)
        last: Tensor = self.interaction.derivatives(sources, geometry, self.degree + 1)
        gradient = self.algebra.gradient(induced, made.first, basis)
        gradient = gradient + self.algebra.gradient(made.coefficients, last, basis)
        by_moments = self.algebra.cartesian(last, basis)
        return self._less_own(by_moments, [self._own(response)]), gradient

    def _less_own(self, by_moments: Multipoles, own: List[Multipoles]) -> Multipoles:
        """Derivatives by moments, without those of the self-interaction and without a trace."""
        charges, dipoles = by_moments.charges, by_moments.dipoles
        quadrupoles = traceless(by_moments.quadrupoles)
        for each in own:
            charges, dipoles = charges - each.charges, dipoles - each.dipoles
            quadrupoles = quadrupoles - each.quadrupoles
        return Multipoles(charges, dipoles, quadrupoles)

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
