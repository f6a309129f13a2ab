"""Models with latent moments as a `SystemModel` evaluates them."""

import numpy as np
import pytest
import torch
from support.gradients import check_finite_differences, system_for
from support.moments import CELL, MOMENTS, moments_artifact, two_waters

from openmm_les.evaluation.results import latent_moments

pytestmark = pytest.mark.usefixtures("moments_family")


@pytest.mark.parametrize("periodic", [False, True])
@pytest.mark.parametrize("moments", MOMENTS)
def test_forces_and_strain_are_derivatives(moments, periodic):
    check_finite_differences(moments_artifact(moments), two_waters(periodic), atoms=[0, 3])


@pytest.mark.parametrize("periodic", [False, True])
def test_precisions_agree(periodic):
    artifact, atoms = moments_artifact(), two_waters(periodic)
    one, two = (
        system_for(artifact, atoms, precision).evaluate(atoms.positions)
        for precision in ("double", "single")
    )
    assert two.energy == pytest.approx(one.energy, abs=3e-5)
    np.testing.assert_allclose(two.forces, one.forces, atol=3e-4)
    np.testing.assert_allclose(two.moments.alpha, one.moments.alpha, atol=1e-5)


@pytest.mark.parametrize("moments", ["all", "isotropic", "dipoles", "kappa", "alpha"])
def test_the_portable_module(moments, tmp_path):
    artifact = moments_artifact(moments, tmp_path / "m.les.pt")
    for periodic in (False, True):
        check_portable_module(artifact, two_waters(periodic))


def check_portable_module(artifact, atoms):
    model = system_for(artifact, atoms)
    result = model.evaluate(atoms.positions)
    inputs = [torch.tensor(x) for x in (atoms.positions, atoms.numbers, np.array(CELL))]
    periodic = bool(atoms.pbc.all())
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
