"""Padded neighbour matrix with reverse slots: static shapes, no data-dependent control flow.

Row i lists the atoms (and periodic images) within the cutoff of atom i, in K slots. Unused slots
hold atom i itself with a shift longer than the cutoff, where every radial function is zero. For
each slot ``reverse`` names the slot that holds the same pair seen from the other atom, so that sums
over "who has me as neighbour" are gathers.
"""

import math
from typing import List, NamedTuple, Optional, Sequence, Tuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from openmm_les.electrostatics.cell import inverse_and_volume
from openmm_les.neighbors.cells import (
    CellGrid,
    box_heights,
    choose_grid,
    heights_for_grid,
    search_cells,
)
from openmm_les.neighbors.search import cartesian, search_pairs

#: Temporary arrays of the pair search are kept to about this many elements, on a CPU and on a GPU.
BLOCK_ELEMENTS, BLOCK_ELEMENTS_GPU = 2**20, 2**25


class Neighbors(NamedTuple):
    """The matrix and what its construction found out."""

    indices: Tensor  #: neighbour of each slot, shape [N, K].
    shifts: Tensor  #: pair vector is r_i - r_j + shift, shape [N, K, 3] [A], float64.
    reverse: Tensor  #: flat index of the reverse slot, shape [N * K].
    used: Tensor  #: how many slots hold neighbours, those before the others, shape [N].
    #: largest number of neighbours any atom has (may exceed K: overflow), shape [].
    largest: Tensor
    coincident: Tensor  #: whether two atoms are at the same place, shape [].
    #: whether a cell had more atoms than were looked at, so that neighbours may be missing and
    #: `largest` may be too small, shape [].
    crowded: Tensor


def image_range(cell: npt.NDArray[np.float64], cutoff: float, margin: float = 1.0) -> List[int]:
    """How many periodic images around the nearest one can lie within the cutoff, for each axis.

    The box (3, 3) [A] may shrink to the fraction `margin` of its heights before these are too few.
    """
    heights = box_heights(cell) * margin
    return [math.floor(cutoff / float(h) + 0.5) for h in heights]


def largest_number_of_neighbors(
    positions: npt.NDArray[np.float64], cell: Optional[npt.NDArray[np.float64]], cutoff: float
) -> int:
    """The most neighbours that an atom has, at finite positions (n, 3) [A]."""
    grid = choose_grid(len(positions), cutoff, cell, positions, 1)
    box = np.zeros((3, 3)) if cell is None else cell
    ranges = [0, 0, 0] if cell is None else image_range(box, cutoff)
    matrix = neighbor_matrix(
        torch.from_numpy(np.ascontiguousarray(positions)),
        torch.from_numpy(box),
        cell is not None,
        image_offsets(ranges),
        cutoff,
        1,
        grid=grid,
    )
    return int(matrix.largest)


def image_offsets(ranges: Sequence[int]) -> Tensor:
    """Integer lattice offsets -n..n of each axis, shape [S, 3]; offset S-1-s is minus offset s."""
    axes = [torch.arange(-n, n + 1, dtype=torch.int64) for n in ranges]
    return torch.cartesian_prod(*axes)


def least_heights(ranges: Sequence[int], cutoff: float, grid: Optional[CellGrid] = None) -> Tensor:
    """Heights of a box [A] for which these images and cells are enough, shape [3], float64."""
    for_images = torch.tensor([cutoff / (n + 0.5) for n in ranges], dtype=torch.float64)
    if grid is None:
        return for_images
    for_cells = torch.tensor(heights_for_grid(grid, cutoff), dtype=torch.float64)
    return torch.maximum(for_images, for_cells)


def is_high_enough(inverse: Tensor, least: Tensor) -> Tensor:
    """Whether a box, given its inverse [3, 3], has `least_heights` [3]; shape [], bool."""
    return (1.0 / torch.sqrt((inverse * inverse).sum(0)) >= least).all()


def wrapped(positions: Tensor, cell: Tensor, periodic: bool) -> Tuple[Tensor, Tensor]:
    """Wrapped fractional coordinates and what wrapping took away, or positions and zeros."""
    if not periodic:
        return positions, torch.zeros_like(positions)
    inverse, _ = inverse_and_volume(cell)
    fractional = positions @ inverse
    wraps = torch.floor(fractional)
    return fractional - wraps, wraps


def _reverse_slots(
    columns: Tensor, atoms: Tensor, image: Tensor, used: Tensor, images: int
) -> Tensor:
    """Flat slot that holds the same pair seen from the neighbour, [N * K].

    Rows hold ascending columns, so that (row, column) ascends over the flat matrix and a pair is
    found by bisection. Unused slots, and pairs of which rounding at the very cutoff kept one side
    only (they carry no weight there), get their own slot. Columns are image * N + atom of each slot
    [N, K], or images * N in unused ones.
    """
    n, k = columns.shape[0], columns.shape[1]
    row = torch.arange(n, device=columns.device).unsqueeze(1)
    stride = images * n + 1
    keys = (row * stride + columns).view(-1)
    wanted = (atoms * stride + (images - 1 - image) * n + row).view(-1)
    slots = torch.arange(n * k, device=columns.device)
    found = torch.searchsorted(keys, wanted).clamp_(max=n * k - 1)
    paired = (keys.index_select(0, found) == wanted) & used.view(-1)
    return torch.where(paired, found, slots)


def neighbor_matrix(
    positions: Tensor,
    cell: Tensor,
    periodic: bool,
    offsets: Tensor,
    cutoff: float,
    capacity: int,
    trim: bool = False,
    grid: Optional[CellGrid] = None,
) -> Neighbors:
    """All pairs within the cutoff, by comparing every pair (and image) or through cells.

    Both searches give the same matrix. More than ``capacity`` neighbours are cut off, and
    ``largest`` says so.

    Args:
        positions: shape [N, 3] [A], float64; atoms may lie outside the box.
        cell: lattice vectors in rows, shape [3, 3] [A], float64; ignored if not periodic.
        periodic: whether the system is periodic in all three directions.
        offsets: images to search around the nearest one, shape [S, 3], from `image_offsets`.
        cutoff: cutoff radius [A].
        capacity: K, or 0 for as many slots as needed.
        trim: make only as many slots as this structure needs; like a capacity of 0, this reads a
            value back from the device, which on a CPU costs nothing.
        grid: cells to search, from `choose_grid`; None compares every pair. The box must have
            `heights_for_grid`, which also means that no image but the nearest matters.
    """
    points, wraps = wrapped(positions, cell, periodic)
    block = _block_elements(positions)
    if grid is not None:
        offsets = torch.zeros(1, 3, dtype=torch.int64, device=positions.device)
        found = search_cells(points, cell, periodic, grid, cutoff, capacity, trim)
    else:
        found = search_pairs(points, cell, periodic, offsets, cutoff, capacity, trim, block)

    columns, n, images = found.columns, positions.shape[0], offsets.shape[0]
    used = columns < images * n
    image, indices = torch.zeros_like(columns), columns
    if images > 1:
        image = torch.div(columns, n, rounding_mode="floor")
        indices = columns - image * n
    reverse = _reverse_slots(columns, indices, image, used, images)
    indices = torch.where(used, indices, torch.arange(n, device=columns.device).unsqueeze(1))
    shifts = torch.zeros(n, columns.shape[1], 3, dtype=torch.float64, device=columns.device)
    if periodic:
        _fill_shifts(shifts, points, wraps, cell, indices, image, offsets, block)
    shifts = shifts.masked_fill_(~used.unsqueeze(2), 0.0)
    shifts[:, :, 0].masked_fill_(~used, 2.0 * cutoff)
    return Neighbors(
        indices,
        shifts,
        reverse,
        used.sum(1),
        found.largest,
        found.coincident,
        found.crowded,
    )


class NeighborSearch(nn.Module):
    """The neighbour matrix of one system; for the arguments see `neighbor_matrix`."""

    grid: Optional[CellGrid]  # TorchScript would take it for a plain tuple

    def __init__(
        self,
        periodic: bool,
        ranges: Sequence[int],
        cutoff: float,
        capacity: int,
        trim: bool,
        grid: Optional[CellGrid],
    ) -> None:
        super().__init__()
        self.periodic = periodic
        self.cutoff = cutoff
        self.capacity = capacity
        self.trim = trim
        self.grid = grid
        self.offsets = nn.Buffer(image_offsets(ranges))

    def forward(self, positions: Tensor, cell: Tensor) -> Neighbors:
        return self.by_torch(positions, cell)

    def by_torch(self, positions: Tensor, cell: Tensor) -> Neighbors:
        """The same, by torch code in every subclass."""
        return neighbor_matrix(
            positions,
            cell,
            self.periodic,
            self.offsets,
            self.cutoff,
            self.capacity,
            self.trim,
            grid=self.grid,
        )


def _block_elements(
    tensor: Tensor, cpu: int = BLOCK_ELEMENTS, gpu: int = BLOCK_ELEMENTS_GPU
) -> int:
    """Elements of temporary arrays; scripts see constants of the module as defaults alone."""
    return gpu if tensor.is_cuda else cpu


def _fill_shifts(
    shifts: Tensor,
    points: Tensor,
    wraps: Tensor,
    cell: Tensor,
    indices: Tensor,
    image: Tensor,
    offsets: Tensor,
    block: int,
) -> None:
    """Write the shifts of all slots of a periodic system into `shifts`, [N, K, 3].

    Points are wrapped fractional coordinates, `wraps` what wrapping took away, each [N, 3]; `image`
    is that of each neighbour [N, K], and `block` the elements of temporary arrays.
    """
    images = offsets.shape[0]
    step = max(1, block // (4 * indices.shape[1]))
    for start in range(0, indices.shape[0], step):
        end = start + step
        lattice = _lattice_shifts(points, wraps, indices[start:end], start)
        if images > 1:
            beyond = offsets.to(torch.float64)[image[start:end].clamp(max=images - 1)]
            lattice = [lattice[axis] + beyond[:, :, axis] for axis in range(3)]
        lattice = cartesian(lattice, cell)
        for axis in range(3):
            shifts[start:end, :, axis] = lattice[axis]


def _lattice_shifts(points: Tensor, wraps: Tensor, neighbors: Tensor, start: int) -> List[Tensor]:
    """Lattice vectors from neighbours to their nearest images, 3 times [R, K], from row `start`."""
    end, flat = start + neighbors.shape[0], neighbors.reshape(-1)
    shifts: List[Tensor] = []
    for axis in range(3):
        point, wrap = points[:, axis].contiguous(), wraps[:, axis].contiguous()
        nearest = point[start:end].unsqueeze(1) - point.index_select(0, flat).view_as(neighbors)
        shift = wrap.index_select(0, flat).view_as(neighbors) - wrap[start:end].unsqueeze(1)
        shifts.append(shift - torch.round(nearest))
    return shifts
