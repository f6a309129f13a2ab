"""Structure factors, and fields from them, as functions that autograd differentiates to any order.

Each is the transpose of the other in what it is linear in, and a derivative by places only raises
the degree. So the derivatives of both are the same two sums again, which keep their arguments for
the backward pass and the phases along the three axes, but no array of vectors times sites.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from openmm_les.electrostatics.cell import inverse_and_volume, largest_indices
from openmm_les.electrostatics.kernel import ReciprocalKernel
from openmm_les.electrostatics.multipoles.factors import MultipoleFactors
from openmm_les.electrostatics.multipoles.moments import Multipoles
from openmm_les.learning.algebra import algebra_on, degree_of, slopes
from openmm_les.learning.arithmetic import without_autocast


class _Waves(NamedTuple):
    """What the sums over the sites of a structure have in common."""

    factors: MultipoleFactors
    phases: tuple[Tensor, Tensor, Tensor]


class _Sources(torch.autograd.Function):
    """S(k) [2, m] of coefficients [n, s] at places [n, 3], by `MultipoleFactors`."""

    @staticmethod
    def forward(ctx: Any, coefficients: Tensor, places: Tensor, waves: _Waves) -> Tensor:
        ctx.save_for_backward(coefficients, places)
        ctx.waves = waves
        degree = degree_of(coefficients.shape[1])
        return waves.factors.moment_sums(coefficients.contiguous(), places, degree, waves.phases)

    @staticmethod
    @without_autocast
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        coefficients, places = ctx.saved_tensors
        number, moves = coefficients.shape[1], ctx.needs_input_grad[1]
        fields = _fields(gradient, places, ctx.waves, degree_of(number) + moves)
        return fields[:, :number], slopes(coefficients, fields) if moves else None, None


class _Fields(torch.autograd.Function):
    """Derivatives [n, t] up to a degree of the field of a response [2, m] at places [n, 3]."""

    @staticmethod
    def forward(ctx: Any, response: Tensor, places: Tensor, waves: _Waves, degree: int) -> Tensor:
        ctx.save_for_backward(response, places)
        ctx.waves, ctx.degree = waves, degree
        return waves.factors.moment_pull_back(response.contiguous(), places, degree, waves.phases)

    @staticmethod
    @without_autocast
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        response, places = ctx.saved_tensors
        by_response = by_places = None
        if ctx.needs_input_grad[0]:
            by_response = _sources(gradient, places, ctx.waves)
        if ctx.needs_input_grad[1]:
            fields = _fields(response, places, ctx.waves, ctx.degree + 1)
            by_places = slopes(gradient, fields)
        return by_response, by_places, None, None


_sources: Callable[..., Tensor] = _Sources.apply
_fields: Callable[..., Tensor] = _Fields.apply


def periodic_energy(
    moments: Multipoles,
    positions: Tensor,
    cell: Tensor,
    kernel: ReciprocalKernel,
    degree: int,
    wants_field: bool,
) -> tuple[Tensor, Tensor | None]:
    """Energy of the permanent moments of one structure, their self-interaction included.

    Args:
        moments: of n sites, in the dtype of the sums.
        positions: shape [n, 3] [A].
        cell: lattice vectors in rows, shape [3, 3] [A].
        kernel: weights of the reciprocal vectors.
        degree: of the highest moments: 0 charges, 1 dipoles, 2 quadrupoles.
        wants_field: whether the potential and its gradient are needed too.

    Returns:
        The energy, float64, shape [] [eV]; potential and its gradient, shape [n, 4] [V, V/A].
    """
    needed = largest_indices(cell.detach(), kernel.k_max).clamp(max=kernel.n_max).tolist()
    dtype = moments.charges.dtype
    factors = _factors((int(needed[0]), int(needed[1]), int(needed[2])), dtype, cell.device)
    inverse, volume = inverse_and_volume(cell)
    _, weights, _ = kernel(factors.grid, inverse, volume)
    weights = weights * factors.multiplicity
    places = positions.to(torch.float64) @ inverse
    places = places - torch.round(places.detach())
    waves = _Waves(factors, factors.phases(places.detach()))
    algebra = algebra_on(positions.device)
    coefficients = algebra.coefficients(moments, inverse, degree)
    sources = _sources(coefficients, places, waves)
    energy = (weights * sources.to(torch.float64).square().sum(dim=0)).sum()
    if not wants_field:
        return energy, None
    fields = _fields((2.0 * weights).to(dtype) * sources, places, waves, 1)
    at_sites = algebra.cartesian(fields, inverse)
    return energy, torch.cat([at_sites.charges.unsqueeze(1), at_sites.dipoles], dim=1)


@lru_cache(maxsize=32)
@torch.inference_mode(False)
def _factors(
    limits: tuple[int, int, int], dtype: torch.dtype, device: torch.device
) -> MultipoleFactors:
    """The sums over integers up to the limits, which many boxes share."""
    return MultipoleFactors(limits, dtype=dtype).to(device)
