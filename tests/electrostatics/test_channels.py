"""Several charges for each atom: every kernel gives the sum of what each of them gives."""

import pytest
import torch
from support.charges import CELLS, DOUBLE, REMOVED, assert_same, direct, mesh, pairs, structure

from openmm_les.electrostatics.cell import cutoff_wavenumber
from openmm_les.electrostatics.dense import dense_ewald
from openmm_les.electrostatics.kernel import UNBOUNDED


def dense(q, r, cell):
    """The sum of the portable module, which has no derivative by strain."""
    parameters = REMOVED.sigma, cutoff_wavenumber(REMOVED.dl), REMOVED.prefactor
    terms = dense_ewald(q, r, cell, *parameters, REMOVED.self_energy, UNBOUNDED, chunk=50)
    return (*terms, torch.zeros(3, 3))


def scripted(kernel):
    return torch.jit.freeze(torch.jit.script(kernel.eval()))


#: With chunks that the number of atoms, 23, is no multiple of.
KERNELS = {
    "direct": lambda cell: direct(cell, REMOVED, chunk_size=7),
    "direct, scripted": lambda cell: scripted(direct(cell, REMOVED)),
    "mesh": lambda cell: mesh(cell, REMOVED, chunk_size=7),
    "mesh, scripted": lambda cell: scripted(mesh(cell, REMOVED)),
    "pairs": lambda cell: pairs(REMOVED, chunk_size=7),
    "pairs, scripted": lambda cell: scripted(pairs(REMOVED)),
    "dense": lambda cell: dense,
}


@pytest.mark.parametrize("cell", ["triclinic", "strained"])
@pytest.mark.parametrize("name", KERNELS)
def test_channels_add_up(name, cell):
    _, r, cell = structure(CELLS[cell])
    q = torch.stack([structure(cell, seed=seed)[0] for seed in range(3)])
    kernel = KERNELS[name](cell)
    single = [kernel(row, r, cell) for row in q]
    energy, dq, *others = zip(*(terms[:5] for terms in single), strict=True)
    expected = [sum(energy), torch.stack(dq), *(sum(terms) for terms in others)]
    found = kernel(q, r, cell)
    assert found[1].shape == q.shape
    assert_same(found, expected, 1e-13)
    # One channel of its own dimension is a charge for each atom, too.
    assert_same(kernel(q[:1], r, cell), (single[0][0], dq[0][None], *single[0][2:5]), 1e-14)


@pytest.mark.parametrize("kernel", [direct, mesh])
def test_channels_in_single_precision(kernel):
    _, r, cell = structure(CELLS["triclinic"])
    q = torch.stack([structure(cell, seed=seed)[0] for seed in range(3)])
    found = kernel(cell, REMOVED, torch.float32)(q.float(), r, cell)
    assert found.energy.dtype == DOUBLE
    assert_same(found, kernel(cell, REMOVED)(q, r, cell), 5e-6)
