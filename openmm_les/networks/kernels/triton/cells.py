"""Neighbours through cells, as in `openmm_les.neighbors.cells`, in kernels and one sort.

Atoms are sorted by cell. One program compares an atom with the windows of 9 columns; each may be as
long as it needs to be, since nothing has room for a fixed number of atoms.
"""

import math
from typing import Sequence, Tuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from openmm_les.neighbors.search import COINCIDENT_DISTANCE
from openmm_les.networks.kernels.triton.matrix import (
    BLOCK,
    empty_columns,
    empty_matrix,
    finish,
    load_vector,
    within_cutoff,
    wrapped_points,
)

#: Atoms of a window that are compared at once: those of most windows of water, and a warp's work.
_WINDOW = 64


@triton.jit
def _along(x, number: tl.constexpr, width: tl.constexpr, periodic: tl.constexpr):  # type: ignore[no-untyped-def]
    """Which cell along an axis holds a coordinate; the first one if that is not finite.

    An open system is folded into the grid, which is exact up to some 1e9 widths.
    """
    if periodic:
        place = (x - tl.floor(x)) * number
    else:
        place = tl.floor(x / width)
        place -= tl.floor(place / number) * number
    place = tl.where(place == place, place, 0.0)
    return tl.minimum(tl.maximum(place, 0.0), number - 1.0).to(tl.int32)


@triton.jit
def _cells_kernel(  # type: ignore[no-untyped-def]
    points,
    cells,
    n,
    columns_x: tl.constexpr,
    columns_y: tl.constexpr,
    layers: tl.constexpr,
    reach: tl.constexpr,
    width: tl.constexpr,
    periodic: tl.constexpr,
    block: tl.constexpr,
):
    """The cell of each atom."""
    atom = tl.program_id(0) * block + tl.arange(0, block)
    x, y, z = load_vector(points + 3 * atom, atom < n)
    column = _along(x, columns_x, width, periodic) * columns_y
    column += _along(y, columns_y, width, periodic)
    layer = _along(z, layers, width / reach, periodic)
    tl.store(cells + atom, column * layers + layer, mask=atom < n)


@triton.jit
def _windows_kernel(  # type: ignore[no-untyped-def]
    points,
    single,
    cell,
    cells,
    order,
    begins,
    columns,
    counts,
    close,
    n,
    capacity,
    columns_x: tl.constexpr,
    columns_y: tl.constexpr,
    layers: tl.constexpr,
    reach: tl.constexpr,
    periodic: tl.constexpr,
    cutoff: tl.constexpr,
    coincident: tl.constexpr,
    block: tl.constexpr,
):
    """One row of columns, in the order of the cells; `begins` says where the atoms of each are."""
    row = tl.load(order + tl.program_id(0)).to(tl.int32)
    home = tl.load(cells + tl.program_id(0))
    x = home // (columns_y * layers)
    y = home // layers % columns_y
    bottom = (home % layers + layers - reach) % layers
    top = (home % layers + reach) % layers
    lane = tl.arange(0, block)
    target = columns + row.to(tl.int64) * capacity
    number = 0
    same_place = 0
    for side in range(9):
        other_x = (x + side // 3 + columns_x - 1) % columns_x
        other_y = (y + side % 3 + columns_y - 1) % columns_y
        column = begins + (other_x * columns_y + other_y) * layers
        start, end = tl.load(column + bottom), tl.load(column + top + 1)
        lowest, highest = tl.load(column), tl.load(column + layers)
        # A window that ends below its begin goes on at the other end of the column.
        size = end - start + tl.where(bottom > top, highest - lowest, 0)
        for skipped in range(0, size, block):
            place = start + skipped + lane
            place -= tl.where(place >= highest, highest - lowest, 0)
            inside = skipped + lane < size
            atom = tl.load(order + place, mask=inside, other=0).to(tl.int32)
            near, close_by = within_cutoff(
                points,
                single,
                cell,
                row,
                atom,
                (0.0, 0.0, 0.0),
                inside & (atom != row),
                False,
                periodic,
                cutoff,
                coincident,
                block,
            )
            same_place = tl.maximum(same_place, close_by)
            found = near.to(tl.int32)
            slot = number + tl.cumsum(found, 0) - 1
            tl.store(target + slot, atom, mask=near & (slot < capacity))
            number += tl.sum(found, 0)
    for start in range(0, capacity, block):
        slot = start + lane
        tl.store(target + slot, n + slot * 0, mask=(slot >= number) & (slot < capacity))
    tl.store(counts + row, number)
    tl.store(close + row, same_place)


@triton.jit
def _sort_kernel(columns, n, capacity, padded: tl.constexpr):  # type: ignore[no-untyped-def]
    slot = tl.arange(0, padded)
    target = columns + tl.program_id(0).to(tl.int64) * capacity + slot
    column = tl.load(target, mask=slot < capacity, other=n)
    tl.store(target, tl.sort(column), mask=slot < capacity)


@torch.library.custom_op("openmm_les::search_cells", mutates_args=())
def search_cells(
    positions: Tensor,
    cell: Tensor,
    periodic: bool,
    grid: Sequence[int],
    width: float,
    cutoff: float,
    capacity: int,
) -> Tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The `Matrix` of what `neighbor_matrix` takes, with a capacity of at least 1.

    The grid is columns_x, columns_y, layers and reach of a `CellGrid`, and `width` its width.
    """
    positions, cell = positions.contiguous(), cell.contiguous()
    n, number = positions.shape[0], math.prod(grid[:3])
    found = empty_columns(positions, capacity)
    nearest = torch.empty(1, 3, device=positions.device)  # the only image, which nobody reads
    with torch.cuda.device_of(positions):
        points, wraps, single = wrapped_points(positions, cell, periodic)
        cells = torch.empty_like(found.counts)
        _cells_kernel[(triton.cdiv(n, BLOCK),)](
            points, cells, n, *grid, width, periodic, BLOCK, enable_fp_fusion=False
        )
        cells, order = torch.sort(cells, stable=True)
        each = torch.arange(number + 1, dtype=cells.dtype, device=cells.device)
        begins = torch.searchsorted(cells, each, out_int32=True)
        _windows_kernel[(n,)](
            points,
            single,
            cell,
            cells,
            order,
            begins,
            *found,
            n,
            capacity,
            *grid,
            periodic,
            cutoff,
            COINCIDENT_DISTANCE,
            _WINDOW,
            num_warps=1,
            enable_fp_fusion=False,
        )
        padded = max(2, triton.next_power_of_2(capacity))
        _sort_kernel[(n,)](found.columns, n, capacity, padded, num_warps=1 if padded <= 64 else 4)
        return finish(points, wraps, cell, periodic, nearest, found, cutoff)


@search_cells.register_fake
def _(
    positions: Tensor,
    cell: Tensor,
    periodic: bool,
    grid: Sequence[int],
    width: float,
    cutoff: float,
    capacity: int,
) -> Tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    return empty_matrix(positions, capacity)
