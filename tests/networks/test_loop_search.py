"""The compiled search gives what `neighbor_matrix` gives, whatever the structure."""

import numpy as np
import pytest
import torch

from openmm_les.neighbors.matrix import NeighborSearch, image_range

pytest.importorskip("numba")
pytest.importorskip("vesin")

from openmm_les.networks.kernels.numba import neighbors as loops

CUTOFF = 4.0
NO_CELL = np.zeros((3, 3))
CUBE = np.diag([10.0, 10.0, 10.0])
SKEWED = np.array([[10.0, 0.0, 0.0], [4.9, 10.0, 0.0], [-4.0, 4.9, 11.0]])
NARROW = np.diag([10.0, 3.5, 10.0])


@pytest.fixture(params=["all pairs", "vesin"])
def search(request, monkeypatch):
    if request.param == "vesin":
        monkeypatch.setattr(loops, "_FEWEST_ATOMS", 0)
    return lambda *arguments: torch.jit.script(loops.LoopSearch(*arguments))


def positions(number, scale=10.0):
    return np.random.default_rng(3).uniform(-0.3, 1.4, (number, 3)) * scale


def with_row(row, values):
    changed = positions(80)
    changed[row] = values
    return changed


STRUCTURES = {
    "cube": (positions(80), CUBE),
    "skewed": (positions(80), SKEWED),
    "open": (positions(80), NO_CELL),
    "sparse": (positions(80, 1e3), NO_CELL),
    "several images": (positions(30), NARROW),
    "far outside": (with_row(3, [1e5, -3e4, 7.0]), CUBE),
    "beyond all": (with_row(3, [1e30, 0.0, 0.0]), CUBE),
    "open, beyond all": (with_row(3, [1e300, 0.0, 0.0]), NO_CELL),
    "NaN": (with_row(3, np.nan), CUBE),
    "open, infinite": (with_row(3, np.inf), NO_CELL),
    "coincident": (with_row(3, positions(80)[7] + [10.0, 0.0, 1e-4]), CUBE),
    "alone": (positions(1), NO_CELL),
    "cell of NaN": (positions(80), np.full((3, 3), np.nan)),
    "flat cell": (positions(80), np.diag([10.0, 10.0, 0.0])),
}


@pytest.mark.parametrize("capacity", [0, 8, 100])
@pytest.mark.parametrize("name", STRUCTURES)
def test_equals_the_matrix(search, name, capacity):
    points, cell = STRUCTURES[name]
    periodic = cell is not NO_CELL
    is_box = periodic and np.isfinite(cell).all() and np.linalg.det(cell) > 0
    ranges = image_range(cell, CUTOFF) if is_box else [0, 0, 0]
    arguments = periodic, ranges, CUTOFF, capacity, True, None
    inputs = torch.tensor(points), torch.tensor(cell)
    expected, got = (make(*arguments)(*inputs) for make in (NeighborSearch, search))
    for name, one, other in zip(expected._fields, got, expected, strict=True):
        assert one.dtype == other.dtype, name
        torch.testing.assert_close(one, other, rtol=0.0, atol=0.0, equal_nan=True, msg=name)
