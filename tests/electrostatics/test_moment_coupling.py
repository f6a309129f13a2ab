"""Moments in the field of MM charges: against brute force and autograd, and closed forms."""

import math

import numpy as np
import pytest
import torch
from oracles import moment_coupling as oracle
from oracles import multipoles as own_oracle
from support.charges import DOUBLE, KEPT, tensor
from support.multipoles import random_moments

from openmm_les.electrostatics.embedding import Surroundings
from openmm_les.electrostatics.multipoles import latent_layout, latent_multipoles
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
PERMANENT = latent_layout(dipoles=True, quadrupoles=True, kappa=False, alpha_rows=0)


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


def les(width) -> dict:
    return {k: v for k, v in vars(KEPT).items() if v is not None} | {"sigma": width}


def embedded(method, layout=LAYOUT, *, width=0.7, dtype=DOUBLE, images="exact", **options):
    """The electrostatics of the region, whose atoms are in the order of the kernel."""
    _, charges, _ = structure()
    periodic = images == "native"
    own = latent_multipoles(
        layout, les=les(width), periodic=periodic, cell=CELL, dtype=dtype, num_atoms=5
    )
    around = Surroundings(
        charges.tolist(),
        method,
        TOTAL,
        SIGN,
        CUTOFF,
        DIELECTRIC,
        SCALED,
        HOSTS,
        images,
        1e-14 if dtype == DOUBLE else 1e-6,
        **options,
    )
    order = torch.tensor(ORDER)
    cell = CELL if method in ("PME", "CutoffPeriodic") else None
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
    module = torch.jit.script(embedded(method, **options_of(chosen)))
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
