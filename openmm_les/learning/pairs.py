"""Fields of multipoles in open structures, as functions that autograd differentiates to any order.

The map from coefficients to derivatives of their potential is symmetric, and a derivative by places
only raises the degree. So its derivatives are the same sum over pairs, which is done in blocks and
keeps none of the pairs for the backward pass.
"""

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from openmm_les.electrostatics.cell import self_energy_coefficient
from openmm_les.electrostatics.multipoles.moments import (
    Multipoles,
    count_indices,
    places_of_sums,
    signs,
)
from openmm_les.electrostatics.multipoles.recursion import (
    boys,
    cartesian_derivatives,
    recursion_steps,
)
from openmm_les.learning.algebra import algebra_on, degree_of, slopes
from openmm_les.learning.arithmetic import without_autocast

#: Pairs processed at a time: some MB for each of the functions of a distance.
_PAIRS_PER_BLOCK = 2**16
#: Up to so many pairs of charges the number of operations decides about the time, and autograd of
#: their plain sum, which keeps all pairs, takes fewer.
_FEW_PAIRS = 2**14


class _PairFields(torch.autograd.Function):
    """Derivatives [b, n, t] of the potentials of several sets of coefficients [b, n, s].

    Of b structures with n places each [b, n, 3], in units of the screening length; the degrees are
    those of the derivatives, one for each set.
    """

    @staticmethod
    def forward(
        ctx: Any, places: Tensor, degrees: tuple[int, ...], *sources: Tensor
    ) -> tuple[Tensor, ...]:
        ctx.save_for_backward(places, *sources)
        ctx.degrees = degrees
        ctx.set_materialize_grads(False)
        return tuple(_sum_over_pairs(places, degrees, sources))

    @staticmethod
    @without_autocast
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        places, *all_sources = ctx.saved_tensors
        given = [i for i, gradient in enumerate(gradients) if gradient is not None]
        if not given:
            return None, None, *([None] * len(all_sources))
        sources = [all_sources[i] for i in given]
        received = [gradients[i] for i in given]
        moves = ctx.needs_input_grad[0]
        # First those of the sources, which only slopes take, then those of the gradients.
        asked = [ctx.degrees[i] + 1 for i in given] if moves else []
        asked += [degree_of(source.shape[-1]) + moves for source in sources]
        fields = _pair_fields(places, tuple(asked), *(sources if moves else []), *received)
        by_sources: list[Tensor | None] = [None] * len(all_sources)
        for i, source, field in zip(given, sources, fields[-len(given) :], strict=True):
            by_sources[i] = field[..., : source.shape[-1]]
        by_places = None
        if moves:
            products = zip([*received, *sources], fields, strict=True)
            by_places = torch.stack([slopes(one, other) for one, other in products]).sum(dim=0)
            by_places = by_places.to(places.dtype)
        return by_places, None, *by_sources


class _PairEnergy(torch.autograd.Function):
    """``sum_s a_s D_s / 2`` of each structure [b], where D [b, n, t] are the derivatives of a.

    D is of a degree more than a, so that it holds the first derivatives of the energy, which take
    no other sum.
    """

    @staticmethod
    def forward(ctx: Any, coefficients: Tensor, places: Tensor, derivatives: Tensor) -> Tensor:
        ctx.save_for_backward(coefficients, places, derivatives)
        own = derivatives[..., : coefficients.shape[-1]]
        return 0.5 * (coefficients.to(torch.float64) * own).sum(dim=(1, 2))

    @staticmethod
    @without_autocast
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        coefficients, places, derivatives = ctx.saved_tensors
        scaled = gradient.view(-1, 1, 1).to(derivatives.dtype) * derivatives
        by_places = slopes(coefficients, scaled).to(places.dtype)
        return scaled[..., : coefficients.shape[-1]], by_places, None


_pair_fields: Callable[..., tuple[Tensor, ...]] = _PairFields.apply
_pair_energy: Callable[..., Tensor] = _PairEnergy.apply


def open_energies(
    moments: Multipoles,
    positions: Tensor,
    sites: Tensor,
    sigma: float,
    prefactor: float,
    degree: int,
    wants_field: bool,
) -> tuple[Tensor, Tensor | None]:
    """Energies of the permanent moments of b structures, their self-interaction included.

    Args:
        moments: of all sites of a batch, in the dtype of the sums.
        positions: of all sites, shape [all, 3] [A].
        sites: which ones each structure has, shape [b, n]; -1 where it has fewer than n.
        sigma: width of the Gaussians [A].
        prefactor: c = 1 / (2 eps0) [eV A / e^2].
        degree: of the highest moments: 0 charges, 1 dipoles, 2 quadrupoles.
        wants_field: whether the potential and its gradient are needed too.

    Returns:
        The energies, float64, shape [b] [eV]; potential and its gradient at the sites, in their
        order, shape [sum of sizes, 4] [V, V/A].
    """
    inverse_length = 1.0 / (math.sqrt(2.0) * sigma)
    scale = _scale(sigma, prefactor)
    basis = torch.eye(3, dtype=torch.float64, device=sites.device) * inverse_length
    coefficients = _padded(algebra_on(positions.device).coefficients(moments, basis, degree), sites)
    places = _padded(positions.to(torch.float64) * inverse_length, sites)
    if not wants_field:
        (fields,) = _pair_fields(places, (degree + 1,), coefficients)
        return scale * _pair_energy(coefficients, places, fields), None
    fields, low = _pair_fields(places, (degree + 1, 1), coefficients, coefficients)
    at_sites = algebra_on(positions.device).cartesian(scale * low[sites >= 0], basis)
    potential = torch.cat([at_sites.charges.unsqueeze(1), at_sites.dipoles], dim=1)
    return scale * _pair_energy(coefficients, places, fields), potential


class _Screened(torch.autograd.Function):
    """The derivative of some order of ``scale F0(a d^2)`` by the square of the distance d.

    That is the energy of unit charges, with the Boys function F0(x^2) = sqrt(pi)/2 erf(x)/x;
    `constants` are the scale and a. Backward each order asks for the next one. They are computed
    together, and kept in `known`.
    """

    @staticmethod
    def forward(
        ctx: Any, squared: Tensor, known: list[Tensor], order: int, constants: tuple[float, float]
    ) -> Tensor:
        ctx.save_for_backward(squared)
        ctx.known, ctx.order, ctx.constants = known, order, constants
        if order >= len(known):
            scale, a = constants
            values = _boys(a * squared, order + 2)  # forces and their gradients ask for two more
            known[:] = [value.mul_(scale * (-a) ** m) for m, value in enumerate(values)]
        return known[order].view_as(squared)

    @staticmethod
    @without_autocast
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (squared,) = ctx.saved_tensors
        slope = _screened(squared, ctx.known, ctx.order + 1, ctx.constants)
        return gradient * slope, None, None, None


_screened: Callable[..., Tensor] = _Screened.apply


def are_few(groups: list[Tensor]) -> bool:
    """Whether `few_pairs` is the better one for the charges of these groups of structures."""
    return sum(sites.shape[0] * sites.shape[1] ** 2 for sites in groups) <= 2 * _FEW_PAIRS


def few_pairs(
    charges: Tensor, positions: Tensor, sites: Tensor, sigma: float, prefactor: float
) -> Tensor:
    """Energies of charges, shape [b], float64 [eV], without those of sites with themselves.

    The arguments are those of `open_energies`.
    """
    b, n = sites.shape
    chosen = sites.clamp(min=0).flatten()
    q = charges.index_select(0, chosen).view(b, n).to(torch.float64)
    if bool((sites[:, -1] < 0).any()):
        q = q * (sites >= 0)
    r = positions.index_select(0, chosen).view(b, n, 3).to(torch.float64)
    first, second = _upper(n, sites.device)
    x = r.index_select(1, first) - r.index_select(1, second)
    constants = (_scale(sigma, prefactor), 0.5 / sigma**2)
    screened = _screened((x * x).sum(dim=2), [], 0, constants)
    return (q.index_select(1, first) * q.index_select(1, second) * screened).sum(dim=1)


def _scale(sigma: float, prefactor: float) -> float:
    """The energy [eV] of unit charges at one place."""
    return 2.0 * self_energy_coefficient(prefactor, sigma)


@lru_cache
@torch.inference_mode(False)
def _upper(n: int, device: torch.device) -> tuple[Tensor, Tensor]:
    first, second = torch.triu_indices(n, n, 1, device=device)
    return first, second


def _padded(rows: Tensor, sites: Tensor) -> Tensor:
    """The rows of the sites, zeros for -1."""
    return torch.nn.functional.pad(rows, (0, 0, 0, 1))[sites]


def _sum_over_pairs(
    places: Tensor, degrees: tuple[int, ...], sources: tuple[Tensor, ...]
) -> list[Tensor]:
    """Derivative t at a place: the sum of ``(-1)^s a_s d^(s+t) erf(x)/x`` over all places and s.

    In units of 2 / sqrt(pi), with a place among its own sources, where everything is finite.
    """
    b, n, _ = places.shape
    axes = places.permute(2, 0, 1).contiguous()
    dtype, device = sources[0].dtype, places.device
    sizes = [source.shape[-1] for source in sources]
    highest = max(degree + degree_of(size) for degree, size in zip(degrees, sizes, strict=True))
    signed = torch.cat(
        [source * _signs(source.shape[-1], dtype, device) for source in sources], dim=-1
    )
    found = [
        source.new_zeros([b, n, count_indices(degree)])
        for source, degree in zip(sources, degrees, strict=True)
    ]

    def add(block: slice, part: slice, products: list[Tensor]) -> None:
        # [block, part, multi-index, columns of all sources]
        split = torch.split(torch.stack(products, dim=2), sizes, dim=3)
        for out, degree, own in zip(found, degrees, split, strict=True):
            columns = _columns(degree, own.shape[3], device)
            terms = own.flatten(2).index_select(2, columns.flatten())
            out[block, part] += terms.view(*terms.shape[:2], *columns.shape).sum(dim=3)

    parities = signs(highest).tolist()
    structures = max(1, _PAIRS_PER_BLOCK // n**2)
    for block in (slice(first, first + structures) for first in range(0, b, structures)):
        start = 0
        while start < n:
            # Rows of places with all from the first of them on: each pair is in one block.
            rows = max(1, _PAIRS_PER_BLOCK // (n - start))
            part, after = slice(start, start + rows), slice(start + rows, n)
            x = (axes[:, block, part, None] - axes[:, block, None, start:]).to(dtype)
            functions = _boys((x * x).sum(dim=0), highest)
            for m, function in enumerate(functions):
                function.mul_((-2.0) ** m)
            values = cartesian_derivatives(functions, x, _steps(highest))
            add(block, part, [value @ signed[block, start:] for value in values])
            if start + rows < n:
                back = [value[..., rows:].transpose(1, 2) @ signed[block, part] for value in values]
                add(block, after, [v * parity for v, parity in zip(back, parities, strict=True)])
            start += rows
    return found


def _boys(squared: Tensor, highest: int) -> list[Tensor]:
    """The functions of `boys`; its series is summed for near pairs alone, which are few."""
    # Each step of the recursion upwards loses a digit at this distance.
    nearest = 0.25 if highest < 3 and squared.dtype == torch.float64 else 2.0
    gauss = torch.exp(-squared.clamp(max=81.0))
    far = squared.clamp(min=nearest)
    root, half = torch.sqrt(far), 0.5 / far
    values = [torch.erf(root).div_(root).mul_(0.5 * math.sqrt(math.pi))]
    for m in range(highest):
        values.append((values[-1] * (2 * m + 1)).sub_(gauss).mul_(half))
    near = torch.nonzero(squared.flatten() < nearest).squeeze(1)
    if len(near):
        for value, own in zip(values, boys(squared.flatten()[near], highest), strict=True):
            value.view(-1)[near] = own
    return values


@lru_cache
def _steps(highest: int) -> list[tuple[int, int, int, int, float]]:
    return recursion_steps(highest)


@lru_cache
def _signs(columns: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    return signs(degree_of(columns)).to(device, dtype)


@lru_cache
def _columns(degree: int, columns: int, device: torch.device) -> Tensor:
    """Flat places [t, s] of the products that derivative t takes, in [multi-index, s]."""
    combined = places_of_sums(degree, degree_of(columns))
    return (combined * columns + torch.arange(columns)).to(device)
