"""The coupling without an Ewald sum: open systems, and cutoffs."""

from typing import Sequence

import torch
from torch import nn

from openmm_les.electrostatics.embedding.interactions import Coulomb, ReactionField
from openmm_les.electrostatics.embedding.pairs import (
    PAIRS_PER_CHUNK,
    AllPairs,
    Coupling,
    ScaledPair,
    ScaledPairs,
    total,
)
from openmm_les.units import COULOMB_CONSTANT


class PairCoupling(nn.Module):
    r"""Charges of an ML region in the field of MM charges, pair by pair,

    .. math:: E = \sum_{i,j} q_i Q_j f(r_{ij})

    with f the Coulomb interaction, or that with a reaction field beyond a cutoff, in units of the
    Coulomb constant. It has the interface of `EwaldCoupling`, but knows no images of the region;
    if `periodic`, MM atoms count at their nearest image.
    """

    def __init__(
        self,
        interaction: Coulomb | ReactionField,
        *,
        periodic: bool = False,
        scaled_pairs: Sequence[ScaledPair] = (),
        dtype: torch.dtype,
        pairs_per_chunk: int = PAIRS_PER_CHUNK,
    ) -> None:
        super().__init__()
        self.coulomb = COULOMB_CONSTANT
        self.pairs = AllPairs(
            interaction, periodic=periodic, dtype=dtype, pairs_per_chunk=pairs_per_chunk
        )
        coulomb = interaction.coulomb if isinstance(interaction, ReactionField) else interaction
        self.scaled = ScaledPairs(scaled_pairs, interaction, coulomb, periodic)

    def forward(
        self,
        charges: torch.Tensor,
        positions: torch.Tensor,
        mm_charges: torch.Tensor,
        mm_positions: torch.Tensor,
        cell: torch.Tensor,
    ) -> Coupling:
        """Energy and its first derivatives; as `EwaldCoupling.forward`."""
        with torch.no_grad():
            charges, mm_charges = charges.to(torch.float64), mm_charges.to(torch.float64)
            positions, mm_positions = positions.to(torch.float64), mm_positions.to(torch.float64)
            cell = cell.to(torch.float64)
            unused = torch.zeros([], dtype=torch.float64, device=positions.device)
            near = self.pairs(charges, positions, mm_charges, mm_positions, cell, unused)
            scaled = self.scaled(charges, positions, mm_charges, mm_positions, cell, unused)
            terms = total(near, scaled)
            return Coupling(
                self.coulomb * (charges * terms.potential).sum(),
                self.coulomb * terms.potential,
                self.coulomb * terms.gradient,
                self.coulomb * terms.mm_gradient,
                self.coulomb * terms.strain,
                torch.zeros([], dtype=torch.bool, device=positions.device),
            )
