"""Responding multipoles written out as energies, differentiated by autograd alone.

Potential and field are derivatives of the energy of the permanent moments, so that the response,
and every derivative of the whole, follows from that one expression.
"""

import math
from collections.abc import Callable

import torch
from oracles.ewald import Parameters, reciprocal_vectors

Energy = Callable[..., torch.Tensor]
NAMES = ("charges", "dipoles", "quadrupoles", "kappa", "alpha")


def self_energy(p: Parameters, q, u, tensors) -> torch.Tensor:
    per_site = q**2 + (u**2).sum(1) / (3 * p.sigma**2)
    per_site = per_site + (tensors**2).sum((1, 2)) / (10 * p.sigma**4)
    return p.self_energy * per_site.sum()


def periodic(p: Parameters) -> Energy:
    """Energy of permanent moments in a cell."""

    def energy(q, u, tensors, r, cell):
        k = reciprocal_vectors(cell, p.dl, p.n_max)
        k2 = (k**2).sum(1)
        site = q - 0.5 * torch.einsum("ka,nab,kb->kn", k, tensors, k) + 1j * (k @ u.T)
        factor = (site * torch.exp(1j * (k @ r.T))).sum(1)
        kernel = torch.exp(-(p.sigma**2) * k2 / 2) / k2
        total = p.prefactor / torch.linalg.det(cell) * (kernel * factor.abs() ** 2).sum()
        return total - self_energy(p, q, u, tensors) * p.remove_self_interaction

    return energy


def open_boundaries(p: Parameters) -> Energy:
    """Energy of permanent moments without a cell, from derivatives of erf(a r) / r."""

    def energy(q, u, tensors, r, cell):
        i, j = torch.triu_indices(len(q), len(q), offset=1)
        x = r[j] - r[i]
        x = x if x.requires_grad else x.requires_grad_()
        distance = x.norm(dim=1)

        def gradient(values):
            grads = [torch.autograd.grad(v.sum(), x, create_graph=True)[0] for v in values]
            return torch.stack(grads)

        # What the moments of j, then those of i, make of the function; i moves against x.
        value = torch.erf(distance / (p.sigma * math.sqrt(2))) / distance
        for moments, sign in ((j, 1), (i, -1)):
            first = gradient([value])[0]
            second = gradient(first.unbind(1))
            dipole = (u[moments] * first).sum(1) * sign
            quadrupole = torch.einsum("nab,anb->n", tensors[moments], second) / 2
            value = q[moments] * value + dipole + quadrupole
        total = p.prefactor / (2 * math.pi) * value.sum()
        return total + self_energy(p, q, u, tensors) * (not p.remove_self_interaction)

    return energy


def derivatives(permanent: Energy, moments, r, cell) -> dict[str, torch.Tensor]:
    """The energy with its response, and all its first derivatives, by their names.

    Moments are (q, u, Q, kappa, alpha), None for those that are not there; strain e takes r to
    (1 + e) r.
    """
    shapes = ([], [3], [3, 3], [], [3, 3])
    filled = [
        (r.new_zeros(len(r), *shape) if m is None else m).clone().requires_grad_()
        for m, shape in zip(moments, shapes, strict=True)
    ]
    q, u, tensors, kappa, alpha = filled
    r = r.clone().requires_grad_()
    strain = torch.zeros(3, 3, dtype=torch.float64, requires_grad=True)
    deformation = torch.eye(3, dtype=torch.float64) + strain
    energy = permanent(q, u, tensors, r @ deformation.T, cell @ deformation.T)
    potential, slope = torch.autograd.grad(energy, [q, u], create_graph=True)
    if alpha.dim() == 1:
        response = alpha * (slope**2).sum(1)
    else:
        response = torch.einsum("na,nab,nb->n", slope, alpha, slope)
    energy = energy - 0.5 * (kappa * potential**2 + response).sum()
    found = torch.autograd.grad(energy, [*filled, r, strain], materialize_grads=True)
    result = dict(zip((*NAMES, "gradient", "strain"), found, strict=True))
    trace = torch.einsum("naa->n", result["quadrupoles"])[:, None, None] / 3
    result["quadrupoles"] = result["quadrupoles"] - trace * torch.eye(3)
    present = {name for name, m in zip(NAMES, moments, strict=True) if m is not None}
    result = {k: v for k, v in result.items() if k in present | {"gradient", "strain"}}
    return result | {
        "energy": energy.detach(),
        "potential": potential.detach(),
        "field": -slope.detach(),
    }
