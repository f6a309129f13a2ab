"""The response of charges and dipoles to the field of the permanent moments, in one shot."""

from typing import NamedTuple, Optional, Tuple

import torch
from torch import Tensor

from openmm_les.electrostatics.multipoles.moments import SiteMoments


class Induced(NamedTuple):
    """Induced moments, their energy, and its derivatives by the coefficients of the response."""

    energy: Tensor  #: float64, shape [] [eV].
    charges: Optional[Tensor]  #: dq, shape [n] [e].
    dipoles: Optional[Tensor]  #: du, shape [n, 3] [e A].
    kappa: Optional[Tensor]  #: dE/dkappa, shape [n] [eV V/e].
    alpha: Optional[Tensor]  #: dE/dalpha, of the shape of alpha [eV V/(e A^2)].


def respond(
    potential: Tensor, field: Tensor, kappa: Optional[Tensor], alpha: Optional[Tensor]
) -> Induced:
    r"""Linear response of each site by itself: induced moments do not see each other.

    .. math::
        dq = -\kappa \phi, \quad du = \alpha F, \quad
        E = -\frac12 \sum \kappa \phi^2 - \frac12 \sum F \cdot \alpha F

    (arXiv 2605.05746, 2026). dE/d(potential) is dq, and dE/d(field) is -du.

    Args:
        potential: at the sites, shape [n] [V].
        field: at the sites, shape [n, 3] [V/A].
        kappa: shape [n] [e/V], or None.
        alpha: shape [n], or symmetric and [n, 3, 3] [e A^2/V], or None.
    """
    energy = torch.zeros([], dtype=torch.float64, device=potential.device)
    charges: Optional[Tensor] = None
    dipoles: Optional[Tensor] = None
    by_kappa: Optional[Tensor] = None
    by_alpha: Optional[Tensor] = None
    if kappa is not None:
        induced = -kappa.to(potential.dtype) * potential
        energy = energy + 0.5 * (induced.to(torch.float64) * potential).sum()
        by_kappa = -0.5 * potential * potential
        charges = induced
    if alpha is not None:
        alpha = alpha.to(field.dtype)
        if alpha.dim() == 1:
            vectors = alpha.unsqueeze(1) * field
            by_alpha = -0.5 * (field * field).sum(dim=1)
        else:
            vectors = torch.bmm(alpha, field.unsqueeze(2)).squeeze(2)
            by_alpha = -0.5 * field.unsqueeze(2) * field.unsqueeze(1)
        energy = energy - 0.5 * (vectors.to(torch.float64) * field).sum()
        dipoles = vectors
    return Induced(energy, charges, dipoles, by_kappa, by_alpha)


def slopes(
    at_sites: Tuple[Tensor, Tensor], weights: Tensor, direction: Tensor, moments: SiteMoments
) -> Tuple[Optional[Tensor], Optional[Tensor]]:
    """Derivatives of ``sum_j w_j dq_j + e . sum_j du_j`` by kappa and alpha, of their shapes.

    Args:
        at_sites: potential and field, as in `respond`.
        weights: w, shape [n].
        direction: e, shape [3].
        moments: of which kappa and alpha are looked at.
    """
    potential, field = at_sites
    direction = direction.to(field.dtype)
    by_kappa: Optional[Tensor] = None
    by_alpha: Optional[Tensor] = None
    alpha = moments.alpha
    if moments.kappa is not None:
        by_kappa = -weights.to(potential.dtype) * potential
    if alpha is not None:
        if alpha.dim() == 1:
            by_alpha = field @ direction
        else:
            by_alpha = direction.view(1, 3, 1) * field.unsqueeze(1)
    return by_kappa, by_alpha
