r"""Polarization of point charges and its derivatives; see docs/explanation/response.md.

A network pulls back weighted sums of charges: :math:`P_a = \sum_j q_j r_{ja}`, or, if periodic,
sums over :math:`\sin 2\pi s_{dj}` and :math:`\cos 2\pi s_{dj}` with fractional coordinates
:math:`s_d` along the lattice vectors :math:`\mathbf a_d`.
"""

import math
from typing import Any, Mapping

import numpy as np
import torch
from torch import Tensor, nn

from openmm_les.arrays import FloatArray
from openmm_les.electrostatics.cell import inverse_and_volume
from openmm_les.electrostatics.embedding import charge_factor
from openmm_les.evaluation.response.results import PhysicalMoments
from openmm_les.evaluation.results import LatentMoments


class PhysicalCharges(nn.Module):
    r"""The charges that a polarization is made of, :math:`q' = f (q - \langle q \rangle)`.

    The factor f has the sign and the unit that make latent charges physical, and the root of the
    permittivity :math:`\varepsilon_\infty` that has screened them (Zhong et al., arXiv:2504.05169).
    """

    def __init__(self, les: Mapping[str, Any], sign: int) -> None:
        super().__init__()
        unit = charge_factor(sign, float(les["prefactor"]))
        #: The root of the permittivity.
        self.screening = math.sqrt(float(les["bec_epsilon_factor"]))
        self.factor = unit * self.screening
        self.remove_mean = bool(les["bec_remove_mean"])

    def forward(self, charges: Tensor) -> Tensor:
        """q' [e] from latent charges q [e], float64, shape [n]."""
        charges = charges.to(torch.float64)
        if self.remove_mean:
            charges = charges - charges.mean()
        return self.factor * charges

    def moments(self, latent: LatentMoments) -> PhysicalMoments:
        """The physical moments of atoms, for those who are not scripted."""
        charges = self.forward(torch.from_numpy(latent.total_charges)).numpy()
        alpha = _scaled(latent.alpha, self.factor**2)
        total = None
        if alpha is not None:
            total = np.eye(3) * alpha.sum() if alpha.ndim == 1 else alpha.sum(axis=0)
        return PhysicalMoments(
            charges,
            _scaled(latent.total_dipoles, self.factor),
            _scaled(latent.quadrupoles, self.factor),
            alpha,
            total,
        )

    @torch.jit.export
    def pull_back(self, weights: Tensor) -> Tensor:
        """Weights of q in sums that have `weights` for q', shape [m, n]."""
        if self.remove_mean:
            weights = weights - weights.mean(1, keepdim=True)
        return self.factor * weights


def polarization_weights(positions: Tensor, cell: Tensor, periodic: bool) -> Tensor:
    """Weights of the sums of charges whose derivatives `born_charges` needs.

    Coordinates [A], shape [3, n]; if periodic, sines and cosines of the phases, shape [6, n].
    """
    if not periodic:
        return positions.t()
    inverse, _ = inverse_and_volume(cell)
    phases = 2.0 * math.pi * (positions @ inverse).t()
    return torch.cat([torch.sin(phases), torch.cos(phases)])


def born_charges(
    charges: Tensor, derivatives: Tensor, weights: Tensor, cell: Tensor, periodic: bool
) -> Tensor:
    r"""Born effective charges [e], [n, 3, 3], :math:`Z_{i,ab} = \partial P_a / \partial r_{ib}`.

    Open: :math:`q_i \delta_{ab} + \sum_j r_{ja}\, \partial q_j / \partial r_{ib}`. Periodic (Zhong
    et al., arXiv:2504.05169, for any cell): :math:`q_i \delta_{ab} + \sum_d \frac{a_{da}}{2\pi}
    \sum_j \sin 2\pi(s_{dj} - s_{di})\, \partial q_j / \partial r_{ib}`. The `derivatives`, shape [3
    or 6, n, 3], are those of the sums of charges with `weights`.
    """
    if periodic:
        sines, cosines = weights[:3].unsqueeze(2), weights[3:].unsqueeze(2)
        along = cosines * derivatives[:3] - sines * derivatives[3:]
        flow = (cell.t() / (2.0 * math.pi)) @ along.transpose(0, 1)
    else:
        flow = derivatives.transpose(0, 1)
    own = torch.eye(3, dtype=charges.dtype, device=charges.device) * charges.view(-1, 1, 1)
    return own + flow


def _scaled(values: FloatArray | None, factor: float) -> FloatArray | None:
    return None if values is None else factor * values
