"""What an Ewald sum adds to near pairs: reciprocal space, the background, images of the region."""

import math
from typing import NamedTuple, Optional, Tuple

import torch
from torch import Tensor, nn

from openmm_les.electrostatics.cell import inverse_and_volume
from openmm_les.electrostatics.embedding.moments.frame import Frame, Pulls, added, sum_of
from openmm_les.electrostatics.embedding.moments.images import ImageMoments
from openmm_les.electrostatics.embedding.moments.near import MEMORY_RATIO
from openmm_les.electrostatics.embedding.splitting import (
    grid_limits,
    needed_limits,
    reach_for,
    split_weights,
    splitting_for,
)
from openmm_les.electrostatics.kernel import strain_derivative
from openmm_les.electrostatics.multipoles.factors import MultipoleFactors
from openmm_les.electrostatics.multipoles.geometry import Geometry
from openmm_les.electrostatics.multipoles.moments import MomentAlgebra, Multipoles, deformation


class Waves(NamedTuple):
    """What an Ewald sum has of the permanent moments, in units of the Coulomb constant."""

    geometry: Geometry
    mm_places: Tensor  #: fractional coordinates of the MM charges, float64, shape [m, 3].
    own: Tensor  #: structure factors of the permanent moments, shape [2, k] [e].
    mm: Tensor  #: those of the MM charges.
    around: Tensor  #: derivatives of the potential by the fractional coordinates of the sites.
    background: Tensor  #: what a unit charge lacks in potential, float64, shape [] [e/A].
    energy: Tensor  #: with MM charges and images, all but near pairs with MM, float64 [e^2/A].
    derivatives: Multipoles  #: those of the energy by the permanent moments, float64.


class EwaldMoments(nn.Module):
    r"""Moments in the field of MM charges and of their own images, but for near pairs.

    The energy is that of `EwaldCoupling`, with ``q + u . grad + Q : grad grad / 2`` in place of a
    charge, which acts on psi. Its constant, the background, has no derivatives.
    """

    def __init__(
        self,
        cell: Tensor,
        *,
        tolerance: float,
        images: bool,
        margin: float,
        degree: int,
        dtype: torch.dtype,
        pairs_per_chunk: int,
        chunk_elements: Optional[int] = None,
    ) -> None:
        """See `EwaldCoupling`; `degree` is that of the highest moments, at least 1."""
        super().__init__()
        self.reach = reach_for(tolerance)
        self.with_images = images
        self.degree = degree
        self.dtype = dtype
        self.algebra = MomentAlgebra()
        self.images = ImageMoments(max(1, pairs_per_chunk // (2 * MEMORY_RATIO)))
        limits = grid_limits(cell, self.reach, margin)
        plane = 8 * (limits[0] + 1) * (limits[1] + 1)
        chunk = chunk_elements and max(1, chunk_elements // plane)
        self.structure = MultipoleFactors(limits, dtype=dtype, chunk_size=chunk)
        self.identity = nn.Buffer(torch.eye(3, dtype=torch.float64))

    def splitting(self, inverse: Tensor) -> Tensor:
        return splitting_for(inverse, self.reach)

    def field_of_surroundings(self, frame: Frame, permanent: Multipoles) -> Waves:
        """What the surroundings do at the sites, and the energy of the permanent moments there."""
        geometry, volume = self._geometry(frame)
        own = self._sources(permanent, geometry)
        mm_places = frame.mm_positions @ geometry.basis
        mm_places = mm_places - torch.round(mm_places)
        mm = self.structure.sums(frame.mm_charges.to(self.dtype), mm_places)
        field = mm + own if self.with_images else mm
        around = self.structure.derivatives(field, geometry, self.degree + 1)
        derivatives = self._cartesian(around, geometry)
        # w |S|^2 holds every pair twice, those within the region and those across.
        energy = (geometry.weights * self._power(own, mm + field)).sum()

        background = math.pi / (frame.splitting * frame.splitting * volume.abs())
        energy = energy + self._level(frame, background, permanent, None)
        seen = frame.mm_charges.sum()
        if self.with_images:
            seen = seen + permanent.charges.sum()
            coefficients = self.algebra.coefficients(permanent, self.identity, self.degree)
            near = self.images.potential(frame, coefficients, self.degree)
            energy = energy + 0.5 * (coefficients * near).sum()
            derivatives = added(derivatives, self.algebra.cartesian(near, self.identity))
        charges = derivatives.charges - background * seen
        derivatives = Multipoles(charges, derivatives.dipoles, derivatives.quadrupoles)
        return Waves(geometry, mm_places, own, mm, around, background, energy, derivatives)

    def derive(
        self, frame: Frame, waves: Waves, permanent: Multipoles, induced: Optional[Multipoles]
    ) -> Tuple[Multipoles, Pulls]:
        """Derivatives of the energy by the permanent moments, and pulls, induced moments frozen."""
        geometry, by_permanent = waves.geometry, waves.derivatives
        own, last = waves.own, waves.around
        gradient, strain = torch.zeros_like(frame.positions), torch.zeros_like(frame.cell)
        if induced is not None:
            own = own + self._sources(induced, geometry)
            strain = strain - deformation(induced, self._cartesian(waves.around, geometry))
            gradient = gradient + self._gradient(induced, waves.around, geometry)
            if self.with_images:
                last = self.structure.derivatives(waves.mm + own, geometry, self.degree + 1)
                by_permanent = added(by_permanent, self._of_images(frame, waves, induced, last))
        gradient = gradient + self._gradient(permanent, last, geometry)
        strain = strain - deformation(permanent, self._cartesian(last, geometry))
        # Of the MM charges P, the permanent moments M and T = M + m: 2 T P + M (2 T - M).
        power = 2.0 * self._power(own, waves.mm)
        if self.with_images:
            power = power + self._power(waves.own, 2.0 * own - waves.own)
        energy = (geometry.weights * power).sum()
        strain = strain + strain_derivative(geometry.k, geometry.slopes, power, energy)
        level = self._level(frame, waves.background, permanent, induced)
        pulls = Pulls(
            gradient, self._mm_gradient(frame, waves, own), strain - level * self.identity
        )
        if self.with_images:
            coefficients = self.algebra.coefficients(permanent, self.identity, self.degree)
            sites = 0.5 * coefficients
            if induced is not None:
                sites = sites + self.algebra.coefficients(induced, self.identity, self.degree)
            near = self.images.pulls(frame, sites, coefficients, self.degree)
            pulls = sum_of(pulls, near)
        return by_permanent, pulls

    def _geometry(self, frame: Frame) -> Tuple[Geometry, Tensor]:
        """Places, vectors and weights; and the volume."""
        inverse, volume = inverse_and_volume(frame.cell)
        k, weights, slopes = split_weights(self.structure.grid, inverse, volume, frame.splitting)
        places = frame.positions @ inverse
        places = places - torch.round(places)
        needed = torch.floor(needed_limits(frame.cell, inverse, self.reach))
        outgrown = torch.logical_not((needed <= self.structure.limits).all())
        return Geometry(inverse, places, k, weights, slopes, outgrown), volume

    def _of_images(
        self, frame: Frame, waves: Waves, induced: Multipoles, last: Tensor
    ) -> Multipoles:
        """What induced moments of the images do at the sites."""
        found = self._cartesian(last - waves.around, waves.geometry)
        coefficients = self.algebra.coefficients(induced, self.identity, self.degree)
        near = self.images.potential(frame, coefficients, self.degree)
        found = added(found, self.algebra.cartesian(near, self.identity))
        charges = found.charges - waves.background * induced.charges.sum()
        return Multipoles(charges, found.dipoles, found.quadrupoles)

    def _level(
        self, frame: Frame, background: Tensor, permanent: Multipoles, induced: Optional[Multipoles]
    ) -> Tensor:
        """The energy of charges in the background of each other."""
        own = permanent.charges.sum()
        total = own if induced is None else own + induced.charges.sum()
        product = total * frame.mm_charges.sum()
        if self.with_images:
            product = product + own * (total - 0.5 * own)
        return -background * product

    def _mm_gradient(self, frame: Frame, waves: Waves, own: Tensor) -> Tensor:
        response = (2.0 * waves.geometry.weights * self.structure.multiplicity).to(self.dtype)
        _, gradient = self.structure.pull_back(response * own, waves.mm_places)
        return frame.mm_charges[:, None] * (gradient.to(torch.float64) @ waves.geometry.basis.t())

    def _sources(self, moments: Multipoles, geometry: Geometry) -> Tensor:
        coefficients = self.algebra.coefficients(moments, geometry.basis, self.degree)
        return self.structure.sources(coefficients.to(self.dtype), geometry, self.degree)

    def _cartesian(self, derivatives: Tensor, geometry: Geometry) -> Multipoles:
        return self.algebra.cartesian(derivatives.to(torch.float64), geometry.basis)

    def _gradient(self, moments: Multipoles, derivatives: Tensor, geometry: Geometry) -> Tensor:
        coefficients = self.algebra.coefficients(moments, geometry.basis, self.degree)
        return self.algebra.gradient(coefficients, derivatives.to(torch.float64), geometry.basis)

    def _power(self, one: Tensor, other: Tensor) -> Tensor:
        """Re(S* S') of each vector times how many there are."""
        products = (one.to(torch.float64) * other.to(torch.float64)).sum(dim=0)
        return products * self.structure.multiplicity
