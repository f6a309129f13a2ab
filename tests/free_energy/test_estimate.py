"""Free energies from samples whose distributions are known."""

import math
import re

import numpy as np
import pytest
import torch

from openmm_les import InputError
from openmm_les.electrostatics.pairs import PairSum
from openmm_les.free_energy.estimate import Window, along_lambda, of_states
from openmm_les.free_energy.verdict import judge
from openmm_les.units import GAS_CONSTANT, KJ_PER_MOL_PER_EV

pymbar = pytest.importorskip("pymbar")
TEMPERATURE = 300.0
KT = GAS_CONSTANT * TEMPERATURE


def gaussian(spread, number, values, seed=0) -> list[Window]:
    """Windows where dU/dlambda is normal with this spread [kT], so that F(1) is -spread^2 / 2."""
    rng = np.random.default_rng(seed)
    return [Window(x, KT * rng.normal(-(spread**2) * x, spread, number)) for x in values]


def test_harmonic_oscillators_of_pymbar():
    from pymbar.testsystems import harmonic_oscillators

    case = harmonic_oscillators.HarmonicOscillatorsTestCase([0.0, 0.5, 1.0, 1.5], [1, 2, 4, 3])
    counts = [400, 300, 200, 300]
    _, reduced, _, _ = case.sample(counts, mode="u_kn", seed=1)
    states = of_states(reduced, counts)
    expected = case.analytical_free_energies(subtract_component=0)
    assert (np.abs(states.energies - expected)[1:] < 4 * states.errors[1:]).all()
    assert states.errors[0] == 0.0
    assert (states.errors[1:] < 0.2).all()
    options = {"maxiter": 1000, "verbose": False}
    solvers = ({"method": "adaptive", "options": options},)  # others warn of these options
    mbar = pymbar.MBAR(reduced, counts, initial_f_k=expected, solver_protocol=solvers)
    np.testing.assert_allclose(states.overlap, mbar.compute_overlap()["matrix"], atol=1e-6)
    np.testing.assert_allclose(states.energies, mbar.f_k, atol=1e-6)


def test_a_pair_of_latent_charges():
    """Two atoms on a spring whose latent charges appear: the integral over r is one of a table."""
    kernel = PairSum(
        sigma=1.0, prefactor=90.4756, remove_self_interaction=True, dtype=torch.float64
    )
    r = np.linspace(0.5, 6.0, 200)
    charges, cell = torch.tensor([0.3, -0.3], dtype=torch.float64), torch.zeros(3, 3)
    latent = KJ_PER_MOL_PER_EV * np.array(
        [float(kernel(charges, torch.tensor([[0.0, 0, 0], [x, 0, 0]]), cell).energy) for x in r]
    )
    spring = 0.5 * 15.0 * (r - 3.0) ** 2
    values = (0.0, 0.3, 0.6, 1.0)
    weights = [r**2 * np.exp(-(spring + value * latent) / KT) for value in values]
    expected = -KT * np.log([w.sum() / weights[0].sum() for w in weights])
    rng = np.random.default_rng(2)
    samples = [rng.choice(latent, 600, p=w / w.sum()) for w in weights]
    found = along_lambda([Window(*pair) for pair in zip(values, samples, strict=True)], TEMPERATURE)
    assert abs(expected[-1]) > 2.0
    assert found.error < 0.3
    assert (np.abs(found.energies - expected)[1:] < 4 * found.errors[1:]).all()
    np.testing.assert_allclose(found.by_bar, expected, atol=0.5)
    np.testing.assert_allclose(found.by_integration, expected, atol=0.5)
    assert judge(found).problems == ()


def test_correlated_samples_count_less_and_a_start_out_of_equilibrium_not_at_all():
    rng = np.random.default_rng(3)
    windows = []
    for value in (0.0, 0.5, 1.0):
        noise = rng.normal(size=1500)
        series = np.zeros(1500)
        for i in range(1, 1500):
            series[i] = 0.8 * series[i - 1] + 0.6 * noise[i]
        series[:100] += 30.0 * np.exp(-np.arange(100) / 30.0)
        windows.append(Window(value, KT * (series - value)))
    found = along_lambda(windows, TEMPERATURE)
    for kept in found.kept:
        assert 30 < kept.start < 400
        assert 4.0 < kept.inefficiency < 18.0  # 9 for ever
        assert kept.count <= 1 + (1500 - kept.start) / kept.inefficiency
    assert abs(found.difference + 0.5 * KT) < 4 * found.error
    assert found.forward.energies[-1] == pytest.approx(found.difference)
    assert found.backward.energies[-1] == pytest.approx(found.difference)
    assert found.forward.errors[0] > found.error


def test_what_does_not_overlap_is_said_with_windows_that_would():
    few = along_lambda(gaussian(12.0, 400, (0.0, 0.1, 0.2, 1.0)), TEMPERATURE)
    verdict = judge(few)
    assert verdict.word == "unreliable"
    assert "overlap of lambda 0.2 and 1 is" in verdict.problems[0]
    assert verdict.new_values == (0.36, 0.52, 0.68, 0.84)
    more = along_lambda(gaussian(12.0, 400, (0.0, 0.1, 0.2, *verdict.new_values, 1.0)), TEMPERATURE)
    assert judge(more).problems == ()
    assert abs(more.difference + 72.0 * KT) < 4 * more.error


def test_states_without_any_overlap_have_no_error():
    found = along_lambda(gaussian(100.0, 50, (0.0, 1.0)), TEMPERATURE)
    assert found.error == math.inf
    assert found.difference == pytest.approx(-5000.0 * KT, rel=0.05)
    np.testing.assert_allclose(found.overlap, np.eye(2), atol=1e-6)
    assert len(judge(found).new_values) == 5


def test_too_few_samples_and_a_drift_are_said():
    few = judge(along_lambda(gaussian(0.5, 40, (0.0, 1.0)), TEMPERATURE))
    assert re.match(r"fewer than 50 independent .* \(\d+ at 0, \d+ at 1\): run", few.problems[0])
    assert few.new_values == ()
    # Less than the spread: no start out of equilibrium, which would be left out.
    drift = np.where(np.arange(300) < 150, 0.0, 2.0 * KT)
    windows = gaussian(4.0, 300, np.linspace(0.0, 1.0, 11))
    moved = [Window(w.value, w.differences + drift) for w in windows]
    (problem,) = judge(along_lambda(moved, TEMPERATURE)).problems
    assert re.match(
        r"the first half of the samples gives -1.* and the last half -1.*: run", problem
    )
    assert judge(along_lambda(windows, TEMPERATURE)).problems == ()


def test_windows_without_samples_are_refused():
    with pytest.raises(InputError, match="windows: expected at least two with samples, got 1"):
        along_lambda(gaussian(1.0, 10, (0.0,)), TEMPERATURE)
    windows = [*gaussian(1.0, 10, (0.0,)), Window(1.0, np.zeros(1))]
    with pytest.raises(InputError, match="at least 2 samples at lambda 1, got 1; run more steps"):
        along_lambda(windows, TEMPERATURE)
