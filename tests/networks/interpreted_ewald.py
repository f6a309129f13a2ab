"""Kernels of the Ewald sums in Triton's interpreter; `test_fused_messages.py` runs it."""

import pytest
import torch
from oracles.ewald import derivatives, k_sum
from support.charges import (
    CELLS,
    DOUBLE,
    REMOVED,
    SINGLE,
    assert_same,
    direct,
    kernel_of,
    limits_of,
    mesh,
    structure,
)
from support.triton import patch_interpreter, poison_memory

from openmm_les.electrostatics.cell import inverse_and_volume
from openmm_les.electrostatics.structure_factors import StructureFactors
from openmm_les.networks.kernels.triton.ewald import (
    FusedReciprocalKernel,
    FusedStructureFactors,
    ewald_phases,
    reciprocal_weights,
    with_kernels,
)

patch_interpreter()
poison_memory()


@pytest.mark.parametrize("cutoff", ["hard", "smooth"])
def test_weights_equal_the_torch_code(cutoff):
    """In float64, also of vectors at the cutoff, in a cell of either handedness."""
    kernel = kernel_of(REMOVED, cutoff)
    fused = torch.jit.script(with_kernels(kernel))
    for cell in torch.tensor(CELLS["triclinic"]).double(), -4 * REMOVED.dl * torch.eye(3).double():
        grid = StructureFactors(limits_of(cell, REMOVED), dtype=SINGLE).grid
        expected = kernel(grid, *inverse_and_volume(cell))
        assert 0 < int((expected[1] > 0).sum()) < len(grid)
        for got, wanted in zip(fused(grid, *inverse_and_volume(cell)), expected, strict=True):
            torch.testing.assert_close(got, wanted, rtol=1e-13, atol=1e-13)


def test_phases_equal_the_torch_code():
    """Angles are reduced in float64, however large they are."""
    sizes = [5, 0, 7]
    fractional = torch.tensor([[0.1, 0.5, -0.25], [1e6 + 0.3, -0.7, 0.123], [0.0, 2.0, 1e5 / 3]])
    fractional = fractional.double()
    exact = StructureFactors(sizes, dtype=DOUBLE).phases(fractional)
    fused = with_kernels(StructureFactors(sizes, dtype=SINGLE))
    for got, wanted in zip(fused.phases(fractional), exact, strict=True):
        assert got.dtype == SINGLE
        scale = wanted.abs().amax(dim=(0, 2), keepdim=True).clamp(min=1.0)
        torch.testing.assert_close(
            got / scale, wanted / scale, rtol=0, atol=3e-7, check_dtype=False
        )


@pytest.mark.parametrize(("make", "error"), [(direct, 1e-5), (mesh, 1e-4)])
def test_sums_are_as_right_as_those_of_torch(make, error):
    """Energy and all first derivatives, against a sum over vectors differentiated in float64."""
    charges, positions, cell = structure(CELLS["triclinic"], n=9)
    plain = make(cell, REMOVED, SINGLE)
    fused = with_kernels(plain)
    kinds = {type(part) for part in fused.modules()}
    assert FusedReciprocalKernel in kinds
    assert (FusedStructureFactors in kinds) == (make is direct)
    assert type(plain.kernel) is not FusedReciprocalKernel  # what was copied stays what it was
    got = torch.jit.script(fused)(charges, positions, cell)
    assert_same(got, derivatives(k_sum(REMOVED), charges, positions, cell), error)
    assert_same(got, plain(charges, positions, cell), 3e-6)


def test_operators_say_what_they_return():
    cell = torch.tensor(CELLS["strained"]).double()
    grid = StructureFactors([1, 2, 1], dtype=SINGLE).grid
    inputs = {
        reciprocal_weights: (grid, *inverse_and_volume(cell), 0.5, 3.0, 90.0, 3.0, 0.1),
        ewald_phases: (torch.rand(3, 3).double(), 2, 3, 2),
    }
    for operator, arguments in inputs.items():
        checks = "test_schema", "test_faketensor"
        torch.library.opcheck(operator, arguments, test_utils=checks)
