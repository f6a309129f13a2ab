"""Forces and strain derivatives against finite differences, for the tests."""

import itertools

import numpy as np
import pytest

from openmm_les.evaluation.system_model import SystemModel


def box_of(structure) -> np.ndarray | None:
    """Lattice vectors of an ASE structure or a probe [A], None for an open one."""
    if hasattr(structure, "pbc"):
        return structure.cell.array if structure.pbc.all() else None
    return structure.cell


def system_for(artifact, structure, precision="double", **options) -> SystemModel:
    """The model of an ASE structure or a probe."""
    cell = box_of(structure)
    return SystemModel(
        artifact,
        structure.numbers,
        periodic=cell is not None,
        cell=cell,
        positions=structure.positions,
        precision=precision,
        **options,
    )


def check_finite_differences(artifact, structure, atoms, step: float = 1e-4) -> None:
    """Forces on some atoms, and dE/dstrain, are derivatives of the energy."""
    model = system_for(artifact, structure, max_neighbors=len(structure.numbers) * 8)
    r, cell = structure.positions, box_of(structure)
    got = model.evaluate(r)

    def energy(positions, box=None):
        return model.evaluate(positions, box).energy

    scale = np.abs(got.forces).max()
    for i, axis in itertools.product(atoms, range(3)):
        d = np.zeros_like(r)
        d[i, axis] = step
        # Fourth-order central difference: its error is far below 1e-6 of the force.
        slope = (8 * (energy(r + d) - energy(r - d)) - (energy(r + 2 * d) - energy(r - 2 * d))) / (
            12 * step
        )
        assert got.forces[i, axis] == pytest.approx(-slope, abs=1e-6 * scale)
    assert np.abs(got.forces.sum(0)).max() < 1e-9 * max(1.0, scale)
    for a, b in itertools.product(range(3), repeat=2):

        def strained(x, a=a, b=b):
            strain = np.eye(3)
            strain[a, b] += x
            return energy(r @ strain.T, None if cell is None else cell @ strain.T)

        slope = (
            8 * (strained(step) - strained(-step)) - (strained(2 * step) - strained(-2 * step))
        ) / (12 * step)
        assert got.virial[a, b] == pytest.approx(
            slope, abs=2e-6 * max(1.0, np.abs(got.virial).max())
        )


def assert_same_results(model, other, positions) -> None:
    one, two = model.evaluate(positions), other.evaluate(positions)
    assert one.energy == pytest.approx(two.energy, abs=1e-6 * len(positions))
    np.testing.assert_allclose(one.forces, two.forces, atol=1e-4)
    np.testing.assert_allclose(one.charges, two.charges, atol=1e-5)
    np.testing.assert_allclose(one.virial, two.virial, atol=1e-4 * len(positions))
