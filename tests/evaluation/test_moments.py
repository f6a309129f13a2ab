"""Models with latent moments as a `SystemModel` evaluates them."""

import numpy as np
import pytest
import torch
from ase import Atoms
from support.gradients import check_finite_differences, system_for
from support.moments import MOMENTS, moments_artifact

from openmm_les.evaluation.results import latent_moments

pytestmark = pytest.mark.usefixtures("moments_family")

#: No reciprocal vector is near the cutoff, where differences of energies would have steps.
CELL = [[9.3, 0, 0], [1.3, 9.7, 0], [-0.9, 2.2, 10.3]]


def waters(periodic: bool) -> Atoms:
    one = np.array([[0.0, 0.0, 0.0], [0.76, 0.59, 0.0], [-0.76, 0.59, 0.0]])
    positions = np.concatenate([one, one[:, [1, 2, 0]] + [2.9, 0.3, -0.4]])
    return Atoms("OHHHOH", positions[[0, 1, 2, 4, 3, 5]], cell=CELL, pbc=periodic)


@pytest.mark.parametrize("periodic", [False, True])
@pytest.mark.parametrize("moments", MOMENTS)
def test_forces_and_strain_are_derivatives(moments, periodic):
    check_finite_differences(moments_artifact(moments), waters(periodic), atoms=[0, 3])


@pytest.mark.parametrize("periodic", [False, True])
def test_precisions_agree(periodic):
    artifact, atoms = moments_artifact(), waters(periodic)
    one, two = (
        system_for(artifact, atoms, precision).evaluate(atoms.positions)
        for precision in ("double", "single")
    )
    assert two.energy == pytest.approx(one.energy, abs=3e-5)
    np.testing.assert_allclose(two.forces, one.forces, atol=3e-4)
    np.testing.assert_allclose(two.moments.alpha, one.moments.alpha, atol=1e-5)


@pytest.mark.parametrize("periodic", [False, True])
@pytest.mark.parametrize("moments", ["all", "isotropic", "dipoles", "kappa", "alpha"])
def test_the_portable_module(moments, periodic, tmp_path):
    artifact, atoms = moments_artifact(moments, tmp_path / "m.les.pt"), waters(periodic)
    model = system_for(artifact, atoms)
    result = model.evaluate(atoms.positions)
    inputs = [torch.tensor(x) for x in (atoms.positions, atoms.numbers, np.array(CELL))]
    energy, forces, charges = artifact.module(*inputs, periodic)
    assert float(energy) == pytest.approx(result.energy + model.reference_energy, abs=1e-10)
    np.testing.assert_allclose(forces, result.forces, atol=1e-10)
    np.testing.assert_allclose(charges, result.charges, atol=1e-11)
    *_, latents = artifact.module.evaluate(*inputs, periodic)
    for name, values in vars(latent_moments(latents.numpy(), artifact.layout)).items():
        expected = getattr(result.moments, name)
        assert (values is None) == (expected is None), name
        if values is not None:
            np.testing.assert_allclose(values, expected, atol=1e-11, err_msg=name)
