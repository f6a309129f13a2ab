"""Charges in the field of others: against brute force, closed forms and finite differences."""

import copy
import io
import math

import numpy as np
import pytest
import torch
from oracles.coupling import cross_potential, image_potential
from support.charges import DOUBLE, SINGLE, slope, tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from openmm_les.electrostatics.embedding import build_coupling
from openmm_les.electrostatics.embedding.charges import ChargeCorrection
from openmm_les.electrostatics.embedding.ewald import EwaldCoupling
from openmm_les.electrostatics.embedding.pairwise import PairCoupling
from openmm_les.errors import InputError
from openmm_les.units import COULOMB_CONSTANT

CELLS = {
    "cubic": [[12.4, 0, 0], [0, 12.4, 0], [0, 0, 12.4]],
    "orthorhombic": [[10.1, 0, 0], [0, 16.3, 0], [0, 0, 12.9]],
    "triclinic": [[13.1, 0, 0], [-4.2, 12.3, 0], [3.9, 5.7, 11.4]],
    "dodecahedral": [[14.0, 0, 0], [0, 14.0, 0], [7.0, 7.0, 14.0 / math.sqrt(2)]],
}
ALL_CELLS = pytest.mark.parametrize("name", CELLS)
#: Sums without truncation error, for what is exact.
EXACT = 1e-14
#: A width whose correction has vanished at the nearest images of these small boxes.
WIDTH = 0.6
METHODS = {
    "PME": {"tolerance": EXACT, "width": WIDTH},
    "PME, points, no images": {"tolerance": EXACT, "images": False},
    "NoCutoff": {"width": WIDTH},
    "CutoffPeriodic": {"cutoff": 4.9, "width": WIDTH},
    "CutoffNonPeriodic": {"cutoff": 4.9, "dielectric": 5.0},
}
ALL_METHODS = pytest.mark.parametrize("method", METHODS)
SCALED = [(0, 3, 0.0), (2, 7, 0.5), (2, 8, 1 / 1.2), (4, 3, 0.0)]


def structure(cell, n=7, m=29, seed=0):
    """A cluster with a net charge across an edge of the box, and charges all over it.

    No pair is nearer than 1 A, and none so near to the cutoff that a small step would cross it.
    """
    random = np.random.default_rng(seed)
    cell = np.asarray(cell, float)
    r = random.uniform(-2.5, 2.5, (n, 3)) + 0.5 * cell[0]
    around = random.uniform(-1, 2, (40 * m, 3)) @ cell
    d = r[:, None] - around
    d = d - np.round(d @ np.linalg.inv(cell)) @ cell
    distance = np.linalg.norm(d, axis=2)
    apart = (distance > 1.0).all(axis=0) & (abs(distance - 4.9) > 0.01).all(axis=0)
    d = np.linalg.norm(r[:, None] - around, axis=2)
    apart &= (abs(d - 4.9) > 0.01).all(axis=0)
    return (
        tensor(random.normal(0.1, 0.4, n)),
        tensor(r),
        tensor(random.normal(-0.1, 0.5, m)),
        tensor(around[apart][:m]),
        tensor(cell),
    )


def build(method, cell, **options):
    return build_coupling(method.split(",")[0], cell=cell, **(METHODS[method] | options))


def assert_same(result, expected, relative):
    """Energy and every derivative agree, each relative to its largest entry."""
    assert bool(result.outgrown) == bool(expected.outgrown)
    scale = max(float(x.abs().max()) for x in (expected.energy, expected.strain))
    for name, got, want in zip(result._fields[:5], result[:5], expected[:5], strict=True):
        size = scale if name in ("energy", "strain") else float(want.abs().max())
        error = float((got.double() - want.double()).abs().max())
        assert error <= relative * size, f"{name}: {error:.1e} of {size:.1e}"


# ------------------------------------------------------------------------ the periodic sum


@pytest.mark.parametrize("width", [0.0, WIDTH])
@ALL_CELLS
def test_potential_of_mm_charges_is_the_brute_force_sum(name, width):
    q, r, mm_q, mm_r, cell = structure(CELLS[name])
    coupling = build_coupling("PME", cell=cell, width=width, tolerance=EXACT, images=False)
    result = coupling(q, r, mm_q, mm_r, cell)
    for alpha in (0.4, 0.7):
        expected = COULOMB_CONSTANT * cross_potential(r, mm_q, mm_r, cell, alpha, width)
        np.testing.assert_allclose(result.potential, expected, atol=1e-12)
        assert float(result.energy) == pytest.approx(float(q.numpy() @ expected), rel=1e-12)


@ALL_CELLS
def test_images_of_the_region_are_the_brute_force_sum(name):
    q, r, mm_q, mm_r, cell = structure(CELLS[name])
    coupling = build_coupling("PME", cell=cell, tolerance=EXACT)
    result = coupling(q, r, 0 * mm_q, mm_r, cell)
    for alpha in (0.4, 0.7):
        expected = COULOMB_CONSTANT * image_potential(q, r, cell, alpha)
        np.testing.assert_allclose(result.potential, expected, atol=1e-12)
        assert float(result.energy) == pytest.approx(0.5 * float(q.numpy() @ expected), rel=1e-12)


def test_a_region_longer_than_half_the_box_meets_its_nearest_images():
    """The cluster is what the positions say, also where an image is nearer."""
    q, r, mm_q, mm_r, cell = structure(CELLS["triclinic"])
    r = torch.cat([r[:-2], r[:1] + tensor([[9.0, 1.0, 2.0], [15.0, 3.0, 14.0]])])
    result = build_coupling("PME", cell=cell, tolerance=EXACT)(q, r, 0 * mm_q, mm_r, cell)
    expected = COULOMB_CONSTANT * image_potential(q, r, cell, 0.5)
    np.testing.assert_allclose(result.potential, expected, atol=1e-12)


def test_both_sums_are_additive():
    q, r, mm_q, mm_r, cell = structure(CELLS["triclinic"])
    whole = build_coupling("PME", cell=cell, tolerance=1e-9)
    cross = build_coupling("PME", cell=cell, tolerance=1e-9, images=False)
    field, images = cross(q, r, mm_q, mm_r, cell), whole(q, r, 0 * mm_q, mm_r, cell)
    summed = type(field)(*(a + b for a, b in zip(field[:5], images[:5], strict=True)), field[5])
    assert_same(whole(q, r, mm_q, mm_r, cell), summed, 1e-12)


@pytest.mark.parametrize("length", [14.0, 40.0])
def test_lone_ion_in_its_background(length):
    cell = length * torch.eye(3, dtype=DOUBLE)
    charge = tensor([-0.7])
    nothing, nowhere = tensor([0.0]), tensor([[3.0, 3.0, 3.0]])
    result = build_coupling("PME", cell=cell, tolerance=EXACT)(
        charge, tensor([[1.0, 2.0, 3.0]]), nothing, nowhere, cell
    )
    expected = -0.5 * 2.837297479480619 / length * COULOMB_CONSTANT * 0.7**2
    assert float(result.energy) == pytest.approx(expected, rel=1e-12)
    assert float(result.potential) == pytest.approx(2 * expected / -0.7, rel=1e-12)
    assert float(result.strain.trace()) == pytest.approx(-expected, rel=1e-11)
    assert result.gradient.abs().max() < 1e-14


def test_large_box_tends_to_the_open_system():
    """Both net charges, in cubes: what is left is the shift of the level, and goes as 1/L^3."""
    q, r, mm_q, mm_r, _ = structure(CELLS["cubic"], m=5)
    ends = []
    for length in (100.0, 200.0):
        cell = length * torch.eye(3, dtype=DOUBLE)
        inputs = (q, r, mm_q, mm_r, cell)
        periodic = build_coupling("PME", cell=cell, width=WIDTH)(*inputs)
        expected = build_coupling("NoCutoff", width=WIDTH)(*inputs)
        net, mm_net = float(q.sum()), float(mm_q.sum())
        level = -2.837297479480619 / length * COULOMB_CONSTANT * net * (mm_net + 0.5 * net)
        ends.append(float(periodic.energy - expected.energy) - level)
        np.testing.assert_allclose(
            periodic.gradient, expected.gradient, atol=3e4 / length**3, rtol=0
        )
    assert abs(ends[0]) < 0.05
    assert ends[1] == pytest.approx(ends[0] / 8, rel=0.02)


@pytest.mark.parametrize("tolerance", [1e-4, 1e-5, 1e-6, 1e-8])
@ALL_CELLS
def test_tolerance_is_kept(name, tolerance):
    """And with it that the energy does not depend on the splitting parameter."""
    q, r, mm_q, mm_r, cell = structure(CELLS[name], n=22, m=150, seed=2)
    inputs = (q, r, mm_q, mm_r, cell)
    exact = build_coupling("PME", cell=cell, tolerance=EXACT)(*inputs)
    result = build_coupling("PME", cell=cell, tolerance=tolerance)(*inputs)
    for got, want in ((result.gradient, exact.gradient), (result.mm_gradient, exact.mm_gradient)):
        assert 1e-3 * tolerance < float((got - want).norm() / want.norm()) < tolerance
    assert abs(float(result.energy - exact.energy)) < 10 * tolerance


def test_net_charges_need_the_background():
    """Without its cross term the energy would depend on the splitting parameter: 1.6 kJ/mol."""
    q, r, mm_q, mm_r, cell = structure(CELLS["cubic"])
    q, mm_q = q - q.mean() + 1 / len(q), mm_q - mm_q.mean() - 2 / len(mm_q)
    cell = 2 * cell
    energies, levels = [], []
    for tolerance in (1e-6, 1e-10):
        coupling = build_coupling("PME", cell=cell, tolerance=tolerance, images=False)
        energies.append(float(coupling(q, r, mm_q, mm_r, cell).energy))
        splitting = 2 * coupling.reach / 24.8
        levels.append(2 * COULOMB_CONSTANT * math.pi / 24.8**3 / splitting**2)
    assert energies[0] == pytest.approx(energies[1], abs=1e-6)
    assert abs(levels[0] - levels[1]) > 0.015


# ------------------------------------------------------------------- methods with a cutoff


@pytest.mark.parametrize("periodic", [False, True])
def test_reaction_field_is_its_formula(periodic):
    q, r, mm_q, mm_r, cell = (x.numpy() for x in structure(CELLS["triclinic"]))
    cutoff, dielectric = 4.9, 7.0
    method = "CutoffPeriodic" if periodic else "CutoffNonPeriodic"
    coupling = build_coupling(method, cutoff=cutoff, dielectric=dielectric)
    if not periodic:
        mm_r = np.random.default_rng(1).uniform(1.1, 3.0, mm_r.shape) * np.sign(mm_r) + cell[0] / 2
    result = coupling(*map(tensor, (q, r, mm_q, mm_r, cell)))
    expected = np.zeros(len(q))
    shifts = np.array(list(np.ndindex(9, 9, 9))) - 4 if periodic else np.zeros((1, 3))
    for shift in shifts @ cell:
        distance = np.linalg.norm(r[:, None] - mm_r + shift, axis=2)
        k = (dielectric - 1) / (2 * dielectric + 1) / cutoff**3
        c = 3 * dielectric / (2 * dielectric + 1) / cutoff
        value = 1 / distance + k * distance**2 - c
        expected += np.where(distance < cutoff, value, 0.0) @ mm_q
    np.testing.assert_allclose(result.potential, COULOMB_CONSTANT * expected, rtol=1e-12)
    assert abs(expected).min() > 0.0


def test_bare_charges_obey_coulomb():
    q, r, mm_q, mm_r, cell = structure(CELLS["cubic"])
    result = build_coupling("NoCutoff")(q, r, mm_q, mm_r, cell)
    expected = COULOMB_CONSTANT * (1 / torch.cdist(r, mm_r)) @ mm_q
    torch.testing.assert_close(result.potential, expected, rtol=1e-13, atol=0)


@pytest.mark.parametrize("distance", [0.0, 1e-6, 0.1, 1.0, 3.0, 20.0])
def test_clouds_are_finite_wherever_the_point_charge_is(distance):
    """erf(r/w)/r, in the open and, but for its images, in a box."""
    width, cell = 1.1, 60 * torch.eye(3, dtype=DOUBLE)
    inputs = (tensor([0.5]), tensor([[distance, 0, 0]]), tensor([-1.5]), tensor([[0, 0, 0]]), cell)
    node, weight = np.polynomial.legendre.leggauss(60)
    x = distance / width
    smooth = np.sum(weight / 2 * np.exp(-((x * (node + 1) / 2) ** 2))) if x < 5 else 1 / x
    smooth *= 2 / math.sqrt(math.pi) if x < 5 else 1.0
    expected = -0.75 * COULOMB_CONSTANT / width * smooth
    result = build_coupling("NoCutoff", width=width)(*inputs)
    assert float(result.energy) == pytest.approx(expected, rel=1e-12)
    assert torch.isfinite(result.gradient).all()
    if distance > 0:
        charges = {"tolerance": EXACT, "images": False, "cell": cell}
        points = build_coupling("PME", **charges)(*inputs)
        clouds = build_coupling("PME", **charges, width=width)(*inputs)
        bare = -0.75 * COULOMB_CONSTANT / distance
        assert float(clouds.energy - points.energy) == pytest.approx(
            expected - bare, abs=1e-9 * abs(bare)
        )


# -------------------------------------------------------------------------- scaled pairs


@ALL_METHODS
def test_scaled_pairs_are_plain_coulomb_times_a_factor(method):
    """What they add to the coupling without them, pair by pair."""
    q, r, mm_q, mm_r, cell = structure(CELLS["triclinic"])
    plain = build(method, cell)(q, r, mm_q, mm_r, cell)
    scaled = build(method, cell, scaled_pairs=SCALED)(q, r, mm_q, mm_r, cell)
    options = METHODS[method]
    width, cutoff = options.get("width", 0.0), options.get("cutoff")
    dielectric = options.get("dielectric", 78.3)
    expected = 0.0
    for i, j, factor in SCALED:
        d = r[i] - mm_r[j]
        if method.startswith(("PME", "CutoffPeriodic")):
            d = d - torch.round(d @ torch.linalg.inv(cell)) @ cell
        distance = float(d.norm())
        bare = math.erf(distance / width) / distance if width else 1 / distance
        counted = bare
        if cutoff:
            counted += (dielectric - 1) / (2 * dielectric + 1) / cutoff**3 * distance**2
            counted -= 3 * dielectric / (2 * dielectric + 1) / cutoff
            counted *= distance < cutoff
        expected += COULOMB_CONSTANT * float(q[i] * mm_q[j]) * (factor * bare - counted)
    assert float(scaled.energy - plain.energy) == pytest.approx(expected, rel=1e-11)


# ------------------------------------------------------------------ derivatives, all methods


@ALL_METHODS
@pytest.mark.parametrize("name", ["orthorhombic", "triclinic"])
def test_derivatives_are_those_of_the_energy(method, name):
    q, r, mm_q, mm_r, cell = structure(CELLS[name])
    coupling = torch.jit.script(build(method, cell, scaled_pairs=SCALED))
    result = coupling(q, r, mm_q, mm_r, cell)
    identity = torch.eye(3, dtype=DOUBLE)

    def deformed(strain):
        f = identity + strain
        return coupling(q, r @ f, mm_q, mm_r @ f, cell @ f).energy

    random = np.random.default_rng(1)
    for derivative, energy, x, step in (
        (result.potential, lambda x: coupling(x, r, mm_q, mm_r, cell).energy, q, 1e-2),
        (result.gradient, lambda x: coupling(q, x, mm_q, mm_r, cell).energy, r, 1e-3),
        (result.mm_gradient, lambda x: coupling(q, r, mm_q, x, cell).energy, mm_r, 1e-3),
        (result.strain, deformed, 0 * cell, 1e-4),
    ):
        for _ in range(4):
            direction = tensor(random.uniform(-1, 1, x.shape))
            expected = float(slope(energy, x, direction, step))
            assert float((derivative * direction).sum()) == pytest.approx(expected, abs=2e-9)


@ALL_METHODS
def test_forces_add_up_to_nothing(method):
    q, r, mm_q, mm_r, cell = structure(CELLS["triclinic"])
    result = build(method, cell, scaled_pairs=SCALED)(q, r, mm_q, mm_r, cell)
    total = result.gradient.sum(dim=0) + result.mm_gradient.sum(dim=0)
    assert float(total.abs().max()) < 1e-12
    torch.testing.assert_close(result.strain, result.strain.T, rtol=0, atol=1e-12)


# ------------------------------------------------------------------------------ symmetries


@ALL_METHODS
def test_order_of_atoms(method):
    q, r, mm_q, mm_r, cell = structure(CELLS["triclinic"])
    random = np.random.default_rng(5)
    order, mm_order = random.permutation(len(q)), random.permutation(len(mm_q))
    where, mm_where = np.argsort(order), np.argsort(mm_order)
    expected = build(method, cell, scaled_pairs=SCALED)(q, r, mm_q, mm_r, cell)
    pairs = [(int(where[i]), int(mm_where[j]), factor) for i, j, factor in SCALED]
    result = build(method, cell, scaled_pairs=pairs)(
        q[order], r[order], mm_q[mm_order], mm_r[mm_order], cell
    )
    result = result._replace(
        potential=result.potential[where],
        gradient=result.gradient[where],
        mm_gradient=result.mm_gradient[mm_where],
    )
    assert_same(result, expected, 1e-13)


@pytest.mark.parametrize("method", ["PME", "CutoffPeriodic"])
@ALL_CELLS
def test_whole_box_lengths_do_not_matter(name, method):
    """For MM atoms each by itself, for the region as a whole: also where it leaves the box."""
    q, r, mm_q, mm_r, cell = structure(CELLS[name])
    coupling = build(method, cell, scaled_pairs=SCALED)
    expected = coupling(q, r, mm_q, mm_r, cell)
    shifts = tensor(np.random.default_rng(3).integers(-40, 41, (len(mm_q), 3))) @ cell
    for turns in ([0, 0, 0], [1, -2, 0], [-30, 7, 100]):
        moved = coupling(q, r + tensor(turns) @ cell, mm_q, mm_r + shifts, cell)
        assert_same(moved, expected, 1e-11)
    together = tensor([4.2, -3.3, 5.1])
    assert_same(coupling(q, r + together, mm_q, mm_r + together, cell), expected, 1e-11)


def test_other_bases_of_the_same_lattice():
    q, r, mm_q, mm_r, cell = structure(CELLS["triclinic"])
    expected = build("PME", cell)(q, r, mm_q, mm_r, cell)
    for basis in ([[0, 1, 0], [0, 0, 1], [1, 0, 0]], [[1, 0, 0], [0, 1, 0], [0, -1, 1]]):
        other = tensor(basis) @ cell
        assert_same(build("PME", other)(q, r, mm_q, mm_r, other), expected, 1e-11)


# ------------------------------------------------------------------------------ box changes


def test_one_module_serves_every_size_of_box():
    """Like a module made for it: nothing is sized by anything but the shape."""
    q, r, mm_q, mm_r, cell = structure(CELLS["triclinic"])
    coupling = build_coupling("PME", cell=cell, tolerance=1e-9)
    for factor in (0.8, 1.3, 5.0):
        inputs = (q, factor * r, mm_q, factor * mm_r, factor * cell)
        fresh = build_coupling("PME", cell=factor * cell, tolerance=1e-9)
        assert_same(coupling(*inputs), fresh(*inputs), 1e-12)


def test_a_box_of_another_shape_is_reported():
    q, r, mm_q, mm_r, cell = structure(CELLS["cubic"])
    stretched = cell * tensor([1.0, 1.0, 1.12])
    tight = build_coupling("PME", cell=cell)(q, r, mm_q, mm_r, stretched)
    assert tight.outgrown
    assert math.isnan(tight.energy)
    roomy = build_coupling("PME", cell=cell, margin=1.13)(q, r, mm_q, mm_r, stretched)
    assert not roomy.outgrown
    exact = build_coupling("PME", cell=stretched, tolerance=EXACT)(q, r, mm_q, mm_r, stretched)
    assert float(roomy.energy) == pytest.approx(float(exact.energy), abs=2e-5)


def test_energy_is_smooth_in_the_box():
    """No jump while a box is deformed: differences of neighbouring slopes stay small."""
    q, r, mm_q, mm_r, cell = structure(CELLS["cubic"])
    coupling = build_coupling("PME", cell=cell, margin=1.1)
    energies = []
    for x in np.linspace(0.0, 0.08, 161):
        f = torch.eye(3, dtype=DOUBLE) + x * tensor([[0, 0, 0], [0, 0, 0], [0.2, 0, 1]])
        energies.append(float(coupling(q, r @ f, mm_q, mm_r @ f, cell @ f).energy))
    third = np.diff(energies, 3)
    assert abs(third).max() < 2e-5 < abs(np.diff(energies)).max()


# -------------------------------------------------------------------------- single precision


@ALL_METHODS
@ALL_CELLS
def test_single_precision(name, method):
    q, r, mm_q, mm_r, cell = structure(CELLS[name], n=22, m=150, seed=4)
    options = {"tolerance": 1e-6} if method.startswith("PME") else {}
    expected = build(method, cell, scaled_pairs=SCALED)(q, r, mm_q, mm_r, cell)
    single = build(method, cell, scaled_pairs=SCALED, dtype=SINGLE, **options)
    far = tensor([400, -300, 1000]) @ cell
    result = single(q, r + far, mm_q, mm_r + far, cell)
    assert {x.dtype for x in result[:5]} == {DOUBLE}
    assert_same(result, expected, 5e-6)


# ------------------------------------------------------------------------ as torch modules


@pytest.mark.parametrize("dtype", [SINGLE, DOUBLE])
@ALL_METHODS
def test_chunks_change_nothing(method, dtype):
    inputs = structure(CELLS["triclinic"])
    expected = build(method, inputs[4], dtype=dtype)(*inputs)
    for pairs_per_chunk in (1, 30, 100, 10**6):
        coupling = build(method, inputs[4], dtype=dtype)
        coupling.pairs_per_chunk = coupling.pairs.pairs_per_chunk = pairs_per_chunk
        assert_same(coupling(*inputs), expected, 5e-6 if dtype == SINGLE else 1e-12)


@pytest.mark.parametrize("dtype", [SINGLE, DOUBLE])
@ALL_METHODS
def test_scripted_frozen_and_saved_are_eager(method, dtype):
    inputs = structure(CELLS["triclinic"])
    coupling = build(method, inputs[4], scaled_pairs=SCALED, dtype=dtype)
    expected = coupling(*inputs)
    scripted = torch.jit.script(coupling)
    frozen = torch.jit.freeze(torch.jit.script(coupling).eval())
    file = io.BytesIO()
    torch.jit.save(scripted, file)
    file.seek(0)
    for module in (scripted, frozen, torch.jit.load(file), copy.deepcopy(coupling)):
        for _ in range(3):  # the profiling executor optimises later calls
            result = module(*(x.clone().requires_grad_() for x in inputs))
            assert not any(x.requires_grad for x in result)
            assert_same(expected._replace(**result._asdict()), expected, 5e-6)


@pytest.mark.parametrize("method", ["PME", "CutoffPeriodic"])
def test_compiler_sees_one_graph(method):
    inputs = structure(CELLS["triclinic"])
    coupling = build(method, inputs[4], scaled_pairs=SCALED)
    compiled = torch.compile(coupling, backend="eager", fullgraph=True)
    assert_same(compiled(*inputs), coupling(*inputs), 1e-13)


@ALL_METHODS
def test_nothing_is_read_back_from_the_device(method):
    """Meta tensors hold no data: a host read, or a constant made on the CPU, would raise."""
    inputs = structure(CELLS["triclinic"])
    coupling = build(method, inputs[4], scaled_pairs=SCALED, dtype=SINGLE)
    coupling.pairs.pairs_per_chunk = 100
    result = coupling.to("meta")(*(x.to("meta") for x in inputs))
    assert [tuple(x.shape) for x in result] == [(), (7,), (7, 3), (29, 3), (3, 3), ()]
    assert {x.device.type for x in result} == {"meta"}


class Largest(TorchDispatchMode):
    """Remembers the largest array that any operation returned [bytes]."""

    size = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        sizes = [x.untyped_storage().nbytes() for x in tree_leaves(out) if torch.is_tensor(x)]
        self.size = max([self.size, *sizes])
        return out


@ALL_METHODS
def test_memory_is_bounded(method):
    """All pairs at once would take 50 x 100 000 x 3 numbers: 120 MB."""
    random = np.random.default_rng(0)
    cell = 100 * torch.eye(3, dtype=DOUBLE)
    q, r = tensor(random.normal(0, 0.4, 50)), tensor(random.uniform(0, 9, (50, 3)))
    mm_q, mm_r = (
        tensor(random.normal(0, 0.5, 100_000)),
        tensor(random.uniform(0, 100, (100_000, 3))),
    )
    options = METHODS[method] | {"tolerance": 1e-5}
    with Largest() as largest:
        build_coupling(method.split(",")[0], cell=cell, **options)(q, r, mm_q, mm_r, cell)
    results = 8 * mm_r.numel()
    assert results <= largest.size < results + 5_000_000


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [SINGLE, DOUBLE])
@ALL_METHODS
def test_cuda_graph_follows_its_inputs(method, dtype):
    inputs = structure(CELLS["triclinic"])
    coupling = build(method, inputs[4], scaled_pairs=SCALED, dtype=dtype, device="cuda")
    expected = coupling(*inputs)
    module = torch.jit.script(coupling.cuda())
    static = [torch.zeros_like(x, device="cuda") for x in inputs]
    static[4].copy_(inputs[4])
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(3):
            module(*static)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = module(*static)
    for target, source in zip(static, inputs, strict=True):
        target.copy_(source)
    graph.replay()
    result = type(expected)(*(x.cpu() for x in result))
    assert_same(result, expected, 5e-6 if dtype == SINGLE else 1e-12)


# --------------------------------------------------------------------- charges of the region


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_charges_are_conserved_and_pulled_back(sign):
    q, r, mm_q, mm_r, cell = structure(CELLS["cubic"])
    correction = ChargeCorrection(1.0, sign=sign)
    corrected = correction(q)
    assert float(corrected.sum()) == pytest.approx(1.0, abs=1e-14)
    shift = sign * corrected - q
    torch.testing.assert_close(shift, shift.mean().expand(len(q)), rtol=1e-12, atol=1e-14)

    coupling = build("PME", cell)

    def energy(x):
        return coupling(correction(x), r, mm_q, mm_r, cell).energy

    potential = correction.pull_back(coupling(corrected, r, mm_q, mm_r, cell).potential)
    for direction in torch.eye(len(q), dtype=DOUBLE):
        expected = float(slope(energy, q, direction, 1e-2))
        assert float(potential @ direction) == pytest.approx(expected, abs=1e-10)
    assert abs(float(potential.sum())) < 1e-12


def test_correction_scripts():
    correction = ChargeCorrection(-1.0, sign=-1.0)
    scripted = torch.jit.script(correction)
    q = tensor([0.3, -0.7, 0.1])
    torch.testing.assert_close(scripted(q), correction(q), rtol=0, atol=0)
    torch.testing.assert_close(scripted.pull_back(q), correction.pull_back(q), rtol=0, atol=0)


# ------------------------------------------------------------------------------ construction


@pytest.mark.parametrize("method", ["Ewald", "PME", "LJPME"])
def test_ewald_methods_are_one(method):
    coupling = build_coupling(method, cell=20 * torch.eye(3, dtype=DOUBLE))
    assert isinstance(coupling, EwaldCoupling)
    assert coupling.structure.limits.tolist() == [7, 7, 7]


def test_other_methods_need_no_box():
    assert isinstance(build_coupling("NoCutoff"), PairCoupling)
    assert build_coupling("CutoffPeriodic", cutoff=9.0).pairs.periodic
    assert not build_coupling("CutoffNonPeriodic", cutoff=9.0).pairs.periodic


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("Cutoff", {}, "nonbonded method: expected one of NoCutoff, "),
        ("PME", {}, r"cell: expected three lattice vectors \[A\] for PME, got None"),
        ("CutoffPeriodic", {}, r"cutoff: expected that of the NonbondedForce \[A\]"),
        ("CutoffPeriodic", {"cutoff": 0.0}, "cutoff: expected a length > 0 A, got 0.0"),
        ("CutoffPeriodic", {"cutoff": 9.0, "dielectric": 0.5}, "dielectric: expected a constant"),
        ("NoCutoff", {"width": -1.0}, "width: expected a length >= 0 A, got -1.0"),
        ("NoCutoff", {"scaled_pairs": [(0, 1, 0.0), (0, 1, 0.5)]}, "scaled_pairs: expected each"),
        ("NoCutoff", {"scaled_pairs": [(0, -1, 0.0)]}, "scaled_pairs: expected each pair"),
        ("PME", {"cell": torch.eye(3), "tolerance": 0.0}, "tolerance: expected a number from"),
        ("PME", {"cell": torch.eye(3), "margin": 0.9}, "margin: expected a factor of at least 1"),
    ],
)
def test_unusable_parameters_are_refused(method, options, message):
    with pytest.raises(InputError, match=message):
        build_coupling(method, **options)
