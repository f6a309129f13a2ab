"""What the electrostatic kernels share: cell geometry and the constants of the LES energy.

Cells hold lattice vectors in rows [A]. Everything here is float64, free of host synchronisation
(no LU factorisation, no ``.item()``) and accepted by `torch.jit.script`.
"""

import math

import torch
from torch import Tensor

from openmm_les.errors import InputError

#: Relative slack of the comparison ``|k| <= 2 pi / dl``, see `cutoff_wavenumber`.
_CUTOFF_SLACK = 2.0**-23
#: A vector this close to the sphere, relatively, lies on it: boxes differ by more.
_ON_CUTOFF = 1e-6


def cutoff_wavenumber(dl: float) -> float:
    """The radius k_c = 2 pi / dl of the sphere of reciprocal vectors, slightly widened.

    A box length that is a whole multiple of ``dl`` puts reciprocal vectors exactly on the sphere,
    where rounding alone would decide about them. Published LES code keeps them when evaluated in
    float64 (whole shells in cubic boxes up to 24 A at ``dl = 2 A``; rounding splits some shells of
    larger ones, such as 26 A) and drops them in float32. Here they are inside, always and all of
    them. The slack is twice the rounding error of a float32 box length, so that a box which went
    through float32 (OpenMM in single precision) selects the same vectors as the float64 one.

    Takes the resolution of the model [A] to the radius [1/A].
    """
    return 2.0 * math.pi / dl * (1.0 + _CUTOFF_SLACK)


def inverse_and_volume(cell: Tensor) -> tuple[Tensor, Tensor]:
    """Inverse [1/A] and signed volume [A^3] of a cell, float64, by cross products.

    Columns of the inverse are the reciprocal vectors without their 2 pi, so that fractional
    coordinates are ``positions @ inverse``. The volume is negative for a left-handed cell; without
    one the inverse is not finite.
    """
    a, b, c = cell.to(torch.float64).unbind(0)
    bc = torch.linalg.cross(b, c)
    volume = (a * bc).sum()
    columns = torch.stack([bc, torch.linalg.cross(c, a), torch.linalg.cross(a, b)], dim=1)
    return columns / volume, volume


def nearest_image(vectors: Tensor, cell: Tensor, inverse: Tensor) -> Tensor:
    """Vectors [..., 3] with fractional coordinates, by the inverse of the cell, of at most 1/2."""
    return vectors - torch.round(vectors @ inverse) @ cell


def largest_indices(cell: Tensor, k_max: float) -> Tensor:
    """Bounds on the integer coordinates of the reciprocal vectors in a sphere.

    In any cell, however skewed, the integer along lattice vector a_d is ``n_d = k . a_d / (2 pi)``,
    hence ``|n_d| <= |k| |a_d| / (2 pi)``.

    Takes the radius of the sphere [1/A]; gives whole numbers as float64, shape [3].
    """
    lengths = torch.sqrt((cell.to(torch.float64) ** 2).sum(dim=1))
    return torch.floor(lengths * (k_max / (2.0 * math.pi)))


def lies_on_cutoff(cell: Tensor, dl: float) -> bool:
    """Whether reciprocal vectors lie on the sphere of the cutoff 2 pi / dl, as with edges of 6 dl.

    The smallest change of the box then takes them in or out, and a difference of two energies holds
    what they contribute.
    """
    most = largest_indices(cell, cutoff_wavenumber(dl) * (1.0 + _ON_CUTOFF)).to(torch.int64)
    columns = dl * inverse_and_volume(cell)[0].t()
    second, third = (torch.arange(-int(n), int(n) + 1, dtype=torch.float64) for n in most[1:])
    plane = second[:, None, None] * columns[1] + third[:, None] * columns[2]
    for first in range(int(most[0]) + 1):
        squared = ((plane + first * columns[0]) ** 2).sum(dim=2)
        if bool(((squared - 1.0).abs() < 2.0 * _ON_CUTOFF).any()):
            return True
    return False


def self_energy_coefficient(prefactor: float, sigma: float) -> float:
    """Energy of one unit charge in its own Gaussian cloud, ``c / (sigma (2 pi)^(3/2))``.

    The coefficient [eV / e^2] of sum_i q_i^2 is the interaction ``c / (4 pi) * erf(r / (sigma sqrt
    2)) / r`` at r = 0, which every sum contains unless the model removes it; c is the prefactor
    [eV A / e^2], sigma the width of the Gaussian [A].
    """
    return prefactor / (sigma * math.pow(2.0 * math.pi, 1.5))


def check_chunk_size(chunk_size: int | None) -> None:
    """Refuse chunks of fewer than one atom; None leaves the choice to the kernel."""
    if chunk_size is not None and chunk_size < 1:
        raise InputError(f"chunk_size: expected at least 1 atom, got {chunk_size}")
