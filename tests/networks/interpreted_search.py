"""The neighbour search in Triton's interpreter; `test_fused_messages.py` runs it."""

import numpy as np
import pytest
import torch
from support.pairs import CUTOFF, random_box
from support.triton import patch_interpreter, poison_memory

from openmm_les.neighbors.cells import CellGrid
from openmm_les.neighbors.matrix import NeighborSearch, image_range
from openmm_les.networks.kernels.triton.neighbors import FusedNeighborSearch

patch_interpreter()
poison_memory()

#: Wide enough for cells.
BOX = np.array([[15.0, 0, 0], [2.0, 20.0, 0], [0, -3.0, 16.0]])
BOXES = {
    "open": None,
    "nearest images": np.diag([9.5, 10.0, 11.0]),
    "triclinic": [[11.0, 0, 0], [3.5, 11.0, 0], [-3.0, 2.5, 11.5]],
    "many images": np.diag([3.0, 3.1, 3.2]),
}


def search(positions, cell, capacity, grid=None):
    """The matrix by kernels, scripted, which equals that of the torch code."""
    box = np.zeros((3, 3)) if cell is None else np.array(cell, float)
    ranges = [0, 0, 0] if cell is None else image_range(box, CUTOFF)
    arguments = (cell is not None, ranges, CUTOFF, capacity, False, grid)
    inputs = torch.tensor(positions), torch.tensor(box)
    found = torch.jit.script(FusedNeighborSearch(*arguments))(*inputs)
    expected = NeighborSearch(*arguments)(*inputs)
    for name in found._fields:
        got, wanted = getattr(found, name), getattr(expected, name)
        assert got.dtype == wanted.dtype, name
        if name == "shifts":
            torch.testing.assert_close(got, wanted, rtol=0, atol=1e-12)
        else:
            assert torch.equal(got, wanted), name
    return found


@pytest.mark.parametrize("name", BOXES)
def test_matrix_equals_the_torch_code(name):
    """With more slots than are needed, rows of different lengths, and with fewer."""
    box = BOXES[name]
    atoms = random_box(np.eye(3) * 1.5 if box is None else box, atoms=5 if "many" in name else 9)
    if box is None:
        atoms.positions[-1] += 100.0  # an atom alone
    found = search(atoms.positions, box, 100)
    assert int(found.largest) > 2
    assert int(found.used.min()) < int(found.largest)
    overflow = search(atoms.positions, box, int(found.largest) - 1)
    assert torch.equal(overflow.largest, found.largest)


def test_float64_decides_at_the_cutoff():
    """In a box where float32, which decides first, cannot tell these distances from the cutoff."""
    for distance in np.nextafter(CUTOFF, 0), CUTOFF, np.nextafter(CUTOFF, 9), CUTOFF * (1 + 1e-8):
        far = [[0.5, 8.0, 9.0], [0.5 + distance, 8.0, 9.0], [0.5, 8.0 - distance, 9.0]]
        search(np.array(far), np.diag([12.0, 13.0, 14.0]), 4)


@pytest.mark.filterwarnings("ignore:invalid value")
def test_what_is_not_finite_has_no_neighbors():
    """Nor does any slot lead outside of an array."""
    positions = random_box(BOXES["nearest images"], atoms=6).positions
    positions[2], positions[4, 1] = np.nan, np.inf
    for box in BOXES["nearest images"], None:
        assert (search(positions, box, 8).used[[2, 4]] == 0).all()


def test_coincident_atoms_are_reported():
    atoms = random_box(BOXES["nearest images"], atoms=4)
    assert not search(atoms.positions, BOXES["nearest images"], 8).coincident
    atoms.positions[3] = atoms.positions[1] + [0, -20.0, 0]
    assert search(atoms.positions, BOXES["nearest images"], 8).coincident
    assert search(
        atoms.positions - [0, -20.0, 0] * (np.arange(4) == 3)[:, None], None, 8
    ).coincident


@pytest.mark.filterwarnings("ignore:invalid value")
def test_matrix_through_cells_equals_the_torch_code():
    """In boxes, of which one is all window along its third vector, and open."""
    generator = np.random.default_rng(0)
    near = generator.uniform(-0.25, 0.25, (10, 3))
    fractional = near + generator.integers(-1, 2, (10, 3))
    for layers in 9, 13:
        grid = CellGrid(3, 4, layers, 4, 24, CUTOFF)
        found = search(fractional @ BOX, BOX, 9, grid)
        assert 2 < int(found.largest) <= 9
        assert int(found.used.min()) < int(found.largest)
    atoms = near @ BOX
    atoms[5] += 1e8
    atoms[6] = np.nan
    assert int(search(atoms, None, 9, grid).used[6]) == 0
    assert int(search(atoms, BOX, 1, grid).largest) > 1


def test_coincident_atoms_are_found_through_cells():
    grid = CellGrid(3, 4, 9, 4, 24, CUTOFF)
    atoms = random_box(BOX, atoms=4).positions
    assert not search(atoms, BOX, 9, grid).coincident
    atoms[3] = atoms[1] + BOX[2] - BOX[0]
    assert search(atoms, BOX, 9, grid).coincident
