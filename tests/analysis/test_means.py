"""Statistics of series whose correlation is known in closed form."""

import math

import numpy as np
import pytest

from openmm_les.analysis.means import series_statistics
from openmm_les.errors import InputError

pytest.importorskip("pymbar", reason="pymbar is not installed (extra `campaign`)")


def autoregressive(a, n, seed=3):
    """x_t = a x_(t-1) + noise of unit variance, begun in equilibrium."""
    noise = np.random.default_rng(seed).normal(size=n)
    series = np.empty(n)
    series[0] = noise[0] / math.sqrt(1.0 - a * a)
    for t in range(1, n):
        series[t] = a * series[t - 1] + noise[t]
    return series


def test_correlated_values():
    """Inefficiency (1 + a) / (1 - a), error of the mean 1 / ((1 - a) sqrt(n))."""
    a, n = 0.8, 20_000
    found = series_statistics(autoregressive(a, n))
    assert found.inefficiency == pytest.approx((1 + a) / (1 - a), rel=0.2)
    assert found.error == pytest.approx(1.0 / ((1.0 - a) * math.sqrt(n)), rel=0.15)
    assert abs(found.mean) < 4.0 * found.error
    assert found.start < 0.1 * n
    assert found.start + found.count == n


def test_what_comes_before_equilibration_is_left_out():
    series = autoregressive(0.5, 2000)
    series[:500] += np.linspace(80.0, 0.0, 500)
    found = series_statistics(series)
    assert 450 <= found.start <= 600
    assert abs(found.mean) < 4.0 * found.error


def test_few_or_equal_values():
    two = series_statistics([2.0, 4.0])
    assert (two.mean, two.error, two.count) == pytest.approx((3.0, 1.0, 2))
    one = series_statistics([7.0])
    assert (one.mean, one.start, one.count) == (7.0, 0, 1)
    assert math.isnan(one.error)
    same = series_statistics([1.5] * 50)
    assert (same.mean, same.error, same.inefficiency) == (1.5, 0.0, 1.0)


@pytest.mark.parametrize(("values", "got"), [([], "none"), ([1.0, math.nan], "not")])
def test_values_without_a_mean(values, got):
    with pytest.raises(InputError, match=f"expected at least one, all of them finite, got .*{got}"):
        series_statistics(values)
