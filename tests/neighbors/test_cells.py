"""Neighbours through cells: pair by pair against matscipy, bit by bit against all pairs."""

import subprocess
import sys

import numpy as np
import openmm
import pytest
import torch
from ase import Atoms
from support.helpers import ROOT, water_frame
from support.pairs import CUTOFF, build, expected_pairs, pairs_of, random_box

from openmm_les import artifact as artifacts
from openmm_les.errors import SimulationError
from openmm_les.evaluation.status import (
    STATUS_BOX,
    STATUS_COINCIDENT,
    STATUS_OVERFLOW,
    STATUS_POSITIONS,
)
from openmm_les.evaluation.system_model import SystemModel
from openmm_les.neighbors import cells
from openmm_les.neighbors.cells import CellGrid, choose_grid
from openmm_les.neighbors.matrix import (
    image_offsets,
    is_high_enough,
    least_heights,
    neighbor_matrix,
)

#: A box may shrink to this fraction of its lengths (15 % of the volume) before buffers are too few.
SHRINKAGE = 0.85 ** (1 / 3)


def clustered(cell, atoms: int = 600) -> Atoms:
    """Half of the atoms in one corner of the box."""
    structure = random_box(cell, atoms)
    inside = np.random.default_rng(1).uniform(0, 0.25, (atoms // 2, 3))
    structure.positions[::2] = inside @ structure.cell.array
    return structure


def opened(structure: Atoms) -> Atoms:
    structure.pbc = False
    structure.cell = None
    return structure


CUBE = np.diag([20.0, 20.0, 20.0])
STRUCTURES = {
    "random": lambda: random_box(CUBE, 600),
    "dense": lambda: random_box(np.diag([14.3, 15.0, 14.9]), 700),
    "sparse": lambda: random_box(np.diag([60.0, 70.0, 80.0]), 600),
    "reduced triclinic": lambda: random_box([[20, 0, 0], [9.9, 18, 0], [-9.8, 8.9, 19]], 600),
    "sheared": lambda: random_box([[60, 0, 0], [70, 40, 0], [-40, 30, 30]], 2000),
    "long first axis": lambda: random_box(np.diag([200.0, 14.4, 14.3]), 900),
    "long last axis": lambda: random_box(np.diag([14.3, 14.4, 200.0]), 900),
    "fewest cells": lambda: random_box(np.diag([13.5, 13.6, 10.2]), 550),
    "clustered": lambda: clustered(np.diag([40.0, 41.0, 42.0])),
    "open": lambda: opened(random_box(np.diag([5.0, 5.0, 5.0]), 600)),
    "open, clustered": lambda: opened(clustered(np.diag([8.0, 9.0, 30.0]))),
    "open, a thread": lambda: opened(random_box(np.diag([1.0, 1.0, 150.0]), 600)),
    "open, a diagonal thread": lambda: opened(
        random_box([[90, 90, 90], [0, 1, 0], [0, 0, 1.0]], 600)
    ),
}


def grid_of(atoms: Atoms, margin: float = 1.0, **changes) -> CellGrid:
    cell = atoms.cell.array if atoms.pbc.all() else None
    positions = atoms.positions if np.isfinite(atoms.positions).all() else None
    grid = choose_grid(len(atoms), CUTOFF, cell, positions, 60, margin)
    assert grid is not None
    return grid._replace(**changes)


@pytest.mark.parametrize("name", STRUCTURES)
def test_pairs_equal_matscipy(name):
    atoms = STRUCTURES[name]()
    neighbors = build(atoms, grid=grid_of(atoms))
    assert not bool(neighbors.crowded)
    expected = expected_pairs(atoms)
    assert len(expected) > 40
    np.testing.assert_allclose(pairs_of(atoms, neighbors), expected, atol=1e-9)


@pytest.mark.parametrize("name", STRUCTURES)
@pytest.mark.parametrize("trim", [False, True])
def test_matrix_equals_that_of_all_pairs_bit_by_bit(name, trim):
    """Reverse slots, sums over neighbours and so forces cannot depend on the search."""
    atoms = STRUCTURES[name]()
    expected = build(atoms, 400, trim=trim)
    got = build(atoms, 400, trim=trim, grid=grid_of(atoms))
    assert int(expected.largest) <= 400
    for a, b in zip(got, expected, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("distance", [1e3, 1e9, 1e15, 1e300])
def test_atoms_that_fly_off_are_found_where_they_are(distance):
    atoms = STRUCTURES["open"]()
    grid = grid_of(atoms)
    # A molecule that leaves: its atoms remain neighbours as far as float64 tells them apart.
    atoms.positions[:3] = [[distance, 0, 0], [distance, 1, 0], [distance, 0, -distance]]
    got, expected = build(atoms, 300, grid=grid), build(atoms, 300)
    assert not bool(got.crowded)
    assert int(expected.indices[0, 0]) == 1
    for a, b in zip(got, expected, strict=True):
        assert torch.equal(a, b)
    # Where they have flown before the cells are chosen, cells must not be made for the void.
    late = grid_of(atoms)
    assert late.columns_x * late.columns_y * late.layers <= 8 * len(atoms)
    assert torch.equal(build(atoms, 300, grid=late).indices, expected.indices)


@pytest.mark.parametrize("name", ["random", "reduced triclinic", "sheared", "long last axis"])
@pytest.mark.parametrize("volume", [0.8501, 1.0, 1.15])
def test_cells_hold_for_every_box_within_the_margin(name, volume):
    atoms = STRUCTURES[name]()
    grid = grid_of(atoms, SHRINKAGE)
    atoms.set_cell(atoms.cell.array * volume ** (1 / 3), scale_atoms=True)
    least = least_heights([0, 0, 0], CUTOFF, grid)
    assert bool(is_high_enough(torch.tensor(np.linalg.inv(atoms.cell.array)), least))
    got = build(atoms, grid=grid)
    assert not bool(got.crowded)
    np.testing.assert_allclose(pairs_of(atoms, got), expected_pairs(atoms), atol=1e-9)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_cells_that_became_too_narrow_are_reported(axis):
    atoms = STRUCTURES["random"]()
    grid = grid_of(atoms)
    widths = cells.box_heights(atoms.cell.array)[axis] / [4, 4, 17][axis]
    assert (grid.columns_x, grid.columns_y, grid.layers) == (4, 4, 17)
    for factor, holds in ((1.001, True), (0.999, False)):
        scale = np.ones(3)
        scale[axis] = factor * CUTOFF / [1, 1, 4][axis] / widths
        inverse = torch.tensor(np.linalg.inv(atoms.cell.array * scale))
        assert bool(is_high_enough(inverse, least_heights([0, 0, 0], CUTOFF, grid))) == holds


def test_boxes_too_narrow_and_systems_too_small_have_no_cells():
    for lengths in ([13.4, 30, 30], [30, 13.4, 30], [30, 30, 10.1]):
        atoms = random_box(np.diag(lengths), 600)
        assert choose_grid(600, CUTOFF, atoms.cell.array, atoms.positions, 60) is None
    small = STRUCTURES["random"]()[:400]
    assert choose_grid(400, CUTOFF, small.cell.array, small.positions, 60) is None
    assert choose_grid(600, CUTOFF, CUBE, None, 60, on_gpu=True) is None


@pytest.mark.parametrize("name", ["random", "clustered", "open"])
@pytest.mark.parametrize("trim", [False, True])
def test_too_few_slots_are_reported_and_enough_are_not(name, trim):
    atoms = STRUCTURES[name]()
    enough = grid_of(atoms)
    assert not bool(build(atoms, 400, trim=trim, grid=enough).crowded)
    # One fewer than the fullest window holds; what that misses is a few pairs.
    fullest = enough.slots
    while not bool(build(atoms, 400, trim=trim, grid=enough._replace(slots=fullest)).crowded):
        fullest -= 1
    got = build(atoms, 400, trim=trim, grid=enough._replace(slots=fullest + 1))
    assert torch.equal(got.indices, build(atoms, 400, trim=trim).indices)
    few = build(atoms, 400, grid=enough._replace(slots=fullest // 2))
    assert bool(few.crowded)
    assert len(pairs_of(atoms, few)) < len(expected_pairs(atoms))


def test_overflow_of_the_matrix_is_reported_with_the_number_needed():
    atoms = STRUCTURES["random"]()
    grid = grid_of(atoms)
    needed = int(build(atoms).largest)
    truncated = build(atoms, needed - 1, grid=grid)
    assert int(truncated.largest) == needed > truncated.indices.shape[1]
    assert build(atoms, needed + 9, trim=True, grid=grid).indices.shape[1] == needed


def test_slots_without_a_structure_suffice_for_matter_of_that_density():
    """A TorchForce has no positions when its cells are chosen."""
    water = replicated_water()
    most = int(build(water, 1, grid=grid_of(water)).largest)
    for cell in (water.cell.array, None):
        grid = choose_grid(len(water), CUTOFF, cell, None, most, SHRINKAGE)
        structure = water if cell is not None else opened(water.copy())
        assert not bool(build(structure, 80, grid=grid).crowded)


@pytest.mark.parametrize("shift", [[0, 0, 0], [20.0, 0, 0], [-40.0, 20.0, 60.0]])
def test_coincident_atoms_are_reported_also_across_the_box(shift):
    atoms = STRUCTURES["random"]()
    grid = grid_of(atoms)
    assert not bool(build(atoms, grid=grid).coincident)
    atoms.positions[3] = atoms.positions[100] + shift
    assert bool(build(atoms, grid=grid).coincident)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["random", "open"])
def test_a_position_that_is_not_finite_leaves_the_others_alone(name, value):
    atoms = STRUCTURES[name]()
    grid = grid_of(atoms)
    expected = build(atoms, 400, grid=grid)
    atoms.positions[5, 1] = value
    got = build(atoms, 400, grid=grid)
    far = ~(expected.indices == 5).any(1)
    far[5] = False
    assert torch.equal(got.indices[far], expected.indices[far])
    assert (got.indices[5] == 5).all()


@pytest.mark.parametrize("periodic", [True, False])
@pytest.mark.parametrize("grid", [True, False])
def test_nothing_is_read_back_from_the_device(periodic, grid):
    """Meta tensors hold no data: a host read, or a constant made on the CPU, would raise."""
    atoms = STRUCTURES["random" if periodic else "open"]()
    meta = {"dtype": torch.float64, "device": "meta"}
    for function in (neighbor_matrix, torch.jit.script(neighbor_matrix)):
        result = function(
            torch.empty(600, 3, **meta),
            torch.empty(3, 3, **meta),
            periodic,
            image_offsets([0, 0, 0]).to("meta"),
            CUTOFF,
            80,
            grid=grid_of(atoms) if grid else None,
        )
        shapes = [(600, 80), (600, 80, 3), (48000,), (600,), (), (), ()]
        assert [tuple(x.shape) for x in result] == shapes
        assert {x.device.type for x in result} == {"meta"}


def test_scripted_function_gives_the_same_matrix():
    atoms = STRUCTURES["sheared"]()
    arguments = (
        torch.tensor(atoms.positions),
        torch.tensor(atoms.cell.array),
        True,
        image_offsets([0, 0, 0]),
        CUTOFF,
        80,
    )
    scripted = torch.jit.script(neighbor_matrix)(*arguments, grid=grid_of(atoms))
    for a, b in zip(build(atoms, 80, grid=grid_of(atoms)), scripted, strict=True):
        assert torch.equal(a, b)


# ------------------------------------------------------------------------------- system model


def replicated_water() -> Atoms:
    atoms = water_frame(0).repeat(2)
    atoms.rattle(0.02, seed=0)
    return atoms


def model_of(path, atoms: Atoms, **options) -> SystemModel:
    # Modules whose shapes vary may search in loops.
    options = {"positions": atoms.positions, "precision": "single", "static_shapes": True} | options
    cell = atoms.cell.array if atoms.pbc.all() else None
    return SystemModel(
        artifacts.load(path), atoms.numbers, periodic=cell is not None, cell=cell, **options
    )


def status_of(model: SystemModel, positions, cell) -> int:
    return int(model.module(torch.tensor(positions), torch.tensor(cell))[4])


@pytest.mark.parametrize("periodic", [True, False])
def test_model_gives_the_same_through_both_searches(water_artifact, monkeypatch, periodic):
    atoms = replicated_water()
    if not periodic:
        opened(atoms)
    through_cells = model_of(water_artifact, atoms)
    assert through_cells.module.neighbors.grid is not None
    monkeypatch.setattr(cells, "FEWEST_ATOMS", 10**6)
    all_pairs = model_of(water_artifact, atoms)
    assert all_pairs.module.neighbors.grid is None
    got, expected = (m.evaluate(atoms.positions) for m in (through_cells, all_pairs))
    assert got.energy == expected.energy
    assert np.array_equal(got.forces, expected.forces)
    assert np.array_equal(got.charges, expected.charges)
    assert np.array_equal(got.virial, expected.virial)


def test_slots_of_the_cells_grow(water_artifact):
    atoms = replicated_water()
    expected = model_of(water_artifact, atoms).evaluate(atoms.positions)
    blind = model_of(water_artifact, atoms, positions=None)  # slots for 16 neighbours
    few = blind.module.neighbors.grid.slots
    assert status_of(blind, atoms.positions, atoms.cell.array) == STATUS_OVERFLOW
    assert blind.evaluate(atoms.positions).energy == expected.energy
    assert blind.module.neighbors.grid.slots > few


def test_slots_grow_where_the_matrix_is_large_enough(water_artifact):
    """A gas that condenses fills windows before it fills rows of 190."""
    droplet = replicated_water()
    droplet.set_cell(droplet.cell.array * 1.6)
    gas = replicated_water()
    gas.set_cell(droplet.cell.array, scale_atoms=True)
    model = model_of(water_artifact, gas, max_neighbors=190)
    assert status_of(model, gas.positions, gas.cell.array) == 0
    assert status_of(model, droplet.positions, gas.cell.array) == STATUS_OVERFLOW
    energy = model.evaluate(droplet.positions).energy
    expected = model_of(water_artifact, droplet).evaluate(droplet.positions).energy
    assert energy == pytest.approx(expected, rel=1e-6)  # sums over another number of slots


@pytest.mark.parametrize("factor", [0.86, 1.14])
def test_box_changes_within_the_margin_need_no_new_cells(water_artifact, factor):
    atoms = replicated_water()
    model = model_of(water_artifact, atoms, max_neighbors=80)
    module = model.module
    atoms.set_cell(atoms.cell.array * factor ** (1 / 3), scale_atoms=True)
    got = model.evaluate(atoms.positions, atoms.cell.array)
    assert model.module is module
    fresh = model_of(water_artifact, atoms).evaluate(atoms.positions)
    # Other blocks, other sums: in float32 each of them is 1.5e-5 eV/A from double precision.
    np.testing.assert_allclose(got.forces, fresh.forces, atol=3e-5)


def test_errors_are_those_of_small_systems(water_artifact):
    atoms = replicated_water()
    model = model_of(water_artifact, atoms)
    r, cell = atoms.positions.copy(), atoms.cell.array
    assert status_of(model, r, cell * np.nan) == STATUS_POSITIONS | STATUS_BOX
    r[7, 2] = np.nan
    assert status_of(model, r, cell) == STATUS_POSITIONS
    r[7] = r[12] + cell[1]
    assert status_of(model, r, cell) & STATUS_COINCIDENT
    with pytest.raises(SimulationError, match="two atoms are at the same place"):
        model.evaluate(r)


# --------------------------------------------------------------------------------------- OpenMM


@pytest.mark.torchforce
@pytest.mark.filterwarnings("ignore:backend='torchforce'.*:UserWarning")
def test_torchforce_through_cells(water_artifact):
    from support.contexts import assert_same, create_context, create_system, energy_and_forces

    atoms = replicated_water()

    def through(backend, **options):
        system = create_system(water_artifact, atoms, backend=backend, **options)
        return energy_and_forces(create_context(system, atoms.positions, "Reference"))

    expected = through("pythonforce")
    assert_same(through("torchforce"), expected, "single")
    with pytest.raises(openmm.OpenMMException, match="raise the option maxNeighbors"):
        through("torchforce", maxNeighbors=8)


# ------------------------------------------------------------------------------------- memory


@pytest.mark.slow
def test_memory_for_a_hundred_thousand_atoms():
    """In a process of its own, whose peak can be read."""
    script = f"""
import resource, sys
sys.path.insert(0, {str(ROOT / "benchmarks")!r})
import neighbors
system = neighbors.water_of(98304)
call = neighbors.cells(*neighbors.water_of(1536))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
neighbors.cells(*system)()
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert float(done.stdout) < 1000
