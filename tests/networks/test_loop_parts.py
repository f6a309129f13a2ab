"""Loops of Numba for pairs, first layers and charges against the torch code that they stand for."""

import mpmath
import pytest
import torch
from support.fused import random

from openmm_les.electrostatics import PairSum
from openmm_les.neighbors.matrix import image_offsets, neighbor_matrix
from openmm_les.networks.blocks.geometry import pair_geometry
from openmm_les.networks.blocks.radial import TabulatedRadial
from openmm_les.networks.blocks.species_convolution import species_convolution
from openmm_les.networks.kernels import obstacle

if obstacle("numba"):
    pytest.skip("needs the extra cpu", allow_module_level=True)

from openmm_les.networks.kernels.numba import workers
from openmm_les.networks.kernels.numba.pair_sum import LoopPairSum, loops_for

CUTOFF, LMAX, FEATURES, SPECIES = 2.2, 3, 5, 2


def structure():
    """Atoms in a small box, which have slots to spare and neighbours in two images; species."""
    positions, cell = 1.5 * random(9, 3, seed=1), 4.5 * torch.eye(3, dtype=torch.float64)
    matrix = neighbor_matrix(positions, cell, True, image_offsets([1, 1, 1]), CUTOFF, 0)
    spare = neighbor_matrix(
        positions, cell, True, image_offsets([1, 1, 1]), CUTOFF, int(matrix.largest) + 2
    )
    assert spare.indices.numel() % 16  # slots of the last block are fewer
    return positions, spare, torch.tensor([0] * 4 + [1] * 5)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("lmax", [1, LMAX])
def test_geometry(lmax, dtype):
    positions, matrix, species = structure()
    r = torch.linspace(0, 1, 64, dtype=torch.float64).view(-1, 1)
    k = random(2, 1, FEATURES, seed=2)
    values, slopes = torch.sin(k * r), k * torch.cos(k * r) / CUTOFF
    tables = torch.tensor([0, 1, 1, 0])
    radial = TabulatedRadial(values, slopes, CUTOFF, tables, torch.float64)
    plain, loops = (
        pair_geometry(radial, lmax, SPECIES, kernels).to(dtype) for kernels in ("torch", "numba")
    )
    loops = torch.jit.script(loops)
    tolerance = 200 * torch.finfo(dtype).eps
    exact = {"rtol": tolerance, "atol": tolerance}
    *expected, tape = plain(positions, matrix, species)
    *got, own = loops(positions, matrix, species)
    torch.testing.assert_close(got, expected, **exact)
    n, width = matrix.indices.shape
    grads = random(n, width, (lmax + 1) ** 2, seed=3), random(n, width, FEATURES, seed=4)
    # Gradients may be views with gaps.
    grads = [torch.cat([grad, grad], 2)[:, :, : grad.shape[2]].to(dtype) for grad in grads]
    expected = plain.backward(*(grad.contiguous() for grad in grads), tape, matrix.reverse)
    torch.testing.assert_close(loops.backward(*grads, own, matrix.reverse), expected, **exact)


@pytest.mark.parametrize("threads", [1, 3])
def test_first_layer(threads, monkeypatch):
    monkeypatch.setattr(workers, "_FEWEST", 1)
    _, matrix, species = structure()
    n, width = matrix.indices.shape
    weights = random(LMAX + 1, 3, SPECIES, FEATURES, seed=5)
    harmonics = random(n, width, (LMAX + 1) ** 2, seed=6)
    features = random(n, width, FEATURES + 2, seed=7)[:, :, 1:-1]  # columns of a layer
    plain, loops = (species_convolution(weights, LMAX, kernels) for kernels in ("torch", "numba"))
    inputs = harmonics, features, matrix.indices, species
    expected, tape = plain(*inputs)
    grad = random(*expected.shape, seed=8)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        loops = torch.jit.script(loops)
        sums, own = loops(*inputs)
        got = loops.backward(grad, own)
    finally:
        torch.set_num_threads(before)
    torch.testing.assert_close(sums, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(got, plain.backward(grad, tape), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("channels", [(), (3,)])
@pytest.mark.parametrize("removed", [True, False])
def test_charges(channels, removed):
    """With atoms at one place, or so near that the series for small distances is taken."""
    plain = PairSum(sigma=0.9, prefactor=90.0, remove_self_interaction=removed, dtype=torch.float64)
    loop = torch.jit.script(loops_for(plain, 12))
    positions = 3.0 * random(12, 3, seed=9)
    positions[1] = positions[0]
    positions[3] = positions[2] + 0.07
    charges, cell = random(*channels, 12, seed=10), torch.zeros(3, 3, dtype=torch.float64)
    expected, got = plain(charges, positions, cell), loop(charges, positions, cell)
    for one, other in zip(got[:4], expected[:4], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-10)
    assert not got.outgrown


@pytest.mark.parametrize("x2", [1e-6, 0.00999, 0.01001])
def test_two_near_charges(x2):
    """With a series and without, against d(erf(a r)/r)/dr from many digits."""
    plain = PairSum(sigma=0.9, prefactor=90.0, remove_self_interaction=True, dtype=torch.float64)
    r = x2**0.5 / plain.alpha
    positions = torch.tensor([[0.0, 0.0, 0.0], [r, 0.0, 0.0]], dtype=torch.float64)
    terms = LoopPairSum(plain)(positions.new_ones(2), positions, positions.new_zeros(3, 3))
    with mpmath.workdps(40):
        slope = mpmath.diff(lambda x: mpmath.erf(plain.alpha * x) / x, mpmath.mpf(r))
    # Without the series, a difference of two numbers near 1 is divided by x2.
    error = 1e-14 if x2 < 1e-2 else 1e-13
    expected = pytest.approx(float(plain.coulomb * slope), rel=error)
    assert float(terms.gradient[1, 0]) == expected


def test_large_systems_keep_the_sum_over_all_pairs():
    plain = PairSum(sigma=1.0, prefactor=1.0, remove_self_interaction=True, dtype=torch.float32)
    assert isinstance(loops_for(plain, 10), LoopPairSum)
    assert loops_for(plain, 10_000) is plain
