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

from openmm_les.electrostatics.cell import inverse_and_volume
from openmm_les.neighbors.cells import CellGrid, box_heights, choose_grid, search_cells

#: Atoms closer than this [A] are taken to be at the same place.
COINCIDENT_DISTANCE = 1e-3
#: Temporary arrays of the pair search are kept to about this many elements, on a CPU and on a GPU.
BLOCK_ELEMENTS, BLOCK_ELEMENTS_GPU = 2**20, 2**25


class Neighbors(NamedTuple):
    """The matrix and what its construction found out.

    Attributes:
        indices: neighbour of each slot, shape [N, K].
        shifts: pair vector is r_i - r_j + shift, shape [N, K, 3] [A], float64.
        reverse: flat index of the reverse slot, shape [N * K].
        largest: largest number of neighbours any atom has (may exceed K: overflow), shape [].
        coincident: whether two atoms are at the same place, shape [].
        crowded: whether a cell had more atoms than were looked at, so that neighbours may be
            missing and `largest` may be too small, shape [].
    """

    indices: torch.Tensor
    shifts: torch.Tensor
    reverse: torch.Tensor
    largest: torch.Tensor
    coincident: torch.Tensor
    crowded: torch.Tensor


def image_range(cell: npt.NDArray[np.float64], cutoff: float, margin: float = 1.0) -> List[int]:
    """How many periodic images around the nearest one can lie within the cutoff, for each axis.

    Args:
        cell: lattice vectors in rows, shape (3, 3) [A].
        cutoff: cutoff radius [A].
        margin: the box may shrink to this fraction of its heights before the range is too short.
    """
    heights = box_heights(cell) * margin
    return [math.floor(cutoff / float(h) + 0.5) for h in heights]


def largest_number_of_neighbors(
    positions: npt.NDArray[np.float64], cell: Optional[npt.NDArray[np.float64]], cutoff: float
) -> int:
    """The most neighbours that an atom has.

    Args:
        positions: finite, shape (n, 3) [A].
        cell: lattice vectors in rows, shape (3, 3) [A]; None for an open system.
        cutoff: cutoff radius [A].
    """
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


def image_offsets(ranges: Sequence[int]) -> torch.Tensor:
    """Integer lattice offsets -n..n of each axis, shape [S, 3]; offset S-1-s is minus offset s."""
    axes = [torch.arange(-n, n + 1, dtype=torch.int64) for n in ranges]
    return torch.cartesian_prod(*axes)


def images_suffice(inverse: torch.Tensor, offsets: torch.Tensor, cutoff: float) -> torch.Tensor:
    """Whether `offsets` cover the cutoff in a box, given its inverse [3, 3]; shape [], bool."""
    heights = 1.0 / torch.sqrt((inverse * inverse).sum(0))
    ranges = offsets.amax(0).to(torch.float64)
    return ((ranges + 0.5) * heights >= cutoff).all()


def _squared_distances(
    rows: torch.Tensor,
    points: torch.Tensor,
    cell: torch.Tensor,
    periodic: bool,
    offsets: torch.Tensor,
) -> torch.Tensor:
    """Squared distances of R rows from all points in the images around the nearest, [R, S, N].

    Rows and points are wrapped fractional coordinates, or positions if not periodic.
    """
    deltas: List[torch.Tensor] = []
    for axis in range(3):
        delta = (rows[:, axis].unsqueeze(1) - points[:, axis].contiguous()).unsqueeze(1)
        if periodic:
            delta = delta - torch.round(delta)
            if offsets.shape[0] > 1:
                delta = delta + offsets[:, axis].to(torch.float64).unsqueeze(1)
        deltas.append(delta)
    if periodic:
        deltas = _cartesian(deltas, cell)
    return deltas[0] * deltas[0] + deltas[1] * deltas[1] + deltas[2] * deltas[2]


def _reverse_slots(
    columns: torch.Tensor,
    atoms: torch.Tensor,
    image: torch.Tensor,
    used: torch.Tensor,
    images: int,
) -> torch.Tensor:
    """Flat slot that holds the same pair seen from the neighbour, [N * K].

    Rows hold ascending columns, so that (row, column) ascends over the flat matrix and a pair is
    found by bisection. Unused slots, and pairs of which rounding at the very cutoff kept one side
    only (they carry no weight there), get their own slot.

    Args:
        columns: image * N + atom of each slot, images * N in unused ones, shape [N, K].
        atoms: the atom among them, shape [N, K].
        image: the image among them, shape [N, K].
        used: whether a slot is used, shape [N, K].
        images: number of images.
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
    positions: torch.Tensor,
    cell: torch.Tensor,
    periodic: bool,
    offsets: torch.Tensor,
    cutoff: float,
    capacity: int,
    trim: bool = False,
    coincident_distance: float = COINCIDENT_DISTANCE,
    block_elements: int = BLOCK_ELEMENTS,
    block_elements_gpu: int = BLOCK_ELEMENTS_GPU,
    grid: Optional[CellGrid] = None,
) -> Neighbors:
    """All pairs within the cutoff, by comparing every pair (and image) or through cells.

    Both searches give the same matrix.

    Args:
        positions: shape [N, 3] [A], float64; atoms may lie outside the box.
        cell: lattice vectors in rows, shape [3, 3] [A], float64; ignored if not periodic.
        periodic: whether the system is periodic in all three directions.
        offsets: images to look at around the nearest one, shape [S, 3], from `image_offsets`.
        cutoff: cutoff radius [A].
        capacity: K, or 0 for as many slots as needed.
        trim: make only as many slots as this structure needs; like a capacity of 0, this reads a
            value back from the device, which on a CPU costs nothing.
        coincident_distance: atoms closer than this are reported [A].
        block_elements: bounds the size of temporary arrays on a CPU.
        block_elements_gpu: the same on a GPU.
        grid: cells to search, from `choose_grid`; None compares every pair. The box must be one
            for which `grid_suffices`, which also means that no image but the nearest matters.

    Returns:
        The matrix; more than ``capacity`` neighbours are cut off, and ``largest`` says so.
    """
    points, wraps = positions, torch.zeros_like(positions)
    if positions.is_cuda:
        block_elements = block_elements_gpu
    if periodic:
        inverse, _ = inverse_and_volume(cell)
        fractional = positions @ inverse
        wraps = torch.floor(fractional)
        points = fractional - wraps
    if grid is not None:
        offsets = torch.zeros(1, 3, dtype=torch.int64, device=positions.device)
        columns, largest, coincident, crowded = search_cells(
            points, cell, periodic, grid, cutoff, capacity, trim, coincident_distance
        )
    else:
        columns, largest, coincident = _search_all_pairs(
            points,
            cell,
            periodic,
            offsets,
            cutoff,
            capacity,
            trim,
            coincident_distance,
            block_elements,
        )
        crowded = torch.zeros_like(coincident)

    n, images = positions.shape[0], offsets.shape[0]
    used = columns < images * n
    image, indices = torch.zeros_like(columns), columns
    if images > 1:
        image = torch.div(columns, n, rounding_mode="floor")
        indices = columns - image * n
    reverse = _reverse_slots(columns, indices, image, used, images)
    indices = torch.where(used, indices, torch.arange(n, device=columns.device).unsqueeze(1))
    shifts = torch.zeros(n, columns.shape[1], 3, dtype=torch.float64, device=columns.device)
    if periodic:
        step = max(1, block_elements // (4 * columns.shape[1]))
        for start in range(0, n, step):
            end = start + step
            lattice = _lattice_shifts(points, wraps, indices[start:end], start)
            if images > 1:
                further = offsets.to(torch.float64)[image[start:end].clamp(max=images - 1)]
                lattice = [lattice[axis] + further[:, :, axis] for axis in range(3)]
            lattice = _cartesian(lattice, cell)
            for axis in range(3):
                shifts[start:end, :, axis] = lattice[axis]
    shifts = shifts.masked_fill_(~used.unsqueeze(2), 0.0)
    shifts[:, :, 0].masked_fill_(~used, 2.0 * cutoff)
    return Neighbors(indices, shifts, reverse, largest, coincident, crowded)


def _cartesian(components: List[torch.Tensor], cell: torch.Tensor) -> List[torch.Tensor]:
    """Components of vectors [A] from those along the lattice vectors.

    A product with a matrix as small as a cell would take several times as long on a CPU.
    """
    return [
        components[0] * cell[0, axis]
        + components[1] * cell[1, axis]
        + components[2] * cell[2, axis]
        for axis in range(3)
    ]


def _lattice_shifts(
    points: torch.Tensor, wraps: torch.Tensor, neighbors: torch.Tensor, start: int
) -> List[torch.Tensor]:
    """Lattice vectors from neighbours to their nearest images, 3 times [R, K], of some rows.

    Args:
        points: wrapped fractional coordinates, shape [N, 3].
        wraps: what wrapping took away, shape [N, 3].
        neighbors: atoms near those from `start` on, shape [R, K].
        start: the first of the rows.
    """
    end, flat = start + neighbors.shape[0], neighbors.reshape(-1)
    shifts: List[torch.Tensor] = []
    for axis in range(3):
        point, wrap = points[:, axis].contiguous(), wraps[:, axis].contiguous()
        nearest = point[start:end].unsqueeze(1) - point.index_select(0, flat).view_as(neighbors)
        shift = wrap.index_select(0, flat).view_as(neighbors) - wrap[start:end].unsqueeze(1)
        shifts.append(shift - torch.round(nearest))
    return shifts


def _search_all_pairs(
    points: torch.Tensor,
    cell: torch.Tensor,
    periodic: bool,
    offsets: torch.Tensor,
    cutoff: float,
    capacity: int,
    trim: bool,
    coincident_distance: float,
    block_elements: int,
) -> Tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Image * N + atom of the neighbours in ascending order, S * N in unused slots, [N, K].

    Points are wrapped fractional coordinates, or positions if not periodic; the rest is as in
    `neighbor_matrix`. Also returns the largest number of neighbours and whether atoms coincide.
    """
    n, images = points.shape[0], offsets.shape[0]
    num_columns, device = images * n, points.device
    step = max(1, block_elements // (3 * num_columns))
    parts: List[torch.Tensor] = []
    coincident = torch.zeros([], dtype=torch.bool, device=device)
    for start in range(0, n, step):
        squared = _squared_distances(points[start : start + step], points, cell, periodic, offsets)
        near = squared < cutoff * cutoff
        near = near.view(-1, num_columns)
        own = torch.arange(near.shape[0], device=device).unsqueeze(1) + (images // 2 * n + start)
        near = near.scatter_(1, own, torch.zeros_like(near[:, :1]))
        parts.append(near)
        close = squared.view(-1, num_columns) < coincident_distance * coincident_distance
        coincident = coincident | (near & close).any()
    within = torch.cat(parts)
    largest = within.sum(1).max()
    if trim or capacity == 0:
        needed = max(1, int(largest))
        capacity = needed if capacity == 0 else min(capacity, needed)

    parts = []
    column = torch.arange(num_columns, device=device)
    for start in range(0, n, step):
        block = within[start : start + step]
        slots = torch.cumsum(block, 1)
        # Slot `capacity` collects what has no place, and is dropped.
        slots = torch.where(block & (slots <= capacity), slots - 1, capacity)
        empty = torch.full([block.shape[0], capacity + 1], num_columns, device=device)
        chosen = empty.scatter(1, slots, column.expand(block.shape[0], -1))
        parts.append(chosen[:, :capacity])
    return torch.cat(parts), largest, coincident
