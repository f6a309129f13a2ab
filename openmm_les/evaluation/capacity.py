"""Sizes of the buffers of one system: neighbours, periodic images, cells, box."""

import logging
import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from openmm_les.arrays import FloatArray
from openmm_les.errors import InputError
from openmm_les.evaluation.status import STATUS_BOX
from openmm_les.neighbors.cells import CellGrid, box_heights, choose_grid
from openmm_les.neighbors.matrix import image_range, largest_number_of_neighbors

logger = logging.getLogger(__name__)

#: A box may grow by this factor before the k-space buffers are outgrown (15 % of the volume).
BOX_GROWTH = 1.15 ** (1 / 3)
#: A box may shrink to this factor before more periodic images are needed.
_BOX_SHRINKAGE = 0.85 ** (1 / 3)
#: Extra head-room of the slots for nearest neighbours, whose number fluctuates more.
_INNER_MARGIN = 1.25
#: Beyond this image range the search is so slow that the box is wrong or a supercell is better.
_MAX_IMAGE_RANGE = 3


class Buffers:
    """Sizes for one system, which grow when a structure does not fit.

    Capacities are chosen from `positions` [A] in `cell`, where `max_neighbors` does not fix them.
    CHGNet's angles have slots of their own for neighbours within `inner_cutoff` [A].
    """

    def __init__(
        self,
        num_atoms: int,
        cutoff: float,
        cell: FloatArray | None,
        positions: FloatArray | None,
        max_neighbors: int | None,
        for_gpu: bool,
        inner_cutoff: float | None = None,
    ) -> None:
        self._num_atoms = num_atoms
        self._cutoff = cutoff
        self._for_gpu = for_gpu
        self._inner_cutoff = inner_cutoff
        self.cell = cell  #: the box that they fit
        self.capacity = max_neighbors or self._capacity_for(positions, cell)
        self.inner_slots = self._inner_slots_for(positions, cell)  #: 0 if there are none
        self.grid = self._grid_for(positions, cell)

    @property
    def ranges(self) -> Sequence[int]:
        """Periodic images along each axis that the neighbour search includes."""
        if self.cell is None:
            return [0, 0, 0]
        return image_range(self.cell, self._cutoff, _BOX_SHRINKAGE)

    def grow(self, bits: int, positions: FloatArray, cell: FloatArray | None) -> None:
        """Make room for a structure for which the module of these sizes gave the status `bits`."""
        if bits & STATUS_BOX and cell is not None:
            self.cell = checked_cell(cell, self._cutoff)
            logger.info("the box has outgrown its buffers; making new ones")
        # Count in the current box: a barostat may have shrunk it since the buffers were made.
        self.capacity = max(self.capacity, self._capacity_for(positions, cell))
        self.inner_slots = max(self.inner_slots, self._inner_slots_for(positions, cell))
        self.grid = self._grid_for(positions, cell)
        if self.grid is not None:
            logger.info("cells now have %d slots for the atoms in a window", self.grid.slots)
        logger.info("neighbour matrix now has %d slots for each atom", self.capacity)

    def _capacity_for(self, positions: FloatArray | None, box: FloatArray | None) -> int:
        """Slots for a structure in its box, with head-room for fluctuations of the density."""
        if positions is None or not np.isfinite(positions).all():
            return min(16, max(1, self._num_atoms - 1))
        positions = positions[: self._num_atoms]
        return with_headroom(largest_number_of_neighbors(positions, box, self._cutoff))

    def _inner_slots_for(self, positions: FloatArray | None, box: FloatArray | None) -> int:
        """Slots for the nearest neighbours, which grow with maxNeighbors."""
        if self._inner_cutoff is None:
            return 0
        density = (self._inner_cutoff / self._cutoff) ** 3
        slots = _INNER_MARGIN * self.capacity * density
        if positions is not None and np.isfinite(positions).all():
            atoms = positions[: self._num_atoms]
            most = largest_number_of_neighbors(atoms, box, self._inner_cutoff)
            slots = max(slots, with_headroom(_INNER_MARGIN * most))
        return min(self.capacity, math.ceil(slots))

    def _grid_for(self, positions: FloatArray | None, box: FloatArray | None) -> CellGrid | None:
        """Cells for a structure in its box, which may shrink as far as other buffers allow."""
        if positions is not None:
            finite = np.isfinite(positions).all()
            positions = positions[: self._num_atoms] if finite else None
        return choose_grid(
            self._num_atoms,
            self._cutoff,
            box,
            positions,
            self.capacity,
            _BOX_SHRINKAGE,
            self._for_gpu,
        )


def checked_cell(cell: npt.ArrayLike | None, cutoff: float) -> FloatArray:
    """Box vectors of a periodic system, as the user gave them, as an array of shape (3, 3) [A]."""
    array = np.asarray(np.nan if cell is None else cell, dtype=np.float64)
    if array.shape != (3, 3) or not np.isfinite(array).all():
        raise InputError(
            f"cell: expected three finite box vectors [A] for a periodic system, got {cell!r}"
        )
    if np.linalg.det(array) <= 0.0:
        raise InputError(
            "cell: expected a right-handed box with a volume above zero, got volume "
            f"{np.linalg.det(array):.6g} A^3"
        )
    height = float(box_heights(array).min())
    limit = cutoff / (_MAX_IMAGE_RANGE + 0.5) / _BOX_SHRINKAGE
    if height < limit:
        raise InputError(
            f"cell: the box is too small: its faces are {height:.3f} A apart, but a model with a "
            f"cutoff of {cutoff:g} A needs at least {limit:.3f} A; use a supercell"
        )
    return array


def with_headroom(neighbors: float) -> int:
    """Slots for atoms with up to `neighbors` neighbours: a tenth more, rounded up to 4."""
    return 4 * math.ceil((1.1 * neighbors + 1) / 4)
