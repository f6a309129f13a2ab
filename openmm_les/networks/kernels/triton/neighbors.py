"""The neighbour matrix in three kernels: wrapping, search, and shifts with reverse slots.

Whether two atoms are neighbours is decided in float64, as in `openmm_les.neighbors`. In a periodic
box where the nearest image alone matters, float32 decides first, and float64 only about pairs that
rounding could have moved across the cutoff: consumer cards do float64 at 1/64 of the rate.
"""

from typing import Optional, Sequence, Tuple

import torch
import triton
import triton.language as tl
from torch import Tensor, nn

from openmm_les.neighbors.cells import CellGrid, search_cells
from openmm_les.neighbors.matrix import Neighbors, NeighborSearch, wrapped
from openmm_les.neighbors.search import COINCIDENT_DISTANCE

#: Atoms that one program of a kernel looks at together.
_BLOCK = 256
#: Bounds the rounding error of a float32 distance as a fraction of the sum of the cell's entries.
_SCREENING_ERROR = tl.constexpr(2.0**-20)
#: Adding and subtracting it rounds to integers, halves to even as torch does.
_ROUND64, _ROUND32 = tl.constexpr(1.5 * 2**52), tl.constexpr(1.5 * 2**23)


@triton.jit
def _load_vector(pointer, on):  # type: ignore[no-untyped-def]
    return (
        tl.load(pointer, mask=on, other=0.0),
        tl.load(pointer + 1, mask=on, other=0.0),
        tl.load(pointer + 2, mask=on, other=0.0),
    )


@triton.jit
def _load_cell(cell):  # type: ignore[no-untyped-def]
    return (
        (tl.load(cell), tl.load(cell + 1), tl.load(cell + 2)),
        (tl.load(cell + 3), tl.load(cell + 4), tl.load(cell + 5)),
        (tl.load(cell + 6), tl.load(cell + 7), tl.load(cell + 8)),
    )


@triton.jit
def _single(vector):  # type: ignore[no-untyped-def]
    return (vector[0].to(tl.float32), vector[1].to(tl.float32), vector[2].to(tl.float32))


@triton.jit
def _double(vector):  # type: ignore[no-untyped-def]
    return (vector[0].to(tl.float64), vector[1].to(tl.float64), vector[2].to(tl.float64))


@triton.jit
def _extent(vector):  # type: ignore[no-untyped-def]
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
def _wrap_kernel(  # type: ignore[no-untyped-def]
    positions, cell, points, wraps, single, n, block: tl.constexpr
):
    """Wrapped fractional coordinates, also in float32, and what wrapping took away."""
    atom = tl.program_id(0) * block + tl.arange(0, block)
    on = atom < n
    x, y, z = _load_vector(positions + 3 * atom, on)
    a, b, c = _load_cell(cell)
    reciprocal = (_cross(b, c), _cross(c, a), _cross(a, b))
    u = reciprocal[0]
    volume = a[0] * u[0] + a[1] * u[1] + a[2] * u[2]
    for axis in tl.static_range(3):
        u = reciprocal[axis]
        fraction = x * (u[0] / volume) + y * (u[1] / volume) + z * (u[2] / volume)
        wrap = tl.floor(fraction)
        tl.store(points + 3 * atom + axis, fraction - wrap, mask=on)
        tl.store(wraps + 3 * atom + axis, wrap, mask=on)
        tl.store(single + 3 * atom + axis, (fraction - wrap).to(tl.float32), mask=on)


@triton.jit
def _squared_distance(own, other, cell, offset, magic, periodic, beyond):  # type: ignore[no-untyped-def]
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
def _search_kernel(  # type: ignore[no-untyped-def]
    points,
    single,
    cell,
    offsets,
    columns,
    counts,
    close,
    n,
    capacity,
    images: tl.constexpr,
    periodic: tl.constexpr,
    cutoff: tl.constexpr,
    coincident: tl.constexpr,
    block: tl.constexpr,
):
    """Columns of one row of the matrix; how many there are; whether one is at the same place."""
    row = tl.program_id(0)
    beyond: tl.constexpr = images > 1
    screened: tl.constexpr = periodic and images == 1
    lane = tl.arange(0, block)
    own = _load_vector(points + 3 * row, True)
    box = _load_cell(cell)
    if screened:
        rough_own = _load_vector(single + 3 * row, True)
        rough_box = (_single(box[0]), _single(box[1]), _single(box[2]))
        error = _SCREENING_ERROR * (
            _extent(rough_box[0]) + _extent(rough_box[1]) + _extent(rough_box[2])
        )
        outer = (cutoff + error) * (cutoff + error)
        inner = tl.maximum(cutoff - error, 0.0) * tl.maximum(cutoff - error, 0.0)
        core = (coincident + error) * (coincident + error)
    # Bare numbers in comparisons are rounded to float32.
    limit = tl.full([block], cutoff * cutoff, tl.float64)
    same = tl.full([block], coincident * coincident, tl.float64)
    number = 0
    same_place = 0
    for start in range(0, images * n, block):
        column = start + lane
        image = column // n
        atom = column - image * n
        on = (column < images * n) & ((atom != row) | (image != images // 2))
        offset = own
        if beyond:
            offset = _double(_load_vector(offsets + 3 * image, on))
        near, unsure = on, on
        if screened:
            other = _load_vector(single + 3 * atom, on)
            rough = _squared_distance(
                rough_own, other, rough_box, offset, _ROUND32, periodic, beyond
            )
            near = on & (rough < outer)
            unsure = near & ((rough >= inner) | (rough < core))
        if tl.sum(unsure.to(tl.int32), 0) > 0:
            place = _load_vector(points + 3 * atom, on)
            squared = _squared_distance(own, place, box, offset, _ROUND64, periodic, beyond)
            near = on & (squared < limit)
            close_by = near & (squared < same)
            same_place = tl.maximum(same_place, tl.max(close_by.to(tl.int32), 0))
        found = near.to(tl.int32)
        slot = number + tl.cumsum(found, 0) - 1
        target = columns + row.to(tl.int64) * capacity + slot
        tl.store(target, column, mask=near & (slot < capacity))
        number += tl.sum(found, 0)
    for start in range(0, capacity, block):
        slot = start + lane
        empty = (slot >= number) & (slot < capacity)
        tl.store(columns + row.to(tl.int64) * capacity + slot, images * n + slot * 0, mask=empty)
    tl.store(counts + row, number)
    tl.store(close + row, same_place)


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
            own, other = _load_vector(points + 3 * row, True), _load_vector(points + 3 * atom, held)
            wrap, wrapped = (
                _load_vector(wraps + 3 * row, True),
                _load_vector(wraps + 3 * atom, held),
            )
            lattice = (
                wrapped[0] - wrap[0] - ((own[0] - other[0] + _ROUND64) - _ROUND64),
                wrapped[1] - wrap[1] - ((own[1] - other[1] + _ROUND64) - _ROUND64),
                wrapped[2] - wrap[2] - ((own[2] - other[2] + _ROUND64) - _ROUND64),
            )
            if images > 1:
                beyond = _double(_load_vector(offsets + 3 * image, held))
                lattice = (lattice[0] + beyond[0], lattice[1] + beyond[1], lattice[2] + beyond[2])
            shift = _cartesian(lattice[0], lattice[1], lattice[2], _load_cell(cell))
            x = tl.where(held, shift[0], x)
            y = tl.where(held, shift[1], y)
            z = tl.where(held, shift[2], z)
        tl.store(shifts + 3 * slot, x, mask=on)
        tl.store(shifts + 3 * slot + 1, y, mask=on)
        tl.store(shifts + 3 * slot + 2, z, mask=on)


def _wrapped(positions: Tensor, cell: Tensor, periodic: bool) -> Tuple[Tensor, Tensor, Tensor]:
    """Points and wraps as in `neighbor_matrix`, and points in float32; positions if open."""
    if not periodic:
        return positions, positions, positions
    n = positions.shape[0]
    points, wraps = torch.empty_like(positions), torch.empty_like(positions)
    single = torch.empty_like(positions, dtype=torch.float32)
    _wrap_kernel[(triton.cdiv(n, _BLOCK),)](
        positions, cell, points, wraps, single, n, _BLOCK, enable_fp_fusion=False
    )
    return points, wraps, single


def _empty_rows(positions: Tensor, capacity: int) -> Tuple[Tensor, Tensor, Tensor, Tensor]:
    """Room for indices, shifts, reverse and used of `Neighbors`."""
    n = positions.shape[0]
    return (
        positions.new_empty([n, capacity], dtype=torch.int64),
        positions.new_empty([n, capacity, 3]),
        positions.new_empty([n * capacity], dtype=torch.int64),
        positions.new_empty([n], dtype=torch.int64),
    )


def _finish(
    points: Tensor,
    wraps: Tensor,
    cell: Tensor,
    periodic: bool,
    offsets: Tensor,
    columns: Tensor,
    cutoff: float,
    summary: Optional[Tuple[Tensor, Tensor, Tensor, Tensor]] = None,
) -> Tuple[Tensor, Tensor, Tensor, Tensor]:
    """Rows of the matrix from columns [N, K]; a summary is counts, close, largest, coincident."""
    n, capacity = columns.shape
    rows = _empty_rows(points, capacity)
    padded = triton.next_power_of_2(capacity)
    _finish_kernel[(n if summary is None else n + 1,)](
        points,
        wraps,
        cell,
        offsets,
        columns,
        *(summary[:2] if summary is not None else (columns, columns)),
        *rows,
        *(summary[2:] if summary is not None else (columns, columns)),
        n,
        capacity,
        offsets.shape[0],
        periodic,
        cutoff,
        padded,
        padded.bit_length(),
        _BLOCK,
        num_warps=1 if padded <= 64 else 4,
        enable_fp_fusion=False,
    )
    return rows


@torch.library.custom_op("openmm_les::search_neighbors", mutates_args=())
def search_neighbors(
    positions: Tensor, cell: Tensor, periodic: bool, offsets: Tensor, cutoff: float, capacity: int
) -> Tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Indices, shifts, reverse, used, largest and coincident of `Neighbors`.

    The arguments are those of `neighbor_matrix`, with a capacity of at least 1.
    """
    positions, cell = positions.contiguous(), cell.contiguous()
    n, images = positions.shape[0], offsets.shape[0]
    columns = positions.new_empty([n, capacity], dtype=torch.int32)
    counts, close = columns.new_empty([n]), columns.new_empty([n])
    largest = positions.new_empty([], dtype=torch.int64)
    coincident = positions.new_empty([], dtype=torch.bool)
    summary = (counts, close, largest, coincident)
    with torch.cuda.device_of(positions):
        points, wraps, single = _wrapped(positions, cell, periodic)
        _search_kernel[(n,)](
            points,
            single,
            cell,
            offsets,
            columns,
            counts,
            close,
            n,
            capacity,
            images,
            periodic,
            cutoff,
            COINCIDENT_DISTANCE,
            _BLOCK,
            enable_fp_fusion=False,
        )
        rows = _finish(points, wraps, cell, periodic, offsets, columns, cutoff, summary)
    return *rows, largest, coincident


@search_neighbors.register_fake
def _(
    positions: Tensor, cell: Tensor, periodic: bool, offsets: Tensor, cutoff: float, capacity: int
) -> Tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    rows = _empty_rows(positions, capacity)
    largest = positions.new_empty([], dtype=torch.int64)
    return *rows, largest, positions.new_empty([], dtype=torch.bool)


@torch.library.custom_op("openmm_les::complete_neighbors", mutates_args=())
def complete_neighbors(
    points: Tensor,
    wraps: Tensor,
    cell: Tensor,
    periodic: bool,
    offsets: Tensor,
    columns: Tensor,
    cutoff: float,
) -> Tuple[Tensor, Tensor, Tensor, Tensor]:
    """Indices, shifts, reverse and used of `Neighbors` from the columns [N, K] of a search.

    Points are wrapped fractional coordinates, and `wraps` what wrapping took away, each [N, 3].
    """
    with torch.cuda.device_of(points):
        return _finish(points, wraps, cell, periodic, offsets, columns, cutoff)


@complete_neighbors.register_fake
def _(
    points: Tensor,
    wraps: Tensor,
    cell: Tensor,
    periodic: bool,
    offsets: Tensor,
    columns: Tensor,
    cutoff: float,
) -> Tuple[Tensor, Tensor, Tensor, Tensor]:
    return _empty_rows(points, columns.shape[1])


class FusedNeighborSearch(NeighborSearch):
    """A `NeighborSearch` in kernels, but for what cells find; on a CPU it is all torch code."""

    def __init__(
        self,
        periodic: bool,
        ranges: Sequence[int],
        cutoff: float,
        capacity: int,
        trim: bool,
        grid: Optional[CellGrid],
    ) -> None:
        super().__init__(periodic, ranges, cutoff, capacity, trim, grid)
        self.interpreted: bool = triton.knobs.runtime.interpret
        self.never = nn.Buffer(torch.tensor(False))

    def forward(self, positions: Tensor, cell: Tensor) -> Neighbors:
        grid, periodic = self.grid, self.periodic
        if not (positions.is_cuda or self.interpreted):
            return self.by_torch(positions, cell)
        if grid is not None:
            points, wraps = wrapped(positions, cell, periodic)
            found = search_cells(
                points, cell, periodic, grid, self.cutoff, self.capacity, self.trim
            )
            nearest = torch.zeros_like(self.offsets[:1])
            indices, shifts, reverse, used = torch.ops.openmm_les.complete_neighbors(
                points, wraps, cell, periodic, nearest, found.columns, self.cutoff
            )
            return Neighbors(
                indices, shifts, reverse, used, found.largest, found.coincident, found.crowded
            )
        indices, shifts, reverse, used, largest, coincident = torch.ops.openmm_les.search_neighbors(
            positions, cell, periodic, self.offsets, self.cutoff, self.capacity
        )
        return Neighbors(indices, shifts, reverse, used, largest, coincident, self.never)
