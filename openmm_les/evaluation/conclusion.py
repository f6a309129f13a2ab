"""The end of an evaluation: its status, and results in the order of the system."""

from typing import NamedTuple, Optional

import torch
from torch import Tensor, nn

from openmm_les.electrostatics.cell import inverse_and_volume
from openmm_les.evaluation.status import (
    STATUS_BOX,
    STATUS_COINCIDENT,
    STATUS_OVERFLOW,
    STATUS_POSITIONS,
    STATUS_RESULT,
)
from openmm_les.neighbors.matrix import Neighbors, is_high_enough


class Results(NamedTuple):
    """What the module of a system returns, in the order of the system."""

    energy: Tensor  #: interaction energy [] [eV], float64; NaN unless the status is 0.
    forces: Tensor  #: shape [n, 3] [eV/A], float64; NaN unless the status is 0.
    #: latent charges [n] or [channels, n] [e], or moments [rows, n] followed by induced charges
    #: and dipoles [4, n]; float64, 0 for others than the atoms.
    charges: Tensor
    strain: Tensor  #: dE/dstrain, shape [3, 3] [eV], float64.
    charge_energy: Tensor  #: the part of the energy that the charges have [] [eV], float64.
    status: Tensor  #: status bits [], int64, see `openmm_les.evaluation.status`.


class Computed(NamedTuple):
    """The same for sorted atoms, without a status, whatever the numbers are."""

    energy: Tensor
    forces: Tensor
    charges: Tensor
    strain: Tensor
    charge_energy: Tensor


class Conclusion(nn.Module):
    """Makes `Results` of what was `Computed`.

    Args:
        periodic: whether there is a cell.
        capacity: slots of each atom in the neighbour matrix.
        original: places of the atoms of the system among the sorted ones, shape [n].
        least_heights: of the box, from `openmm_les.neighbors.matrix.least_heights`.
    """

    def __init__(
        self, periodic: bool, capacity: int, original: Tensor, least_heights: Tensor
    ) -> None:
        super().__init__()
        self.periodic = periodic
        self.capacity = capacity
        self.original = nn.Buffer(original)
        self.least_heights = nn.Buffer(least_heights)
        # In the order of `status`. TorchScript does not see constants of the module.
        bits = [STATUS_OVERFLOW, STATUS_BOX, STATUS_POSITIONS, STATUS_COINCIDENT]
        self.bits = nn.Buffer(torch.tensor(bits))
        self.no_result = STATUS_RESULT

    def forward(
        self,
        computed: Computed,
        positions: Tensor,
        cell: Tensor,
        neighbors: Neighbors,
        crowded: Optional[Tensor],
        outgrown: Tensor,
    ) -> Results:
        """Positions [n, 3] are those of sorted atoms.

        `crowded` is `Network.outgrown`, and `outgrown` is that of `ElectrostaticTerms`.
        """
        return self.by_torch(computed, positions, cell, neighbors, crowded, outgrown)

    def by_torch(
        self,
        computed: Computed,
        positions: Tensor,
        cell: Tensor,
        neighbors: Neighbors,
        crowded: Optional[Tensor],
        outgrown: Tensor,
    ) -> Results:
        """The same, by torch code in every subclass."""
        energy, forces, charges, strain, charge_energy = computed
        broken = _zero_if_finite(forces) + 0.0 * energy != 0.0
        status = self.status(positions, cell, neighbors, crowded, outgrown, broken)
        valid = status == 0
        one = valid / valid  # or NaN
        return Results(
            energy * one,
            forces.index_select(0, self.original) * one,
            charges.index_select(-1, self.original),
            strain,
            charge_energy * one,
            status,
        )

    @torch.jit.export
    def status(
        self,
        positions: Tensor,
        cell: Tensor,
        neighbors: Neighbors,
        crowded: Optional[Tensor],
        outgrown: Tensor,
        broken: Tensor,
    ) -> Tensor:
        """The status [] of what `forward` takes; `broken` are results that are not finite."""
        zero = _zero_if_finite(positions)
        if self.periodic:
            zero = zero + _zero_if_finite(cell)
            inverse, _ = inverse_and_volume(cell)
            outgrown = outgrown | ~is_high_enough(inverse, self.least_heights)
        too_many = either(neighbors.crowded, crowded) & (zero == 0.0)
        overflow = (neighbors.largest > self.capacity) | too_many
        found = torch.stack([overflow, outgrown, zero != 0.0, neighbors.coincident])
        status = (found * self.bits).sum()
        return status + self.no_result * (broken & (status == 0))


def either(one: Tensor, other: Optional[Tensor]) -> Tensor:
    """Whether one of two is true; None: never."""
    return one if other is None else one | other


def _zero_if_finite(values: Tensor) -> Tensor:
    """NaN if any number is not finite, shape []; in fewer kernels than `torch.isfinite` takes."""
    return (0.0 * values).sum()
