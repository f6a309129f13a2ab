"""The inference network: every shape of MACE, gradients, tables, smoothness."""

import itertools
import sys

import numpy as np
import pytest
import torch
from ase import Atoms
from openmm_les_export import read_model
from oracles.mace_models import synthetic_model
from support.gradients import check_finite_differences, system_for
from support.helpers import DIPEPTIDE_MODEL, dipeptide, water_frame

from openmm_les import InputError
from openmm_les import artifact as artifacts
from openmm_les.evaluation.system_model import SystemModel
from openmm_les.networks import build_network
from openmm_les.networks import kernels as kernel_choice
from openmm_les.networks.blocks.dense import strip_prefix
from openmm_les.networks.blocks.product_basis import ProductBasis, product_basis
from openmm_les.networks.blocks.radial import (
    BesselBasis,
    ExactRadial,
    TabulatedRadial,
    hidden_radial,
    last_radial,
    tabulate,
)
from openmm_les.networks.form import Form
from openmm_les.networks.kernels import obstacle

pytestmark = pytest.mark.mace

#: Shapes; what does not act on the same code is varied together.
SHAPES = {
    "plain": {},
    "max_L 1": {"max_L": 1},
    "max_L 2": {"max_L": 2},
    "one interaction, flat radial network": {"interactions": 1, "radial_MLP": [8]},
    "one interaction, old": {"interactions": 1, "max_L": 1, "vintage": "old"},
    "three interactions": {"interactions": 3, "max_L": 1},
    "three interactions, max_L 2": {"interactions": 3, "max_L": 2, "correlation": 2},
    "correlation 1, one channel": {"correlation": 1, "channels": 1},
    "correlation 2": {"correlation": 2, "max_L": 1},
    "correlation by layer, max_ell 2": {"correlation": [3, 1], "max_ell": 2, "max_L": 2},
    "max_ell 1, odd channels": {"max_ell": 1, "max_L": 1, "channels": 7},
    "many elements": {"elements": [1, 6, 7, 8, 9, 15, 16, 17, 35, 53], "max_L": 1},
    "float64, elements out of order, other LES": {
        "dtype": "float64",
        "elements": [8, 1, 6],
        "les": {"sigma": 1.3, "dl": 1.7, "remove_self_interaction": False},
    },
    "deep radial network, other envelope": {
        "radial_MLP": [8, 12, 10, 6],
        "cutoff_order": 6,
        "num_bessel": 10,
        "cutoff": 5.0,
    },
}

#: Other blocks and functions of the distance, several at once.
VARIANTS = {
    "correlation 4": {"correlation": 4, "max_ell": 2, "max_L": 1},
    "not residual": {
        "max_L": 1,
        "options": {"interaction_cls_first": "RealAgnosticInteractionBlock"},
    },
    "nowhere residual": {
        "max_L": 1,
        "max_ell": 2,
        "correlation": 2,
        "interactions": 3,
        "options": {
            "interaction_cls_first": "RealAgnosticInteractionBlock",
            "interaction_cls": "RealAgnosticInteractionBlock",
        },
    },
    "density": {
        "max_L": 1,
        "options": {
            "interaction_cls_first": "RealAgnosticDensityResidualInteractionBlock",
            "interaction_cls": "RealAgnosticDensityInteractionBlock",
        },
    },
    "Soft": {"elements": [6, 1, 8], "max_ell": 2, "options": {"distance_transform": "Soft"}},
    "as foundation models": {
        "elements": [1, 8, 14],
        "max_L": 1,
        "correlation": 2,
        "options": {
            "interaction_cls_first": "RealAgnosticDensityInteractionBlock",
            "interaction_cls": "RealAgnosticDensityResidualInteractionBlock",
            "distance_transform": "Agnesi",
            "pair_repulsion": True,
        },
    },
}
ALL = SHAPES | VARIANTS
#: Of these in single precision, too.
_IN_SINGLE = ("max_L 1", "as foundation models")
#: Of these the open cluster too, beside the crystal.
_CLUSTERS = ("many elements", "three interactions, max_L 2")


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory):
    pytest.importorskip("mace", reason="synthetic models are made with mace-torch")
    return tmp_path_factory.mktemp("synthetic")


def artifact_of(path, folder) -> artifacts.Artifact:
    return artifacts.Artifact.unsaved(read_model(path), folder / f"{path.stem}.les.pt")


def cluster(elements, seed: int = 0, atoms: int = 9) -> Atoms:
    """Atoms of all elements on a jittered grid, 1.1 to 1.9 A apart."""
    generator = np.random.default_rng(seed)
    grid = np.array(list(itertools.product(range(3), repeat=3)), float)[:atoms] * 1.5
    numbers = [elements[i % len(elements)] for i in range(atoms)]
    return Atoms(numbers, grid + generator.uniform(-0.2, 0.2, grid.shape))


def crystal(elements) -> Atoms:
    """A triclinic box below twice the cutoff, so that several images of a pair matter."""
    atoms = cluster(elements, seed=1)
    atoms.cell = [[5.1, 0.0, 0.0], [0.9, 5.3, 0.0], [-0.7, 1.1, 5.6]]
    atoms.pbc = True
    return atoms


@pytest.mark.parametrize(
    ("shape", "make"),
    [*itertools.product(ALL, [crystal]), *itertools.product(_CLUSTERS, [cluster])],
)
def test_every_shape_equals_mace_torch(model_folder, shape, make):
    from openmm_les_export.checkpoints.unpickle import open_model
    from openmm_les_export.families.mace.reference import MACEReference

    path = synthetic_model(model_folder, **ALL[shape])
    artifact = artifact_of(path, model_folder)
    atoms = make(artifact.elements)
    reference = MACEReference(open_model(path).root).evaluate(
        atoms.positions, atoms.numbers, atoms.cell.array if atoms.pbc.all() else None
    )
    n = len(atoms)
    # In single precision five such crystals scatter by 0.6e-6 eV an atom by torch code and by
    # 0.5e-6 by loops, of which this one is 1.1e-6. Sums of messages in float64 make that 0.7e-6,
    # and take the loops that add them 12 to 18 % more time.
    limits = [
        ("double", "auto", 1e-9, 1e-8, 1e-9),
        ("single", "torchscript", 1e-6, 1e-4, 1e-5),
        ("single", "auto", 2e-6, 1e-4, 1e-5),
    ]
    for precision, engine, energy, force, charge in limits[: 3 if shape in _IN_SINGLE else 1]:
        model = system_for(artifact, atoms, precision, engine=engine)
        got = model.evaluate(atoms.positions)
        assert abs(got.energy + model.reference_energy - reference.energy) / n < energy
        np.testing.assert_allclose(got.forces, reference.forces, rtol=0, atol=force)
        np.testing.assert_allclose(got.charges, reference.charges, rtol=0, atol=charge)


@pytest.mark.parametrize("make", [cluster, crystal])
@pytest.mark.parametrize(
    "shape",
    ["max_L 2", "three interactions", "correlation 2", "correlation 4", "as foundation models"],
)
def test_forces_and_virial_are_finite_differences(model_folder, shape, make):
    artifact = artifact_of(synthetic_model(model_folder, **ALL[shape]), model_folder)
    check_finite_differences(artifact, make(artifact.elements), atoms=[0, 4])


def test_finite_differences_of_a_trained_model(dipeptide_artifact):
    check_finite_differences(artifacts.load(dipeptide_artifact), dipeptide(0), atoms=[0, 11, 20])


def test_finite_differences_at_and_beyond_the_edge_of_the_box(water_artifact):
    atoms = water_frame(0)
    edge = int(np.argmin(np.abs(atoms.positions[:, 0] - 0.0)))
    atoms.positions -= atoms.positions[edge]  # this atom now sits exactly on a corner
    outside = (edge + 3) % len(atoms)
    atoms.positions[outside] += 7 * atoms.cell.array[0] - 2 * atoms.cell.array[2]
    check_finite_differences(artifacts.load(water_artifact), atoms, atoms=[edge, outside])


@pytest.mark.parametrize("precision", ["single", "double"])
def test_energy_is_smooth_where_a_neighbour_crosses_the_cutoff(dipeptide_artifact, precision):
    artifact = artifacts.load(dipeptide_artifact)
    distances = artifact.cutoff + np.linspace(-1e-3, 1e-3, 21)
    model = SystemModel(artifact, [8, 6], periodic=False, precision=precision, max_neighbors=1)
    results = [model.evaluate([[0, 0, 0], [0, 0, x]]) for x in distances]
    energies = np.array([result.energy for result in results])
    forces = np.array([result.forces[1, 2] for result in results])
    # Electrostatics alone has a slope here; on top of it there must be no step.
    curvature = np.abs(np.diff(energies, 2)).max()
    assert curvature < (1e-6 if precision == "single" else 1e-9)
    assert np.abs(np.diff(forces)).max() < 1e-4


def test_rotation_and_permutation(model_folder):
    artifact = artifact_of(synthetic_model(model_folder, max_L=2), model_folder)
    atoms = cluster(artifact.elements)
    before = system_for(artifact, atoms).evaluate(atoms.positions)
    rotation, _ = np.linalg.qr(np.random.default_rng(3).normal(size=(3, 3)))
    order = np.random.default_rng(4).permutation(len(atoms))
    for matrix in rotation, -rotation:
        turned = Atoms(atoms.numbers[order], atoms.positions[order] @ matrix.T)
        after = system_for(artifact, turned).evaluate(turned.positions)
        assert after.energy == pytest.approx(before.energy, abs=1e-9)
        np.testing.assert_allclose(after.forces, before.forces[order] @ matrix.T, atol=1e-8)
        np.testing.assert_allclose(after.charges, before.charges[order], atol=1e-10)


def test_supercell_of_a_small_box(model_folder):
    artifact = artifact_of(synthetic_model(model_folder, max_L=1), model_folder)
    atoms = crystal(artifact.elements)
    double = atoms.repeat((2, 1, 1))
    one = system_for(artifact, atoms).evaluate(atoms.positions)
    two = system_for(artifact, double).evaluate(double.positions)
    assert two.energy == pytest.approx(2 * one.energy, abs=1e-9)
    np.testing.assert_allclose(two.forces, np.tile(one.forces, (2, 1)), atol=1e-10)


def test_far_fragments_add_up_to_electrostatics_only(model_folder):
    artifact = artifact_of(synthetic_model(model_folder), model_folder)
    one = cluster(artifact.elements)
    other = cluster(artifact.elements, seed=5)
    other.positions += [1000.0, 0, 0]
    a, b = (system_for(artifact, x).evaluate(x.positions) for x in (one, other))
    both = one + other
    joint = system_for(artifact, both).evaluate(both.positions)
    coulomb = (
        artifact.canonical.les["prefactor"]
        / (2 * np.pi)
        * (
            a.charges[:, None]
            * b.charges
            / np.linalg.norm(one.positions[:, None] - other.positions, axis=2)
        ).sum()
    )
    assert joint.energy == pytest.approx(a.energy + b.energy + coulomb, abs=1e-10)


def test_isolated_atom(dipeptide_artifact):
    """Charge and energy of a lone atom depend on nothing but its element; there is no force."""
    artifact = artifacts.load(dipeptide_artifact)
    for z in artifact.elements:
        model = SystemModel(artifact, [z], periodic=False, precision="double")
        here, there = model.evaluate([[0, 0, 0]]), model.evaluate([[1e4, -3, 7]])
        assert here.energy == there.energy
        assert not here.forces.any()


def test_blocks_change_nothing_but_rounding(water_artifact, monkeypatch):
    artifact, atoms = artifacts.load(water_artifact), water_frame(1)
    whole = system_for(artifact, atoms, "single").evaluate(atoms.positions)
    monkeypatch.setattr("openmm_les.networks.blocks.blocking.CPU_ELEMENTS", 5000)
    pieces = system_for(artifact, atoms, "single").evaluate(atoms.positions)
    assert pieces.energy == pytest.approx(whole.energy, abs=1e-5)
    np.testing.assert_allclose(pieces.forces, whole.forces, atol=2e-5)


@pytest.mark.parametrize(
    ("fold", "few_kernels", "shape"),
    [
        (True, False, "max_L 1"),
        (False, False, "max_L 1"),
        (True, True, "plain"),
        (True, True, "max_L 2"),
        (True, True, "as foundation models"),
        (False, False, "correlation 4"),
    ],
)
def test_variants_agree_scripted_and_frozen(model_folder, fold, few_kernels, shape):
    artifact = artifact_of(synthetic_model(model_folder, **ALL[shape]), model_folder)
    atoms = cluster(artifact.elements)
    model = system_for(artifact, atoms)
    network = build_network(
        artifact.canonical,
        range(len(artifact.elements)),
        Form(torch.float64, exact_radial=True, fold=fold, few_kernels=few_kernels),
    ).eval()
    expected = model.module(torch.tensor(atoms.positions), torch.zeros(3, 3, dtype=torch.float64))
    model._builder.network = network
    scripted = model._build()
    for module in scripted, torch.jit.freeze(scripted):
        got = module(torch.tensor(atoms.positions), torch.zeros(3, 3, dtype=torch.float64))
        for a, b in zip(got, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


def test_hidden_features_are_compressed_to_rounding(exported):
    """The table reproduces all radial functions to single precision with fewer features."""
    canonical = artifacts.load(exported(DIPEPTIDE_MODEL)).canonical
    hyper, state = canonical.hyper, canonical.state
    layers = [strip_prefix(state, f"layers.{t}.") for t in range(len(hyper["layers"]))]
    basis = BesselBasis(
        state["bessel_frequencies"],
        hyper["bessel_prefactor"],
        hyper["cutoff"],
        hyper["cutoff_order"],
    )
    exact = ExactRadial(basis, [hidden_radial(layer) for layer in layers])
    outputs = [last_radial(layer) for layer in layers]
    widths = [len(output) for output in outputs]
    table, maps = tabulate(exact, widths, outputs, dtype=torch.float64)
    r = torch.rand(5000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    r = 0.5 + r * (hyper["cutoff"] - 0.4)  # some beyond the cutoff
    for got, expected, tolerance in zip(table(r), exact(r), (1e-6, 1e-5), strict=True):
        reduced = got.split([len(m) for m in maps], 1)
        full = expected.split(widths, 1)
        for x, m, y, v in zip(reduced, maps, full, outputs, strict=True):
            assert len(m) < len(v)
            assert (x @ m - y @ v).abs().max() < tolerance * (y @ v).abs().max()
    assert not table(torch.tensor([hyper["cutoff"]], dtype=torch.float64))[0].any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("tables", [1, 3])
def test_a_loop_reads_the_same_from_a_table(tables, dtype):
    if obstacle("numba"):
        pytest.skip("needs the extra cpu")
    from openmm_les.networks.kernels.numba.radial import LoopRadial

    generator = torch.Generator().manual_seed(2)
    values, slopes = torch.randn(2, tables, 30, 7, dtype=torch.float64, generator=generator)
    pairs = torch.arange(5) % tables
    arguments = values, slopes, 4.5, torch.randperm(4, generator=generator) % tables, dtype
    distances = torch.tensor([0.0, 1.1, 4.4999, 4.5, 9.0], dtype=dtype)
    one, other = (
        torch.jit.script(kind(*arguments))(distances, pairs)
        for kind in (TabulatedRadial, LoopRadial)
    )
    tolerance = 100 * torch.finfo(dtype).eps
    torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)
    assert not other[0][3:].any()
    assert (
        LoopRadial(*arguments)(torch.tensor([torch.nan], dtype=dtype), pairs[:1])[0].isnan().all()
    )


def test_many_functions_of_the_distance_are_not_tabulated(model_folder, monkeypatch):
    path = synthetic_model(model_folder, **ALL["Soft"])
    artifact = artifact_of(path, model_folder)
    atoms = cluster(artifact.elements)
    tables = system_for(artifact, atoms, "single")
    assert any(name.endswith("radial.table") for name, _ in tables.network.named_buffers())
    monkeypatch.setattr("openmm_les.networks.blocks.radial._MOST_TABLES", 5)
    exact = system_for(artifact, atoms, "single")
    assert not any(name.endswith("radial.table") for name, _ in exact.network.named_buffers())
    one, other = (model.evaluate(atoms.positions) for model in (tables, exact))
    assert one.energy == pytest.approx(other.energy, abs=1e-5)
    np.testing.assert_allclose(one.forces, other.forces, rtol=0, atol=1e-4)


@pytest.mark.parametrize(("lmax", "order"), [(3, 3), (1, 4)])
def test_product_basis_gradient_is_that_of_autograd(lmax, order):
    generator = torch.Generator().manual_seed(1)
    # Only natural parity couples: keep monomials whose parity is that of the output.
    degrees = [0] + [d for d in range(lmax + 1) for _ in range(2 * d + 1)]
    monomials = list(itertools.combinations_with_replacement(range(len(degrees)), order))
    parity = torch.tensor([sum(degrees[i] for i in c) % 2 for c in monomials])
    bases = [
        torch.randn(r, 2 * d + 1, len(monomials), dtype=torch.float64, generator=generator)
        * (parity == d % 2)
        for d, r in enumerate((4, 3, 2))
    ]
    weights = [torch.randn(2, len(b), 5, dtype=torch.float64, generator=generator) for b in bases]
    dense = ProductBasis(bases, weights, lmax, fold=True, few_kernels=True, order=order)
    other = ProductBasis(bases, weights, lmax, fold=order == 3, few_kernels=False, order=order)
    size = (lmax + 1) ** 2
    sums = torch.randn(size, 5, 7, dtype=torch.float64, generator=generator, requires_grad=True)
    out, saved = dense(sums, [3, 4])
    grad = torch.randn(out.shape, dtype=torch.float64, generator=generator)
    (expected,) = torch.autograd.grad((out * grad).sum(), sums)
    others = [other]
    if order == 3 and not obstacle("numba"):
        loops = product_basis(bases, weights, lmax, Form(torch.float64, kernels="numba"), order)
        others.append(torch.jit.script(loops))
    exact = {"rtol": 1e-11, "atol": 1e-11}
    torch.testing.assert_close(dense.backward(grad, saved), expected, **exact)
    for module in others:
        with torch.no_grad():
            same, kept = module(sums, [3, 4])
        torch.testing.assert_close(same, out.detach(), **exact)
        torch.testing.assert_close(module.backward(grad, kept), expected, **exact)


def test_product_basis_refuses_a_basis_of_another_size():
    with pytest.raises(ValueError, match="expected 969 monomials of 17 variables, got 5"):
        ProductBasis(
            [torch.zeros(1, 1, 5).double()], [torch.zeros(1, 1, 2).double()], 3, True, False
        )


@pytest.mark.parametrize(
    ("kernels", "dtype", "package", "message"),
    [
        ("triton", torch.float32, "triton", "'triton' needs the package triton, which torch for"),
        ("triton", torch.float64, "none", "'triton' needs single precision; use kernels='torch'"),
        ("numba", torch.float64, "numba", "'numba' needs the packages of the extra cpu, numba an"),
        (
            "numba",
            torch.float64,
            "vesin",
            r".* pip install 'openmm-les\[cpu\]', or use engine=",
        ),
    ],
)
def test_kernels_that_are_not_there(kernels, dtype, package, message, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)  # which is what a missing package looks like
    kernel_choice._numba_works.cache_clear()
    with pytest.raises(InputError, match=f"^kernels: {message}"):
        Form(dtype, kernels=kernels)
    kernel_choice._numba_works.cache_clear()
