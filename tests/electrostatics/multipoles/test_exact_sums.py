"""The exact sums of multipoles against autograd, closed forms and the sums of charges."""

import io
import itertools
import math

import numpy as np
import pytest
import torch
from oracles import multipoles as oracle
from oracles.ewald import Parameters
from support.charges import (
    CELLS,
    COULOMB,
    DOUBLE,
    KEPT,
    REMOVED,
    SINGLE,
    direct,
    pairs,
    slope,
    structure,
    tensor,
)
from support.multipoles import KINDS, errors, random_moments, results, sum_for

from openmm_les.electrostatics.multipoles import SiteMoments
from openmm_les.electrostatics.multipoles.recursion import boys

OTHER = Parameters(1.3, 1.7, 90.0474, True)


def place(name, n=7):
    """Positions and cell; None is the cell of an open cluster."""
    if name != "open":
        return structure(CELLS[name], n)[1:]
    return tensor(np.random.default_rng(1).normal(0, 2.0, (n, 3))), None


def expected(parameters, moments, r, cell):
    energy = oracle.open_boundaries if cell is None else oracle.periodic
    cell = torch.eye(3, dtype=DOUBLE) if cell is None else cell
    return oracle.derivatives(energy(parameters), moments, r, cell)


def evaluate(kernel, moments, r, cell):
    return kernel(moments, r, torch.zeros(3, 3, dtype=DOUBLE) if cell is None else cell)


@pytest.mark.parametrize("parameters", [KEPT, OTHER])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["strained", "open"])
def test_derivatives_are_those_of_the_definition(name, kind, parameters):
    moments = random_moments(kind, 7)
    r, cell = place(name)
    found = evaluate(sum_for(moments, cell, parameters), moments, r, cell)
    want = expected(parameters, moments, r, cell)
    assert not found.outgrown
    absent = {n for n, m in zip(oracle.NAMES, moments, strict=True) if m is None}
    assert absent == {n for n in oracle.NAMES if getattr(found, n) is None}
    assert max(errors(found, want).values()) < 1e-11
    if moments.kappa is not None:
        torch.testing.assert_close(found.induced_charges, -moments.kappa * found.potential)


@pytest.mark.parametrize("name", ["strained", "open"])
def test_scripts_freeze_load_and_take_chunks(name):
    moments = random_moments("quQkA", 23)
    r, cell = place(name, 23)
    kernel = sum_for(moments, cell, REMOVED)
    want = evaluate(kernel, moments, r, cell)
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.freeze(torch.jit.script(kernel.eval())), buffer)
    buffer.seek(0)
    frozen = torch.jit.load(buffer)
    kernel.interaction.chunk_size = 5
    for other in (frozen, frozen, frozen, kernel):  # TorchScript optimises what it has seen
        found = evaluate(other, moments, r, cell)
        for got, value in zip(found, want, strict=True):
            torch.testing.assert_close(got, value, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("kind", ["quQ", "quQkA"])
@pytest.mark.parametrize("name", ["triclinic", "open"])
def test_single_precision(name, kind):
    moments = random_moments(kind, 23)
    r, cell = place(name, 23)
    want = evaluate(sum_for(moments, cell), moments, r, cell)
    found = evaluate(sum_for(moments, cell, dtype=SINGLE), moments, r, cell)
    assert (found.energy.dtype, found.strain.dtype, found.gradient.dtype) == (
        DOUBLE,
        DOUBLE,
        SINGLE,
    )
    assert max(errors(found, results(want)).values()) < 5e-6


@pytest.mark.parametrize("name", ["triclinic", "open"])
def test_charges_alone_are_those_of_the_other_kernels(name):
    r, cell = place(name, 23)
    moments = random_moments("q", 23)
    found = evaluate(sum_for(moments, cell, REMOVED), moments, r, cell)
    kernel = pairs(REMOVED) if cell is None else direct(cell, REMOVED)
    want = kernel(moments.charges, r, cell)
    names = ("energy", "charges", "gradient", "strain")
    assert max(errors(found, dict(zip(names, want, strict=False))).values()) < 1e-13


def test_n_max_and_a_box_that_grows():
    truncated = Parameters(remove_self_interaction=True, n_max=3)
    moments = random_moments("quQkA", 7)
    r, cell = place("triclinic")
    kernel = sum_for(moments, cell, truncated)
    want = expected(truncated, moments, 1.1 * r, 1.1 * cell)
    found = kernel(moments, 1.1 * r, 1.1 * cell)
    assert max(errors(found, want).values()) < 1e-11
    found = sum_for(moments, cell)(moments, 1.6 * r, 1.6 * cell)
    assert found.outgrown
    assert found.energy.isnan()


def test_strain_by_finite_differences():
    """Moments stay as they are in the Cartesian frame, positions deform with the box."""
    moments = random_moments("quQkA", 7)
    r, cell = place("triclinic")
    kernel = sum_for(moments, cell, margin=1.1)
    direction = tensor(np.random.default_rng(2).normal(size=(3, 3)))

    def energy(strain):
        deformed = torch.eye(3, dtype=DOUBLE) + strain
        return float(kernel(moments, r @ deformed.T, cell @ deformed.T).energy)

    numeric = slope(energy, torch.zeros(3, 3, dtype=DOUBLE), direction, 1e-4)
    got = float((kernel(moments, r, cell).strain * direction).sum())
    assert got == pytest.approx(numeric, rel=1e-8)


def test_external_potential_and_field():
    """The response is to the sum; its energy falls by dq and rises by -du with them."""
    moments, (r, _) = random_moments("quQkA", 7), place("open")
    kernel = sum_for(moments, None)
    random = np.random.default_rng(3)
    potential, field = tensor(random.normal(0, 1, 7)), tensor(random.normal(0, 1, (7, 3)))
    cell = torch.zeros(3, 3, dtype=DOUBLE)

    def terms(scale):
        return kernel(moments, r, cell, scale * potential, scale * field)

    alone, found = terms(0.0), terms(1.0)
    torch.testing.assert_close(found.potential, alone.potential + potential)
    torch.testing.assert_close(found.field, alone.field + field)
    numeric = slope(lambda s: float(terms(s).energy), 1.0, 1.0, 1e-3)
    work = (found.induced_charges * potential).sum() - (found.induced_dipoles * field).sum()
    assert float(work) == pytest.approx(numeric, rel=1e-9)

    def energy(x):
        return float(kernel(moments, x, cell, potential, field).energy)

    direction = tensor(random.normal(size=(7, 3)))
    numeric = slope(energy, r, direction, 1e-4)
    assert float((found.gradient * direction).sum()) == pytest.approx(numeric, rel=1e-8)


def alone(charges, positions, dipoles=None, quadrupoles=None, alpha=None):
    """Energy of sites so far apart that they are points, in open boundaries."""
    moments = [None if m is None else tensor(m) for m in (dipoles, quadrupoles, None, alpha)]
    moments = SiteMoments(tensor(charges), *moments)
    kernel = sum_for(moments, None, Parameters(sigma=0.3, remove_self_interaction=True))
    return float(kernel(moments, tensor(positions), torch.zeros(3, 3, dtype=DOUBLE)).energy)


def test_point_multipoles():
    """Textbook energies along an axis: two dipoles, charge and quadrupole, induced dipole."""
    r, apart = 7.0, [[0, 0, 0], [0, 0, 7.0]]
    up = [[0, 0, 0.3], [0, 0, 0.5]]
    assert alone([0, 0], apart, up) == pytest.approx(-2 * COULOMB * 0.15 / r**3, rel=1e-12)
    side = [[0.3, 0, 0], [0.5, 0, 0]]
    assert alone([0, 0], apart, side) == pytest.approx(COULOMB * 0.15 / r**3, rel=1e-12)
    tensors = np.zeros((2, 3, 3))
    tensors[0] = np.diag([-0.1, -0.1, 0.2])
    expected = COULOMB * 0.7 * 1.5 * 0.2 / r**3
    assert alone([0, 0.7], apart, quadrupoles=tensors) == pytest.approx(expected, rel=1e-12)
    polarizable = alone([0, 0.7], apart, alpha=[0.05, 0.0])
    assert polarizable == pytest.approx(-0.5 * 0.05 * (COULOMB * 0.7 / r**2) ** 2, rel=1e-12)


@pytest.mark.parametrize("name", ["triclinic", "open"])
def test_multipoles_are_clusters_of_charges(name):
    """Dipole and quadrupole as limits of charges h apart, at distances where clouds overlap."""
    h, (r, cell) = 2e-3, place(name, 4)
    moments = random_moments("quQ", 4)
    unit = torch.eye(3, dtype=DOUBLE)
    charges, positions = [moments.charges], [r]
    for s, a in itertools.product((1, -1), range(3)):
        charges.append(s * moments.dipoles[:, a] / (2 * h))
        positions.append(r + s * h * unit[a])
    for s, t, a, b in itertools.product((1, -1), (1, -1), range(3), range(3)):
        charges.append(s * t * moments.quadrupoles[:, a, b] / (8 * h * h))
        positions.append(r + h * (s * unit[a] + t * unit[b]))
    charges, positions = torch.cat(charges), torch.cat(positions)
    kernel = pairs(KEPT) if cell is None else direct(cell, KEPT)
    want = kernel(charges, positions, cell).energy
    found = evaluate(sum_for(moments, cell), moments, r, cell)
    assert float(found.energy) == pytest.approx(float(want), rel=5 * h**2)


@pytest.mark.parametrize("name", ["triclinic", "open"])
def test_sites_at_one_place_are_one_site(name):
    """Where the model keeps the self-interaction: nothing diverges."""
    r, cell = place(name, 5)
    r[1] = r[0]
    moments = random_moments("quQ", 5)
    merged = SiteMoments(*(torch.cat([m[:1] + m[1:2], m[2:]]) for m in moments[:3]))
    found = evaluate(sum_for(moments, cell), moments, r, cell)
    want = evaluate(sum_for(merged, cell), merged, r[1:], cell)
    assert float(found.energy) == pytest.approx(float(want.energy), rel=1e-12)
    torch.testing.assert_close(found.field[1:], want.field)
    torch.testing.assert_close(found.gradient[2:], want.gradient[1:])


def test_boys_functions():
    """Against the integral that defines them."""
    nodes, weights = np.polynomial.legendre.leggauss(80)
    t, weights = 0.5 * (nodes + 1), 0.5 * weights
    squared = np.array([0.0, 1e-9, 1e-3, 0.4, 1.9999, 2.0, 2.1, 7.0, 40.0])
    for m, found in enumerate(boys(tensor(squared), 5)):
        want = (weights * t ** (2 * m) * np.exp(-np.outer(squared, t**2))).sum(axis=1)
        np.testing.assert_allclose(found, want, rtol=3e-13)
    for m, found in enumerate(boys(tensor([1e4]), 5)):
        assert float(found[0]) == pytest.approx(math.gamma(m + 0.5) / 2 / 1e4 ** (m + 0.5))
