"""How replicas move between states, from moves and energies that are known."""

import math

import numpy as np
import pytest

from openmm_les.repex.analysis import Exchanges, energies_of_states, free_energies, mixing
from openmm_les.units import GAS_CONSTANT

LAMBDAS = (0.0, 0.5, 1.0)


def exchanges(states, energies=None, parameter="temperature", values=(300.0, 320.0, 350.0)):
    states = np.array(states)
    energies = np.zeros((len(states), 3, 3)) if energies is None else energies
    temperatures = np.array(values) if parameter == "temperature" else np.full(3, 300.0)
    return Exchanges(parameter, values, temperatures, 0.1, states, energies)


def test_round_trips():
    """Replica 0 goes up, down, up and down again; the others once in opposite directions."""
    path = [[0, 1, 2], [1, 0, 2], [2, 0, 1], [1, 2, 0], [0, 2, 1], [2, 1, 0], [0, 1, 2]]
    found = mixing(exchanges(path))
    # Replica 2 began at the top: only its way from the bottom would begin a round trip.
    assert found.round_trips.tolist() == [2, 0, 0]
    assert any("2 round trips of 3 replicas, less than one each" in p for p in found.problems)


def test_transitions():
    found = mixing(exchanges([[0, 1, 2], [0, 1, 2], [1, 0, 2], [1, 0, 2], [1, 0, 2]]))
    np.testing.assert_allclose(found.transitions, [[0.75, 0.25, 0], [0.25, 0.75, 0], [0, 0, 1]])


def test_acceptance_is_what_the_sampler_decides_by():
    rng = np.random.default_rng(0)
    states = np.array([rng.permutation(3) for _ in range(40)])
    energies = rng.normal(size=(40, 3, 3))
    found = mixing(exchanges(states, energies)).acceptance
    for a, b in ((0, 1), (0, 2), (1, 2)):
        each = []
        for state, energy in zip(states.tolist(), energies, strict=True):
            i, j = state.index(a), state.index(b)
            before, after = energy[i, a] + energy[j, b], energy[i, b] + energy[j, a]
            each.append(min(1.0, math.exp(before - after)))
        assert found[a, b] == found[b, a] == pytest.approx(np.mean(each))


def test_states_that_are_too_far_apart_are_named():
    energies = np.zeros((20, 3, 3))
    energies[:, 2, 1] = energies[:, 1, 2] = 20.0
    found = mixing(exchanges([[0, 1, 2]] * 20, energies))
    assert found.acceptance[0, 1] == 1.0
    assert "between 320 and 350 are accepted, less than 0.1: put a state in" in found.problems[0]


def test_energies_and_free_energies_follow_states_not_replicas():
    """Normal energy differences: F(1) is the mean at lambda = 0 minus half of the variance."""
    rng = np.random.default_rng(1)
    states = np.array([rng.permutation(3) for _ in range(1500)])
    slopes = rng.normal(-4.0 * np.array(LAMBDAS)[states], 2.0)
    energies = slopes[:, :, None] * np.array(LAMBDAS)
    given = exchanges(states, energies, "lambda_interpolate", LAMBDAS)
    found = free_energies(given)
    kt = GAS_CONSTANT * 300.0
    assert abs(found.difference + 2.0 * kt) < 4 * found.error
    assert found.error < 0.3
    means = energies_of_states(given)
    assert means[2].mean == pytest.approx(-4.0 * kt, abs=5 * means[2].error)
    assert free_energies(exchanges(states, energies)) is None
