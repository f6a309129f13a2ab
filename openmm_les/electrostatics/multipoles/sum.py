"""The energy of responding multipoles and all its first derivatives, by any interaction."""

from typing import Any, Final, Optional, Tuple

import torch
from torch import Tensor, nn

from openmm_les.electrostatics.multipoles.geometry import Geometry, reciprocal_strain
from openmm_les.electrostatics.multipoles.moments import (
    MomentAlgebra,
    SiteMoments,)
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

    Interactions have ``prepare``, ``sums`` and ``derivatives`` as those of `DirectMultipoles`.
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
            geometry: Geometry = self.interaction.prepare(positions, cell)
            basis = geometry.basis
            q, u, tensors = self._complete(moments)
            permanent = self._coefficients(q, u, tensors, basis, self.degree)
            sums: Tensor = self.interaction.sums(permanent, geometry, self.degree)
            first: Tensor = self.interaction.derivatives(sums, geometry, self.first_degree)
            energy = 0.5 * _product(permanent, first)

            potential, slope, _ = self.algebra.cartesian(first, basis)
            potential = potential - self.own_charge * q
            field = self.own_dipole * u - slope
            if external_potential is not None:
                potential = potential + external_potential.to(self.dtype)
            if external_field is not None:
                field = field + external_field.to(self.dtype)
            induced = respond(potential, field, moments.kappa, moments.alpha)
            dq, du = _or_zeros(induced.charges, q), _or_zeros(induced.dipoles, u)

            # What the interaction has to differentiate, at fixed induced moments.
            frozen, total, last, gradient = energy, sums, first, torch.zeros_like(u)
            if self.induced_degree >= 0:
                response = self._coefficients(dq, du, tensors, basis, self.induced_degree)
                frozen = energy + _product(response, first)
                total = sums + self.interaction.sums(response, geometry, self.induced_degree)
                last = self.interaction.derivatives(total, geometry, self.degree + 1)
                gradient = self.algebra.gradient(response, first, basis)
            gradient = gradient + self.algebra.gradient(permanent, last, basis)
            by_q, by_u, by_tensor = self.algebra.cartesian(last, basis)
            if self.periodic:
                # Coefficients stay as they are where moments deform with the box.
                strain = reciprocal_strain(
                    geometry, self.interaction.multiplicity, sums, total, frozen
                )
                strain = strain - _outer(u, by_u) - _outer(du, slope)
                strain = strain - 2.0 * _outer(tensors.flatten(0, 1), by_tensor.flatten(0, 1))
            else:
                # The forces sum to zero, so that any origin will do; the centre rounds least.
                strain = _outer(positions - positions.mean(dim=0), gradient)

            energy = energy + induced.energy - self._own_energy(q, u, tensors)
            by_u = by_u - self.own_dipole * (u + du)
            by_tensor = _traceless(by_tensor) - self.own_quadrupole * tensors
            return MultipoleTerms(
                torch.where(geometry.outgrown, torch.full_like(energy, float("nan")), energy),
                by_q - self.own_charge * (q + dq),
                None if moments.dipoles is None else by_u,
                None if moments.quadrupoles is None else by_tensor,
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

    def _complete(self, moments: SiteMoments) -> Tuple[Tensor, Tensor, Tensor]:
        """Charges, dipoles and quadrupoles in the dtype of the sums; zeros for what lacks."""
        q = moments.charges.to(self.dtype)
        u, tensors = moments.dipoles, moments.quadrupoles
        return (
            q,
            q.new_zeros([q.shape[0], 3]) if u is None else u.to(self.dtype),
            q.new_zeros([q.shape[0], 3, 3]) if tensors is None else tensors.to(self.dtype),
        )

    def _coefficients(
        self, q: Tensor, u: Tensor, tensors: Tensor, basis: Tensor, degree: int
    ) -> Tensor:
        return self.algebra.coefficients(q, u, tensors, basis, degree).to(self.dtype)

    def _own_energy(self, q: Tensor, u: Tensor, tensors: Tensor) -> Tensor:
        """Energy of the sites by themselves, where the model subtracts it."""
        charge = self.own_charge * _product(q, q) + self.own_dipole * _product(u, u)
        return 0.5 * (charge + self.own_quadrupole * _product(tensors, tensors))


def _product(one: Tensor, other: Tensor) -> Tensor:
    """Their inner product in float64; of columns, as many as both have."""
    if one.dim() == 2:
        other = other[:, : one.shape[1]]
    return (one.to(torch.float64) * other).sum()


def _outer(one: Tensor, other: Tensor) -> Tensor:
    """Sum of the products of rows, float64, shape [3, 3]."""
    return one.to(torch.float64).t() @ other.to(torch.float64)


def _or_zeros(values: Optional[Tensor], like: Tensor) -> Tensor:
    return torch.zeros_like(like) if values is None else values


def _traceless(tensors: Tensor) -> Tensor:
    """Symmetric tensors [n, 3, 3] without their trace."""
    trace = tensors.diagonal(0, 1, 2).sum(dim=1) / 3.0
    return tensors - torch.diag_embed(trace.unsqueeze(1).expand(-1, 3))
