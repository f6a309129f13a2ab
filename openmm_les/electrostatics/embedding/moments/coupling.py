"""Charges, dipoles and quadrupoles of an ML region in the field of MM charges."""

from typing import NamedTuple, Optional, Sequence

import torch
from torch import Tensor, nn

from openmm_les.electrostatics.cell import inverse_and_volume
from openmm_les.electrostatics.embedding.interactions import (
    Coulomb,
    Damping,
    ReactionField,
    Screened,
)
from openmm_les.electrostatics.embedding.moments.ewald import EwaldMoments, Waves
from openmm_les.electrostatics.embedding.moments.frame import Frame, added, sum_of
from openmm_les.electrostatics.embedding.moments.near import AllMoments, ScaledMoments
from openmm_les.electrostatics.embedding.pairs import ScaledPair
from openmm_les.electrostatics.multipoles.moments import MomentAlgebra, Multipoles
from openmm_les.units import COULOMB_CONSTANT


class SurroundingField(NamedTuple):
    """The surroundings of a region as its sites see them, float64."""

    energy: Tensor  #: of the permanent moments, shape [] [eV].
    #: Potential [V], its gradient [V/A] and half of its second derivatives [V/A^2].
    derivatives: Multipoles
    inducing: Multipoles  #: The same for what induces moments, where MM charges may be damped.
    outgrown: Tensor  #: whether the box has outgrown the reciprocal grid, bool, shape [].
    frame: Frame
    waves: Optional[Waves]


class MomentTerms(NamedTuple):
    """First derivatives of the energy of permanent and induced moments, float64."""

    derivatives: Multipoles  #: by the permanent moments, the induced ones frozen.
    gradient: Tensor  #: by the positions of the ML sites, shape [n, 3] [eV/A].
    mm_gradient: Tensor  #: by those of the MM charges, shape [m, 3] [eV/A].
    strain: Tensor  #: at fixed moments, shape [3, 3] [eV].


class MomentCoupling(nn.Module):
    r"""Moments of an ML region in the field of MM charges, and of their own images.

    .. math::
        E = \sum_{i,j} \Big( q_i + u_i \cdot \nabla + \frac12 Q_i : \nabla\nabla \Big) Q_j f(r_{ij})

    with the interactions f of `PairCoupling`, or those of `EwaldCoupling`, images included. It has
    two steps, so that moments may be induced by what the first one finds.
    """

    def __init__(
        self,
        interaction: Coulomb | ReactionField | Screened,
        coulomb: Coulomb,
        *,
        degree: int,
        periodic: bool,
        ewald: EwaldMoments | None,
        scaled_pairs: Sequence[ScaledPair],
        dtype: torch.dtype,
        pairs_per_chunk: int,
        damping: Damping | None = None,
        mm_scales: Tensor | None = None,
    ) -> None:
        """Set up the sums.

        Args:
            interaction: of near pairs.
            coulomb: of pairs that a factor multiplies.
            degree: of the highest moments: 1 dipoles, 2 quadrupoles.
            periodic: whether MM charges count at their nearest image.
            ewald: the rest of an Ewald sum.
            damping: what moments are induced by beside the interaction.
            mm_scales: its inverse length of each MM charge [1/A], shape [m].
        """
        super().__init__()
        self.coulomb = COULOMB_CONSTANT
        self.degree = degree
        self.periodic = periodic
        self.near = AllMoments(
            interaction, periodic=periodic, dtype=dtype, pairs_per_chunk=pairs_per_chunk
        )
        counted = interaction if ewald is None else coulomb
        self.scaled = ScaledMoments(scaled_pairs, counted, coulomb, periodic)
        self.ewald = ewald
        self.is_damped = damping is not None and mm_scales is not None
        softened = damping or Damping(1.0)
        self.soft = AllMoments(
            softened, periodic=periodic, dtype=dtype, pairs_per_chunk=pairs_per_chunk
        )
        self.soft_scaled = ScaledMoments(scaled_pairs, softened, softened, periodic)
        self.mm_scales = nn.Buffer(torch.zeros(0) if mm_scales is None else mm_scales)
        self.algebra = MomentAlgebra()
        self.identity = nn.Buffer(torch.eye(3, dtype=torch.float64))

    @torch.jit.export
    def field_of_surroundings(
        self,
        permanent: Multipoles,
        positions: Tensor,
        mm_charges: Tensor,
        mm_positions: Tensor,
        cell: Tensor,
    ) -> SurroundingField:
        """What the sites see, and the energy of the permanent moments; see `EwaldCoupling`."""
        cell = cell.to(torch.float64)
        inverse = inverse_and_volume(cell)[0] if self.periodic else cell
        splitting = torch.zeros_like(cell[0, 0])
        if self.ewald is not None:
            splitting = self.ewald.splitting(inverse)
        frame = Frame(
            positions.to(torch.float64),
            mm_charges.to(torch.float64),
            mm_positions.to(torch.float64),
            cell,
            inverse,
            splitting,
        )
        near = self.near.potential(frame, self.degree) + self.scaled.potential(frame, self.degree)
        coefficients = self.algebra.coefficients(permanent, self.identity, self.degree)
        energy = (coefficients * near).sum()
        derivatives = self.algebra.cartesian(near, self.identity)
        outgrown = torch.zeros([], dtype=torch.bool, device=positions.device)
        waves: Optional[Waves] = None
        if self.ewald is not None:
            found = self.ewald.field_of_surroundings(frame, permanent)
            energy = energy + found.energy
            derivatives = added(derivatives, found.derivatives)
            outgrown = found.geometry.outgrown
            waves = found
        inducing = derivatives
        if self.is_damped:
            soft = self._softened(frame)
            near = self.soft.potential(soft, self.degree)
            near = near + self.soft_scaled.potential(soft, self.degree)
            inducing = added(inducing, self.algebra.cartesian(near, self.identity))
        return SurroundingField(
            self.coulomb * energy,
            self._in_volts(derivatives),
            self._in_volts(inducing),
            outgrown,
            frame,
            waves,
        )

    @torch.jit.export
    def derive(
        self, field: SurroundingField, permanent: Multipoles, induced: Optional[Multipoles]
    ) -> MomentTerms:
        """Derivatives of the energy of permanent moments, and of induced ones as if frozen."""
        total = permanent if induced is None else added(permanent, induced)
        frame = field.frame
        coefficients = self.algebra.coefficients(total, self.identity, self.degree)
        pulls = self.near.pulls(frame, coefficients, self.degree)
        pulls = sum_of(pulls, self.scaled.pulls(frame, coefficients, self.degree))
        if self.is_damped and induced is not None:
            soft = self._softened(frame)
            coefficients = self.algebra.coefficients(induced, self.identity, self.degree)
            pulls = sum_of(pulls, self.soft.pulls(soft, coefficients, self.degree))
            pulls = sum_of(pulls, self.soft_scaled.pulls(soft, coefficients, self.degree))
        derivatives = field.derivatives
        waves = field.waves
        if self.ewald is not None and waves is not None:
            of_waves, more = self.ewald.derive(frame, waves, permanent, induced)
            by_images = self._in_volts(added(of_waves, waves.derivatives, -1.0))
            derivatives = added(derivatives, by_images)
            pulls = sum_of(pulls, more)
        return MomentTerms(
            derivatives,
            self.coulomb * pulls.gradient,
            self.coulomb * pulls.mm_gradient,
            self.coulomb * pulls.strain,
        )

    def _softened(self, frame: Frame) -> Frame:
        return Frame(
            frame.positions,
            frame.mm_charges,
            frame.mm_positions,
            frame.cell,
            frame.inverse,
            self.mm_scales,
        )

    def _in_volts(self, derivatives: Multipoles) -> Multipoles:
        return Multipoles(
            self.coulomb * derivatives.charges,
            self.coulomb * derivatives.dipoles,
            self.coulomb * derivatives.quadrupoles,
        )
