"""Vectors, harmonics and tabulated radial features of all pairs in one kernel, and back in two.

Harmonics follow from those of one degree less by coupling with the direction, and their gradients
by the same couplings (`SphericalHarmonics`), so that one list of nonzero couplings, unrolled when a
kernel is compiled, serves both passes. The backward pass needs vectors and slopes alone.
"""

from functools import cache
from math import isqrt
from typing import Any, Dict, Tuple

import torch
import triton
import triton.language as tl
from torch import Tensor, nn

from openmm_les.neighbors.matrix import Neighbors
from openmm_les.networks.blocks.angular import harmonic_couplings, parity_permutation
from openmm_les.networks.blocks.geometry import PairGeometry, PairTape

#: Slots of one program, and radial features that it has in registers at a time.
_SLOTS, _FEATURES = 64, 32
#: Rows of partial sums of the strain that are added at a time.
_PARTIAL = 64


@cache
def _couplings(lmax: int) -> Dict[str, Any]:
    """What kernels are compiled for: the terms of `harmonic_couplings`, by columns.

    A component is `complete` after some of them, and stored at its `place` in parity order.
    """
    component, lower, axis, factor = zip(*harmonic_couplings(lmax), strict=True)
    natural = parity_permutation(lmax)
    place = [natural.index(c) for c in range(len(natural))]
    return {
        "size": len(natural),
        "place": tuple(place[c] for c in component),
        "lower": lower,
        "axis": axis,
        "factor": factor,
        "degree": tuple(isqrt(c) for c in component),
        "complete": tuple(int(c not in component[i + 1 :]) for i, c in enumerate(component)),
    }


@triton.jit
def _unit(x, y, z):  # type: ignore[no-untyped-def]
    distance = tl.sqrt_rn(x * x + y * y + z * z)
    return distance, tl.div_rn(x, distance), tl.div_rn(y, distance), tl.div_rn(z, distance)


@triton.jit
def _geometry_kernel(  # type: ignore[no-untyped-def]
    positions,
    indices,
    shifts,
    species,
    table,
    first_row,
    vectors,
    harmonics,
    features,
    slopes,
    slots,
    capacity,
    width,
    inverse_spacing,
    last,
    num_species,
    by_pair: tl.constexpr,
    size: tl.constexpr,
    place: tl.constexpr,
    lower: tl.constexpr,
    axis: tl.constexpr,
    factor: tl.constexpr,
    degree: tl.constexpr,
    complete: tl.constexpr,
    block: tl.constexpr,
    columns: tl.constexpr,
):
    """Everything of a block of slots."""
    slot = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    on = slot < slots
    atom = slot // capacity
    other = tl.load(indices + slot, mask=on, other=0)
    own, far, shift = positions + 3 * atom, positions + 3 * other, shifts + 3 * slot
    x = tl.load(own, mask=on, other=1.0) - tl.load(far, mask=on, other=0.0)
    y = tl.load(own + 1, mask=on, other=0.0) - tl.load(far + 1, mask=on, other=0.0)
    z = tl.load(own + 2, mask=on, other=0.0) - tl.load(far + 2, mask=on, other=0.0)
    x = (x + tl.load(shift, mask=on, other=0.0)).to(tl.float32)
    y = (y + tl.load(shift + 1, mask=on, other=0.0)).to(tl.float32)
    z = (z + tl.load(shift + 2, mask=on, other=0.0)).to(tl.float32)
    tl.store(vectors + 3 * slot, x, mask=on)
    tl.store(vectors + 3 * slot + 1, y, mask=on)
    tl.store(vectors + 3 * slot + 2, z, mask=on)

    distance, x, y, z = _unit(x, y, z)
    unit = (x, y, z)
    values = (x * 0.0 + 1.0,)
    tl.store(harmonics + slot * size, values[0], mask=on)
    value = tl.zeros([block], tl.float32)
    for term in tl.static_range(len(lower)):
        value += factor[term] * values[lower[term]] * unit[axis[term]]
        if complete[term]:
            tl.store(harmonics + slot * size + place[term], value, mask=on)
            values = values + (value,)  # type: ignore[assignment]
            value = tl.zeros([block], tl.float32)

    at = distance * inverse_spacing
    # Of what is not finite the row is within the table, and the feature is not finite.
    row = tl.minimum(tl.maximum(at, 0.0), last).to(tl.int32)
    part = (at - row.to(tl.float32))[:, None]
    if by_pair:
        pair = tl.load(species + atom, mask=on, other=0) * num_species
        pair += tl.load(species + other, mask=on, other=0)
        row += tl.load(first_row + pair, mask=on, other=0).to(tl.int32)
    for start in range(0, width, columns):
        column = start + tl.arange(0, columns)[None, :]
        here = on[:, None] & (column < width)
        entry = table + row[:, None] * (4 * width) + column
        c1 = tl.load(entry + width, mask=here, other=0.0)
        c2 = tl.load(entry + 2 * width, mask=here, other=0.0)
        c3 = tl.load(entry + 3 * width, mask=here, other=0.0)
        c0 = tl.load(entry, mask=here, other=0.0)
        feature = c0 + part * (c1 + part * (c2 + part * c3))
        slope = c1 + 2.0 * part * (c2 + 1.5 * part * c3)
        target = slot[:, None] * width + column
        tl.store(features + target, feature, mask=here)
        tl.store(slopes + target, slope * inverse_spacing, mask=here)


@triton.jit
def _slots_kernel(  # type: ignore[no-untyped-def]
    grad_harmonics,
    grad_features,
    vectors,
    slopes,
    grad_vectors,
    partial,
    slots,
    width,
    size: tl.constexpr,
    place: tl.constexpr,
    lower: tl.constexpr,
    axis: tl.constexpr,
    factor: tl.constexpr,
    degree: tl.constexpr,
    complete: tl.constexpr,
    block: tl.constexpr,
    columns: tl.constexpr,
):
    """dE/dvector of a block of slots, and their part of dE/dstrain."""
    slot = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    on = slot < slots
    vx = tl.load(vectors + 3 * slot, mask=on, other=1.0)
    vy = tl.load(vectors + 3 * slot + 1, mask=on, other=0.0)
    vz = tl.load(vectors + 3 * slot + 2, mask=on, other=0.0)
    distance, x, y, z = _unit(vx, vy, vz)
    unit = (x, y, z)
    values = (x * 0.0 + 1.0,)
    value = tl.zeros([block], tl.float32)
    grad = (value, value, value)
    for term in tl.static_range(len(lower)):
        product = factor[term] * values[lower[term]]
        value += product * unit[axis[term]]
        # Euler's theorem: the gradient of r^l Y_l has the couplings of Y_l, l times.
        weight = tl.load(grad_harmonics + slot * size + place[term], mask=on, other=0.0)
        weight *= degree[term] * product
        if axis[term] == 0:
            grad = (grad[0] + weight, grad[1], grad[2])
        elif axis[term] == 1:
            grad = (grad[0], grad[1] + weight, grad[2])
        else:
            grad = (grad[0], grad[1], grad[2] + weight)
        if complete[term]:
            values = values + (value,)  # type: ignore[assignment]
            value = tl.zeros([block], tl.float32)

    along = tl.zeros([block, columns], tl.float32)
    for start in range(0, width, columns):
        column = start + tl.arange(0, columns)[None, :]
        here = on[:, None] & (column < width)
        source = slot[:, None] * width + column
        along += tl.load(grad_features + source, mask=here, other=0.0) * tl.load(
            slopes + source, mask=here, other=0.0
        )
    across = grad[0] * x + grad[1] * y + grad[2] * z
    radial = tl.sum(along, 1) - across / distance
    gx = grad[0] / distance + radial * x
    gy = grad[1] / distance + radial * y
    gz = grad[2] / distance + radial * z
    tl.store(grad_vectors + 3 * slot, gx, mask=on)
    tl.store(grad_vectors + 3 * slot + 1, gy, mask=on)
    tl.store(grad_vectors + 3 * slot + 2, gz, mask=on)
    sums = partial + 9 * tl.program_id(0)
    first, second = (gx, gy, gz), (vx, vy, vz)
    for entry in tl.static_range(9):
        product = tl.where(on, first[entry // 3] * second[entry % 3], 0.0)
        tl.store(sums + entry, tl.sum(product, 0))


@triton.jit
def _atoms_kernel(  # type: ignore[no-untyped-def]
    grad_vectors,
    reverse,
    partial,
    grad_positions,
    grad_strain,
    atoms,
    capacity,
    partials,
    padded: tl.constexpr,
    block: tl.constexpr,
):
    """dE/dr of one atom. The program behind the last sums up the strain."""
    atom = tl.program_id(0)
    if atom == atoms:
        entry = tl.arange(0, 16)[None, :]
        strain = tl.zeros([block, 16], tl.float64)
        for start in range(0, partials, block):
            row = start + tl.arange(0, block)[:, None]
            here = (row < partials) & (entry < 9)
            strain += tl.load(partial + 9 * row + entry, mask=here, other=0.0).to(tl.float64)
        target = grad_strain + tl.arange(0, 16)
        tl.store(target, tl.sum(strain, 0), mask=tl.arange(0, 16) < 9)
    else:
        lane = tl.arange(0, padded)
        on = lane < capacity
        slot = atom.to(tl.int64) * capacity + lane
        back = tl.load(reverse + slot, mask=on, other=0)
        for axis in tl.static_range(3):
            own = tl.load(grad_vectors + 3 * slot + axis, mask=on, other=0.0)
            other = tl.load(grad_vectors + 3 * back + axis, mask=on, other=0.0)
            total = tl.sum(own - other, 0).to(tl.float64)
            tl.store(grad_positions + 3 * atom + axis, total)


def _new_pairs(indices: Tensor, table: Tensor, lmax: int) -> Tuple[Tensor, Tensor, Tensor, Tensor]:
    slots, width = indices.shape[0] * indices.shape[1], table.shape[2]
    return (
        table.new_empty([slots, 3]),
        table.new_empty([slots, (lmax + 1) ** 2]),
        table.new_empty([slots, width]),
        table.new_empty([slots, width]),
    )


@torch.library.custom_op("openmm_les::pair_geometry", mutates_args=())
def pair_geometry(
    positions: Tensor,
    indices: Tensor,
    shifts: Tensor,
    species: Tensor,
    table: Tensor,
    first_row: Tensor,
    lmax: int,
    num_species: int,
    inverse_spacing: float,
    last: int,
) -> Tuple[Tensor, Tensor, Tensor, Tensor]:
    """Vectors [E, 3], harmonics [E, S], and features and slopes [E, P], of E = N * K slots.

    Takes positions [N, 3], a neighbour matrix, the species of atoms, what a `TabulatedRadial`
    holds, and the number of species, 0 where all pairs have the same table.
    """
    results = _new_pairs(indices, table, lmax)
    slots = indices.numel()
    with torch.cuda.device_of(positions):
        _geometry_kernel[(triton.cdiv(slots, _SLOTS),)](
            positions.contiguous(),
            indices,
            shifts,
            species,
            table,
            first_row,
            *results,
            slots,
            indices.shape[1],
            table.shape[2],
            inverse_spacing,
            last,
            num_species,
            num_species > 0,
            **_couplings(lmax),
            block=_SLOTS,
            columns=_FEATURES,
        )
    return results


@pair_geometry.register_fake
def _(  # type: ignore[no-untyped-def]
    positions, indices, shifts, species, table, first_row, lmax, num_species, inverse_spacing, last
):
    return _new_pairs(indices, table, lmax)


@torch.library.custom_op("openmm_les::pair_gradients", mutates_args=())
def pair_gradients(
    grad_harmonics: Tensor,
    grad_features: Tensor,
    vectors: Tensor,
    slopes: Tensor,
    reverse: Tensor,
    lmax: int,
) -> Tuple[Tensor, Tensor]:
    """dE/dr [N, 3] and dE/dstrain [3, 3] from dE/dY [N, K, S] and dE/dphi [N, K, P].

    The others are results of `pair_geometry`, and `Neighbors.reverse`.
    """
    n, capacity = grad_harmonics.shape[0], grad_harmonics.shape[1]
    slots, width = slopes.shape
    blocks = triton.cdiv(slots, _SLOTS)
    grad_vectors, partial = torch.empty_like(vectors), vectors.new_empty([blocks, 9])
    grad_positions, grad_strain = _new_gradients(vectors, n)
    with torch.cuda.device_of(vectors):
        _slots_kernel[(blocks,)](
            grad_harmonics.contiguous(),
            grad_features.contiguous(),
            vectors,
            slopes,
            grad_vectors,
            partial,
            slots,
            width,
            **_couplings(lmax),
            block=_SLOTS,
            columns=_FEATURES,
        )
        padded = triton.next_power_of_2(capacity)
        _atoms_kernel[(n + 1,)](
            grad_vectors,
            reverse,
            partial,
            grad_positions,
            grad_strain,
            n,
            capacity,
            blocks,
            padded,
            _PARTIAL,
            num_warps=1 if padded <= 64 else 4,
        )
    return grad_positions, grad_strain


def _new_gradients(vectors: Tensor, atoms: int) -> Tuple[Tensor, Tensor]:
    return (
        vectors.new_empty([atoms, 3], dtype=torch.float64),
        vectors.new_empty([3, 3], dtype=torch.float64),
    )


@pair_gradients.register_fake
def _(grad_harmonics, grad_features, vectors, slopes, reverse, lmax):  # type: ignore
    return _new_gradients(vectors, grad_harmonics.shape[0])


class FusedPairGeometry(nn.Module):
    """The same as a `PairGeometry` with a float32 table, which it is on a CPU."""

    def __init__(self, plain: PairGeometry, lmax: int) -> None:
        super().__init__()
        self.plain = plain
        self.lmax = lmax
        self.num_species = plain.num_species
        self.interpreted: bool = triton.knobs.runtime.interpret

    def forward(
        self, positions: Tensor, neighbors: Neighbors, species: Tensor
    ) -> Tuple[Tensor, Tensor, PairTape]:
        """See `PairGeometry.forward`; of the tape only vectors and slopes hold something."""
        radial = self.plain.radial
        if not (positions.is_cuda or self.interpreted):
            plain: Tuple[Tensor, Tensor, PairTape] = self.plain(positions, neighbors, species)
            return plain
        n, k = neighbors.indices.shape[0], neighbors.indices.shape[1]
        vectors, harmonics, features, slopes = torch.ops.openmm_les.pair_geometry(
            positions,
            neighbors.indices,
            neighbors.shifts,
            species,
            radial.table,
            radial.first_row,
            self.lmax,
            self.num_species if radial.by_pair else 0,
            radial.inverse_spacing,
            radial.last,
        )
        none = vectors[:0]
        tape = PairTape(vectors, none, none, none, slopes)
        return harmonics.view(n, k, -1), features.view(n, k, -1), tape

    @torch.jit.export
    def backward(
        self, grad_harmonics: Tensor, grad_features: Tensor, tape: PairTape, reverse: Tensor
    ) -> Tuple[Tensor, Tensor]:
        """See `PairGeometry.backward`."""
        if not (grad_harmonics.is_cuda or self.interpreted):
            plain: Tuple[Tensor, Tensor] = self.plain.backward(
                grad_harmonics, grad_features, tape, reverse
            )
            return plain
        gradients: Tuple[Tensor, Tensor] = torch.ops.openmm_les.pair_gradients(
            grad_harmonics, grad_features, tape.vectors, tape.slopes, reverse, self.lmax
        )
        return gradients
