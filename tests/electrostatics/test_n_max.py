"""A sum that leaves out reciprocal vectors with large coordinates, as some models were trained."""

import dataclasses

import pytest
from oracles.ewald import Parameters, derivatives, k_sum
from support.charges import CELLS, assert_same, direct, mesh, structure
from support.charges import REMOVED as WHOLE

from openmm_les.electrostatics import EwaldOptions, build_electrostatics
from openmm_les.electrostatics.cell import cutoff_wavenumber
from openmm_les.electrostatics.dense import dense_ewald

TRUNCATED = dataclasses.replace(WHOLE, n_max=3)


def dense(parameters: Parameters, q, r, cell):
    constants = parameters.sigma, cutoff_wavenumber(parameters.dl), parameters.prefactor
    terms = dense_ewald(q, r, cell, *constants, parameters.self_energy, parameters.n_max)
    return (*terms, derivatives(k_sum(parameters), q, r, cell)[3])


@pytest.mark.parametrize("cell", ["triclinic", "strained", "needle"])
def test_vectors_beyond_it_are_left_out(cell):
    q, r, cell = structure(CELLS[cell])
    exact, whole = (derivatives(k_sum(p), q, r, cell) for p in (TRUNCATED, WHOLE))
    assert abs(float(whole[0] - exact[0])) > 1e-4 * abs(float(whole[0]))
    kernel = direct(cell, TRUNCATED)
    assert kernel.structure.limits.max() <= 3
    found = kernel(q, r, cell)
    assert not found.outgrown
    assert_same(found, exact, 1e-12)
    assert_same(dense(TRUNCATED, q, r, cell), exact, 1e-12)
    meshed = mesh(cell, TRUNCATED, tolerance=1e-7)(q, r, cell)
    assert_same(meshed, exact, 1e-6)


def test_it_has_no_effect_in_smaller_boxes():
    """Up to (n_max + 1) dl along every lattice vector."""
    q, r, cell = structure([[7.9, 0, 0], [2.1, 7.3, 0], [-1.7, 2.9, 7.1]])
    for kernel in (direct, mesh):
        assert_same(kernel(cell, TRUNCATED)(q, r, cell), kernel(cell, WHOLE)(q, r, cell), 1e-13)


@pytest.mark.parametrize("method", ["direct", "mesh"])
def test_a_box_that_grows_past_it_is_not_outgrown(method):
    """The margin of the buffers still is where a mesh becomes too coarse."""
    q, r, cell = structure(CELLS["triclinic"])
    les = {name: value for name, value in vars(TRUNCATED).items() if value is not None}
    options = EwaldOptions(method, 1e-7)
    kernel = build_electrostatics(les, True, cell, q.dtype, num_atoms=len(q), options=options)
    larger = 1.6 * cell
    found = kernel(q, 1.6 * r, larger)
    assert bool(found.outgrown) == (method == "mesh")
    if method == "direct":
        assert_same(found, derivatives(k_sum(TRUNCATED), q, 1.6 * r, larger), 1e-12)
