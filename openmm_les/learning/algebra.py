"""Coefficients of multipoles and derivatives of a potential, by multi-index, on any device.

Tables that are kept are made outside of inference mode: autograd takes no others.
"""

from functools import lru_cache

import torch
from torch import Tensor

from openmm_les.electrostatics.multipoles.moments import (
    MomentAlgebra,
    count_indices,
    places_of_sums,
)


def degree_of(columns: int) -> int:
    """The degree up to which so many coefficients, or derivatives, go."""
    return next(degree for degree in range(columns) if count_indices(degree) >= columns)


def slopes(coefficients: Tensor, derivatives: Tensor) -> Tensor:
    """Slopes [..., 3] of ``sum_s c_s D_s`` with the place of each site.

    Takes c [..., s], and derivatives D of at least one degree more than those of c.
    """
    raised = _raised(degree_of(coefficients.shape[-1]), derivatives.device)
    chosen = derivatives.index_select(-1, raised.flatten())
    chosen = chosen.view(*derivatives.shape[:-1], *raised.shape)
    return (chosen * coefficients.unsqueeze(-2)).sum(-1)


@lru_cache
@torch.inference_mode(False)
def _raised(degree: int, device: torch.device) -> Tensor:
    """Places of the multi-indices up to a degree, raised by one along each axis, [3, s]."""
    return places_of_sums(1, degree)[1:].to(device)


@lru_cache
@torch.inference_mode(False)
def algebra_on(device: torch.device) -> MomentAlgebra:
    """From moments to coefficients and back, with its tables on a device."""
    return MomentAlgebra().to(device)
