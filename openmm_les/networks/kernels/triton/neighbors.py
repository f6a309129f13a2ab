"""The neighbour matrix in kernels: wrapping, search, and shifts with reverse slots.

Whether two atoms are neighbours is decided in float64, as in `openmm_les.neighbors`. In a periodic
box where the nearest image alone matters, float32 decides first, and float64 only about pairs that
rounding could have moved across the cutoff: consumer cards do float64 at 1/64 of the rate.
"""

from typing import Optional, Sequence, Tuple

import torch
import triton
import triton.language as tl
from torch import Tensor, nn

from openmm_les.neighbors.cells import CellGrid
from openmm_les.neighbors.matrix import Neighbors, NeighborSearch
from openmm_les.neighbors.search import COINCIDENT_DISTANCE
from openmm_les.networks.kernels.triton import cells  # noqa: F401  an operator of the script
from openmm_les.networks.kernels.triton.matrix import (
    BLOCK,
    empty_columns,
    empty_matrix,
    finish,
    load_vector,
    to_double,
    within_cutoff,
    wrapped_points,
)


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
    lane = tl.arange(0, block)
    number = 0
    same_place = 0
    for start in range(0, images * n, block):
        column = start + lane
        image = column // n
        atom = column - image * n
        on = (column < images * n) & ((atom != row) | (image != images // 2))
        offset = (0.0, 0.0, 0.0)
        if beyond:
            offset = to_double(load_vector(offsets + 3 * image, on))
        near, close_by = within_cutoff(
            points,
            single,
            cell,
            row,
            atom,
            offset,
            on,
            beyond,
            periodic,
            cutoff,
            coincident,
            block,
        )
        same_place = tl.maximum(same_place, close_by)
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


@torch.library.custom_op("openmm_les::search_neighbors", mutates_args=())
def search_neighbors(
    positions: Tensor, cell: Tensor, periodic: bool, offsets: Tensor, cutoff: float, capacity: int
) -> Tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The `Matrix` of what `neighbor_matrix` takes, with a capacity of at least 1."""
    positions, cell = positions.contiguous(), cell.contiguous()
    n = positions.shape[0]
    found = empty_columns(positions, capacity)
    with torch.cuda.device_of(positions):
        points, wraps, single = wrapped_points(positions, cell, periodic)
        _search_kernel[(n,)](
            points,
            single,
            cell,
            offsets,
            *found,
            n,
            capacity,
            offsets.shape[0],
            periodic,
            cutoff,
            COINCIDENT_DISTANCE,
            BLOCK,
            enable_fp_fusion=False,
        )
        return finish(points, wraps, cell, periodic, offsets, found, cutoff)


@search_neighbors.register_fake
def _(
    positions: Tensor, cell: Tensor, periodic: bool, offsets: Tensor, cutoff: float, capacity: int
) -> Tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    return empty_matrix(positions, capacity)


class FusedNeighborSearch(NeighborSearch):
    """A `NeighborSearch` in kernels, never `crowded`; on a CPU it is torch code."""

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
            sizes = [grid.columns_x, grid.columns_y, grid.layers, grid.reach]
            matrix = torch.ops.openmm_les.search_cells(
                positions, cell, periodic, sizes, grid.width, self.cutoff, self.capacity
            )
        else:
            matrix = torch.ops.openmm_les.search_neighbors(
                positions, cell, periodic, self.offsets, self.cutoff, self.capacity
            )
        indices, shifts, reverse, used, largest, coincident = matrix
        return Neighbors(indices, shifts, reverse, used, largest, coincident, self.never)
