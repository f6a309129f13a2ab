"""Cell lists, for large systems: time and memory grow linearly with the number of atoms.

Cells divide the box along its lattice vectors. Those with the same first two indices form a column
along the third vector, in which they are `reach` times thinner. In an array of all atoms sorted by
cell, the atoms of a column are contiguous, and so are those among them that can be near an atom,
its window; an atom is compared with the windows of 9 columns. Every column is stored twice, one
copy behind the other, so that a window that crosses the box is contiguous too. All shapes are
static: a window has as many slots as the grid says, and one that needs more is reported.
"""

import math
from typing import List, NamedTuple, Optional, Tuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from openmm_les.electrostatics.cell import inverse_and_volume
from openmm_les.neighbors.search import COINCIDENT_DISTANCE, Found, compact

#: Smallest systems for which cells are faster: measured on a CPU, estimated for a GPU.
FEWEST_ATOMS, FEWEST_ATOMS_GPU = 500, 2000
#: A window extends this many cells up and down its column. More make it tighter, but the tables
#: larger: 4 is as fast as any for water.
_REACH = 4
#: Fewest cells along each lattice vector: a window must not meet itself.
_FEWEST_CELLS = np.array([3.0, 3.0, 2.0 * _REACH + 1.0])
#: How much finer the cells are than the cutoff.
_FINENESS = np.array([1.0, 1.0, _REACH])
#: Cells of open systems are wider than the cutoff by this factor, against rounding.
_SLACK = 1.0 + 1e-6
#: Atoms per cubic Angstrom in the bounding box of a droplet, where no positions are known.
_SPARSE = 0.05
#: Largest extent of an open system for which cells are made [A].
_FAR = 1e6
#: Cells for each atom.
_MOST_CELLS = 8
#: Candidates processed at a time: on a CPU what fits its cache, on a GPU what keeps it busy.
BLOCK_CPU, BLOCK_GPU = 2**18, 2**22


class CellGrid(NamedTuple):
    """Cells of one system, fixed when it is set up."""

    columns_x: int  #: cells along the first lattice vector.
    columns_y: int  #: cells along the second lattice vector.
    layers: int  #: cells along the third lattice vector.
    reach: int  #: layers that a window extends up and down its column.
    slots: int  #: atoms that a window may hold.
    width: float  #: distance between columns where there is no box [A].


class _Candidates(NamedTuple):
    """Sorted atoms, and the windows that each of them is compared with."""

    order: Tensor  #: atoms in the order of their cells, shape [N].
    atoms: Tensor  #: columns of atoms, each twice, N behind the last, shape [2 N + slots].
    #: where they are, the second copy a lattice vector further, [3, 2 N + slots].
    coordinates: Tensor
    first: Tensor  #: where the windows begin, for atoms in the order of cells, shape [N, 9].
    held: Tensor  #: how many atoms they hold, shape [N, 9].
    #: the atoms as seen from the images that the windows are in, shape [3, N, 9].
    origins: Tensor


def box_heights(cell: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Distances between opposite faces of the box [A], shape (3,)."""
    return np.asarray(1.0 / np.linalg.norm(np.linalg.inv(cell), axis=0))


def choose_grid(
    num_atoms: int,
    cutoff: float,
    cell: Optional[npt.NDArray[np.float64]],
    positions: Optional[npt.NDArray[np.float64]],
    neighbors: int,
    margin: float = 1.0,
    on_gpu: bool = False,
) -> Optional[CellGrid]:
    """Cells for a system; None if it is so small, or its box so narrow, that pairs are compared.

    Args:
        num_atoms: number of atoms.
        cutoff: cutoff radius [A].
        cell: lattice vectors in rows, shape (3, 3) [A]; None for an open system.
        positions: a structure from which the slots are counted, shape (n, 3) [A]. Without one they
            are those of matter so dense that an atom has `neighbors`.
        neighbors: how many neighbours an atom may have.
        margin: the box may shrink to this fraction of its heights before the cells are too narrow.
        on_gpu: whether the search will run on a GPU, where comparing pairs costs less.
    """
    if num_atoms < (FEWEST_ATOMS_GPU if on_gpu else FEWEST_ATOMS):
        return None
    width = cutoff * _SLACK
    if cell is None:
        lengths = np.full(3, (num_atoms / _SPARSE) ** (1 / 3))
        if positions is not None:
            lengths = np.minimum(np.ptp(positions, axis=0), _FAR)
        cells = np.maximum(np.ceil(lengths / width * _FINENESS), _FEWEST_CELLS)
    else:
        cells = np.floor(box_heights(cell) * margin / cutoff * _FINENESS)
        if (cells < _FEWEST_CELLS).any():
            return None
    # In an empty box more cells would cost more than they save.
    while np.prod(cells) > max(_MOST_CELLS * num_atoms, np.prod(_FEWEST_CELLS)):
        axis = int(np.argmax(cells / _FEWEST_CELLS))
        cells[axis] = max(np.ceil(cells[axis] / 2), _FEWEST_CELLS[axis])
    grid = CellGrid(int(cells[0]), int(cells[1]), int(cells[2]), _REACH, 0, width)
    if positions is not None:
        points = torch.from_numpy(np.ascontiguousarray(positions))
        if cell is not None:
            points = points @ inverse_and_volume(torch.from_numpy(cell))[0]
        sizes = _cell_sizes(_cell_indices(points, cell is not None, grid), grid)
        atoms = 1.25 * int(_window_sizes(sizes, grid).max())
    else:
        volume = width**3 / _REACH if cell is None else np.linalg.det(cell) / np.prod(cells)
        share = float(volume) * (2 * _REACH + 1) / (4.0 / 3.0 * math.pi * cutoff**3)
        # A window is smaller than the sphere of the neighbours, and fluctuates more.
        atoms = 1.5 * neighbors * share + 4.0
    return grid._replace(slots=4 * math.ceil((atoms + 1.0) / 4))


def heights_for_grid(grid: CellGrid, cutoff: float) -> List[float]:
    """Heights of a box [A] below which a cell is narrower than the windows assume."""
    cutoffs = grid.columns_x, grid.columns_y, grid.layers / grid.reach
    return [cutoff * number for number in cutoffs]


def search_cells(
    points: Tensor,
    cell: Tensor,
    periodic: bool,
    grid: CellGrid,
    cutoff: float,
    capacity: int,
    trim: bool,
    block_cpu: int = BLOCK_CPU,
    block_gpu: int = BLOCK_GPU,
) -> Found:
    """Neighbours of each atom, nearest images alone, through cells.

    Points are wrapped fractional coordinates, or positions if not periodic, shape [N, 3]; `trim`
    uses only as many slots as this structure needs, of the grid and of the matrix. Blocks are
    candidates processed at a time. For the others see `neighbor_matrix`.
    """
    n, device = points.shape[0], points.device
    lattice = cell if periodic else torch.zeros(3, 3, dtype=torch.float64, device=device)
    places = points @ cell if periodic else points
    cells = _cell_indices(points, periodic, grid)
    sizes = _cell_sizes(cells, grid)
    fullest = _window_sizes(sizes, grid).max()
    slots = grid.slots
    if trim:
        slots = min(slots, int(fullest))
    candidates = _candidates(places, lattice, cells, sizes, grid, slots)

    capacity = capacity if capacity > 0 else 9 * slots
    block = block_cpu if device.type == "cpu" else block_gpu
    step = max(1, block // (9 * slots))
    parts: List[Tensor] = []
    largest = torch.zeros([], dtype=torch.int64, device=device)
    coincident = torch.zeros([], dtype=torch.bool, device=device)
    for start in range(0, n, step):
        near, atoms, same_place = _near(candidates, start, start + step, slots, cutoff)
        columns, number = compact(near, atoms, capacity, n)
        largest = torch.maximum(largest, number.max())
        coincident = coincident | same_place
        parts.append(columns)
    columns = torch.cat(parts)
    if trim:
        columns = columns[:, : max(1, int(largest))]
    columns = torch.sort(columns, dim=1)[0]
    columns = torch.empty_like(columns).index_copy_(0, candidates.order, columns)
    return Found(columns, largest, coincident, fullest > grid.slots)


def _near(
    candidates: _Candidates,
    start: int,
    end: int,
    slots: int,
    cutoff: float,
    coincident_distance: float = COINCIDENT_DISTANCE,
) -> Tuple[Tensor, Tensor, Tensor]:
    """Which candidates of some rows are neighbours, [R, 9 slots]; the candidates; coincidence."""
    first = candidates.first[start:end]
    # Windows are contiguous, so that these are copies of whole rows.
    atoms = candidates.atoms.unfold(0, slots, 1)[first]
    squared = torch.zeros(first.shape[0], 9, slots, dtype=torch.float64, device=first.device)
    for axis in range(3):
        delta = candidates.coordinates[axis].unfold(0, slots, 1)[first]
        delta = delta.sub_(candidates.origins[axis, start:end].unsqueeze(2))
        squared = squared.addcmul_(delta, delta)
    near = squared < cutoff * cutoff
    slot = torch.arange(slots, device=first.device)
    near = near & (slot < candidates.held[start:end].unsqueeze(2))
    near = near & (atoms != candidates.order[start:end].view(-1, 1, 1))
    same_place = (near & (squared < coincident_distance * coincident_distance)).any()
    rows = first.shape[0]
    return near.view(rows, -1), atoms.view(rows, -1), same_place


def _cell_indices(points: Tensor, periodic: bool, grid: CellGrid) -> Tensor:
    """Cell of each atom, shape [N]; what is not finite goes into the first cells.

    An open system is folded into the grid. Atoms far from each other may then share a cell, which
    costs time, but neighbours are never more than one cell apart, however far atoms are.
    """
    index = torch.zeros(points.shape[0], dtype=torch.int64, device=points.device)
    for axis, number in enumerate([grid.columns_x, grid.columns_y, grid.layers]):
        along = points[:, axis]
        if periodic:
            along = along - torch.floor(along)
        else:
            # The remainder is exact, however large the coordinate.
            length = number * (grid.width / (grid.reach if axis == 2 else 1))
            along = torch.remainder(along, length) / length
        cells = torch.nan_to_num(along * number).to(torch.int64).clamp(0, number - 1)
        index = index * number + cells
    return index


def _cell_sizes(cells: Tensor, grid: CellGrid) -> Tensor:
    """Atoms in each cell, shape [columns, layers]."""
    number = grid.columns_x * grid.columns_y * grid.layers
    sizes = torch.zeros(number, dtype=torch.int64, device=cells.device)
    return sizes.scatter_add_(0, cells, torch.ones_like(cells)).view(-1, grid.layers)


def _window_sizes(sizes: Tensor, grid: CellGrid) -> Tensor:
    """Atoms in the window around each cell, shape [columns, layers]."""
    total = sizes
    for layers in range(1, grid.reach + 1):
        total = total + torch.roll(sizes, layers, 1) + torch.roll(sizes, -layers, 1)
    return total


def _candidates(
    places: Tensor, lattice: Tensor, cells: Tensor, sizes: Tensor, grid: CellGrid, slots: int
) -> _Candidates:
    """Sorts the atoms and finds the windows of each.

    Places [N, 3] [A] are wrapped if periodic, the lattice [3, 3] [A] is zero if not; `slots` is the
    number of atoms of a window that are compared.
    """
    n, device = places.shape[0], places.device
    cells, order = torch.sort(cells, stable=True)
    places = places.index_select(0, order)
    column, layer = cells // grid.layers, cells % grid.layers

    # Column c begins at twice the number of atoms before it.
    begin = (torch.cumsum(sizes.view(-1), 0) - sizes.view(-1)).view(-1, grid.layers)
    copy = torch.arange(n, device=device) + begin[:, 0].index_select(0, column)
    second_copy = copy + sizes.sum(1).index_select(0, column)
    atoms = torch.full([2 * n + slots], n, device=device)
    atoms = atoms.index_copy_(0, copy, order).index_copy_(0, second_copy, order)
    coordinates = torch.zeros(3, 2 * n + slots, dtype=torch.float64, device=device)
    coordinates = coordinates.index_copy_(1, copy, places.t())
    coordinates = coordinates.index_copy_(1, second_copy, (places + lattice[2]).t())

    side = torch.arange(3, device=device) - 1
    x = (column // grid.columns_y).unsqueeze(1) + side.repeat_interleave(3)
    y = (column % grid.columns_y).unsqueeze(1) + side.repeat(3)
    image_x = torch.div(x, grid.columns_x, rounding_mode="floor")
    image_y = torch.div(y, grid.columns_y, rounding_mode="floor")
    columns = (x - image_x * grid.columns_x) * grid.columns_y + y - image_y * grid.columns_y
    windows = (columns * grid.layers + layer.unsqueeze(1)).view(-1)
    # A window that begins below the box begins in the image below, in the first copy.
    image_z = torch.zeros_like(x) - (layer < grid.reach).to(torch.int64).unsqueeze(1)
    images = torch.stack([image_x, image_y, image_z], dim=2).to(torch.float64)
    first = torch.roll(begin, grid.reach, 1) + begin[:, :1]
    return _Candidates(
        order,
        atoms,
        coordinates,
        first.view(-1).index_select(0, windows).view(n, 9),
        _window_sizes(sizes, grid).view(-1).index_select(0, windows).view(n, 9),
        (places.unsqueeze(1) - images @ lattice).permute(2, 0, 1).contiguous(),
    )
