"""What an interaction of multipoles derives from positions and box."""

from typing import NamedTuple

import torch
from torch import Tensor

from openmm_les.electrostatics.kernel import strain_derivative


class Geometry(NamedTuple):
    """Sites in the coordinates of an interaction; reciprocal vectors are none in an open system."""

    basis: Tensor  #: B with ``grad = B grad'``, see `MomentAlgebra`, float64, shape [3, 3].
    places: Tensor  #: of the sites, float64, shape [n, 3].
    k: Tensor  #: vectors of one half space, float64, shape [m, 3] [1/A].
    weights: Tensor  #: of the vectors, float64, shape [m] [eV / e^2].
    slopes: Tensor  #: -2 dw/d(k^2) at fixed volume, float64, shape [m].
    outgrown: Tensor  #: whether the buffers are too small for the box, bool, shape [].


def reciprocal_strain(
    geometry: Geometry, multiplicity: Tensor, permanent: Tensor, total: Tensor, energy: Tensor
) -> Tensor:
    """dE/dstrain [3, 3] at fixed coefficients and fractional coordinates, float64.

    The energy is that of the permanent moments with themselves and with the induced ones, hence the
    sums, permanent and total [2, m], in ``|S|^2 + 2 Re(S* S_induced)``.
    """
    power = permanent.to(torch.float64) * (2.0 * total - permanent)
    return strain_derivative(geometry.k, geometry.slopes, power.sum(dim=0) * multiplicity, energy)
