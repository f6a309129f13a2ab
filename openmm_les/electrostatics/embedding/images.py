"""Real-space part of the interaction of an ML region with its own periodic images."""

from typing import Tuple

import torch

from openmm_les.electrostatics.screening import erf_over_x, erfc_over_r


def image_pairs(
    charges: torch.Tensor,
    positions: torch.Tensor,
    cell: torch.Tensor,
    inverse: torch.Tensor,
    splitting: torch.Tensor,
    pairs_per_chunk: int,
) -> Tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Sum ``1/2 sum_ij q_i q_j g(r_ij)`` over all i and j of one cluster.

    The cluster itself, 1/r_ij with the positions as given, is taken out of the real-space part
    erfc(a d)/d of an Ewald sum, where d is the nearest image of r. What is left of a pair nearer to
    each other than to their images is g = -erf(a r)/r: smooth, with a limit at r = 0 that is the
    self term of an Ewald sum. Else it is erfc(a d)/d - 1/r.

    Args:
        charges: shape [n] [e]; their dtype is that of everything but separations and sums.
        positions: shape [n, 3] [A], float64, not wrapped into the `cell` [3, 3], whose `inverse`
            is given.
        splitting: a [1/A], shape [].

    Returns:
        The derivatives by the charges [n] [e/A], by the positions [n, 3] [e^2/A^2] and by strain
        [3, 3] [e^2/A], float64, in units of the Coulomb constant.
    """
    n = charges.shape[0]
    chunk = max(1, pairs_per_chunk // max(1, n))
    potential, gradient = torch.empty_like(positions[:, 0]), torch.empty_like(positions)
    strain = torch.zeros_like(cell)
    for start in range(0, n, chunk):
        end = start + chunk
        r = positions[start:end, None] - positions
        turns = torch.round(r @ inverse)
        apart = turns.abs().sum(dim=2) > 0
        d = (r - turns @ cell).to(charges.dtype)
        r = r.to(charges.dtype)

        r2 = (r * r).sum(dim=2)
        smooth, smooth_slope = erf_over_x(r2 * (splitting * splitting))
        one = torch.ones_like(r2)
        bare = 1.0 / torch.sqrt(torch.where(apart, r2, one))
        image, image_slope = erfc_over_r(
            torch.sqrt(torch.where(apart, (d * d).sum(dim=2), one)), splitting
        )
        value = torch.where(apart, image - bare, -splitting * smooth)
        along_r = torch.where(apart, bare**3, -(splitting**3) * smooth_slope)
        along_d = torch.where(apart, image_slope, torch.zeros_like(r2))

        potential[start:end] = (value @ charges).to(torch.float64)
        products = charges[start:end, None] * charges
        pull_r, pull_d = r * (products * along_r)[:, :, None], d * (products * along_d)[:, :, None]
        gradient[start:end] = (pull_r + pull_d).sum(dim=1).to(torch.float64)
        moments = pull_r.view(-1, 3).t() @ r.view(-1, 3) + pull_d.view(-1, 3).t() @ d.view(-1, 3)
        strain = strain + 0.5 * moments.to(torch.float64)
    return potential, gradient, strain
