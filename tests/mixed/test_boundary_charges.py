"""Charges around cut bonds: totals and dipole moments, computed from what comes out."""

from typing import get_args

import numpy as np
import pytest

from openmm_les import InputError
from openmm_les.plugin.mixed.boundary_charges import Scheme, redistribute

# ML atoms 0 and 1; M1 = 2 with M2 = 3, 4, 5; a second cut at M1 = 6 with M2 = 7; 8 has no bonds.
NEIGHBORS = [{1, 2}, {0, 6}, {0, 3, 4, 5}, {2}, {2}, {2}, {1, 7}, {6}, set()]
INSIDE, HOSTS = {0, 1}, [2, 6]
RANDOM = np.random.default_rng(7)
CHARGES = RANDOM.normal(size=9)
POSITIONS = RANDOM.normal(size=(9, 3))


def totals(charges, on_bonds) -> tuple[float, np.ndarray]:
    """Charge and dipole moment of the MM atoms and of the charges on bonds."""
    outside = [i for i in range(9) if i not in INSIDE]
    total, dipole = charges[outside].sum(), charges[outside] @ POSITIONS[outside]
    for extra in on_bonds:
        ends = POSITIONS[extra.first], POSITIONS[extra.second]
        place = ends[0] + extra.fraction * (ends[1] - ends[0])
        total, dipole = total + extra.charge, dipole + extra.charge * place
    return total, dipole


@pytest.mark.parametrize("scheme", get_args(Scheme))
def test_totals(scheme):
    before, dipole = totals(CHARGES, ())
    charges, on_bonds = redistribute(CHARGES, HOSTS, NEIGHBORS, INSIDE, scheme)
    after, new_dipole = totals(charges, on_bonds)
    if scheme == "z1":
        lost = CHARGES[HOSTS]
        assert after == pytest.approx(before - lost.sum())
        np.testing.assert_allclose(new_dipole, dipole - lost @ POSITIONS[HOSTS])
    else:
        assert after == pytest.approx(before)
        np.testing.assert_allclose(new_dipole, dipole, atol=1e-12)


@pytest.mark.parametrize("scheme", get_args(Scheme))
def test_who_changes(scheme):
    given = CHARGES.copy()
    charges, on_bonds = redistribute(given, HOSTS, NEIGHBORS, INSIDE, scheme)
    np.testing.assert_array_equal(given, CHARGES)  # the argument stays as it was
    same = {"none": range(9), "z1": [0, 1, 3, 4, 5, 7, 8]}.get(scheme, [0, 1, 8])
    np.testing.assert_array_equal(charges[list(same)], CHARGES[list(same)])
    if scheme != "none":
        assert not charges[HOSTS].any()
    assert len(on_bonds) == {"none": 0, "z1": 0, "shift": 8, "rcd": 4}[scheme]
    assert {extra.first for extra in on_bonds} <= set(HOSTS)


def test_redistributed_charge_and_dipole_by_hand():
    """M1 with 0.3 e and three neighbours: 0.2 e on each bond, 0.1 e less on each atom."""
    charges = np.zeros(9)
    charges[2] = 0.3
    changed, on_bonds = redistribute(charges, [2], NEIGHBORS, INSIDE, "rcd")
    np.testing.assert_allclose(changed[[3, 4, 5]], -0.1)
    assert [(b.second, b.fraction, b.charge) for b in on_bonds] == [
        (atom, 0.5, pytest.approx(0.2)) for atom in (3, 4, 5)
    ]


def test_neighbouring_cuts_do_not_give_to_each_other():
    """Two atoms M1 that are bonded: neither may receive what it is to lose."""
    neighbors = [{1}, {0, 2, 4}, {1, 3, 5}, {2}, {1}, {2}]
    charges = np.array([0.0, 0.4, -0.2, 0.0, 0.1, 0.2])
    changed, _ = redistribute(charges, [1, 2], neighbors, {0, 3}, "shift")
    np.testing.assert_allclose(changed, [0, 0, 0, 0, 0.5, 0.0], atol=1e-15)


def test_refusals():
    with pytest.raises(InputError, match=r"'rcd' needs MM neighbours .* atom 8 at a cut bond has"):
        redistribute(CHARGES, [8], NEIGHBORS, INSIDE, "rcd")
    changed, _ = redistribute(CHARGES, [8], NEIGHBORS, INSIDE, "z1")
    assert changed[8] == 0.0
