"""Weights of reciprocal vectors, and phases of atoms, of the periodic LES sums, each in one kernel.

Only what has to be is float64: the vectors and their weights, of which a hard cutoff selects some,
and the reduction of angles to half a turn. Sums over atoms stay torch's products of matrices.
"""

import copy
import math
from typing import Any, Final, Tuple

import torch
import triton
import triton.language as tl
from torch import Tensor, nn

from openmm_les.electrostatics.kernel import ReciprocalKernel
from openmm_les.electrostatics.structure_factors import StructureFactors
from openmm_les.networks.kernels.triton.matrix import (
    BLOCK,
    ROUND64,
    load_cell,
    load_vector,
    to_double,
)

_TURN = tl.constexpr(2.0 * math.pi)


@triton.jit
def _weights_kernel(  # type: ignore[no-untyped-def]
    grid,
    inverse,
    volume,
    k,
    weights,
    slopes,
    m,
    half_sigma2: tl.constexpr,
    k_max: tl.constexpr,
    prefactor: tl.constexpr,
    k_cut: tl.constexpr,
    width: tl.constexpr,
    block: tl.constexpr,
):
    """See `ReciprocalKernel.by_torch`."""
    each = tl.program_id(0) * block + tl.arange(0, block)
    on = each < m
    p, q, r = to_double(load_vector(grid + 3 * each, on))
    a, b, c = load_cell(inverse)
    x = _TURN * (p * a[0] + q * a[1] + r * a[2])
    y = _TURN * (p * b[0] + q * b[1] + r * b[2])
    z = _TURN * (p * c[0] + q * c[1] + r * c[2])
    k2 = x * x + y * y + z * z
    # Bare numbers in comparisons are rounded to float32.
    limit = tl.full([block], k_max * k_max, tl.float64)
    inside = (k2 > 0.0) & (k2 <= limit)
    k2 = tl.where(inside, k2, 1.0)
    weight = tl.exp(-half_sigma2 * k2) / k2 * (prefactor / tl.abs(tl.load(volume)))
    weight = tl.where(inside, weight, 0.0)
    slope = 2.0 * weight * (half_sigma2 + 1.0 / k2)
    if width > 0.0:
        length = tl.sqrt(k2)
        t = (length / k_cut - (1.0 - width)) / (2.0 * width)
        t = tl.minimum(tl.maximum(t, 0.0), 1.0)
        switch = 1.0 - t * t * t * (10.0 + t * (6.0 * t - 15.0))
        root = t * (1.0 - t)
        descent = 30.0 * root * root / (4.0 * width * k_cut * length)
        slope = slope * switch + 2.0 * weight * descent
        weight = weight * switch
    tl.store(k + 3 * each, x, mask=on)
    tl.store(k + 3 * each + 1, y, mask=on)
    tl.store(k + 3 * each + 2, z, mask=on)
    tl.store(weights + each, weight, mask=on)
    tl.store(slopes + each, slope, mask=on)


@triton.jit
def _phases_kernel(  # type: ignore[no-untyped-def]
    fractional,
    phases,
    n,
    size0: tl.constexpr,
    size1: tl.constexpr,
    size2: tl.constexpr,
    block: tl.constexpr,
):
    """See `StructureFactors.phases`; those of one axis lie behind those of the one before."""
    sizes: tl.constexpr = size0 + size1 + size2
    each = tl.program_id(0) * block + tl.arange(0, block)
    on = each < n * sizes
    atom, place = each // sizes, each % sizes
    second, third = (place >= size0).to(tl.int32), (place >= size0 + size1).to(tl.int32)
    axis = second + third
    begin = second * size0 + third * size1
    size = size0 + second * (size1 - size0) + third * (size2 - size1)
    harmonic = (place - begin).to(tl.float64)
    turns = harmonic * tl.load(fractional + 3 * atom + axis, mask=on, other=0.0)
    angle = ((turns - ((turns + ROUND64) - ROUND64)) * _TURN).to(tl.float32)
    frequency = (harmonic * _TURN).to(tl.float32)
    cos, sin = tl.cos(angle), tl.sin(angle)
    target = phases + 4 * (begin.to(tl.int64) * n + atom * size) + place - begin
    tl.store(target, cos, mask=on)
    tl.store(target + size, sin, mask=on)
    tl.store(target + 2 * size, -sin * frequency, mask=on)
    tl.store(target + 3 * size, cos * frequency, mask=on)


def _empty_weights(grid: Tensor, inverse: Tensor) -> Tuple[Tensor, Tensor, Tensor]:
    m = grid.shape[0]
    return inverse.new_empty([m, 3]), inverse.new_empty([m]), inverse.new_empty([m])


@torch.library.custom_op("openmm_les::reciprocal_weights", mutates_args=())
def reciprocal_weights(
    grid: Tensor,
    inverse: Tensor,
    volume: Tensor,
    half_sigma2: float,
    k_max: float,
    prefactor: float,
    k_cut: float,
    width: float,
) -> Tuple[Tensor, Tensor, Tensor]:
    """What a `ReciprocalKernel` with these attributes returns."""
    inverse, m = inverse.contiguous(), grid.shape[0]
    k, weights, slopes = _empty_weights(grid, inverse)
    constants = half_sigma2, k_max, prefactor, k_cut, width
    with torch.cuda.device_of(grid):
        _weights_kernel[(triton.cdiv(m, BLOCK),)](
            *(grid, inverse, volume, k, weights, slopes, m, *constants, BLOCK),
            enable_fp_fusion=False,
        )
    return k, weights, slopes


@reciprocal_weights.register_fake
def _(
    grid: Tensor,
    inverse: Tensor,
    volume: Tensor,
    half_sigma2: float,
    k_max: float,
    prefactor: float,
    k_cut: float,
    width: float,
) -> Tuple[Tensor, Tensor, Tensor]:
    return _empty_weights(grid, inverse)


@torch.library.custom_op("openmm_les::ewald_phases", mutates_args=())
def ewald_phases(fractional: Tensor, size0: int, size1: int, size2: int) -> Tensor:
    """What `StructureFactors.phases` returns, in float32: one axis behind the other, flat."""
    fractional, n = fractional.contiguous(), fractional.shape[0]
    sizes = size0 + size1 + size2
    phases = fractional.new_empty([4 * n * sizes], dtype=torch.float32)
    with torch.cuda.device_of(fractional):
        _phases_kernel[(triton.cdiv(n * sizes, BLOCK),)](
            fractional, phases, n, size0, size1, size2, BLOCK, enable_fp_fusion=False
        )
    return phases


@ewald_phases.register_fake
def _(fractional: Tensor, size0: int, size1: int, size2: int) -> Tensor:
    size = 4 * fractional.shape[0] * (size0 + size1 + size2)
    return fractional.new_empty([size], dtype=torch.float32)


class FusedReciprocalKernel(ReciprocalKernel):
    """A `ReciprocalKernel` in one kernel; on a CPU it is torch code."""

    interpreted: Final[bool] = triton.knobs.runtime.interpret

    def forward(
        self, grid: Tensor, inverse: Tensor, volume: Tensor
    ) -> Tuple[Tensor, Tensor, Tensor]:
        if not (grid.is_cuda or self.interpreted):
            return self.by_torch(grid, inverse, volume)
        weights: Tuple[Tensor, Tensor, Tensor] = torch.ops.openmm_les.reciprocal_weights(
            grid,
            inverse,
            volume,
            self.half_sigma2,
            self.k_max,
            self.prefactor,
            self.k_cut,
            self.width,
        )
        return weights


class FusedStructureFactors(StructureFactors):
    """`StructureFactors` in float32 with phases in one kernel; on a CPU it is torch code."""

    interpreted: Final[bool] = triton.knobs.runtime.interpret

    def phases(self, fractional: Tensor) -> Tuple[Tensor, Tensor, Tensor]:
        if not (fractional.is_cuda or self.interpreted):
            return self.phases_by_torch(fractional)
        n = fractional.shape[0]
        sizes = [self.size0, self.size1, self.size2]
        phases = torch.ops.openmm_les.ewald_phases(fractional, sizes[0], sizes[1], sizes[2])
        x, y, z = torch.split(phases, [4 * n * size for size in sizes])
        return x.view(n, 2, -1), y.view(n, 2, -1), z.view(n, 2, -1)


_FUSED: dict[type[nn.Module], type[nn.Module]] = {
    ReciprocalKernel: FusedReciprocalKernel,
    StructureFactors: FusedStructureFactors,
}


def with_kernels(electrostatics: Any) -> Any:
    """A copy of an `ElectrostaticKernel` in float32 in which kernels compute what they can."""
    electrostatics = copy.deepcopy(electrostatics)
    for part in electrostatics.modules():
        if fused := _FUSED.get(type(part)):
            part.__class__ = fused  # it differs from what it derives from in methods alone
    return electrostatics
