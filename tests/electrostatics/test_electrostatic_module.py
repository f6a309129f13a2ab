"""The module of an embedded region: static shapes, and the order of its atoms."""

import numpy as np
import pytest
from support.charges import slope
from support.helpers import dipeptide
from support.moments import moments_artifact
from support.tracing import trace_on_fake_gpu

from openmm_les import artifact as artifacts
from openmm_les import catalog
from openmm_les.electrostatics.embedding import Surroundings
from openmm_les.electrostatics.multipoles import INDUCED_ROWS
from openmm_les.evaluation.system_model import SystemModel

# No reciprocal vectors near the cutoff of the model, which would make steps in its energy.
CELL = 17.3 * np.eye(3)


def surroundings(method, **options) -> Surroundings:
    """Charges, one of which interacts in part with ML atom 3."""
    charges = np.random.default_rng(2).normal(0.0, 0.4, 40).tolist()
    return Surroundings(
        charges, method, total=0.0, sign=-1.0, cutoff=8.0, scaled_pairs=[(3, 7, 0.4)], **options
    )


@pytest.mark.parametrize("precision", ["single", "double"])
@pytest.mark.parametrize("method", ["NoCutoff", "CutoffPeriodic", "PME"])
def test_nothing_waits_for_the_gpu(method, precision):
    numbers = [*dipeptide(0).numbers, 1]
    model = SystemModel(
        artifacts.load(catalog.artifact_path("les-demo")),
        numbers,
        periodic=method != "NoCutoff",
        cell=CELL,
        precision=precision,
        max_neighbors=24,
        to_gpu=True,
        static_shapes=True,
        surroundings=surroundings(method, hosts=[4]),
    )
    number = len(numbers) + 40
    _, results = trace_on_fake_gpu(model.module, (number, 3), (3, 3))
    shapes = [tuple(result.shape) for result in results]
    assert shapes == [(), (number, 3), (number,), (3, 3), ()]


@pytest.mark.usefixtures("moments_family")
@pytest.mark.parametrize("method", ["CutoffPeriodic", "PME"])
def test_nothing_waits_for_the_gpu_with_moments(method):
    numbers = [*dipeptide(0).numbers, 1]
    model = SystemModel(
        moments_artifact(),
        numbers,
        periodic=True,
        cell=CELL,
        max_neighbors=24,
        to_gpu=True,
        static_shapes=True,
        surroundings=surroundings(method, hosts=[4], polarization="mm", mm_widths=[0.7] * 40),
    )
    number = len(numbers) + 40
    _, results = trace_on_fake_gpu(model.module, (number, 3), (3, 3))
    shapes = [tuple(result.shape) for result in results]
    rows = model.artifact.layout.rows + INDUCED_ROWS
    assert shapes == [(), (number, 3), (rows, number), (3, 3), ()]


@pytest.mark.usefixtures("moments_family")
@pytest.mark.parametrize("responds", [False, True])
@pytest.mark.parametrize("images", ["exact", "native"])
def test_strain_is_the_derivative(images, responds):
    """dE/dstrain with all positions and the box deformed alike, by central differences."""
    atoms = dipeptide(0)
    random = np.random.default_rng(4)
    around = random.normal(size=(40, 3))
    around *= random.uniform(6.0, 8.0, (40, 1)) / np.linalg.norm(around, axis=1, keepdims=True)
    positions = np.concatenate([atoms.positions - atoms.positions.mean(axis=0), around])
    demo = artifacts.load(catalog.artifact_path("les-demo"))
    options = {"polarization": "mm", "mm_widths": [0.7] * 40} if responds else {}
    model = SystemModel(
        moments_artifact() if responds else demo,
        atoms.numbers,
        periodic=True,
        cell=CELL,
        positions=positions,
        precision="double",
        surroundings=surroundings("PME", images=images, **options),
    )

    def energy(strain):
        deformed = np.eye(3) + strain
        return model.evaluate(positions @ deformed, CELL @ deformed).energy

    direction = random.normal(size=(3, 3))
    direction = direction + direction.T
    numeric = slope(energy, np.zeros((3, 3)), direction, 1e-5)
    got = (model.evaluate(positions, CELL).virial * direction).sum()
    assert got == pytest.approx(numeric, rel=1e-6)
