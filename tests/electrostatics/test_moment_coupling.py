"""Moments in the field of MM charges: against brute force and autograd, and closed forms."""

import math

import numpy as np
import pytest
import torch
from oracles import moment_coupling as oracle
from oracles import multipoles as own_oracle
from support.charges import DOUBLE, KEPT, SINGLE, slope, tensor
from support.multipoles import random_moments

from openmm_les.electrostatics.embedding import Surroundings
from openmm_les.electrostatics.multipoles import electrostatics_for, latent_layout
from openmm_les.units import COULOMB_CONSTANT

CELL = tensor([[13.1, 0, 0], [-4.2, 12.3, 0], [3.9, 5.7, 11.4]])
CUTOFF, DIELECTRIC = 4.9, 5.0
METHODS = ("NoCutoff", "CutoffNonPeriodic", "CutoffPeriodic", "PME")
ALL_METHODS = pytest.mark.parametrize("method", METHODS)
SCALED = [(0, 3, 0.0), (2, 5, 0.5), (3, 6, 1 / 1.2)]
#: Charge of the region, and the factor from latent charges; the last atom is a link atom of one.
TOTAL, SIGN, HOSTS = 1.0, -1.3, [1]
ORDER = [2, 0, 4, 1, 3]
WIDTHS = [0.0, 0.9, 0.4, 1.1, 0.0, 0.7, 0.3, 0.8]
LAYOUT = latent_layout(dipoles=True, quadrupoles=True, kappa=True, alpha_rows=9)
#: Neither moments nor response: a sum of charges.
CHARGES = None
#: Polarizability of a single atom [e A^2/V].
ALPHA = 0.06


def structure(seed=0):
    """Four sites and a link atom across an edge of the box, and charges, none near a cutoff."""
    random = np.random.default_rng(seed)
    r = random.uniform(-1.8, 1.8, (5, 3)) + 0.5 * CELL[0].numpy()
    cell = CELL.numpy()
    around = random.uniform(-0.3, 1.3, (400, 3)) @ cell
    d = r[:, None] - around
    distances = np.linalg.norm(d, axis=2)
    distance = np.linalg.norm(d - np.round(d @ np.linalg.inv(cell)) @ cell, axis=2)
    apart = (distance > 1.2) & (abs(distance - CUTOFF) > 0.02) & (abs(distances - CUTOFF) > 0.02)
    return tensor(r), tensor(random.normal(-0.1, 0.5, 8)), tensor(around[apart.all(axis=0)][:8])


def random_latents(layout) -> torch.Tensor:
    m = random_moments("quQkA", 5)
    rows = [m.charges[None], m.dipoles.T, m.quadrupoles.flatten(1).T]
    if layout.kappa >= 0:
        rows += [m.kappa[None], m.alpha.flatten(1).T]
    return torch.cat(rows)


def les(width: float) -> dict:
    return {k: v for k, v in vars(KEPT).items() if v is not None} | {"sigma": width}


def embedded(method, layout=LAYOUT, *, width=0.7, dtype=DOUBLE, cell=CELL, **options):
    """The electrostatics of the region, whose atoms are in the order of the kernel."""
    known = {
        "charges": structure()[1].tolist(),
        "method": method,
        "total": TOTAL,
        "sign": SIGN,
        "cutoff": CUTOFF,
        "dielectric": DIELECTRIC,
        "scaled_pairs": SCALED,
        "hosts": HOSTS,
        "tolerance": 1e-14 if dtype == DOUBLE else 1e-6,
    }
    order = torch.tensor(options.pop("order", ORDER))
    around = Surroundings(**(known | options))
    sums = {
        "les": les(width),
        "periodic": around.images == "native",
        "cell": cell,
        "dtype": dtype,
        "num_atoms": len(order),
    }
    own = electrostatics_for(layout, **sums)
    return around.embed(own, order, cell, width=width, dtype=dtype, margin=1.04, device="cpu")


def near_function(method, cell, width):
    """Of all pairs, and of scaled ones."""
    bare = oracle.cloud(width)
    if method == "PME":
        return oracle.ewald(cell, 0.45, width), oracle.nearest(bare, cell)
    if method == "NoCutoff":
        return bare, bare
    function = oracle.reaction_field(width, CUTOFF, DIELECTRIC)
    if method == "CutoffPeriodic":
        return oracle.nearest(function, cell), oracle.nearest(function, cell)
    return function, function


def coupled_energy(method, moments, r, charges, mm_r, cell, width, images) -> torch.Tensor:
    counted, scaled = near_function(method, cell, width)
    plain = oracle.cloud(width)
    if method in ("PME", "CutoffPeriodic"):
        plain = oracle.nearest(plain, cell)
    without = [(i, j, -1.0) for i, j, _ in SCALED]
    total = oracle.cross(counted, moments, r, charges, mm_r)
    total = total + oracle.cross(scaled, moments, r, charges, mm_r, without)
    total = total + oracle.cross(plain, moments, r, charges, mm_r, SCALED)
    if method == "PME" and images:
        total = total + oracle.images(cell, 0.45, moments, r)
    return COULOMB_CONSTANT * total


def softening(method, moments, r, charges, mm_r, cell, width) -> torch.Tensor:
    """What widths of MM charges change."""
    total = torch.zeros([], dtype=DOUBLE)
    factors = {(i, j): factor for i, j, factor in SCALED}
    for j, wide in enumerate(WIDTHS):
        functions = [oracle.cloud(math.hypot(width, wide)), oracle.cloud(width)]
        for sign, function in zip((1, -1), functions, strict=True):
            if method in ("PME", "CutoffPeriodic"):
                function = oracle.nearest(function, cell)
            pairs = [(i, j, sign * factors.get((i, j), 1.0)) for i in range(4)]
            total = total + oracle.cross(function, moments, r, charges, mm_r, pairs)
    return COULOMB_CONSTANT * total


def whole_energy(method, latents, r, mm_r, cell, *, width, polarized, conserves, soft):
    """The energy of the module, latents in the order of the system, by one expression."""
    q, u, tensors = latents[0], latents[1:4].T, latents[4:13].T.reshape(-1, 3, 3)
    _, charges, _ = structure()
    parameters = type(KEPT)(**les(width))
    own = own_oracle.open_boundaries(parameters)(q, u, tensors, r, cell)
    folded = SIGN * q[:4].index_add(0, torch.tensor(HOSTS), q[4:])
    seen = [folded - (folded.sum() - TOTAL) / 4, SIGN * u[:4], SIGN * tensors[:4]]
    arguments = seen, r[:4], charges, mm_r, cell, width
    coupled = coupled_energy(method, *arguments, True)
    kappa, alpha = latents[13], latents[14:23].T.reshape(-1, 3, 3)
    phi, slope = torch.autograd.grad(own, [q, u], create_graph=True)
    if polarized:
        inducing = coupled + (softening(method, *arguments) if soft else 0.0)
        more, more_slope = torch.autograd.grad(inducing, seen[:2], create_graph=True)
        if conserves:
            more = more - (kappa[:4] * more).sum() / kappa[:4].sum()
        none = torch.zeros(1, dtype=DOUBLE)
        phi = phi + SIGN * torch.cat([more, none])
        slope = slope + SIGN * torch.cat([more_slope, none.expand(1, 3)])
    response = (kappa * phi**2).sum() + torch.einsum("na,nab,nb->", slope, alpha, slope)
    return own + coupled - 0.5 * response


RESPONSES = {
    "permanent": {"polarized": False, "conserves": True, "soft": False},
    "polarized": {"polarized": True, "conserves": True, "soft": False},
    "softened": {"polarized": True, "conserves": True, "soft": True},
    "with charge": {"polarized": True, "conserves": False, "soft": False},
}


def options_of(response) -> dict:
    return {
        "polarization": "mm" if response["polarized"] else "none",
        "conserves": response["conserves"],
        "mm_widths": WIDTHS if response["soft"] else (),
    }


def compared(result, expected, relative):
    for name, want in expected.items():
        got = getattr(result, name)
        scale = float(want.abs().max())
        error = float((got.double() - want).abs().max())
        assert error <= relative * scale, f"{name}: {error:.1e} of {scale:.1e}"


@pytest.mark.parametrize("response", RESPONSES)
@ALL_METHODS
def test_energy_and_every_derivative(method, response):
    """Brute force, all images, with link atoms, scaled pairs and corrected charges."""
    chosen = RESPONSES[response]
    r, _, mm_r = structure()
    latents = random_latents(LAYOUT)
    leaves = [x.clone().requires_grad_() for x in (latents, r, mm_r)]
    strain = torch.zeros(3, 3, dtype=DOUBLE, requires_grad=True)
    bent = torch.eye(3, dtype=DOUBLE) + strain.T
    energy = whole_energy(
        method, leaves[0], leaves[1] @ bent, leaves[2] @ bent, CELL @ bent, width=0.7, **chosen
    )
    slopes = torch.autograd.grad(energy, [*leaves, strain], materialize_grads=True)
    module = embedded(method, **options_of(chosen))
    result = module(latents[:, ORDER], torch.cat([r[ORDER], mm_r]), CELL)
    by_latents = slopes[0].clone()
    trace = by_latents[[4, 8, 12]].sum(0) / 3
    by_latents[[4, 8, 12]] -= trace
    expected = {
        "energy": energy.detach(),
        "potential": by_latents[:, ORDER],
        "gradient": torch.cat([slopes[1][ORDER], slopes[2]]),
        "strain": slopes[3],
    }
    compared(result, expected, 1e-10)


@ALL_METHODS
def test_charges_alone_couple_as_those_of_other_models(method):
    r, _, mm_r = structure()
    latents = random_latents(LAYOUT)
    latents[1:] = 0.0
    module = embedded(method)
    plain = embedded(method, CHARGES)
    inputs = torch.cat([r[ORDER], mm_r]), CELL
    found, expected = module(latents, *inputs), plain(latents[0], *inputs)
    assert float(found.energy) == pytest.approx(float(expected.energy), abs=1e-11)
    torch.testing.assert_close(found.potential[0], expected.potential, rtol=0, atol=1e-11)
    torch.testing.assert_close(found.gradient, expected.gradient, rtol=0, atol=1e-11)
    torch.testing.assert_close(found.strain, expected.strain, rtol=0, atol=1e-10)


@pytest.mark.parametrize("response", ["permanent", "softened"])
@ALL_METHODS
def test_scripted_in_single_precision(method, response):
    options = options_of(RESPONSES[response])
    r, _, mm_r = structure()
    inputs = random_latents(LAYOUT)[:, ORDER], torch.cat([r[ORDER], mm_r]), CELL
    expected = embedded(method, **options)(*inputs)
    single = torch.jit.script(embedded(method, dtype=SINGLE, **options))
    for _ in range(2):  # the profiling executor optimises later calls
        result = single(*inputs)
    assert float(result.energy) == pytest.approx(float(expected.energy), abs=1e-4)
    for name in ("potential", "gradient", "strain", "induced"):
        want = getattr(expected, name)
        error = float((getattr(result, name).double() - want).abs().max())
        assert error < 5e-5 * float(want.abs().max()), name


def far_charge(distance, *, charge, **options):
    """A polarizable atom at the origin, and a charge far away."""
    module = embedded(
        "NoCutoff",
        charges=[charge],
        total=0.0,
        scaled_pairs=(),
        hosts=(),
        order=[0],
        polarization="mm",
        **options,
    )
    latents = torch.zeros(LAYOUT.rows, 1, dtype=DOUBLE)
    latents[LAYOUT.alpha + torch.tensor([0, 4, 8])] = ALPHA
    positions = tensor([[0.0, 0.0, 0.0], [0.0, distance, 0.0]])
    return module(latents, positions, CELL)


@pytest.mark.parametrize("distance", [6.0, 15.0, 40.0])
def test_a_far_charge_induces_a_dipole(distance):
    """-alpha q^2 / (2 r^4), alpha in units in which the Coulomb constant is 1; and its force."""
    result = far_charge(distance, charge=0.8, sign=1.0)
    field = COULOMB_CONSTANT * 0.8 / distance**2
    expected = -0.5 * ALPHA * field**2
    assert float(result.energy) == pytest.approx(expected, rel=1e-9)
    assert float(result.gradient[1, 1]) == pytest.approx(-4 * expected / distance, rel=1e-9)
    assert float(result.induced[2, 0]) == pytest.approx(-ALPHA * field, rel=1e-9)
    turned = far_charge(distance, charge=0.8, sign=-1.0)
    assert float(turned.energy) == pytest.approx(expected, rel=1e-9)


def test_damped_charges_induce_less():
    near = [
        float(far_charge(1.5, charge=0.8, sign=1.0, mm_widths=[width]).energy)
        for width in (0.0, 0.5, 1.5)
    ]
    bare = float(far_charge(1.5, charge=0.8, sign=1.0).energy)
    assert near[0] == pytest.approx(bare, rel=1e-12)
    assert near[0] < near[1] < near[2] < 0.0
    far = float(far_charge(20.0, charge=0.8, sign=1.0, mm_widths=[1.5]).energy)
    assert far == pytest.approx(float(far_charge(20.0, charge=0.8, sign=1.0).energy), rel=1e-12)


@pytest.mark.parametrize("method", ["NoCutoff", "CutoffPeriodic"])
def test_without_charges_the_region_is_alone(method):
    r, _, mm_r = structure()
    latents = random_latents(LAYOUT)
    for options in (RESPONSES["permanent"], RESPONSES["polarized"]):
        module = embedded(method, charges=[0.0] * 8, **options_of(options))
        inputs = torch.cat([r, mm_r]), CELL
        found, expected = module(latents, *inputs), module.own(latents, r, CELL)
        assert float(found.energy) == pytest.approx(float(expected.energy), abs=1e-12)
        torch.testing.assert_close(found.potential, expected.potential, rtol=0, atol=1e-12)
        torch.testing.assert_close(found.gradient[:5], expected.gradient, rtol=0, atol=1e-12)


def test_a_level_of_the_potential_induces_nothing():
    """Charges on a wide sphere: without conservation they would charge the region."""
    random = np.random.default_rng(3)
    sphere = random.normal(size=(400, 3))
    sphere = 60.0 * sphere / np.linalg.norm(sphere, axis=1, keepdims=True)
    sphere = np.concatenate([sphere, -sphere])
    r, _, _ = structure()
    inputs = random_latents(LAYOUT), torch.cat([r - r.mean(0), tensor(sphere)]), CELL
    energies = []
    for conserves in (True, False):
        options = {"charges": [0.01] * 800, "scaled_pairs": (), "total": 0.0}
        kept, none = (
            embedded("NoCutoff", polarization=p, conserves=conserves, **options)(*inputs)
            for p in ("mm", "none")
        )
        energies.append(float(kept.energy - none.energy))
    level = COULOMB_CONSTANT * 8.0 / 60.0
    assert abs(energies[0]) < 2e-3
    assert abs(energies[1]) > 0.3 * float(inputs[0][13, :4].sum()) * level**2


def test_mm_charges_see_permanent_and_induced_moments():
    """The force on a charge, and dE/dQ, are those of the moments that the region has."""
    r, charges, mm_r = structure()
    latents = random_latents(LAYOUT)
    options = {"scaled_pairs": (), "hosts": (), "order": [0, 1, 2, 3, 4], "conserves": False}
    module = embedded("NoCutoff", polarization="mm", **options)
    found = module(latents, torch.cat([r, mm_r]), CELL)
    q = SIGN * latents[0]
    seen = [
        q - (q.sum() - TOTAL) / 5 + SIGN * found.induced[0],
        SIGN * (latents[1:4] + found.induced[1:]).T,
        SIGN * latents[4:13].T.reshape(-1, 3, 3),
    ]
    mm_charges = charges.clone().requires_grad_()
    where = mm_r.clone().requires_grad_()
    energy = COULOMB_CONSTANT * oracle.cross(oracle.cloud(0.7), seen, r, mm_charges, where)
    potential, gradient = torch.autograd.grad(energy, [mm_charges, where])
    torch.testing.assert_close(found.gradient[5:], gradient, rtol=0, atol=1e-10)

    def energy_of(values):
        other = embedded("NoCutoff", polarization="mm", charges=values.tolist(), **options)
        return other(latents, torch.cat([r, mm_r]), CELL).energy

    for direction in torch.eye(8, dtype=DOUBLE)[:3]:
        expected = float(potential @ direction)
        assert float(slope(energy_of, charges, direction, 1e-2)) == pytest.approx(
            expected, abs=1e-9
        )


def test_large_boxes_tend_to_the_open_system():
    """What is left falls with the volume, for a neutral region among charges without sum."""
    r, charges, mm_r = structure()
    charges = charges - charges.mean()
    latents = random_latents(LAYOUT)
    inputs = latents, torch.cat([r, mm_r])
    options = {"total": 0.0, "charges": charges.tolist(), "polarization": "mm"}
    expected = embedded("NoCutoff", **options)(*inputs, CELL)
    errors = []
    for length in (150.0, 300.0):
        cell = length * torch.eye(3, dtype=DOUBLE)
        module = embedded("PME", cell=cell, **options)
        errors.append(float(module(*inputs, cell).energy - expected.energy))
    assert errors[1] == pytest.approx(errors[0] / 8, rel=0.1)
    assert abs(errors[0]) < 0.05
