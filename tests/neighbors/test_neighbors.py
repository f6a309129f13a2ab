"""The neighbour matrix, pair by pair against matscipy."""

import numpy as np
import pytest
import torch
from ase import Atoms
from support.helpers import water_frame
from support.pairs import CUTOFF, build, expected_pairs, pairs_of, random_box

from openmm_les.neighbors.cells import box_heights
from openmm_les.neighbors.matrix import (
    image_offsets,
    image_range,
    is_high_enough,
    least_heights,
    neighbor_matrix,
)

BOXES = {
    "large cube": np.diag([12.0, 12.0, 12.0]),
    "several images": np.diag([5.0, 6.0, 7.0]),
    "cube below the cutoff": np.diag([3.0, 3.1, 3.2]),
    "thin slab": np.diag([4.0, 4.0, 40.0]),
    "reduced triclinic": [[10.0, 0, 0], [4.5, 11, 0], [-3.0, 4.0, 12.0]],
    "strongly skewed": [[6.0, 0, 0], [14.0, 6.0, 0], [9.0, -11.0, 7.0]],
}


@pytest.mark.parametrize("name", BOXES)
def test_pairs_equal_matscipy_in_periodic_boxes(name):
    atoms = random_box(BOXES[name], atoms=6 if "below" in name else 30)
    np.testing.assert_allclose(pairs_of(atoms, build(atoms)), expected_pairs(atoms), atol=1e-9)


def test_pairs_equal_matscipy_for_water():
    atoms = water_frame(3)
    np.testing.assert_allclose(pairs_of(atoms, build(atoms)), expected_pairs(atoms), atol=1e-9)


def test_pairs_equal_matscipy_without_periodicity():
    atoms = random_box(np.diag([2.0, 2.0, 2.0]))
    atoms.pbc = False
    np.testing.assert_allclose(pairs_of(atoms, build(atoms)), expected_pairs(atoms), atol=1e-9)


@pytest.mark.parametrize("name", BOXES)
def test_reverse_slot_holds_the_opposite_vector(name):
    atoms = random_box(BOXES[name], atoms=12)
    n = build(atoms)
    r = torch.tensor(atoms.positions)
    vectors = (r[:, None] - r[n.indices] + n.shifts).view(-1, 3)
    used = vectors.norm(dim=1) < CUTOFF
    torch.testing.assert_close(vectors[n.reverse][used], -vectors[used], rtol=0, atol=1e-9)
    receiver = torch.arange(len(atoms)).repeat_interleave(n.indices.shape[1])
    assert torch.equal(n.indices.view(-1)[n.reverse][used], receiver[used])
    # Unused slots point at themselves.
    own = torch.arange(len(used))
    assert torch.equal(n.reverse[~used], own[~used])


def test_unused_slots_lie_beyond_the_cutoff():
    atoms = random_box(BOXES["large cube"], atoms=5)
    n = build(atoms, capacity=9)
    r = torch.tensor(atoms.positions)
    distance = (r[:, None] - r[n.indices] + n.shifts).norm(dim=2)
    assert n.indices.shape == (5, 9)
    assert ((distance < CUTOFF).sum(1) <= n.largest).all()
    assert torch.allclose(distance[distance >= CUTOFF], torch.tensor(2 * CUTOFF).double())


def test_overflow_is_reported_with_the_number_needed():
    atoms = water_frame(0)
    needed = int(build(atoms).largest)
    truncated = build(atoms, capacity=needed - 1)
    assert int(truncated.largest) == needed > truncated.indices.shape[1]
    assert build(atoms, capacity=needed + 9, trim=True).indices.shape[1] == needed


def test_atom_at_the_cutoff_keeps_a_valid_reverse_slot():
    for distance in np.nextafter(CUTOFF, 0), CUTOFF, np.nextafter(CUTOFF, 9):
        n = build(Atoms("O2", [[0, 0, 0], [0.1, 0, distance]]))
        assert ((n.reverse >= 0) & (n.reverse < n.indices.numel())).all()


@pytest.mark.parametrize("shift", [[0, 0, 0], [12.0, 0, 0], [-24.0, 12.0, 0]])
def test_coincident_atoms_are_reported_also_across_the_box(shift):
    atoms = random_box(BOXES["large cube"], atoms=4)
    atoms.positions[3] = atoms.positions[1] + shift
    assert bool(build(atoms).coincident)
    atoms.positions[3] += [0.2, 0, 0]
    assert not bool(build(atoms).coincident)


@pytest.mark.parametrize("name", BOXES)
def test_image_range_suffices_until_the_box_shrinks(name):
    cell = np.array(BOXES[name], float)
    ranges = np.array(image_range(cell, CUTOFF))
    least = least_heights(ranges, CUTOFF)
    assert bool(is_high_enough(torch.tensor(np.linalg.inv(cell)), least))
    # Shrunk until the next image comes into reach, the check must say so.
    factor = 0.999 * (CUTOFF / ((ranges + 0.5) * box_heights(cell))).max()
    assert factor < 1
    assert not bool(is_high_enough(torch.tensor(np.linalg.inv(cell * factor)), least))


def test_scripted_function_gives_the_same_matrix():
    atoms = random_box(BOXES["several images"])
    arguments = (
        torch.tensor(atoms.positions),
        torch.tensor(atoms.cell.array),
        True,
        image_offsets(image_range(atoms.cell.array, CUTOFF)),
        CUTOFF,
        80,
    )
    eager, scripted = neighbor_matrix(*arguments), torch.jit.script(neighbor_matrix)(*arguments)
    for a, b in zip(eager, scripted, strict=True):
        assert torch.equal(a, b)
