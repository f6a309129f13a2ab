"""What the parts of the coupling of moments are given, and what they return."""

from typing import NamedTuple

from torch import Tensor

from openmm_les.electrostatics.multipoles.moments import Multipoles


class Frame(NamedTuple):
    """A region and its MM charges, float64; without a box, the inverse means nothing."""

    positions: Tensor  #: of the ML sites, shape [n, 3] [A].
    mm_charges: Tensor  #: shape [m] [e].
    mm_positions: Tensor  #: shape [m, 3] [A].
    cell: Tensor  #: shape [3, 3] [A].
    inverse: Tensor  #: of the cell [1/A].
    #: The inverse length that an interaction depends on [1/A]: the splitting parameter of an Ewald
    #: sum, shape [], or one of each MM charge, shape [m].
    splitting: Tensor


class Pulls(NamedTuple):
    """Derivatives of an energy in units of the Coulomb constant, at fixed moments, float64."""

    gradient: Tensor  #: by the positions of the ML sites, shape [n, 3] [e^2/A^2].
    mm_gradient: Tensor  #: by those of the MM charges, shape [m, 3] [e^2/A^2].
    strain: Tensor  #: by e in ``r' = (1 + e) r``, shape [3, 3] [e^2/A].


def sum_of(one: Pulls, other: Pulls) -> Pulls:
    return Pulls(
        one.gradient + other.gradient,
        one.mm_gradient + other.mm_gradient,
        one.strain + other.strain,
    )


def added(one: Multipoles, other: Multipoles, factor: float = 1.0) -> Multipoles:
    """The first, and the second times a factor."""
    return Multipoles(
        one.charges + factor * other.charges,
        one.dipoles + factor * other.dipoles,
        one.quadrupoles + factor * other.quadrupoles,
    )
