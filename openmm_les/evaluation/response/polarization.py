r"""Polarization of point charges and its derivatives; see docs/explanation/response.md.

The derivatives of the charges come as those of a few weighted sums of them, which a network pulls
back: :math:`P_a = \sum_j q_j r_{ja}` in an open system, and in a periodic one, with fractional
coordinates :math:`s_d` along the lattice vectors :math:`\mathbf a_d`, the sums over
:math:`\sin 2\pi s_{dj}` and :math:`\cos 2\pi s_{dj}`.
"""

import math
from typing import Any, Mapping

import torch
from torch import nn

from openmm_les.electrostatics.cell import inverse_and_volume
from openmm_les.electrostatics.embedding import charge_factor


class PhysicalCharges(nn.Module):
    r"""The charges that a polarization is made of, :math:`q' = f (q - \langle q \rangle)`.

    The factor f has the sign and the unit that make latent charges physical, and the root of the
    electronic permittivity :math:`\varepsilon_\infty` that LES charges have screened (Zhong et al.,
    arXiv:2504.05169). The mean is removed where the model says so.
    """

    def __init__(self, les: Mapping[str, Any], sign: int) -> None:
        super().__init__()
        unit = charge_factor(sign, float(les["prefactor"]))
        self.factor = unit * math.sqrt(float(les["bec_epsilon_factor"]))
        self.remove_mean = bool(les["bec_remove_mean"])

    def forward(self, charges: torch.Tensor) -> torch.Tensor:
        """q' [e] from latent charges q [e], float64, shape [n]."""
        charges = charges.to(torch.float64)
        if self.remove_mean:
            charges = charges - charges.mean()
        return self.factor * charges

    @torch.jit.export
    def pull_back(self, weights: torch.Tensor) -> torch.Tensor:
        """Weights of q in sums that have `weights` for q', shape [m, n]."""
        if self.remove_mean:
            weights = weights - weights.mean(1, keepdim=True)
        return self.factor * weights


def polarization_weights(
    positions: torch.Tensor, cell: torch.Tensor, periodic: bool
) -> torch.Tensor:
    """Weights of the sums of charges whose derivatives `born_charges` needs.

    Coordinates [A], shape [3, n]; if periodic, sines and cosines of the phases, shape [6, n].
    """
    if not periodic:
        return positions.t()
    inverse, _ = inverse_and_volume(cell)
    phases = 2.0 * math.pi * (positions @ inverse).t()
    return torch.cat([torch.sin(phases), torch.cos(phases)])


def born_charges(
    charges: torch.Tensor,
    derivatives: torch.Tensor,
    weights: torch.Tensor,
    cell: torch.Tensor,
    periodic: bool,
) -> torch.Tensor:
    r"""Born effective charges :math:`Z_{i,ab} = \partial P_a / \partial r_{ib}`.

    Open: :math:`q_i \delta_{ab} + \sum_j r_{ja}\, \partial q_j / \partial r_{ib}`. Periodic (Zhong
    et al., arXiv:2504.05169, for any cell):
    :math:`q_i \delta_{ab} + \sum_d \frac{a_{da}}{2\pi} \sum_j \sin 2\pi(s_{dj} - s_{di})\,
    \partial q_j / \partial r_{ib}`.

    Args:
        derivatives: of the sums of `charges` with `weights`, shape [3 or 6, n, 3].
        weights: of `polarization_weights`.

    Returns:
        Shape [n, 3, 3] [e]; axes are atom, polarization, displacement.
    """
    if periodic:
        sines, cosines = weights[:3].unsqueeze(2), weights[3:].unsqueeze(2)
        along = cosines * derivatives[:3] - sines * derivatives[3:]
        flow = (cell.t() / (2.0 * math.pi)) @ along.transpose(0, 1)
    else:
        flow = derivatives.transpose(0, 1)
    own = torch.eye(3, dtype=charges.dtype, device=charges.device) * charges.view(-1, 1, 1)
    return own + flow
