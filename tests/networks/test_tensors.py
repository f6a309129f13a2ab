"""Tensors of features and final latents: against their definition, and pull-backs by autograd."""

import pytest
import torch

from openmm_les.electrostatics.multipoles import latent_layout
from openmm_les.networks.blocks.tensors import (
    FinalLatents,
    RowMap,
    dyadic_sum,
    dyadic_sum_backward,
    symmetric_rows,
)
from openmm_les.networks.mace.moments import final_latents

ATOMS, CHANNELS = 5, 4


def random(*shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


def test_moments_of_mace_without_a_scale_are_not_scaled():
    hyper = {"moments": {"dipoles": True}, "moment_scales": {}}
    (final,) = final_latents(hyper, {"embedding": random(1, CHANNELS)})
    x = random(4, ATOMS)
    torch.testing.assert_close(final(x, torch.zeros(ATOMS, dtype=torch.int64)), x)


@pytest.mark.parametrize("matrices", [False, True])
def test_sums_of_outer_products(matrices):
    vectors = random(3, ATOMS, CHANNELS).requires_grad_()
    weights = random(ATOMS, CHANNELS)
    if matrices:
        weights = random(ATOMS, CHANNELS, CHANNELS)
        weights = weights + weights.transpose(1, 2)
    weights.requires_grad_()
    full = weights if matrices else torch.diag_embed(weights)
    expected = torch.einsum("ncd,xnc,ynd->xyn", full, vectors, vectors).flatten(0, 1)
    torch.testing.assert_close(dyadic_sum(vectors, weights), expected)
    grad = symmetric_rows(random(ATOMS, 3, 3)).t()
    pulled = torch.autograd.grad(expected, [vectors, weights], grad)
    torch.testing.assert_close(dyadic_sum_backward(grad, vectors, weights), pulled)


def test_linear_maps_to_rows():
    weights, features = random(5, CHANNELS, 9), random(5, ATOMS, CHANNELS).requires_grad_()
    rows = torch.jit.script(RowMap(weights))
    expected = torch.einsum("mnc,mcr->rn", features, weights)
    torch.testing.assert_close(rows(features), expected)
    grad = random(9, ATOMS)
    (pulled,) = torch.autograd.grad(expected, [features], grad)
    torch.testing.assert_close(rows.backward(grad), pulled)


@pytest.mark.parametrize("kappa", ["", "square", "softplus"])
@pytest.mark.parametrize(
    ("alpha_rows", "alpha"),
    [(0, ""), (1, ""), (1, "softplus"), (1, "square"), (9, ""), (9, "square")],
)
@pytest.mark.parametrize("quadrupoles", [False, True])
def test_final_latents(kappa, alpha_rows, alpha, quadrupoles):
    layout = latent_layout(dipoles=True, quadrupoles=quadrupoles, kappa=True, alpha_rows=alpha_rows)
    scale, shifts = random(layout.rows), random(layout.rows, 3)
    species = torch.tensor([0, 0, 1, 2, 2])
    final = torch.jit.script(FinalLatents(layout, scale, shifts, kappa, alpha))
    x = random(layout.rows, ATOMS)
    for first, rows in ((layout.quadrupoles, 9), (layout.alpha, layout.alpha_rows)):
        if first >= 0 and rows == 9:
            x[first : first + 9] = symmetric_rows(x[first : first + 9].t().view(-1, 3, 3)).t()
    x.requires_grad_()
    parts = [x[:4]]
    if quadrupoles:
        tensors = x[4:13].view(3, 3, ATOMS)
        traces = torch.einsum("aan->n", tensors) / 3 * torch.eye(3).unsqueeze(2)
        parts.append((tensors - traces).flatten(0, 1))
    functions = {
        "": lambda y: y,
        "square": lambda y: y**2,
        "softplus": lambda y: torch.log(1 + torch.exp(y)),
    }
    parts.append(functions[kappa](x[layout.kappa : layout.kappa + 1]))
    if alpha_rows == 1:
        parts.append(functions[alpha](x[layout.alpha :]))
    elif alpha_rows:
        tensors = x[layout.alpha :].view(3, 3, ATOMS)
        square = torch.einsum("xyn,zyn->xzn", tensors, tensors)
        parts.append((square if alpha else tensors).flatten(0, 1))
    expected = torch.cat(parts) * scale.unsqueeze(1) + shifts[:, species]
    torch.testing.assert_close(final(x, species), expected)
    grad = random(layout.rows, ATOMS)
    (pulled,) = torch.autograd.grad(expected, [x], grad)
    found = final.backward(grad, x)
    if alpha_rows == 9:  # x is symmetric
        entries = pulled[layout.alpha :].view(3, 3, ATOMS)
        pulled[layout.alpha :] = (0.5 * (entries + entries.transpose(0, 1))).flatten(0, 1)
    torch.testing.assert_close(found, pulled)
