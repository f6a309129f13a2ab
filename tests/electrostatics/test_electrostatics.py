"""The LES sums against closed forms, an independent brute-force sum and torch-pme."""

import copy
import io
import itertools
import math

import numpy as np
import pytest
import torch
from oracles.ewald import (
    Parameters,
    derivatives,
    k_sum,
    madelung_lattices,
    pair_sum,
    reciprocal_vectors,
)
from support.charges import (
    CELLS,
    COULOMB,
    DOUBLE,
    KEPT,
    REMOVED,
    SINGLE,
    assert_same,
    direct,
    limits_of,
    mesh,
    pairs,
    periodic_energy,
    structure,
    tensor,
)

from openmm_les.electrostatics import DirectEwald, PairSum, build_electrostatics
from openmm_les.electrostatics.accuracy import RULES, bytes_of_mesh, is_affordable
from openmm_les.electrostatics.cell import inverse_and_volume, lies_on_cutoff
from openmm_les.electrostatics.mesh import mesh_size_for
from openmm_les.errors import InputError

# --------------------------------------------------------------------------- the periodic sum


@pytest.mark.parametrize("parameters", [KEPT, REMOVED, Parameters(1.3, 1.7, 90.0474, True)])
@pytest.mark.parametrize("name", CELLS)
def test_direct_is_the_brute_force_sum(name, parameters):
    q, r, cell = structure(CELLS[name])
    result = direct(cell, parameters)(q, r, cell)
    assert [x.dtype for x in result[:5]] == [DOUBLE] * 4 + [torch.bool]
    assert not result[4]
    assert_same(result, derivatives(k_sum(parameters), q, r, cell), 2e-13)


@pytest.mark.parametrize("name", CELLS)
def test_direct_in_single_precision(name):
    q, r, cell = structure(CELLS[name])
    result = direct(cell, dtype=SINGLE)(q.float(), r, cell)
    assert [x.dtype for x in result[:4]] == [DOUBLE, SINGLE, SINGLE, DOUBLE]
    assert_same(result, derivatives(k_sum(KEPT), q, r, cell), 2e-6)


@pytest.mark.parametrize("name", madelung_lattices())
def test_madelung_constants(name):
    """At 9 A the clouds no longer overlap: point charges. A fine dl converges the sum."""
    distance, parameters = 9.0, Parameters(dl=0.8, remove_self_interaction=True)
    length, cations, anions, madelung = madelung_lattices()[name]
    cell = torch.eye(3, dtype=DOUBLE) * (length * distance)
    q = tensor([1.0] * len(cations) + [-1.0] * len(anions))
    energy, dq, dr, strain = direct(cell, parameters)(q, tensor(cations + anions) @ cell, cell)[:4]
    expected = -madelung * COULOMB / distance * len(cations)
    assert float(energy) == pytest.approx(expected, rel=1e-12)
    assert torch.allclose(dq, q * expected / len(cations), rtol=1e-12)
    assert dr.abs().max() < 1e-12
    # An energy that goes as 1/length: dE/dln(length) = -E.
    assert float(strain.trace()) == pytest.approx(-expected, rel=1e-11)


@pytest.mark.parametrize("length", [9.0, 13.7])
@pytest.mark.parametrize("keep", [False, True])
def test_single_ion_in_its_background(length, keep):
    sigma, charge = 0.9, -0.7
    parameters = Parameters(sigma=sigma, dl=0.7, remove_self_interaction=not keep)
    cell = torch.eye(3, dtype=DOUBLE) * length
    expected = -2.837297479480619 / length + 2 * math.pi * sigma**2 / length**3
    expected *= 0.5 * COULOMB * charge**2
    if keep:
        expected += KEPT.prefactor * charge**2 / (sigma * (2 * math.pi) ** 1.5)
    energy = periodic_energy(tensor([charge]), tensor([[1.0, 2.0, 3.0]]), cell, parameters)
    assert energy == pytest.approx(expected, rel=1e-12)


def test_three_angstrom_cube_by_hand():
    """|n|^2 <= (3/2)^2 holds for 6 vectors (1,0,0) and 12 vectors (1,1,0)."""
    q, s = (0.6, -0.9), (0.21, -0.13, 0.4)
    unit = 2 * math.pi / 3

    def shell(members):
        total = 0.0
        for n in members:
            phase = 2 * math.pi * sum(a * b for a, b in zip(n, s, strict=True))
            k2 = unit**2 * sum(a * a for a in n)
            intensity = q[0] ** 2 + q[1] ** 2 + 2 * q[0] * q[1] * math.cos(phase)
            total += math.exp(-k2 / 2) / k2 * intensity
        return total

    members = list(itertools.product((-1, 0, 1), repeat=3))
    faces = [n for n in members if sum(map(abs, n)) == 1]
    edges = [n for n in members if sum(map(abs, n)) == 2]
    assert (len(faces), len(edges)) == (6, 12)
    cell = 3 * torch.eye(3, dtype=DOUBLE)
    energy = periodic_energy(tensor(q), tensor([s, (0, 0, 0)]) @ cell, cell)
    assert energy == pytest.approx(KEPT.prefactor / 27 * (shell(faces) + shell(edges)), rel=1e-14)


def test_other_bases_of_the_same_lattice():
    q, r, cell = structure(CELLS["triclinic"])
    expected = direct(cell)(q, r, cell)
    for basis in ([[1, 0, 0], [2, 1, 0], [-1, 1, 1]], [[0, 1, 0], [0, 0, 1], [1, 0, 0]]):
        other = tensor(basis) @ cell
        assert_same(direct(other)(q, r, other), expected, 1e-12)


def test_left_handed_cell_has_the_same_energy():
    q, r, cell = structure(CELLS["triclinic"])
    swapped = cell[[1, 0, 2]]
    assert inverse_and_volume(swapped)[1] < 0
    assert_same(direct(swapped)(q, r, swapped), direct(cell)(q, r, cell), 1e-12)


def test_rotation_and_translation():
    q, r, cell = structure(CELLS["triclinic"])
    energy, dq, dr, strain = direct(cell)(q, r, cell)[:4]
    rotation = torch.linalg.qr(tensor(np.random.default_rng(3).normal(size=(3, 3))))[0]
    turned = direct(cell)(q, r @ rotation + tensor([3.0, -40.0, 0.7]), cell @ rotation)
    expected = (energy, dq, dr @ rotation, rotation.T @ strain @ rotation)
    assert_same(turned, expected, 1e-12)


def test_replication_is_extensive():
    q, r, cell = structure(CELLS["strained"], n=5)
    energy, dq, dr, strain = direct(cell)(q, r, cell)[:4]
    shifts = torch.cartesian_prod(*[torch.arange(2)] * 3).double() @ cell
    positions = (shifts[:, None] + r).reshape(-1, 3)
    result = direct(2 * cell)(q.repeat(8), positions, 2 * cell)
    expected = (8 * energy, dq.repeat(8), dr.repeat(8, 1), 8 * strain)
    assert_same(result, expected, 1e-12)


@pytest.mark.parametrize("parameters", [KEPT, REMOVED])
@pytest.mark.parametrize("periodic", [True, False])
def test_derivatives_are_those_of_the_returned_energy(periodic, parameters):
    q, r, cell = structure(CELLS["strained"], n=4)
    kernel = direct(cell, parameters, margin=1.1) if periodic else pairs(parameters)
    _, dq, dr, strain = kernel(q, r, cell)[:4]

    def slope(change, step=1e-4):
        high, low = (float(kernel(*change(sign * step))[0]) for sign in (1, -1))
        return (high - low) / (2 * step)

    def unit(shape, index):
        one = torch.zeros(shape, dtype=DOUBLE)
        one[index] = 1.0
        return one

    for i in range(4):
        numeric = slope(lambda h, i=i: (q + h * unit(4, i), r, cell))
        assert numeric == pytest.approx(float(dq[i]), rel=1e-6, abs=1e-7)
    for index in itertools.product(range(4), range(3)):
        numeric = slope(lambda h, index=index: (q, r + h * unit((4, 3), index), cell))
        assert numeric == pytest.approx(float(dr[index]), rel=1e-6, abs=1e-7)
    for index in itertools.product(range(3), range(3)):

        def strained(h, index=index):
            deformation = torch.eye(3, dtype=DOUBLE) + h * unit((3, 3), index)
            return q, r @ deformation, cell @ deformation

        # A shell that crossed the cutoff between the two boxes would be no derivative.
        inside = {len(reciprocal_vectors(strained(h)[2], 2.0)) for h in (-1e-4, 1e-4)}
        assert len(inside) == 1
        assert slope(strained) == pytest.approx(float(strain[index]), rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("dtype", [SINGLE, DOUBLE])
def test_atoms_far_outside_the_box(dtype):
    q, r, cell = structure(CELLS["triclinic"])
    offset = tensor(np.random.default_rng(1).integers(-1000, 1000, r.shape)) @ cell
    kernel = direct(cell, dtype=dtype)
    relative = 2e-6 if dtype == SINGLE else 1e-10
    assert_same(kernel(q, r + offset, cell), kernel(q, r, cell), relative)


# ------------------------------------------------------------------------- the set of vectors


def sphere_energy(length, radius_squared):
    """One unit charge in a cube with all integer vectors of |n|^2 <= radius_squared."""
    reach = math.isqrt(radius_squared)
    n = np.arange(-reach, reach + 1)
    n2 = (n[:, None, None] ** 2 + n[:, None] ** 2 + n**2).ravel()
    k2 = (2 * math.pi / length) ** 2 * n2[(n2 > 0) & (n2 <= radius_squared)]
    return KEPT.prefactor / length**3 * float(np.sum(np.exp(-k2 / 2) / k2))


@pytest.mark.parametrize("dtype", [SINGLE, DOUBLE])
@pytest.mark.parametrize("length", [2, 4, 10, 12, 24, 26, 36, 50])
def test_vectors_on_the_cutoff_are_inside(length, dtype):
    """In cubes of 26 and 50 A, float64 rounding alone would take some of the shell."""
    with_shell = sphere_energy(length, (length // 2) ** 2)
    without_shell = sphere_energy(length, (length // 2) ** 2 - 1)
    assert with_shell - without_shell > 1e-5 * with_shell
    q, r = torch.ones(1, dtype=dtype), torch.zeros(1, 3, dtype=DOUBLE)
    # as given; after nm <-> Angstrom in float64; after nm in float32 (3.6 nm rounds down)
    boxes = (float(length), length * 0.1 * 10.0, float(np.float32(length * 0.1)) * 10.0)
    for box in boxes:
        energy = periodic_energy(q, r, box * torch.eye(3, dtype=DOUBLE), dtype=dtype)
        assert energy == pytest.approx(with_shell, rel=1e-6)
    smaller = length * (1 - 1e-6) * torch.eye(3, dtype=DOUBLE)
    assert periodic_energy(q, r, smaller, dtype=dtype) == pytest.approx(without_shell, rel=4e-6)


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        (np.diag([12.0, 13.1, 14.3]), True),
        (np.diag([12.0001, 13.1, 14.3]), False),
        (np.diag([11.3, 11.3, 4.0 / 3.0 * math.sqrt(3.0)]), False),
        # (3, 4, 0) / 10 has the length 1/2.
        (np.diag([10.0, 10.0, 7.3]), True),
        # a diagonal of a cube: |(1, 1, 1)| / edge = 1/2
        (2.0 * math.sqrt(3.0) * np.eye(3), True),
        (np.array([[12.0, 0, 0], [3.1, 12.3, 0], [2.2, -1.7, 11.9]]), False),
    ],
)
def test_boxes_with_vectors_on_the_cutoff(cell, expected):
    """Against the lengths of all vectors."""
    assert lies_on_cutoff(tensor(cell), 2.0) == expected
    integers = np.array(list(itertools.product(range(-9, 10), repeat=3)))
    lengths = 2.0 * np.linalg.norm(integers @ np.linalg.inv(cell).T, axis=1)
    assert bool((np.abs(lengths - 1.0) < 1e-6).any()) == expected


def test_dense_matter_is_affordable_at_any_size():
    """Sparse as ice, and in the finest mesh of single precision."""
    for edge in (50.0, 200.0, 1000.0, 3000.0):
        mesh = mesh_size_for(tensor(np.eye(3) * edge), 2.0 * RULES[2].spacing, 1.05)
        assert is_affordable(bytes_of_mesh(mesh, SINGLE), int(0.09 * edge**3))
    assert not is_affordable(bytes_of_mesh(mesh, SINGLE), 3)


@pytest.mark.parametrize("name", CELLS)
def test_limits_hold_every_vector_and_larger_ones_change_nothing(name):
    q, r, cell = structure(CELLS[name])
    limits = limits_of(cell)
    integers = torch.round(reciprocal_vectors(cell, 2.0) @ cell.T / (2 * math.pi)).abs()
    if len(integers):
        assert integers.max(dim=0).values.tolist() <= limits
    larger = [n + extra for n, extra in zip(limits, (1, 3, 2), strict=True)]
    assert_same(direct(cell, limits=larger)(q, r, cell), direct(cell)(q, r, cell), 1e-13)


@pytest.mark.parametrize("axis", range(3))
def test_outgrown_grid_is_reported(axis):
    """A grid one too short would move the energy visibly; it must never be returned."""
    q, r, cell = structure(CELLS["cubic"])
    complete = direct(cell)(q, r, cell)
    limits = limits_of(cell)
    limits[axis] -= 1
    energy, dq, _, _, outgrown, _ = direct(cell, limits=limits)(q, r, cell)
    assert outgrown
    assert math.isnan(energy)
    truncated = 0.5 * float((q * dq).sum())
    assert abs(truncated - float(complete[0])) > 3e-3


def test_margin_lets_a_box_grow():
    q, r, cell = structure(CELLS["triclinic"])
    grown = 1.2 * cell
    tight, roomy = direct(cell)(q, r, grown), direct(cell, margin=1.25)(q, r, grown)
    assert tight[4]
    assert math.isnan(tight[0])
    assert not roomy[4]
    assert_same(roomy, derivatives(k_sum(KEPT), q, r, grown), 2e-13)


@pytest.mark.parametrize("length", [7.999999, 8.0, 8.000001, 12.0, 36.0])
def test_limits_and_guard_agree_at_whole_multiples(length):
    cell = length * torch.eye(3, dtype=DOUBLE)
    result = direct(cell)(torch.ones(1), torch.zeros(1, 3), cell)
    assert not result[4]
    assert math.isfinite(result[0])


def test_broken_input_gives_nan():
    q, r, cell = structure(CELLS["cubic"])
    kernel = direct(cell)
    for box in (torch.full_like(cell, float("nan")), torch.zeros_like(cell)):
        assert math.isnan(kernel(q, r, box)[0])
    r[3, 1] = float("inf")
    assert math.isnan(kernel(q, r, cell)[0])


# ------------------------------------------------------------------------------ a third party


@pytest.mark.parametrize("name", ["cubic", "triclinic"])
def test_torch_pme_agrees(name):
    torchpme = pytest.importorskip("torchpme")
    q, r, cell = structure(CELLS[name])

    class TruncatedGaussian(torchpme.potentials.Potential):
        def lr_from_k_sq(self, k_sq):
            inside = (k_sq > 0) & (k_sq <= (2 * math.pi / REMOVED.dl) ** 2)
            safe = torch.where(inside, k_sq, 1.0)
            kernel = 2 * REMOVED.prefactor * torch.exp(-(REMOVED.sigma**2) * safe / 2) / safe
            return torch.where(inside, kernel, 0.0)

        def from_dist(self, dist, pair_mask=None):
            return torch.zeros_like(dist)

        lr_from_dist = from_dist

        def self_contribution(self):
            return tensor(2 * REMOVED.self_energy)

        def background_correction(self):
            return tensor(0.0)

    # It spans n = -N/2 .. N/2 with N = |a| / lr_wavelength: half of dl, and a little more.
    calculator = torchpme.EwaldCalculator(TruncatedGaussian(smearing=1.0), lr_wavelength=0.8)

    def energy(q, r, cell):
        no_pairs, no_distances = torch.zeros(0, 2, dtype=torch.int64), tensor([])
        return (q * calculator(q[:, None], cell, r, no_pairs, no_distances)[:, 0]).sum()

    expected = derivatives(energy, q, r, cell)
    assert_same(direct(cell, REMOVED)(q, r, cell), expected, 1e-12)
    assert_same(mesh(cell, REMOVED, tolerance=1e-7)(q, r, cell), expected, 1e-7)


# ------------------------------------------------------------------------------- the pair sum


@pytest.mark.parametrize("parameters", [KEPT, REMOVED, Parameters(1.3, 2.0, 90.0474, True)])
@pytest.mark.parametrize("dtype", [SINGLE, DOUBLE])
def test_pairs_are_the_brute_force_sum(dtype, parameters):
    q, r, cell = structure(CELLS["cubic"])
    result = pairs(parameters, dtype)(q.to(dtype), r + 1e5, cell)
    assert [x.dtype for x in result[:5]] == [DOUBLE, dtype, dtype, DOUBLE, torch.bool]
    assert not result[4]
    expected = derivatives(pair_sum(parameters), q, r, cell)
    # 1e5 A away, float64 positions hold 1e-11 A
    assert_same(result, expected, 2e-6 if dtype == SINGLE else 1e-10)


@pytest.mark.parametrize("distance", [0.0, 1e-9, 1e-3, 0.1, 0.169, 0.171, 0.5, 1.0, 3.0, 9.0])
def test_two_charges_at_any_distance(distance):
    """Integrals for erf(x)/x and its slope, which are smooth where the formulas are 0/0."""
    sigma, charges = 1.2, (0.7, -0.4)
    node, weight = np.polynomial.legendre.leggauss(60)
    node, weight = (node + 1) / 2, weight / 2
    x = distance / (sigma * math.sqrt(2))
    gauss = np.exp(-((x * node) ** 2))
    value = 2 / math.sqrt(math.pi) * np.sum(weight * gauss)
    slope_over_x = -4 / math.sqrt(math.pi) * np.sum(weight * node**2 * gauss)
    strength = COULOMB * charges[0] * charges[1] / (sigma * math.sqrt(2))
    direction = np.array([2.0, -1.0, 2.0]) / 3
    r = tensor([distance * direction, [0, 0, 0]])

    parameters = Parameters(sigma=sigma, remove_self_interaction=True)
    energy, _, dr = pairs(parameters)(tensor(charges), r, torch.eye(3))[:3]
    assert float(energy) == pytest.approx(strength * value, rel=1e-12)
    force = strength * slope_over_x * x / (sigma * math.sqrt(2)) * direction
    np.testing.assert_allclose(dr, [force, -force], rtol=1e-11, atol=1e-15)

    single = pairs(parameters, SINGLE)(tensor(charges), r, torch.eye(3))
    assert float(single[0]) == pytest.approx(strength * value, rel=2e-6)
    np.testing.assert_allclose(single[2], [force, -force], rtol=5e-5, atol=1e-15)


def test_distant_charges_obey_coulomb():
    q, r = tensor([1.0, -2.0]), tensor([[0, 0, 0], [0, 30.0, 40.0]])
    energy, dq, dr, strain = pairs(REMOVED)(q, r, torch.eye(3))[:4]
    assert float(energy) == pytest.approx(-2 * COULOMB / 50, rel=1e-12)
    np.testing.assert_allclose(dq, COULOMB / 50 * np.array([-2, 1]), rtol=1e-12)
    np.testing.assert_allclose(dr[1], 2 * COULOMB / 50**2 * np.array([0, 0.6, 0.8]), rtol=1e-12)
    assert float(strain.trace()) == pytest.approx(-float(energy), rel=1e-12)


@pytest.mark.parametrize("sigma", [0.8, 1.0])
def test_lone_charge_has_its_self_energy(sigma):
    q, r = tensor([-1.3]), tensor([[4.0, 5.0, 6.0]])
    kept = pairs(Parameters(sigma=sigma))(q, r, torch.eye(3))
    expected = KEPT.prefactor * 1.3**2 / (sigma * (2 * math.pi) ** 1.5)
    assert float(kept[0]) == pytest.approx(expected, rel=1e-14)
    assert float(kept[1]) == pytest.approx(2 * expected / -1.3, rel=1e-14)
    assert kept[2].abs().max() == kept[3].abs().max() == 0
    removed = pairs(Parameters(sigma=sigma, remove_self_interaction=True))(q, r, torch.eye(3))
    assert abs(float(removed[0])) < 1e-13


def test_periodic_dipole_tends_to_the_open_one():
    """In a cube of side L a dipole p gains -(2 pi / 3) k_e p^2 / L^3, to order L^-5."""
    q, r = tensor([0.8, -0.8]), tensor([[0, 0, 0], [0.9, 0.5, -0.3]])
    length = 24.0
    parameters = Parameters(dl=1.0, remove_self_interaction=True)
    periodic = periodic_energy(q, r, length * torch.eye(3, dtype=DOUBLE), parameters)
    dipole = (q[:, None] * r).sum(dim=0)
    correction = -2 * math.pi / 3 * COULOMB * float(dipole @ dipole) / length**3
    expected = float(pairs(parameters)(q, r, torch.eye(3))[0]) + correction
    assert periodic == pytest.approx(expected, abs=1e-5)
    assert abs(correction) > 1e-3


# ---------------------------------------------------------------------- all, as torch modules

KERNELS = pytest.mark.parametrize("index", [0, 1, 2], ids=["direct", "pairs", "mesh"])


def all_kernels(dtype, chunk_size=None):
    q, r, cell = structure(CELLS["triclinic"], n=37)
    inputs = (q.to(dtype), r, cell)
    return [
        (direct(cell, REMOVED, dtype, chunk_size=chunk_size), inputs),
        (pairs(REMOVED, dtype, chunk_size), inputs),
        (mesh(cell, REMOVED, dtype, chunk_size=chunk_size), inputs),
    ]


def relative_error(dtype):
    return 5e-6 if dtype == SINGLE else 1e-13


@pytest.mark.parametrize("dtype", [SINGLE, DOUBLE])
@pytest.mark.parametrize("chunk_size", [1, 8, 36, 37, 1000])
def test_chunks_change_nothing(chunk_size, dtype):
    for (whole, inputs), (chunked, _) in zip(
        all_kernels(dtype), all_kernels(dtype, chunk_size), strict=True
    ):
        assert_same(chunked(*inputs), whole(*inputs), relative_error(dtype))


@pytest.mark.parametrize("dtype", [SINGLE, DOUBLE])
@KERNELS
def test_scripted_frozen_and_saved_are_eager(index, dtype):
    kernel, inputs = all_kernels(dtype)[index]
    expected = kernel(*inputs)
    scripted = torch.jit.script(kernel)
    frozen = torch.jit.freeze(torch.jit.script(kernel).eval())
    file = io.BytesIO()
    torch.jit.save(scripted, file)
    file.seek(0)
    for module in (scripted, frozen, torch.jit.load(file), copy.deepcopy(kernel)):
        for _ in range(3):  # the profiling executor optimises later calls
            result = module(*inputs)
            assert [x.dtype for x in result[:5]] == [x.dtype for x in expected[:5]]
            assert_same(result, expected, relative_error(dtype))


@KERNELS
def test_nothing_is_read_back_from_the_device(index):
    """Meta tensors hold no data: a host read, or a constant made on the CPU, would raise."""
    kernel, inputs = all_kernels(SINGLE, chunk_size=10)[index]
    result = kernel.to("meta")(*(x.to("meta") for x in inputs))
    assert [tuple(x.shape) for x in result[:5]] == [(), (37,), (37, 3), (3, 3), ()]
    assert {x.device.type for x in result[:5]} == {"meta"}


@KERNELS
def test_results_carry_no_graph(index):
    kernel, inputs = all_kernels(DOUBLE)[index]
    for module in (kernel, torch.jit.script(kernel)):
        result = module(*(x.clone().requires_grad_() for x in inputs))
        assert not any(x.requires_grad for x in result[:5])


def test_casting_the_module_keeps_the_grid():
    """bfloat16 holds whole numbers up to 256 only; this box needs 300."""
    q, r, cell = structure([[3, 0, 0], [0, 3, 0], [0, 0, 601]], n=5)
    expected = direct(cell)(q, r, cell)
    assert_same(direct(cell).bfloat16().double()(q, r, cell), expected, 1e-13)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [SINGLE, DOUBLE])
@KERNELS
def test_cuda_graph_follows_its_inputs(index, dtype):
    kernel, inputs = all_kernels(dtype, chunk_size=10)[index]
    expected = kernel(*inputs)
    module = torch.jit.script(kernel.cuda())
    static = [torch.zeros_like(x, device="cuda") for x in inputs]
    static[2].copy_(inputs[2])
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
    assert_same([x.cpu() for x in result], expected, relative_error(dtype))


# -------------------------------------------------------------------------------- construction

LES = {
    "sigma": 1.0,
    "dl": 2.0,
    "prefactor": 90.4756,
    "remove_self_interaction": False,
    "bec_epsilon_factor": 1.0,
}


def build(les, periodic, cell, **options):
    return build_electrostatics(les, periodic, cell, DOUBLE, num_atoms=23, **options)


def test_factory_builds_what_the_model_says():
    q, r, cell = structure(CELLS["strained"])
    periodic = build(LES, True, cell, margin=1.1)
    assert isinstance(periodic, DirectEwald)
    assert periodic.structure.limits.tolist() == limits_of(cell, margin=1.1)
    assert_same(periodic(q, r, cell), derivatives(k_sum(KEPT), q, r, cell), 2e-13)
    isolated = build(LES | {"remove_self_interaction": 1}, False, None)
    assert isinstance(isolated, PairSum)
    assert_same(isolated(q, r, cell), derivatives(pair_sum(REMOVED), q, r, cell), 1e-12)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: build({"sigma": 1.0}, False, None), "missing dl, prefac"),
        (lambda: build(LES, True, None), "cell: expected"),
        (lambda: build(LES, True, torch.eye(3), margin=0.9), "margin: expected"),
        (lambda: direct(torch.eye(3), limits=[3, 3]), "k_limits: expected 3 integers"),
        (lambda: direct(torch.eye(3), limits=[3, -1, 3]), "k_limits: expected 3 integers"),
        (lambda: direct(torch.eye(3), Parameters(sigma=0.0)), "sigma and dl: expected"),
        (lambda: direct(torch.eye(3), chunk_size=0), "chunk_size: expected"),
        (lambda: pairs(Parameters(sigma=-1.0)), "sigma: expected"),
        (lambda: pairs(chunk_size=-4), "chunk_size: expected"),
    ],
)
def test_unusable_parameters_are_refused(call, message):
    with pytest.raises(InputError, match=message):
        call()


def test_inverse_and_volume():
    cell = tensor(CELLS["strained"])
    inverse, volume = inverse_and_volume(cell.float())
    assert inverse.dtype == volume.dtype == DOUBLE
    inverse, volume = inverse_and_volume(cell)
    torch.testing.assert_close(inverse, torch.linalg.inv(cell), rtol=1e-13, atol=1e-15)
    torch.testing.assert_close(volume, torch.linalg.det(cell), rtol=1e-14, atol=0)
