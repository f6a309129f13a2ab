"""The coupling in a periodic box, as an Ewald sum."""

import math
from typing import List, Sequence

import torch
from torch import nn

from openmm_les.electrostatics.cell import inverse_and_volume
from openmm_les.electrostatics.embedding.images import image_pairs
from openmm_les.electrostatics.embedding.interactions import Coulomb, Screened
from openmm_les.electrostatics.embedding.pairs import (
    PAIRS_PER_CHUNK,
    AllPairs,
    Coupling,
    PairTerms,
    ScaledPair,
    ScaledPairs,
    total,
)
from openmm_les.electrostatics.embedding.splitting import (
    grid_limits,
    needed_limits,
    reach_for,
    split_weights,
    splitting_for,
)
from openmm_les.electrostatics.kernel import strain_derivative
from openmm_les.electrostatics.structure_factors import StructureFactors
from openmm_les.units import COULOMB_CONSTANT


class EwaldCoupling(nn.Module):
    r"""Charges of an ML region in the field of periodic MM charges, and of their own images.

    .. math::
        E = \sum_{i,j} q_i Q_j \Big[\psi(r_{ij}) - \frac{\mathrm{erfc}(r_{ij}/w)}{r_{ij}}\Big]
            + \frac{1}{2} \sum_{i,i'} q_i q_{i'} \Big[\psi(r_{ii'}) - \frac{1}{r_{ii'}}\Big]

    with i, i' in the ML region and j in the MM region, in units of the Coulomb constant; i = i'
    counts with the limit of the bracket at r = 0. psi is the potential of a unit charge, its
    periodic images and a uniform background of the opposite charge, with zero average over the
    cell,

    .. math::
        \psi(r) = \sum_n \frac{\mathrm{erfc}(a |r + n|)}{|r + n|}
            + \frac{4\pi}{V} \sum_{k \ne 0} \frac{e^{-k^2/4a^2}}{k^2} \cos(k \cdot r)
            - \frac{\pi}{V a^2}

    for any a. The last term makes the energy independent of a where either region has a net charge
    (de Leeuw, Perram & Smith, Proc. R. Soc. Lond. A 373, 27 (1980); Hub et al., J. Chem. Theory
    Comput. 10, 381 (2014)), and it is what OpenMM adds.

    The splitting parameter is a = s / r_c with r_c half of the smallest height of the box, so that
    only nearest images count in real space, and is taken anew for every box. The integers of the
    reciprocal vectors then depend on the shape of the box alone: about 8 along each axis of a cube,
    whatever its size. All vectors of a static grid of them are summed, those beyond k_c = 2 a s
    too, and all nearest images, those beyond r_c too: both are terms of the exact sum. So nothing
    jumps as the box changes, nor, in rectangular boxes, as atoms move; in triclinic ones an atom
    that passes to another image beyond r_c makes a step below the tolerance. A box whose shape
    needs a larger grid is reported.
    """

    def __init__(
        self,
        cell: torch.Tensor,
        *,
        width: float = 0.0,
        tolerance: float = 1e-5,
        images: bool = True,
        scaled_pairs: Sequence[ScaledPair] = (),
        margin: float = 1.04,
        dtype: torch.dtype,
        pairs_per_chunk: int = PAIRS_PER_CHUNK,
    ) -> None:
        """Set up the sums.

        Args:
            cell: lattice vectors in rows [A], shape [3, 3]. Boxes of other size, and a little
                different shape, will do as well.
            width: w, of the ML charges as MM charges see them [A]; 0 for points.
            tolerance: RMS force error over RMS force.
            images: whether the region meets its own images, the second sum.
            scaled_pairs: pairs that interact in part, see `ScaledPairs`.
            margin: factor by which the ratio of an edge to the smallest height may grow before the
                grid is outgrown.
        """
        super().__init__()
        self.reach = reach_for(tolerance)
        self.images = images
        self.dtype = dtype
        self.coulomb = COULOMB_CONSTANT
        self.pairs_per_chunk = pairs_per_chunk
        self.pairs = AllPairs(
            Screened(width), periodic=True, dtype=dtype, pairs_per_chunk=pairs_per_chunk
        )
        self.scaled = ScaledPairs(scaled_pairs, Coulomb(width), Coulomb(width), True)
        limits = grid_limits(cell, self.reach, margin)
        self.structure = StructureFactors(limits, dtype=dtype)

    def forward(
        self,
        charges: torch.Tensor,
        positions: torch.Tensor,
        mm_charges: torch.Tensor,
        mm_positions: torch.Tensor,
        cell: torch.Tensor,
    ) -> Coupling:
        """Energy and its first derivatives, outside the autograd graph.

        Args:
            charges, mm_charges: of ML and MM atoms [e], shapes [n] and [m].
            positions: of the ML atoms [A], float64, shape [n, 3]. They may lie outside the cell;
                with `images` they must form the cluster whose energy the model has, unbroken.
            mm_positions: shape [m, 3] [A], float64; wrapped or not.
            cell: lattice vectors in rows [A], float64, shape [3, 3].
        """
        with torch.no_grad():
            charges, mm_charges = charges.to(torch.float64), mm_charges.to(torch.float64)
            positions, mm_positions = positions.to(torch.float64), mm_positions.to(torch.float64)
            cell = cell.to(torch.float64)
            inverse, volume = inverse_and_volume(cell)
            splitting = splitting_for(inverse, self.reach)

            near = self.pairs(charges, positions, mm_charges, mm_positions, cell, splitting)
            scaled = self.scaled(charges, positions, mm_charges, mm_positions, cell, splitting)
            near = total(near, scaled)
            energy = (charges * near.potential).sum()
            if self.images:
                source = charges.to(self.dtype)
                potential, gradient, strain = image_pairs(
                    source, positions, cell, inverse, splitting, self.pairs_per_chunk
                )
                energy = energy + 0.5 * (charges * potential).sum()
                images = PairTerms(potential, gradient, torch.zeros_like(mm_positions), strain)
                near = total(near, images)
            partners = mm_charges.sum()
            own = charges.sum() if self.images else torch.zeros_like(partners)
            background = math.pi / (splitting * splitting * volume.abs())
            level = -background * charges.sum() * (partners + 0.5 * own)
            energy = energy + level
            potential = near.potential - background * (partners + own)
            strain = near.strain - level * torch.eye(3, dtype=torch.float64, device=cell.device)

            waves = self._reciprocal(
                charges, positions @ inverse, mm_charges, mm_positions @ inverse, inverse, volume
            )
            needed = torch.floor(needed_limits(cell, inverse, self.reach))
            outgrown = torch.logical_not((needed <= self.structure.limits).all())
            nan = torch.full_like(energy, float("nan"))
            return Coupling(
                self.coulomb * torch.where(outgrown, nan, energy + waves[0]),
                self.coulomb * (potential + waves[1]),
                self.coulomb * (near.gradient + waves[2]),
                self.coulomb * (near.mm_gradient + waves[3]),
                self.coulomb * (strain + waves[4]),
                outgrown,
            )

    def _reciprocal(
        self,
        charges: torch.Tensor,
        points: torch.Tensor,
        mm_charges: torch.Tensor,
        mm_points: torch.Tensor,
        inverse: torch.Tensor,
        volume: torch.Tensor,
    ) -> List[torch.Tensor]:
        """Sum over k, from fractional coordinates: energy and derivatives as in `Coupling`."""
        k, weights, slopes = split_weights(
            self.structure.grid, inverse, volume, splitting_for(inverse, self.reach)
        )
        points = points - torch.round(points)
        mm_points = mm_points - torch.round(mm_points)
        own = self.structure.sums(charges.to(self.dtype), points)
        partners = self.structure.sums(mm_charges.to(self.dtype), mm_points)
        field = partners + own if self.images else partners

        # w |S|^2 holds every pair of charges twice, those within a region and those across.
        products = (own.to(torch.float64) * (partners + field).to(torch.float64)).sum(dim=0)
        power = products * self.structure.multiplicity
        energy = (weights * power).sum()
        response = (2.0 * weights * self.structure.multiplicity).to(self.dtype)
        potential, gradient = self.structure.pull_back(response * field, points)
        _, mm_gradient = self.structure.pull_back(response * own, mm_points)
        potential = potential.to(torch.float64)
        gradient = charges[:, None] * (gradient.to(torch.float64) @ inverse.t())
        mm_gradient = mm_charges[:, None] * (mm_gradient.to(torch.float64) @ inverse.t())
        strain = strain_derivative(k, slopes, power, energy)
        return [energy, potential, gradient, mm_gradient, strain]
