"""The electric response of models with moments, against differences of dipoles and energies."""

import itertools

import numpy as np
import pytest
from support.gradients import system_for
from support.moments import moments_artifact, two_waters
from support.response import polarization

pytestmark = pytest.mark.usefixtures("moments_family")
STEP = 1e-4
FIELD = np.array([0.11, -0.07, 0.05])
LES = {"bec_epsilon_factor": 1.7}


def slope(function, x, i, axis):
    """Derivative by a coordinate of an atom, of fourth order."""
    step = np.zeros_like(x)
    step[i, axis] = STEP
    near, far = (function(x + k * step) - function(x - k * step) for k in (1, 2))
    return (8 * near - far) / (12 * STEP)


@pytest.mark.parametrize("moments", ["all", "isotropic", "permanent", "kappa"])
@pytest.mark.parametrize("remove_mean", [False, True])
def test_born_charges_are_derivatives_of_the_dipole(moments, remove_mean):
    atoms = two_waters(periodic=False)
    artifact = moments_artifact(moments, charge_sign=-1, bec_remove_mean=remove_mean, **LES)
    model = system_for(artifact, atoms)

    def physical(r):
        return model.physical_moments(model.evaluate(r).moments)

    response = model.response(atoms.positions)
    found = physical(atoms.positions)
    np.testing.assert_allclose(response.charges, found.charges, atol=1e-12)
    np.testing.assert_allclose(response.dipole, found.dipole(atoms.positions), atol=1e-12)
    for i, axis in ((0, 0), (4, 2)):
        want = slope(lambda r: physical(r).dipole(r), atoms.positions, i, axis)
        np.testing.assert_allclose(response.born_charges[i, :, axis], want, atol=1e-8)
        if moments == "kappa":
            assert response.dipoles is None
            assert response.born_dipoles is None
        else:
            want = slope(lambda r: physical(r).dipoles.sum(0), atoms.positions, i, axis)
            np.testing.assert_allclose(response.born_dipoles[i, :, axis], want, atol=1e-8)


def test_born_charges_of_a_box():
    atoms = two_waters(periodic=True)
    model = system_for(moments_artifact(**LES), atoms)
    r, cell = atoms.positions, atoms.cell.array

    def physical(positions):
        return model.physical_moments(model.evaluate(positions).moments)

    response = model.response(r)
    assert response.dipole is None
    for i, axis in ((0, 1), (4, 2)):
        amplitude = slope(lambda x: polarization(physical(x).charges, x, cell), r, i, axis)
        seen = np.exp(-2j * np.pi * r[i] @ np.linalg.inv(cell)) * amplitude
        dipoles = slope(lambda x: physical(x).dipoles.sum(0), r, i, axis)
        np.testing.assert_allclose(response.born_dipoles[i, :, axis], dipoles, atol=1e-8)
        want = seen.real @ cell + dipoles
        np.testing.assert_allclose(response.born_charges[i, :, axis], want, atol=1e-8)
    alpha = response.moments.alpha.sum(0) * LES["bec_epsilon_factor"]
    np.testing.assert_allclose(response.polarizability, alpha, atol=1e-12)


@pytest.mark.parametrize("moments", ["all", "isotropic", "dipoles", "kappa"])
def test_energy_in_a_field(moments):
    """To the second order, where it ends, with the response without a field."""
    atoms = two_waters(periodic=False)
    artifact = moments_artifact(moments, charge_sign=-1, bec_remove_mean=True, **LES)
    model = system_for(artifact, atoms, electric_field=True)
    response = model.response(atoms.positions)
    alone, found = (model.evaluate(atoms.positions, None, e) for e in (None, FIELD))
    polarizability = response.polarizability
    square = 0.0 if polarizability is None else FIELD @ polarizability @ FIELD
    expected = alone.energy - FIELD @ response.dipole - square / 2
    assert found.energy == pytest.approx(expected, abs=1e-11)
    assert found.les_energy - alone.les_energy == pytest.approx(expected - alone.energy, abs=1e-11)
    dipole = model.physical_moments(found.moments).dipole(atoms.positions)
    induced = 0.0 if polarizability is None else polarizability @ FIELD
    np.testing.assert_allclose(dipole, response.dipole + induced, atol=1e-12)

    def energy(r):
        return model.evaluate(r, None, FIELD).energy

    for i, axis in ((0, 0), (4, 2)):
        want = -slope(energy, atoms.positions, i, axis)
        assert found.forces[i, axis] == pytest.approx(want, abs=1e-7)
    for a, b in itertools.product(range(3), repeat=2):

        def strained(x, a=a, b=b):
            deformed = np.eye(3)
            deformed[a, b] += x[0, 0]
            return energy(atoms.positions @ deformed.T)

        want = slope(strained, np.zeros((1, 1)), 0, 0)
        assert found.virial[a, b] == pytest.approx(want, abs=1e-6)


def test_the_original_convention():
    """Its energy has half of a cross term; its forces have the dipole in the field, too."""
    atoms = two_waters(periodic=False)
    options = {"electric_field": True, "field_convention": "original"}
    model = system_for(moments_artifact(charge_sign=-1, **LES), atoms, **options)
    alone, found = (model.evaluate(atoms.positions, None, e) for e in (None, FIELD))
    cross = (alone.moments.induced_dipoles @ -FIELD).sum()
    assert found.energy == pytest.approx(alone.energy - cross / 2, abs=1e-11)
    induced = alone.moments.induced_dipoles + alone.moments.alpha @ -FIELD
    np.testing.assert_allclose(found.moments.induced_dipoles, induced, atol=1e-12)

    def potential(r):
        result = model.evaluate(r, None, FIELD)
        return result.energy - FIELD @ model.physical_moments(result.moments).dipole(r)

    for i, axis in ((0, 0), (4, 2)):
        want = -slope(potential, atoms.positions, i, axis)
        assert found.forces[i, axis] == pytest.approx(want, abs=1e-7)


@pytest.mark.parametrize("convention", ["consistent", "original"])
def test_forces_in_a_box(convention):
    """Born charges times the field, and the rest of the energy of induced dipoles."""
    atoms = two_waters(periodic=True)
    model = system_for(
        moments_artifact(**LES), atoms, electric_field=True, fieldConvention=convention
    )
    alone, found = (model.evaluate(atoms.positions, None, e) for e in (None, FIELD))
    screening = LES["bec_epsilon_factor"] ** 0.5

    def energies(r):
        moments = model.evaluate(r).moments
        cross = (moments.induced_dipoles @ FIELD).sum()
        return np.array([cross, FIELD @ moments.alpha.sum(0) @ FIELD])

    more = (0.0, 0.5 * screening**2) if convention == "consistent" else (0.5, screening)
    change = 0.0 if convention == "consistent" else -0.5 * energies(atoms.positions)[0]
    assert found.energy - alone.energy == pytest.approx(change, abs=1e-11)
    np.testing.assert_allclose(found.virial, alone.virial, atol=1e-10)
    born = np.einsum("a,iab->ib", FIELD, model.response(atoms.positions).born_charges)
    for i, axis in ((0, 0), (4, 2)):
        want = alone.forces[i, axis] + born[i, axis]
        want += slope(energies, atoms.positions, i, axis) @ more
        assert found.forces[i, axis] == pytest.approx(want, abs=1e-7)
