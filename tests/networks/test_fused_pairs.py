"""Triton kernels of pairs and products, on machines without a GPU."""

import struct

import pytest
import torch

pytest.importorskip("triton", reason="torch for a CPU comes without triton")

import triton
from openmm_les_export import read_model
from oracles.nequip_models import synthetic_nequip
from support.fused import PRODUCTS, TABLES, forms_of, random
from support.structures import waters
from support.tracing import by_name, launches, trace_on_fake_gpu
from support.triton import SHARED_MEMORY, TARGETS, compiled_for
from triton.backends.nvidia import driver as nvidia

from openmm_les import artifact as artifacts
from openmm_les import catalog
from openmm_les.electrostatics.build import build_electrostatics
from openmm_les.evaluation.assembly import SpecializedModel, order_by_species
from openmm_les.evaluation.engines.evaluator import Evaluator
from openmm_les.evaluation.fused_conclusion import conclude
from openmm_les.neighbors.cells import choose_grid
from openmm_les.neighbors.matrix import image_offsets
from openmm_les.neighbors.search import COINCIDENT_DISTANCE
from openmm_les.networks import build_network
from openmm_les.networks.form import Form
from openmm_les.networks.kernels.triton.cells import search_cells
from openmm_les.networks.kernels.triton.ewald import ewald_phases, reciprocal_weights
from openmm_les.networks.kernels.triton.geometry import pair_geometry, pair_gradients
from openmm_les.networks.kernels.triton.neighbors import search_neighbors
from openmm_les.networks.kernels.triton.product_basis import product_basis, product_gradients

#: A cutoff whose square is no float32 [A].
CUTOFF = 5.3
#: Kernels that one call of an operator launches.
KERNELS = {
    "search_neighbors": 3,
    "search_cells": 8,
    "reciprocal_weights": 1,
    "conclude": 2,
    "pair_geometry": 1,
    "pair_gradients": 2,
    "product_basis": 1,
    "product_gradients": 1,
}
_ON_ALL = [
    pytest.param(capability, marks=[] if capability == 89 else pytest.mark.slow)
    for capability in TARGETS
]


def check_compiled(kernels, names):
    """No kernel spills registers, and each has room in shared memory."""
    assert {kernel.name for kernel in kernels} == names
    for compiled in kernels:
        assert compiled.spilled == 0, compiled
        assert compiled.shared <= SHARED_MEMORY, compiled


@pytest.mark.parametrize("capability", _ON_ALL)
def test_search_fits_a_gpu(capability):
    n, capacity = 50, 56
    positions, cell = random(n, 3, seed=0), random(3, 3, seed=1)
    with compiled_for(capability) as kernels:
        for periodic, ranges in (True, [0, 0, 0]), (True, [1, 1, 1]), (False, [0, 0, 0]):
            search_neighbors(positions, cell, periodic, image_offsets(ranges), CUTOFF, capacity)
        for periodic in True, False:
            search_cells(positions, cell, periodic, [9, 9, 39, 4], CUTOFF, CUTOFF, capacity)
    cells = {"_cells_kernel", "_windows_kernel", "_sort_kernel"}
    check_compiled(kernels, {"_wrap_kernel", "_search_kernel", "_finish_kernel"} | cells)
    names = "_search_kernel", "_windows_kernel"
    searches = [kernel.ptx for kernel in kernels if kernel.name in names]
    assert len(searches) == 5
    for limit in CUTOFF, COINCIDENT_DISTANCE:
        # The interpreter would not notice if it were rounded to float32.
        exact = "0d" + struct.pack(">d", limit * limit).hex()
        assert all(exact in ptx.lower() for ptx in searches)


@pytest.mark.parametrize("capability", _ON_ALL)
def test_ewald_fits_a_gpu(capability):
    """And takes the accurate functions of an angle, not those that are right to 5e-7 alone."""
    grid, cell = torch.zeros(90, 3, dtype=torch.int64), random(3, 3, seed=1)
    with compiled_for(capability) as kernels:
        for width in 0.0, 0.1:
            reciprocal_weights(grid, cell, cell[0, 0], 0.5, 3.1, 90.0, 3.1, width)
        ewald_phases(random(50, 3, seed=0), 12, 12, 12)
    check_compiled(kernels, {"_weights_kernel", "_phases_kernel"})
    limit = "0d" + struct.pack(">d", 3.1 * 3.1).hex()
    for kernel in kernels:
        assert kernel.name == "_phases_kernel" or limit in kernel.ptx.lower()
        assert "sin.approx" not in kernel.ptx
        assert "cos.approx" not in kernel.ptx


@pytest.mark.parametrize("capability", _ON_ALL)
def test_conclusions_fit_a_gpu(capability):
    no, cell = torch.tensor(False), random(3, 3, seed=1)
    with compiled_for(capability) as kernels:
        for n, moments, periodic in (50, (), True), (50, (), False), (700, (7,), True):
            forces, charges = random(n, 3, seed=0), random(*moments, n, seed=2)
            results = cell[0, 0], cell[0, 0], forces, charges
            for_box = cell, torch.arange(n), cell[0].contiguous()
            conclude(*results, forces, *for_box, torch.tensor(9), no, no, no, 9, periodic)
    check_compiled(kernels, {"_look_kernel", "_conclude_kernel"})


@pytest.mark.parametrize("capability", _ON_ALL)
def test_geometry_fits_a_gpu(capability):
    table = TABLES["maceles-off"]
    n, capacity = 50, 56
    positions, shifts = random(n, 3, seed=0), random(n, capacity, 3, seed=1)
    indices = torch.zeros(n, capacity, dtype=torch.int64)
    rows, species = torch.zeros(2048, 4, table.width), indices[:, 0].contiguous()
    with compiled_for(capability) as kernels:
        for num_species in 0, 3:
            vectors, harmonics, features, slopes = pair_geometry(
                *(positions, indices, shifts, species, rows, species),
                *(table.lmax, num_species, 1.0, 2047),
            )
        harmonics, features = harmonics.view(n, capacity, -1), features.view(n, capacity, -1)
        pair_gradients(harmonics, features, vectors, slopes, indices.view(-1), table.lmax)
    check_compiled(kernels, {"_geometry_kernel", "_slots_kernel", "_atoms_kernel"})


@pytest.mark.parametrize(
    ("name", "capability"),
    [
        pytest.param(name, on, marks=[] if (name, on) == ("maceles-off", 89) else pytest.mark.slow)
        for name in PRODUCTS
        for on in TARGETS
    ],
)
def test_products_fit_a_gpu(name, capability):
    products = PRODUCTS[name]
    module = products.module("triton").float()
    sums = torch.zeros(products.components, products.channels, 1029)
    with compiled_for(capability) as kernels:
        out, jacobian = product_basis(sums, forms_of(module), [686, 342, 1], module.outputs)
        product_gradients(out, jacobian)
    check_compiled(kernels, {"_product_kernel", "_pull_back_kernel"})


def scripted(model, atoms, kernels, grid=None):
    """A model of water, scripted."""
    box, species = atoms.cell.array, torch.tensor(atoms.numbers == 8).long()
    form = Form(torch.float32, few_kernels=True, kernels=kernels)
    network = build_network(model.canonical, [model.elements.index(z) for z in (1, 8)], form)
    les, n = model.canonical.les, len(atoms)
    kernel = build_electrostatics(les, True, torch.tensor(box), torch.float32, num_atoms=n)
    order = order_by_species(species)
    arguments = network, kernel, species, order, True, [0, 0, 0], 60, False, grid
    return torch.jit.script(SpecializedModel(*arguments, kernels=kernels).eval())


@pytest.mark.parametrize("size", ["all pairs", "cells"])
def test_a_gpu_launches_few_kernels(size):
    """Of a whole model, on CUDA tensors without data."""
    model = artifacts.load(catalog.artifact_path("les-demo"))
    atoms = waters(3, 3, 2) if size == "all pairs" else waters(6, 6, 6)
    n, box = len(atoms), atoms.cell.array
    grid = choose_grid(n, model.cutoff, box, atoms.positions, 50) if size == "cells" else None
    traced = []
    for kernels in "torch", "triton":
        system = scripted(model, atoms, kernels, grid)
        operations, results = trace_on_fake_gpu(system, (n, 3), (3, 3))
        assert [tuple(result.shape) for result in results] == [(), (n, 3), (n,), (3, 3), ()]
        traced.append(operations)
    calls = by_name(traced[1])
    search = "search_cells" if grid else "search_neighbors"
    once = {search, "reciprocal_weights", "pair_geometry", "pair_gradients", "conclude"}
    expected = dict.fromkeys(once, 1) | {"product_basis": 2, "product_gradients": 2}
    assert {name: calls[f"openmm_les.{name}.default"] for name in expected} == expected
    more = sum((KERNELS[name] - 1) * number for name, number in expected.items())
    plain, fused = launches(traced[0]), launches(traced[1]) + more
    assert fused < plain - 175


def test_without_a_c_compiler_torch_code_goes_on(monkeypatch, caplog, tmp_path):
    """The warning says what is missing; Triton needs a compiler on a machine with a GPU."""
    monkeypatch.setattr(nvidia.CudaDriver, "is_active", lambda: True)
    monkeypatch.setattr(nvidia, "library_dirs", list)
    for name in "_active", "_default":
        monkeypatch.setattr(triton.runtime.driver, name, None)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    model, atoms = artifacts.load(catalog.artifact_path("les-demo")), waters(4, 4, 4)
    plain, fused = (scripted(model, atoms, kernels) for kernels in ("torch", "triton"))
    fused.neighbors.interpreted = True  # not as on a CPU
    evaluator = Evaluator(len(atoms), torch.device("cpu"))
    evaluator.load(plain.evaluate, lambda: fused.evaluate, what="kernels")
    energy, *_ = evaluator(atoms.positions, atoms.cell.array)
    again, *_ = evaluator(atoms.positions, atoms.cell.array)
    assert again == energy
    assert "Failed to find C compiler" in evaluator.dropped["replacement"]
    assert "kernels does not work here, using TorchScript: " in caplog.text


def test_nequip_has_the_same_geometry(tmp_path):
    path, les = tmp_path / "x.ckpt", {"norm_factor": 9.05, "self_interaction": "removed"}
    model = artifacts.Artifact.unsaved(read_model(synthetic_nequip(path), **les), path)
    atoms = waters(3, 3, 2)
    operations, _ = trace_on_fake_gpu(scripted(model, atoms, "triton"), (len(atoms), 3), (3, 3))
    calls = by_name(operations)
    assert calls["openmm_les.pair_geometry.default"] == 1
    assert calls["openmm_les.pair_gradients.default"] == 1
