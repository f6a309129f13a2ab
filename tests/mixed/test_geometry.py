"""Where the model of an ML region sees atoms and charges, and where its forces go."""

import itertools

import numpy as np
import pytest
import torch
from mixed.test_electrostatic_system import embedded
from support.mixed import bare, classical, peptide_in_water
from support.tracing import launches, trace, trace_on_fake_gpu

from openmm_les.evaluation.system_model import SystemModel
from openmm_les.plugin.forces.present import models_in
from openmm_les.plugin.mixed.boundary_charges import BondCharge
from openmm_les.plugin.mixed.geometry import RegionGeometry
from openmm_les.plugin.mixed.links import Link

CELL = np.array([[13.0, 0, 0], [3.7, 12.8, 0], [-4.9, 5.1, 12.9]])
# A chain of six atoms in another order, a ring of three, and an atom alone.
CHAIN = [(3, 0), (0, 5), (5, 1), (1, 4), (4, 2)]
BONDS = [*CHAIN, (6, 7), (7, 8), (6, 8)]
ATOMS = [12, 3, 9, 0, 7, 1, 14, 2, 11, 5]
LINKS = [Link(9, 4, 1.07), Link(9, 6, 1.1), Link(5, 13, 1.0)]
CHARGED = [4, 6, 8, 13]
BOND_CHARGES = [BondCharge(4, 8, 0.5, 0.3), BondCharge(4, 10, 1.06, -0.2)]


def structure(seed=3) -> np.ndarray:
    """Bonded particles 1.4 A apart, everything near the middle of the box [A]."""
    random = np.random.default_rng(seed)
    positions = 4.0 + random.uniform(0.0, 3.0, (15, 3))
    tree = [(ATOMS[i], ATOMS[j]) for i, j in BONDS[:-1]]
    tree += [(link.ml_atom, link.mm_atom) for link in LINKS]
    tree += [(charge.first, charge.second) for charge in BOND_CHARGES]
    for parent, child in tree:
        direction = random.normal(size=3)
        positions[child] = positions[parent] + 1.4 * direction / np.linalg.norm(direction)
    return positions


def region(periodic=True, bonds=BONDS, **changes) -> RegionGeometry:
    options = {"charged": CHARGED, "bond_charges": BOND_CHARGES} | changes
    return RegionGeometry(15, ATOMS, LINKS, periodic=periodic, bonds=bonds, **options)


def test_order_and_places():
    """ML atoms, link atoms, MM charges, bond charges, by hand."""
    positions = structure()
    expected = [positions[ATOMS]]
    for link in LINKS:
        bond = positions[link.mm_atom] - positions[link.ml_atom]
        place = positions[link.ml_atom] + link.distance * bond / np.linalg.norm(bond)
        expected.append(place[None])
    expected.append(positions[CHARGED])
    for first, second, fraction, _ in BOND_CHARGES:
        expected.append(
            (positions[first] + fraction * (positions[second] - positions[first]))[None]
        )
    for geometry, cell in ((region(periodic=False), None), (region(bonds=None), CELL)):
        arranged = geometry.arrange(positions, cell).positions
        np.testing.assert_allclose(arranged, np.concatenate(expected), atol=1e-14)


@pytest.mark.parametrize("seed", [3, 4])
def test_any_images_are_arranged_alike(seed):
    """Atoms that are moved by lattice vectors, each by another one, come back to one piece."""
    whole = structure(seed)
    images = np.random.default_rng(seed).integers(-2, 3, (15, 3)) @ CELL
    geometry = region()
    expected = geometry.arrange(whole, CELL).positions.numpy()
    got = geometry.arrange(whole + images, CELL).positions.numpy()
    number = len(ATOMS) + len(LINKS)
    shift = got[0] - expected[0]  # the whole region by one lattice vector
    turns = shift @ np.linalg.inv(CELL)
    np.testing.assert_allclose(turns, np.round(turns), atol=1e-12)
    np.testing.assert_allclose(got[:number], expected[:number] + shift, atol=1e-12)
    apart = (got - expected)[number:] @ np.linalg.inv(CELL)
    np.testing.assert_allclose(apart, np.round(apart), atol=1e-12)
    for one, other in BONDS:
        assert np.linalg.norm(got[one] - got[other]) < 5.0


def test_forces_do_the_same_work():
    """Against central differences of arranged positions, images of a skewed box included."""
    random = np.random.default_rng(5)
    positions = structure() + random.integers(-1, 2, (15, 3)) @ CELL
    geometry = region()
    arrangement = geometry.arrange(positions, CELL)
    acting = torch.from_numpy(random.normal(size=tuple(arrangement.positions.shape)))
    got = geometry.pull_back(acting, arrangement).numpy()
    step = 1e-5
    numeric = np.zeros_like(positions)
    for atom, axis in itertools.product(range(15), range(3)):
        for sign in (1, -1):
            moved = positions.copy()
            moved[atom, axis] += sign * step
            work = (geometry.arrange(moved, CELL).positions * acting).sum()
            numeric[atom, axis] += sign * float(work) / (2 * step)
    np.testing.assert_allclose(got, numeric, atol=1e-8)
    assert np.abs(got[10]).max() > 1e-3  # feels a bond charge alone
    np.testing.assert_allclose(got.sum(axis=0), acting.sum(axis=0), atol=1e-12)


def test_nothing_waits_for_a_gpu():
    """Nor does anything depend on the structure."""
    geometry = torch.jit.script(region())
    acting = torch.ones(geometry.num_positions, 3, dtype=torch.float64)

    def both(positions, cell, acting):
        return geometry.pull_back(acting, geometry(positions, cell))

    positions, cell = torch.from_numpy(structure()), torch.from_numpy(CELL)
    operations, _ = trace(both, positions, cell, acting)
    others, _ = trace(both, 9.0 * positions, cell, acting)
    assert operations == others
    trace_on_fake_gpu(both, positions.shape, cell.shape, acting.shape, module=geometry)


def test_a_model_among_charges_can_be_a_cuda_graph():
    """From raw positions of all particles to forces on them, nothing waits for the GPU."""
    peptide = peptide_in_water()
    atoms = peptide.side_chain + peptide.waters(2)
    system = embedded(peptide, classical(peptide), atoms, device="cpu")
    compute = models_in(system)[0].compute
    artifact = compute.artifact()
    positions = 10.0 * peptide.positions
    cell = 10.0 * bare(peptide.topology.getPeriodicBoxVectors())
    model = SystemModel(
        artifact,
        compute.settings["numbers"],
        periodic=True,
        cell=cell,
        positions=positions,
        surroundings=compute.surroundings(artifact),
        geometry=compute.geometry(),
        to_gpu=True,
        static_shapes=True,
    )
    inputs = torch.from_numpy(positions), torch.from_numpy(cell)
    moved = 20.0 * np.random.default_rng(0).normal(size=positions.shape)
    for _ in range(2):  # TorchScript optimises in the second call
        trace(model.module, *inputs)
    operations, results = trace(model.module, *inputs)
    others, _ = trace(model.module, inputs[0] + torch.from_numpy(moved), inputs[1])
    assert operations == others
    assert results[1].shape == positions.shape
    assert int(results[-1]) == 0
    shapes = positions.shape, cell.shape
    operations, results = trace_on_fake_gpu(model.module.evaluate, *shapes, module=model.module)
    assert results[1].is_cuda
    assert launches(operations) > 200
