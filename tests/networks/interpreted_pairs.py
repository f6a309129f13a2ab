"""Kernels of pairs and products in Triton's interpreter; `test_fused_messages.py` runs it."""

import pytest
import torch
from openmm_les_export import read_model
from support.checkpoints import checkpoint, export_options
from support.fused import (
    PRODUCTS,
    TABLES,
    Products,
    Table,
    assert_close,
    assert_slopes,
    forms_of,
    random,
)
from support.pairs import CUTOFF
from support.triton import patch_interpreter, poison_memory

from openmm_les import artifact as artifacts
from openmm_les.electrostatics.build import build_electrostatics
from openmm_les.evaluation.assembly import SpecializedModel, order_by_species
from openmm_les.networks import build_network
from openmm_les.networks.form import Form
from openmm_les.networks.kernels.triton.cells import search_cells
from openmm_les.networks.kernels.triton.geometry import pair_geometry, pair_gradients
from openmm_les.networks.kernels.triton.neighbors import search_neighbors
from openmm_les.networks.kernels.triton.product_basis import product_basis, product_gradients

patch_interpreter()
poison_memory()


@pytest.mark.parametrize("name", TABLES)
def test_geometry_equals_the_torch_code(name):
    table: Table = TABLES[name]
    positions, neighbors, species = table.structure()
    plain, kernels = table.geometry("torch"), torch.jit.script(table.geometry("triton"))
    *expected, plain_tape = plain(positions, neighbors, species)
    *got, tape = kernels(positions, neighbors, species)
    # The distance is rounded to float32, and features change with it.
    for one, other in zip(got, expected, strict=True):
        assert_close(one, other, 3e-6)
    grads = [random(*tensor.shape, seed=i).float() for i, tensor in enumerate(expected)]
    pulled = kernels.backward(*grads, tape, neighbors.reverse)
    for one, other in zip(
        pulled, plain.backward(*grads, plain_tape, neighbors.reverse), strict=True
    ):
        assert_close(one, other, 3e-6)
    exact = table.geometry("torch", torch.float64)

    def energy(positions):
        values = exact(positions, neighbors, species)[:-1]
        return sum((g * v).sum() for g, v in zip(grads, values, strict=True))

    assert_slopes(energy, [positions], pulled[:1], tolerance=3e-6)


@pytest.mark.parametrize("name", PRODUCTS)
@pytest.mark.parametrize("counts", [[2, 0, 1], [17, 3, 5]])
def test_products_equal_the_torch_code(name, counts):
    products: Products = PRODUCTS[name]
    kernels = torch.jit.script(products.module("triton").float())
    plain = products.module("torch")
    sums = random(products.components, products.channels, sum(counts), seed=1)
    expected, plain_tape = plain(sums, counts)
    got, tape = kernels(sums.float(), counts)
    assert_close(got, expected, 1e-6)
    grad = random(*expected.shape, seed=2)
    pulled = kernels.backward(grad.float(), tape)
    assert_close(pulled, plain.backward(grad, plain_tape), 1e-6)
    assert_slopes(lambda x: (plain(x, counts)[0] * grad).sum(), [sums], [pulled])


def test_operators_say_what_they_return():
    """And change none of their arguments, nor return one."""
    table, products = TABLES["lmax 1"], PRODUCTS["lmax 2, outputs of degree 2"]
    positions, neighbors, species = table.structure()
    radial, cell = table.geometry("torch").radial, 9.5 * torch.eye(3, dtype=torch.float64)
    nearest, columns = torch.zeros(1, 3, dtype=torch.int64), neighbors.indices
    grid = [3, 3, 9, 4], CUTOFF
    pairs = (positions, columns, neighbors.shifts, species, radial.table, radial.first_row)
    pairs = *pairs, table.lmax, 0, radial.inverse_spacing, radial.last
    vectors, harmonics, features, slopes = pair_geometry(*pairs)
    grads = [tensor.view(*columns.shape, -1) for tensor in (harmonics, features)]
    basis = products.module("triton").float()
    sums = random(products.components, 1, 3, seed=1).float()
    forms = forms_of(basis)
    inputs = {
        search_neighbors: (positions, cell, True, nearest, CUTOFF, 9),
        search_cells: (positions, 2 * cell, True, *grid, CUTOFF, 9),
        pair_geometry: pairs,
        pair_gradients: (*grads, vectors, slopes, neighbors.reverse, table.lmax),
        product_basis: (sums, forms, [2, 0, 1], basis.outputs),
        product_gradients: product_basis(sums, forms, [2, 0, 1], basis.outputs),
    }
    for operator, arguments in inputs.items():
        checks = "test_schema", "test_faketensor"
        torch.library.opcheck(operator, arguments, test_utils=checks)


def test_network_equals_the_torch_code(tmp_path):
    """All kernels together, scripted; forces are those of a float64 energy."""
    model = artifacts.Artifact.unsaved(
        read_model(checkpoint("mace", tmp_path), **export_options("mace")), tmp_path
    )
    species = torch.zeros(3, dtype=torch.int64)
    positions = torch.tensor([[0.0, 0, 0.1], [0.8, 0, -0.5], [0.1, 1.9, 0.2]], dtype=torch.float64)
    cell = torch.zeros_like(positions)

    def system(dtype, kernels):
        form = Form(dtype, exact_radial=dtype == torch.float64, kernels=kernels)
        network = build_network(model.canonical, [model.elements.index(1)], form)
        electrostatics = build_electrostatics(model.canonical.les, False, None, dtype, num_atoms=3)
        order = order_by_species(species)
        arguments = network, electrostatics, species, order, False, [0, 0, 0], 4, False, None
        return SpecializedModel(*arguments, kernels=kernels).eval()

    single, fused = system(torch.float32, "torch"), system(torch.float32, "triton")
    double = system(torch.float64, "torch")
    expected, got = single(positions, cell), torch.jit.script(fused)(positions, cell)
    for one, other in zip(got, expected, strict=True):
        assert_close(one, other, 3e-6)
    assert int(got[-1]) == 0
    assert_slopes(lambda x: double(x, cell)[0], [positions], [-got[1]], tolerance=3e-5)
