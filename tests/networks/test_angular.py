"""Constants and harmonics against e3nn, gradients against autograd."""

import warnings

import numpy as np
import pytest
import torch

from openmm_les.networks.blocks.angular import (
    SphericalHarmonics,
    degree_offsets,
    parity_permutation,
    wigner_3j,
)

NATURAL = [
    (a, b, c)
    for a in range(4)
    for b in range(4)
    for c in range(4)
    if abs(a - b) <= c <= a + b and (a + b + c) % 2 == 0
]


@pytest.fixture(scope="module")
def o3():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip("mace.modules", reason="needs e3nn, which comes with mace-torch")
        from e3nn import o3
    return o3


@pytest.mark.mace
@pytest.mark.parametrize("degrees", NATURAL)
def test_wigner_3j_equals_e3nn(o3, degrees):
    expected = o3.wigner_3j(*degrees, dtype=torch.float64).numpy()
    np.testing.assert_allclose(wigner_3j(*degrees), expected, atol=1e-14)


def test_wigner_3j_refuses_degrees_that_do_not_couple():
    with pytest.raises(ValueError, match=r"\(1, 1, 3\) violate the triangle inequality"):
        wigner_3j(1, 1, 3)


@pytest.mark.mace
@pytest.mark.parametrize("lmax", [1, 2, 3, 4])
def test_harmonics_equal_e3nn(o3, lmax):
    vectors = torch.randn(50, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(lmax))
    unit = vectors / vectors.norm(dim=1, keepdim=True)
    degrees = list(range(lmax + 1))
    expected = o3.spherical_harmonics(degrees, unit, True, "component")
    got = torch.jit.script(SphericalHarmonics(lmax, torch.float64))(unit)
    torch.testing.assert_close(got, expected[:, parity_permutation(lmax)], rtol=0, atol=1e-13)


@pytest.mark.parametrize("lmax", [1, 2, 3])
def test_gradient_of_harmonics_is_that_of_autograd(lmax):
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(20, 3, dtype=torch.float64, generator=generator, requires_grad=True)
    distance = vectors.norm(dim=1, keepdim=True)
    unit = vectors / distance
    module = SphericalHarmonics(lmax, torch.float64)
    values = module(unit)
    weights = torch.randn(values.shape, dtype=torch.float64, generator=generator)
    (expected,) = torch.autograd.grad((values * weights).sum(), vectors)
    slope = module.backward(weights, values)
    tangential = slope - (slope * unit).sum(1, keepdim=True) * unit
    torch.testing.assert_close(tangential / distance, expected, rtol=0, atol=1e-12)


def test_harmonics_have_component_normalisation():
    unit = torch.nn.functional.normalize(torch.randn(7, 3, dtype=torch.float64))
    values = SphericalHarmonics(3, torch.float64)(unit)
    for degree, first in enumerate(degree_offsets(3)):
        norm = (values[:, first : first + 2 * degree + 1] ** 2).sum(1)
        torch.testing.assert_close(norm, torch.full_like(norm, 2 * degree + 1))
