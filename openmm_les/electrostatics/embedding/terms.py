"""Results of the coupling and of its sums over pairs."""

from typing import NamedTuple

import torch


class Coupling(NamedTuple):
    """Energy of the ML charges in the field of the MM charges and its first derivatives, float64.

    Attributes:
        energy: shape [] [eV]; NaN if the box has outgrown the reciprocal grid.
        potential: dE/dq of the ML charges at fixed positions, shape [n] [eV/e].
        gradient: dE/dr of the ML atoms at fixed charges, shape [n, 3] [eV/A].
        mm_gradient: dE/dr of the MM atoms, shape [m, 3] [eV/A].
        strain: dE/dstrain at fixed charges, with all atoms and the cell deformed alike
            (r to r (1 + strain)), shape [3, 3] [eV].
        outgrown: whether the box has outgrown the reciprocal grid, bool, shape [].
    """

    energy: torch.Tensor
    potential: torch.Tensor
    gradient: torch.Tensor
    mm_gradient: torch.Tensor
    strain: torch.Tensor
    outgrown: torch.Tensor


class PairTerms(NamedTuple):
    """A sum over pairs ``E = sum_i q_i potential_i``, in units of the Coulomb constant, float64.

    Attributes:
        potential: shape [n] [e/A].
        gradient: of E by the positions of the ML atoms, shape [n, 3] [e^2/A^2].
        mm_gradient: of E by the positions of the MM atoms, shape [m, 3] [e^2/A^2].
        strain: of E, shape [3, 3] [e^2/A].
    """

    potential: torch.Tensor
    gradient: torch.Tensor
    mm_gradient: torch.Tensor
    strain: torch.Tensor
