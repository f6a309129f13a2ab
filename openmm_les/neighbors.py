"""Padded neighbour matrix with reverse slots: static shapes, no data-dependent control flow.

Row i lists the atoms (and periodic images) within the cutoff of atom i, in K slots. Unused slots
hold atom i itself with a shift longer than the cutoff, where every radial function is zero. For
each slot ``reverse`` names the slot that holds the same pair seen from the other atom, so that sums
over "who has me as neighbour" are gathers.
"""

import math
from typing import List, NamedTuple, Sequence, Tuple

import numpy as np
import numpy.typing as npt
import torch

from openmm_les.electrostatics.cell import inverse_and_volume

#: Atoms closer than this [A] are taken to be at the same place.
COINCIDENT_DISTANCE = 1e-3


class Neighbors(NamedTuple):
    """The matrix and what its construction found out.

    Attributes:
        indices: neighbour of each slot, shape [N, K].
        shifts: pair vector is r_i - r_j + shift, shape [N, K, 3] [A], float64.
        reverse: flat index of the reverse slot, shape [N * K].
        largest: largest number of neighbours any atom has (may exceed K: overflow), shape [].
        coincident: whether two atoms are at the same place, shape [].
    """

    indices: torch.Tensor
    shifts: torch.Tensor
    reverse: torch.Tensor
    largest: torch.Tensor
    coincident: torch.Tensor


def image_range(cell: npt.NDArray[np.float64], cutoff: float, margin: float = 1.0) -> List[int]:
    """How many periodic images around the nearest one can lie within the cutoff, for each axis.

    Args:
        cell: lattice vectors in rows, shape (3, 3) [A].
        cutoff: cutoff radius [A].
        margin: the box may shrink to this fraction of its heights before the range is too short.
    """
    heights = box_heights(cell) * margin
    return [math.floor(cutoff / float(h) + 0.5) for h in heights]


def box_heights(cell: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Distances between opposite faces of the box [A], shape (3,)."""
    return np.asarray(1.0 / np.linalg.norm(np.linalg.inv(cell), axis=0))


def image_offsets(ranges: Sequence[int]) -> torch.Tensor:
    """Integer lattice offsets -n..n of each axis, shape [S, 3]; offset S-1-s is minus offset s."""
    axes = [torch.arange(-n, n + 1, dtype=torch.int64) for n in ranges]
    return torch.cartesian_prod(*axes)


def images_suffice(inverse: torch.Tensor, offsets: torch.Tensor, cutoff: float) -> torch.Tensor:
    """Whether `offsets` cover the cutoff in a box, given its inverse [3, 3]; shape [], bool."""
    heights = 1.0 / torch.sqrt((inverse * inverse).sum(0))
    ranges = offsets.amax(0).to(torch.float64)
    return ((ranges + 0.5) * heights >= cutoff).all()


def _fractional_pairs(
    positions: torch.Tensor, inverse: torch.Tensor
) -> Tuple[torch.Tensor, torch.Tensor]:
    """Fractional coordinates wrapped to [0, 1), and the integers taken off, each [N, 3]."""
    fractional = positions @ inverse
    wraps = torch.floor(fractional)
    return fractional - wraps, wraps


def neighbor_matrix(
    positions: torch.Tensor,
    cell: torch.Tensor,
    periodic: bool,
    offsets: torch.Tensor,
    cutoff: float,
    capacity: int,
    trim: bool = False,
    coincident_distance: float = COINCIDENT_DISTANCE,
) -> Neighbors:
    """All pairs within the cutoff, by comparing every pair (and image).

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

    Returns:
        The matrix; more than ``capacity`` neighbours are cut off, and ``largest`` says so.
    """
    n, images = positions.shape[0], offsets.shape[0]
    device = positions.device
    if periodic:
        inverse, _ = inverse_and_volume(cell)
        fractional, wraps = _fractional_pairs(positions, inverse)
        delta = fractional.unsqueeze(1) - fractional.unsqueeze(0)
        delta = delta - torch.round(delta)
        if images > 1:
            delta = delta.unsqueeze(1) + offsets.to(torch.float64).view(1, images, 1, 3)
        vectors = delta @ cell
    else:
        fractional, wraps = positions, torch.zeros_like(positions)
        vectors = positions.unsqueeze(1) - positions.unsqueeze(0)
    squared = (vectors * vectors).sum(-1).view(n, images * n)

    atoms = torch.arange(n, device=device)
    within = squared < cutoff * cutoff
    home = (images // 2) * n
    within[:, home : home + n].fill_diagonal_(False)
    coincident = (within & (squared < coincident_distance * coincident_distance)).any()
    slots = torch.cumsum(within, 1)
    counts = slots[:, -1]
    largest = counts.max()
    if trim or capacity == 0:
        needed = max(1, int(largest))
        capacity = needed if capacity == 0 else min(capacity, needed)

    # Column `capacity` collects what has no slot, and is dropped.
    slots = torch.where(within & (slots <= capacity), slots - 1, capacity)
    columns = torch.arange(images * n, device=device).expand(n, -1)
    chosen = torch.zeros(n, capacity + 1, dtype=torch.int64, device=device)
    chosen = chosen.scatter(1, slots, columns)[:, :capacity]
    valid = torch.arange(capacity, device=device) < counts.unsqueeze(1)
    image = chosen // n
    index = torch.where(valid, chosen - image * n, atoms.unsqueeze(1))

    own = torch.arange(n * capacity, device=device).view(n, capacity)
    back = slots.view(-1).index_select(
        0, ((index * images + (images - 1 - image)) * n + atoms.unsqueeze(1)).view(-1)
    )
    back = back.view(n, capacity)
    # At the very cutoff rounding may keep only one side of a pair; it carries no weight there.
    reverse = torch.where(valid & (back < capacity), index * capacity + back, own)

    unused = torch.zeros(3, dtype=torch.float64, device=device)
    unused[0] = 2.0 * cutoff
    shifts = torch.zeros(n, capacity, 3, dtype=torch.float64, device=device)
    if periodic:
        flat = index.view(-1)
        delta = fractional.unsqueeze(1) - fractional.index_select(0, flat).view(n, capacity, 3)
        lattice = (
            wraps.index_select(0, flat).view(n, capacity, 3)
            - wraps.unsqueeze(1)
            - torch.round(delta)
        )
        if images > 1:
            lattice = lattice + offsets.to(torch.float64)[image]
        shifts = lattice @ cell
    shifts = torch.where(valid.unsqueeze(2), shifts, unused)
    return Neighbors(index, shifts, reverse.view(-1), largest, coincident)
