"""What the electrostatic kernels of multipoles return."""

from typing import NamedTuple, Optional

from torch import Tensor


class MultipoleTerms(NamedTuple):
    """Energy of responding multipoles and its first derivatives, outside the autograd graph.

    None for the derivatives by what a model lacks. The energy, the derivative by strain and all
    others are total ones: the induced moments follow.
    """

    energy: Tensor  #: float64, shape [] [eV]; NaN where `outgrown`.
    charges: Tensor  #: dE/dq, shape [n] [eV/e].
    dipoles: Optional[Tensor]  #: dE/du, shape [n, 3] [eV/(e A)].
    quadrupoles: Optional[Tensor]  #: dE/dQ, symmetric and traceless, shape [n, 3, 3] [eV/(e A^2)].
    kappa: Optional[Tensor]  #: dE/dkappa, shape [n] [eV V/e].
    alpha: Optional[Tensor]  #: dE/dalpha, of the shape of alpha [eV V/(e A^2)].
    gradient: Tensor  #: dE/dr at fixed moments, shape [n, 3] [eV/A].
    #: dE/dstrain at fixed moments (in the Cartesian frame) and fractional coordinates, float64,
    #: shape [3, 3] [eV]; as that of networks it is by e in ``r' = (1 + e) r``, and not symmetric.
    strain: Tensor
    potential: Tensor  #: of the permanent moments and the surroundings, shape [n] [V].
    field: Tensor  #: likewise, shape [n, 3] [V/A].
    induced_charges: Optional[Tensor]  #: -kappa times the potential, shape [n] [e].
    induced_dipoles: Optional[Tensor]  #: alpha times the field, shape [n, 3] [e A].
    #: whether the box has outgrown the buffers of the kernel (also if it is NaN), bool, shape [].
    outgrown: Tensor
