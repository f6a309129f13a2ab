"""The sum on a mesh against the exact one, closed forms, finite differences and third parties."""

import math

import numpy as np
import pytest
import torch
from oracles.ewald import Parameters, derivatives, k_sum, madelung_lattices
from support.charges import (
    CELLS,
    COULOMB,
    DOUBLE,
    KEPT,
    REMOVED,
    SINGLE,
    assert_same,
    direct,
    kernel_of,
    limits_of,
    mesh,
    structure,
    tensor,
)
from support.helpers import water_frame
from support.programs import run_code

from openmm_les.electrostatics import (
    DirectEwald,
    EwaldOptions,
    MeshEwald,
    build_electrostatics,
    mesh_size_for,
)
from openmm_les.electrostatics.accuracy import RULES, find_rule
from openmm_les.electrostatics.window import ORDERS, fourier_transform, window_coefficients
from openmm_les.errors import InputError

SYSTEMS = {
    "cubic": structure(CELLS["cubic"], n=60),
    "strained triclinic": structure(CELLS["strained"], n=60, seed=1),
    "needle": structure(CELLS["needle"], n=90, seed=2),
    "net charge": structure(CELLS["orthorhombic"], n=40, seed=3),
    "tiny": structure(CELLS["3.5 A"], n=7, seed=4),
    "smaller than the window": structure(CELLS["2.5 A"], n=5, seed=5),
}
SYSTEMS["net charge"][0].add_(0.5)
SYSTEMS["far outside"] = (SYSTEMS["cubic"][0], SYSTEMS["cubic"][1] + 9700.0, SYSTEMS["cubic"][2])


def real_water():
    atoms = water_frame(0)
    random = np.random.default_rng(0)
    charges = np.where(atoms.numbers == 8, -0.8, 0.4) + random.normal(0.0, 0.05, len(atoms))
    return tensor(charges), tensor(atoms.positions), tensor(atoms.cell.array)


def relative(got, exact) -> float:
    """RMS error over RMS value."""
    return float((got.double() - exact).norm() / exact.norm())


# ----------------------------------------------------------------------------- the window


@pytest.mark.parametrize("order", ORDERS)
def test_window_is_the_function_it_approximates(order):
    """Polynomials on both sides of each mesh point join; the window is even and has a peak."""
    coefficients = window_coefficients(order, 0.33)
    assert coefficients.shape == (order + 4, order)
    ends = [np.polynomial.polynomial.polyval(y, coefficients) for y in (-1.0, 1.0)]
    np.testing.assert_allclose(ends[0][:-1], ends[1][1:], atol=2e-4 if order < 6 else 2e-5)
    np.testing.assert_allclose(ends[0], ends[1][::-1], atol=1e-12)
    assert np.argmax(ends[1]) in (order // 2, order // 2 + order % 2)


@pytest.mark.parametrize("order", ORDERS)
def test_transform_of_the_window(order):
    coefficients = window_coefficients(order, 0.33)
    frequencies = np.array([0.0, 0.1, 0.33, 0.67, 1.4])
    # A fine trapezoid rule on the window as a function of the distance.
    y = (np.arange(4000) + 0.5) / 2000.0 - 1.0
    values = np.vander(y, order + 4, increasing=True) @ coefficients
    distance = 0.5 * (y[:, None] + 1) + order / 2 - 1 - np.arange(order)
    expected = [(values * np.cos(2 * np.pi * f * distance)).sum() / 4000 for f in frequencies]
    transform = fourier_transform(coefficients, frequencies)
    np.testing.assert_allclose(transform, expected, atol=1e-6)
    assert transform[0] == pytest.approx(1.0, abs=1e-14)
    # What a mesh of this spacing aliases to the cutoff is small against what it keeps.
    assert abs(transform[3] / transform[2]) < 10.0 ** (1.0 - 0.5 * order)


# ------------------------------------------------------------------------------- accuracy


@pytest.mark.parametrize("tolerance", [rule.tolerance for rule in RULES])
@pytest.mark.parametrize("name", SYSTEMS)
def test_force_error_stays_below_the_tolerance(name, tolerance):
    q, r, cell = SYSTEMS[name]
    exact = derivatives(k_sum(KEPT), q, r, cell)
    result = mesh(cell, tolerance=tolerance)(q, r, cell)
    assert [x.dtype for x in result[:5]] == [DOUBLE] * 4 + [torch.bool]
    assert not result[4]
    assert relative(result[2], exact[2]) < tolerance
    assert relative(result[1], exact[1]) < tolerance
    assert_same((result[0], *exact[1:3], result[3]), exact, tolerance)


@pytest.mark.parametrize("tolerance", [1e-3, 1e-4, 1e-5])
@pytest.mark.parametrize("name", SYSTEMS)
def test_force_error_in_single_precision(name, tolerance):
    q, r, cell = SYSTEMS[name]
    exact = derivatives(k_sum(KEPT), q, r, cell)
    result = mesh(cell, dtype=SINGLE, tolerance=tolerance)(q.float(), r, cell)
    assert [x.dtype for x in result[:4]] == [DOUBLE, SINGLE, SINGLE, DOUBLE]
    assert relative(result[2], exact[2]) < tolerance
    assert_same((result[0], *exact[1:3], result[3]), exact, tolerance)


def test_real_water():
    q, r, cell = real_water()
    exact = derivatives(k_sum(REMOVED), q, r, cell)
    for tolerance in (1e-3, 1e-4, 1e-5):
        result = mesh(cell, REMOVED, SINGLE, tolerance)(q.float(), r, cell)
        # Forces on the atoms of a neutral molecule cancel in part, errors do not.
        assert relative(result[2], exact[2]) < 1.5 * tolerance


@pytest.mark.parametrize("parameters", [Parameters(1.3, 1.7, 90.0474, True), Parameters(dl=1.2)])
def test_other_parameters(parameters):
    q, r, cell = SYSTEMS["strained triclinic"]
    exact = derivatives(k_sum(parameters), q, r, cell)
    for tolerance in (1e-4, 1e-6):
        result = mesh(cell, parameters, tolerance=tolerance)(q, r, cell)
        assert relative(result[2], exact[2]) < tolerance
        assert_same(result, exact, 10 * tolerance)


@pytest.mark.parametrize("rule", RULES)
def test_a_mesh_too_coarse_would_be_seen(rule):
    """The tests above can fail: half of the points are not enough."""
    q, r, cell = SYSTEMS["cubic"]
    size = [n // 2 for n in mesh_size_for(cell, 2.0 * rule.spacing)]
    kernel = MeshEwald(size, kernel_of(), order=rule.order, spacing=0.98, dtype=DOUBLE)
    exact = derivatives(k_sum(KEPT), q, r, cell)
    assert relative(kernel(q, r, cell)[2], exact[2]) > rule.tolerance


# ------------------------------------------------------------------- exact properties, closed forms


@pytest.mark.parametrize("name", ["strained triclinic", "tiny"])
def test_derivatives_are_those_of_the_energy_on_the_mesh(name):
    """Even on a coarse mesh: dynamics conserves the energy that is returned."""
    q, r, cell = (x.clone() for x in SYSTEMS[name])
    # The energy's fourth-order differences see the joints of the window's pieces below 1e-8.
    coarse = mesh(cell, REMOVED, tolerance=1e-4, margin=1.01)
    _, dq, dr, de = coarse(q, r, cell)[:4]

    def slope(change, step=1e-4):
        values = [float(coarse(*change(h))[0]) for h in (-2 * step, -step, step, 2 * step)]
        return (values[0] - 8 * values[1] + 8 * values[2] - values[3]) / (12 * step)

    def moved(tensor, index):
        def change(h):
            shifted = tensor.clone()
            shifted[index] += h
            return tuple(shifted if x is tensor else x for x in (q, r, cell))

        return change

    def deformed(a, b):
        def change(h):
            deformation = torch.eye(3, dtype=DOUBLE)
            deformation[a, b] += h
            return q, r @ deformation, cell @ deformation

        return change

    for i in (0, 3):
        assert slope(moved(q, i)) == pytest.approx(float(dq[i]), abs=1e-6 * float(dq.abs().max()))
        for x in range(3):
            force = float(dr[i, x])
            assert slope(moved(r, (i, x))) == pytest.approx(force, abs=1e-6 * float(dr.abs().max()))
    for a in range(3):
        for b in range(3):
            expected = float(de[a, b])
            assert slope(deformed(a, b)) == pytest.approx(
                expected, abs=1e-6 * float(de.abs().max())
            )


@pytest.mark.parametrize("name", madelung_lattices())
def test_madelung_constants(name):
    """Clouds that do not overlap are point charges; a fine dl converges the sum."""
    distance, parameters = 9.0, Parameters(dl=0.8, remove_self_interaction=True)
    length, cations, anions, madelung = madelung_lattices()[name]
    cell = torch.eye(3, dtype=DOUBLE) * (length * distance)
    q = tensor([1.0] * len(cations) + [-1.0] * len(anions))
    kernel = mesh(cell, parameters, tolerance=1e-5)
    energy = float(kernel(q, tensor(cations + anions) @ cell, cell)[0])
    assert energy == pytest.approx(-madelung * COULOMB * len(cations) / distance, rel=1e-5)


@pytest.mark.parametrize("parameters", [REMOVED, KEPT])
def test_single_ion(parameters):
    length, charge, parameters = (
        17.0,
        0.7,
        Parameters(dl=0.8, remove_self_interaction=parameters.remove_self_interaction),
    )
    cell = length * torch.eye(3, dtype=DOUBLE)
    sigma, coulomb = parameters.sigma, parameters.prefactor / (2 * math.pi)
    expected = (
        0.5
        * coulomb
        * charge**2
        * (-2.837297479480619 / length + 2 * math.pi * sigma**2 / length**3)
    )
    if not parameters.remove_self_interaction:
        expected += parameters.self_energy * charge**2
    energy = mesh(cell, parameters)(tensor([charge]), tensor([[1.0, 2.0, 3.0]]), cell)[0]
    assert float(energy) == pytest.approx(expected, rel=1e-6)


def test_other_descriptions_of_the_same_crystal():
    q, r, cell = SYSTEMS["strained triclinic"]
    expected = mesh(cell, tolerance=1e-6)(q, r, cell)
    # other basis vectors, a rotation, and a supercell
    basis = tensor([[1, 1, 0], [0, 1, 0], [0, -1, 1]]) @ cell
    assert_same(mesh(basis, tolerance=1e-6)(q, r, basis), expected, 3e-6)
    rotation, _ = torch.linalg.qr(tensor(np.random.default_rng(0).normal(size=(3, 3))))
    turned = mesh(cell @ rotation, tolerance=1e-6)(q, r @ rotation, cell @ rotation)
    assert_same(
        (turned[0], turned[1], turned[2] @ rotation.T, rotation @ turned[3] @ rotation.T),
        expected,
        1e-11,
    )
    copies = torch.cartesian_prod(*[tensor([0.0, 1.0])] * 3) @ cell
    many = (q.repeat(8), (r + copies[:, None]).reshape(-1, 3), 2 * cell)
    large = mesh(many[2], tolerance=1e-6)(*many)
    n = len(q)
    first = (large[0] / 8, large[1][:n], large[2][:n], large[3] / 8)
    assert_same(first, expected, 3e-6)


def test_atoms_outside_the_box_and_left_handed_cells():
    q, r, cell = SYSTEMS["strained triclinic"]
    kernel = mesh(cell)
    expected = kernel(q, r, cell)
    lattice = tensor(np.random.default_rng(1).integers(-1000, 1000, r.shape)) @ cell
    assert_same(kernel(q, r + lattice, cell), expected, 1e-8)
    flipped = cell[[1, 0, 2]]
    assert_same(mesh(flipped)(q, r, flipped), expected, 1e-11)


# ----------------------------------------------------------------------------- a changing box


@pytest.mark.parametrize("axis", range(3))
def test_outgrown_mesh_is_reported(axis):
    q, r, cell = SYSTEMS["cubic"]
    kernel = mesh(cell, margin=1.05)
    grown = cell.clone()
    grown[axis] *= 1.04
    fine = kernel(q, r, grown)
    assert not fine[4]
    assert relative(fine[2], derivatives(k_sum(KEPT), q, r, grown)[2]) < 1e-5
    grown[axis] *= 1.3
    energy, _, _, _, outgrown, _ = kernel(q, r, grown)
    assert outgrown
    assert math.isnan(energy)


@pytest.mark.parametrize("kind", ["direct", "mesh"])
def test_15_percent_of_volume_fit_the_same_buffers(kind):
    """Between boxes the set of vectors inside the cutoff changes; each box gets its own."""
    q, r, cell = SYSTEMS["strained triclinic"]
    options = EwaldOptions(kind)
    kernel = build_electrostatics(
        vars(KEPT), True, cell, DOUBLE, num_atoms=len(q), options=options, margin=1.15 ** (1 / 3)
    )
    grid = kernel.structure.grid if kind == "direct" else kernel.grid
    counts = set()
    for volume in (0.85, 0.95, 1.0, 1.07, 1.15):
        box, inside = cell * volume ** (1 / 3), r * volume ** (1 / 3)
        result = kernel(q, inside, box)
        assert not result[4]
        assert relative(result[2], derivatives(k_sum(KEPT), q, inside, box)[2]) < 1e-5
        weights = kernel.kernel(grid, torch.linalg.inv(box), torch.linalg.det(box))[1]
        counts.add(int((weights > 0).sum()))
    assert len(counts) == 5
    assert kernel(q, r * 1.1, cell * 1.1)[4]


def smooth_sum(q, r, cell):
    """The definition of the smooth cutoff, with autograd."""
    reach = [math.ceil(1.1 * float(a.norm()) / KEPT.dl) + 1 for a in cell.detach()]
    integers = torch.cartesian_prod(*(torch.arange(-n, n + 1) for n in reach)).double()
    integers = integers[integers.abs().sum(dim=1) > 0]
    k = 2 * math.pi * integers @ torch.linalg.inv(cell).T
    length = k.norm(dim=1)
    t = ((length * KEPT.dl / (2 * math.pi) - 0.9) / 0.2).clamp(0, 1)
    switch = 1 - 10 * t**3 + 15 * t**4 - 6 * t**5
    weight = KEPT.prefactor / torch.linalg.det(cell) * torch.exp(-(length**2) / 2) / length**2
    factor = (q * torch.exp(1j * (k @ r.T))).sum(dim=1)
    return (weight * switch * factor.abs() ** 2).sum()


@pytest.mark.parametrize("kind", ["direct", "mesh"])
@pytest.mark.parametrize("name", ["cubic", "strained triclinic", "needle"])
def test_smooth_cutoff(name, kind):
    q, r, cell = SYSTEMS[name]
    options = EwaldOptions(kind, 1e-5, "smooth")
    kernel = build_electrostatics(vars(KEPT), True, cell, DOUBLE, num_atoms=9, options=options)
    expected = derivatives(smooth_sum, q, r, cell)
    assert_same(kernel(q, r, cell), expected, 1e-12 if kind == "direct" else 1e-5)


def test_only_the_hard_cutoff_jumps_when_the_box_grows():
    """A box of 12 A has vectors exactly on the cutoff of 2 A; they leave when it shrinks."""
    q, r, cell = structure(12.0 * np.eye(3), n=30)
    jumps = {}
    for cutoff in ("hard", "smooth"):
        kernel = DirectEwald(limits_of(cell, margin=1.2), kernel_of(KEPT, cutoff), dtype=DOUBLE)
        energies = [float(kernel(q, r * x, cell * x)[0]) for x in (1 - 1e-6, 1 + 1e-6)]
        jumps[cutoff] = abs(energies[1] - energies[0])
    assert jumps["hard"] > 1e-3
    assert jumps["smooth"] < 1e-2 * jumps["hard"]


# --------------------------------------------------------------------------------- memory

PEAK = """
import sys, torch
from openmm_les.electrostatics import EwaldOptions, build_electrostatics

def call(atoms, edge):
    random = torch.Generator().manual_seed(0)
    cell = edge * torch.eye(3, dtype=torch.float64)
    les = {"sigma": 1.0, "dl": 2.0, "prefactor": 90.4756, "remove_self_interaction": True}
    options = EwaldOptions(sys.argv[1])
    kernel = build_electrostatics(les, True, cell, torch.float32, num_atoms=atoms, options=options)
    charges = torch.randn(atoms, generator=random)
    kernel(charges, torch.rand(atoms, 3, generator=random).double() * edge, cell)
    status = dict(line.split(":", 1) for line in open("/proc/self/status"))
    return float(status["VmHWM"].split()[0]) / 1024

before = call(24, 6.0)
print(call(int(sys.argv[2]), float(sys.argv[3])) - before)
"""


@pytest.mark.parametrize(
    ("method", "atoms", "edge", "most"),
    [("direct", 12_288, 49.7, 100), ("mesh", 12_288, 49.7, 100), ("mesh", 100_000, 100.0, 1000)],
)
def test_memory_is_bounded(tmp_path, method, atoms, edge, most):
    """Peak memory [MB] above that of a small system; all pairs of atoms and vectors take GB."""
    done = run_code(PEAK, method, atoms, edge, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert 0 <= float(done.stdout) < most


# ------------------------------------------------------------------------------ determinism


def test_bits_do_not_depend_on_threads():
    q, r, cell = structure(np.eye(3) * 30.0, n=2000)
    kernel = mesh(cell, dtype=SINGLE)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append([x.clone() for x in kernel(q.float(), r, cell)[:5]])
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        # dE/dstrain is a product of MKL, which on some processors divides it among its threads.
        *same, strain, outgrown = zip(results[0], other, strict=True)
        assert all(torch.equal(a, b) for a, b in (*same, outgrown))
        torch.testing.assert_close(*strain, rtol=1e-12, atol=1e-12)


def test_fixed_point_sums_do_not_depend_on_the_order():
    """What many threads of a GPU do; sums of floating-point numbers do depend on it."""
    q, r, cell = structure(np.eye(3) * 12.0, n=600)
    order = torch.randperm(len(q), generator=torch.Generator().manual_seed(0))
    same = {}
    for fixed_point in (True, False):
        kernel = mesh(cell, dtype=SINGLE, fixed_point=fixed_point)
        expected = kernel(q.float(), r, cell)
        shuffled = kernel(q.float()[order], r[order], cell)
        same[fixed_point] = torch.equal(shuffled[2], expected[2][order])
        exact = derivatives(k_sum(KEPT), q, r, cell)
        assert relative(expected[2], exact[2]) < 1e-5
    assert same == {True: True, False: False}


# ----------------------------------------------------------------------------- third parties


def test_mlipops_agrees():
    """Its sum has no spherical cutoff, so dl is taken fine enough not to matter."""
    mlipops = pytest.importorskip("mlipops")
    q, r, cell = structure(CELLS["triclinic"], n=30)
    q -= q.mean()
    parameters = Parameters(dl=0.8, remove_self_interaction=True)
    neighbors = mlipops.NeighborList(3.0)
    reach = limits_of(cell, parameters)
    peer = mlipops.CoulombEwald(neighbors, None, *reach, 1 / math.sqrt(2), COULOMB)

    charges, positions = q.float().requires_grad_(), r.float().requires_grad_()
    energy = peer(positions, charges, cell.float(), include_direct=False)
    dq, dr = torch.autograd.grad(energy.sum(), [charges, positions])
    for kernel in (direct(cell, parameters), mesh(cell, parameters)):
        result = kernel(q, r, cell)
        assert float(result[0]) == pytest.approx(energy.item(), rel=2e-5)
        torch.testing.assert_close(result[1].float(), dq, rtol=0, atol=2e-5 * float(dq.abs().max()))
        torch.testing.assert_close(result[2].float(), dr, rtol=0, atol=2e-5 * float(dr.abs().max()))


# -------------------------------------------------------------------------------- the choice

LES = {"sigma": 1.0, "dl": 2.0, "prefactor": 90.4756, "remove_self_interaction": True}


@pytest.mark.parametrize(
    ("atoms", "edge", "dtype", "options", "expected"),
    [
        (192, 12.4, SINGLE, EwaldOptions(), DirectEwald),
        (12288, 49.7, SINGLE, EwaldOptions(), MeshEwald),
        (12288, 49.7, DOUBLE, EwaldOptions(), DirectEwald),  # exact where exactness is wanted
        (22, 60.0, SINGLE, EwaldOptions(), DirectEwald),  # a large box alone needs no mesh
        (192, 12.4, DOUBLE, EwaldOptions("mesh", 1e-7), MeshEwald),
        (12288, 49.7, SINGLE, EwaldOptions("direct"), DirectEwald),
        (12288, 49.7, SINGLE, EwaldOptions(tolerance=1e-6), DirectEwald),
    ],
)
def test_choice_of_the_kernel(atoms, edge, dtype, options, expected):
    cell = edge * torch.eye(3, dtype=DOUBLE)
    kernel = build_electrostatics(LES, True, cell, dtype, num_atoms=atoms, options=options)
    assert type(kernel) is expected


def test_rules_are_ordered():
    tolerances = [rule.tolerance for rule in RULES]
    assert tolerances == sorted(tolerances, reverse=True)
    assert find_rule(0.00001, SINGLE).tolerance == 1e-5
    assert find_rule(3e-4, SINGLE).tolerance == 1e-4


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: find_rule(1e-6, SINGLE), "single precision reaches 1e-05 on a mesh, got 1e-06"),
        (lambda: kernel_of(KEPT, "none"), "lesCutoff: expected 'hard' or 'smooth'"),
        (lambda: mesh(torch.eye(3), size=[4, 4]), "mesh: expected 3 integers >= 2"),
        (lambda: mesh(torch.eye(3), chunk_size=0), "chunk_size: expected"),
        (lambda: window_coefficients(3, 0.3), "order: expected an integer from 4 to 10"),
        (lambda: window_coefficients(8, 0.5), "spacing: expected a fraction of dl"),
        (
            lambda: build_electrostatics(
                LES, False, None, SINGLE, num_atoms=3, options=EwaldOptions("mesh")
            ),
            "for periodic systems, and this one is not",
        ),
    ],
)
def test_unusable_options_are_refused(call, message):
    with pytest.raises(InputError, match=message):
        call()
