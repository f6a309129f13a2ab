"""What kernels of every search share: wrapping, distances, and rows of the matrix from columns."""

from typing import NamedTuple, Tuple, TypeAlias

import torch
import triton
import triton.language as tl
from torch import Tensor

#: The first six tensors of `openmm_les.neighbors.matrix.Neighbors`.
Matrix: TypeAlias = Tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]

#: Atoms that one program of a kernel looks at together.
BLOCK = 256
#: Bounds the rounding error of a float32 distance as a fraction of the sum of the cell's entries.
SCREENING_ERROR = tl.constexpr(2.0**-20)
#: Adding and subtracting it rounds to integers, halves to even as torch does.
ROUND64, ROUND32 = tl.constexpr(1.5 * 2**52), tl.constexpr(1.5 * 2**23)


@triton.jit
def load_vector(pointer, on):  # type: ignore[no-untyped-def]
    return (
        tl.load(pointer, mask=on, other=0.0),
        tl.load(pointer + 1, mask=on, other=0.0),
        tl.load(pointer + 2, mask=on, other=0.0),
    )


@triton.jit
def load_cell(cell):  # type: ignore[no-untyped-def]
    return (
        (tl.load(cell), tl.load(cell + 1), tl.load(cell + 2)),
        (tl.load(cell + 3), tl.load(cell + 4), tl.load(cell + 5)),
        (tl.load(cell + 6), tl.load(cell + 7), tl.load(cell + 8)),
    )


@triton.jit
def to_single(vector):  # type: ignore[no-untyped-def]
    return (vector[0].to(tl.float32), vector[1].to(tl.float32), vector[2].to(tl.float32))


@triton.jit
def to_double(vector):  # type: ignore[no-untyped-def]
    return (vector[0].to(tl.float64), vector[1].to(tl.float64), vector[2].to(tl.float64))


@triton.jit
def extent(vector):  # type: ignore[no-untyped-def]
    return tl.abs(vector[0]) + tl.abs(vector[1]) + tl.abs(vector[2])


@triton.jit
def _cartesian(x, y, z, cell):  # type: ignore[no-untyped-def]
    a, b, c = cell
    return (
        x * a[0] + y * b[0] + z * c[0],
        x * a[1] + y * b[1] + z * c[1],
        x * a[2] + y * b[2] + z * c[2],
    )


@triton.jit
def _cross(a, b):  # type: ignore[no-untyped-def]
    return (a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0])


@triton.jit
def reciprocal(cell):  # type: ignore[no-untyped-def]
    """Columns of a cell's inverse times its volume, and this volume."""
    a, b, c = cell
    u = _cross(b, c)
    return (u, _cross(c, a), _cross(a, b)), a[0] * u[0] + a[1] * u[1] + a[2] * u[2]


@triton.jit
def _wrap_kernel(  # type: ignore[no-untyped-def]
    positions, cell, points, wraps, single, n, block: tl.constexpr
):
    """Wrapped fractional coordinates, also in float32, and what wrapping took away."""
    atom = tl.program_id(0) * block + tl.arange(0, block)
    on = atom < n
    x, y, z = load_vector(positions + 3 * atom, on)
    columns, volume = reciprocal(load_cell(cell))
    for axis in tl.static_range(3):
        u = columns[axis]
        fraction = x * (u[0] / volume) + y * (u[1] / volume) + z * (u[2] / volume)
        wrap = tl.floor(fraction)
        tl.store(points + 3 * atom + axis, fraction - wrap, mask=on)
        tl.store(wraps + 3 * atom + axis, wrap, mask=on)
        tl.store(single + 3 * atom + axis, (fraction - wrap).to(tl.float32), mask=on)


@triton.jit
def squared_distance(own, other, cell, offset, magic, periodic, beyond):  # type: ignore[no-untyped-def]
    """Of a point from the nearest image of another, or from the one an offset `beyond` that."""
    x, y, z = own[0] - other[0], own[1] - other[1], own[2] - other[2]
    if periodic:
        x -= (x + magic) - magic
        y -= (y + magic) - magic
        z -= (z + magic) - magic
        if beyond:
            x, y, z = x + offset[0], y + offset[1], z + offset[2]
        x, y, z = _cartesian(x, y, z, cell)
    return x * x + y * y + z * z


@triton.jit
def within_cutoff(  # type: ignore[no-untyped-def]
    points,
    single,
    cell,
    row,
    atom,
    offset,
    on,
    beyond: tl.constexpr,
    periodic: tl.constexpr,
    cutoff: tl.constexpr,
    coincident: tl.constexpr,
    block: tl.constexpr,
):
    """Which atoms are neighbours of one, and whether (1 or 0) any is at the same place."""
    # Bare numbers in comparisons are rounded to float32.
    limit = tl.full([block], cutoff * cutoff, tl.float64)
    same = tl.full([block], coincident * coincident, tl.float64)
    box = load_cell(cell)
    near, unsure = on, on
    if periodic and not beyond:
        rough_box = (to_single(box[0]), to_single(box[1]), to_single(box[2]))
        error = SCREENING_ERROR * (
            extent(rough_box[0]) + extent(rough_box[1]) + extent(rough_box[2])
        )
        outer = (cutoff + error) * (cutoff + error)
        inner = tl.maximum(cutoff - error, 0.0) * tl.maximum(cutoff - error, 0.0)
        core = (coincident + error) * (coincident + error)
        own = load_vector(single + 3 * row, True)
        other = load_vector(single + 3 * atom, on)
        rough = squared_distance(own, other, rough_box, offset, ROUND32, periodic, beyond)
        near = on & (rough < outer)
        unsure = near & ((rough >= inner) | (rough < core))
    same_place = 0
    if tl.sum(unsure.to(tl.int32), 0) > 0:
        place, other_place = load_vector(points + 3 * row, True), load_vector(points + 3 * atom, on)
        squared = squared_distance(place, other_place, box, offset, ROUND64, periodic, beyond)
        near = on & (squared < limit)
        same_place = tl.max((near & (squared < same)).to(tl.int32), 0)
    return near, same_place


@triton.jit
def _finish_kernel(  # type: ignore[no-untyped-def]
    points,
    wraps,
    cell,
    offsets,
    columns,
    counts,
    close,
    indices,
    shifts,
    reverse,
    used,
    largest,
    coincident,
    n,
    capacity,
    images: tl.constexpr,
    periodic: tl.constexpr,
    cutoff: tl.constexpr,
    padded: tl.constexpr,
    halvings: tl.constexpr,
    block: tl.constexpr,
):
    """One row: its neighbours, shifts and reverse slots. The program behind the last sums up."""
    row = tl.program_id(0)
    if row == n:
        one = tl.arange(0, block)
        most = tl.zeros([block], tl.int32)
        any_close = tl.zeros([block], tl.int32)
        for start in range(0, n, block):
            each = start + one
            number = tl.load(counts + each, mask=each < n, other=0).to(tl.int32)
            is_close = tl.load(close + each, mask=each < n, other=0).to(tl.int32)
            most = tl.maximum(most, number)
            any_close = tl.maximum(any_close, is_close)
        tl.store(largest, tl.max(most, 0).to(tl.int64))
        tl.store(coincident, tl.max(any_close, 0) > 0)
    else:
        lane = tl.arange(0, padded)
        on = lane < capacity
        slot = row.to(tl.int64) * capacity + lane
        column = tl.load(columns + slot, mask=on, other=images * n).to(tl.int32)
        held = column < images * n
        image = column // n
        atom = tl.where(held, column - image * n, row)
        tl.store(indices + slot, atom.to(tl.int64), mask=on)
        tl.store(used + row, tl.sum(held.to(tl.int64), 0))

        # The slot of the same pair in the neighbour's row: how many columns there are smaller.
        wanted = (images - 1 - image) * n + row
        first = columns + atom.to(tl.int64) * capacity
        smaller = tl.zeros([padded], tl.int32)
        for halving in tl.static_range(halvings):
            candidate = smaller + (padded >> halving)
            inside = held & (candidate <= capacity)
            last = tl.load(first + candidate - 1, mask=inside, other=0).to(tl.int32)
            smaller = tl.where(inside & (last < wanted), candidate, smaller)
        inside = held & (smaller < capacity)
        found = tl.load(first + smaller, mask=inside, other=-1).to(tl.int32)
        other_slot = atom.to(tl.int64) * capacity + smaller
        paired = inside & (found == wanted)
        tl.store(reverse + slot, tl.where(paired, other_slot, slot), mask=on)

        y = tl.zeros([padded], tl.float64)
        z = tl.zeros([padded], tl.float64)
        x = tl.where(held, y, y + 2.0 * cutoff)
        if periodic:
            own, other = load_vector(points + 3 * row, True), load_vector(points + 3 * atom, held)
            wrap, wrapped = (
                load_vector(wraps + 3 * row, True),
                load_vector(wraps + 3 * atom, held),
            )
            lattice = (
                wrapped[0] - wrap[0] - ((own[0] - other[0] + ROUND64) - ROUND64),
                wrapped[1] - wrap[1] - ((own[1] - other[1] + ROUND64) - ROUND64),
                wrapped[2] - wrap[2] - ((own[2] - other[2] + ROUND64) - ROUND64),
            )
            if images > 1:
                beyond = to_double(load_vector(offsets + 3 * image, held))
                lattice = (lattice[0] + beyond[0], lattice[1] + beyond[1], lattice[2] + beyond[2])
            shift = _cartesian(lattice[0], lattice[1], lattice[2], load_cell(cell))
            x = tl.where(held, shift[0], x)
            y = tl.where(held, shift[1], y)
            z = tl.where(held, shift[2], z)
        tl.store(shifts + 3 * slot, x, mask=on)
        tl.store(shifts + 3 * slot + 1, y, mask=on)
        tl.store(shifts + 3 * slot + 2, z, mask=on)


def wrapped_points(
    positions: Tensor, cell: Tensor, periodic: bool
) -> Tuple[Tensor, Tensor, Tensor]:
    """Points and wraps as in `neighbor_matrix`, and points in float32; positions if open."""
    if not periodic:
        return positions, positions, positions
    n = positions.shape[0]
    points, wraps = torch.empty_like(positions), torch.empty_like(positions)
    single = torch.empty_like(positions, dtype=torch.float32)
    _wrap_kernel[(triton.cdiv(n, BLOCK),)](
        positions, cell, points, wraps, single, n, BLOCK, enable_fp_fusion=False
    )
    return points, wraps, single


def empty_matrix(positions: Tensor, capacity: int) -> Matrix:
    """Room for one."""
    n = positions.shape[0]
    return (
        positions.new_empty([n, capacity], dtype=torch.int64),
        positions.new_empty([n, capacity, 3]),
        positions.new_empty([n * capacity], dtype=torch.int64),
        positions.new_empty([n], dtype=torch.int64),
        positions.new_empty([], dtype=torch.int64),
        positions.new_empty([], dtype=torch.bool),
    )


class Columns(NamedTuple):
    """What a search writes."""

    columns: Tensor  #: as in `openmm_les.neighbors.search.Found`, int32, shape [N, K].
    counts: Tensor  #: neighbours of each atom, also beyond K, int32, shape [N].
    close: Tensor  #: whether one of them is at the same place, int32, shape [N].


def empty_columns(positions: Tensor, capacity: int) -> Columns:
    """Room for them."""
    columns = positions.new_empty([positions.shape[0], capacity], dtype=torch.int32)
    counts = columns.new_empty([positions.shape[0]])
    return Columns(columns, counts, torch.empty_like(counts))


def finish(
    points: Tensor,
    wraps: Tensor,
    cell: Tensor,
    periodic: bool,
    offsets: Tensor,
    found: Columns,
    cutoff: float,
) -> Matrix:
    """The matrix from ascending columns, of points and wraps as in `wrapped_points`."""
    n, capacity = found.columns.shape
    matrix = empty_matrix(points, capacity)
    padded = triton.next_power_of_2(capacity)
    _finish_kernel[(n + 1,)](
        points,
        wraps,
        cell,
        offsets,
        *found,
        *matrix,
        n,
        capacity,
        offsets.shape[0],
        periodic,
        cutoff,
        padded,
        padded.bit_length(),
        BLOCK,
        num_warps=1 if padded <= 64 else 4,
        enable_fp_fusion=False,
    )
    return matrix
