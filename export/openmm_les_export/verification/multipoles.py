"""Energy of latent moments with their response, by its definition and differentiated by torch.

It shares no code with the run-time package. Potential and field are derivatives of the energy of
the permanent moments (arXiv 2605.05746, Cheng and co-workers, 2026).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from openmm_les.evaluation.results import LatentMoments

Array = npt.NDArray[np.float64]


class Moments(NamedTuple):
    """Latent moments of n atoms, final, float64; None for what a model lacks."""

    charges: Tensor  #: shape [n] [e]
    dipoles: Tensor | None = None  #: shape [n, 3] [e A]
    quadrupoles: Tensor | None = None  #: symmetric and traceless, shape [n, 3, 3] [e A^2]
    kappa: Tensor | None = None  #: shape [n] [e/V]
    alpha: Tensor | None = None  #: shape [n] or [n, 3, 3] [e A^2/V]


def multipole_energy(
    moments: Moments, r: Tensor, vectors: Tensor | None, volume: float, les: Mapping[str, float]
) -> tuple[Tensor, LatentMoments]:
    """Energy [eV] of moments and their response, and all of them.

    Takes positions [n, 3] [A], and all reciprocal vectors [m, 3] [1/A] with the volume [A^3], or
    None in open systems.
    """
    n = len(r)
    # The derivatives are those at fixed positions, of whatever the moments are.
    q = moments.charges + r.new_zeros(n, requires_grad=True)
    u = r.new_zeros(n, 3, requires_grad=True)
    u = u if moments.dipoles is None else u + moments.dipoles
    tensors = r.new_zeros(n, 3, 3) if moments.quadrupoles is None else moments.quadrupoles
    removed, energy = bool(les["remove_self_interaction"]), r.new_zeros([])
    if vectors is None:
        energy = energy + _pairs(q, u, tensors, r, les)
        sign = 0.0 if removed else 1.0
    else:
        energy = energy + _reciprocal(q, u, tensors, r, vectors, les) / volume
        sign = -(les.get("periodic_self_terms") or 1.0) if removed else 0.0
    energy = energy + sign * _self_energy(q, u, tensors, les)
    potential, slope = torch.autograd.grad(energy, [q, u], create_graph=True)
    charges = dipoles = None
    if moments.kappa is not None:
        charges = -moments.kappa * potential
        energy = energy + 0.5 * (potential * charges).sum()
    if moments.alpha is not None:
        alpha = moments.alpha
        if alpha.dim() == 1:
            alpha = alpha[:, None, None] * torch.eye(3, dtype=r.dtype)
        dipoles = -torch.einsum("nab,nb->na", alpha, slope)
        energy = energy + 0.5 * (slope * dipoles).sum()
    latents = (moments.dipoles, moments.quadrupoles, moments.kappa, moments.alpha)
    others = (None if m is None else m.detach().numpy() for m in (*latents, charges, dipoles))
    return energy, LatentMoments(moments.charges.detach().numpy(), *others)


def _self_energy(q: Tensor, u: Tensor, tensors: Tensor, les: Mapping[str, float]) -> Tensor:
    sigma = float(les["sigma"])
    sites = (q**2).sum() / sigma + (u**2).sum() / (3 * sigma**3)
    sites = sites + (tensors**2).sum() / (10 * sigma**5)
    energy: Tensor = float(les["prefactor"]) / (2 * math.pi) ** 1.5 * sites
    return energy


def _reciprocal(
    q: Tensor, u: Tensor, tensors: Tensor, r: Tensor, k: Tensor, les: Mapping[str, float]
) -> Tensor:
    """Times the volume."""
    phase = r @ k.T
    cosine, sine = torch.cos(phase), torch.sin(phase)
    even = q.unsqueeze(1) - 0.5 * torch.einsum("ka,nab,kb->nk", k, tensors, k)
    odd = u @ k.T
    real, imaginary = (even * cosine - odd * sine).sum(0), (even * sine + odd * cosine).sum(0)
    k2 = (k**2).sum(1)
    kernel = torch.exp(-(float(les["sigma"]) ** 2) * k2 / 2) / k2
    return float(les["prefactor"]) * (kernel * (real**2 + imaginary**2)).sum()


def _pairs(q: Tensor, u: Tensor, tensors: Tensor, r: Tensor, les: Mapping[str, float]) -> Tensor:
    """(q_j + u_j.d + Q_j:dd / 2) (q_i - u_i.d + Q_i:dd / 2) erf(a r) / r of every pair."""
    i, j = torch.triu_indices(len(r), len(r), 1)
    x = r[j] - r[i]
    b = _radial(torch.linalg.norm(x, dim=1), 1.0 / (float(les["sigma"]) * math.sqrt(2)))
    ui, uj = (u[i] * x).sum(1), (u[j] * x).sum(1)
    qi, qj = ((tensors[s] @ x.unsqueeze(2)).squeeze(2) for s in (i, j))
    xi, xj = (qi * x).sum(1), (qj * x).sum(1)
    terms = q[i] * q[j] * b[0] + (q[j] * ui - q[i] * uj) * b[1]
    terms = terms + 0.5 * (q[j] * xi + q[i] * xj) * b[2]
    terms = terms + (u[i] * u[j]).sum(1) * b[1] - ui * uj * b[2]
    crossed = (qi * u[j]).sum(1) - (qj * u[i]).sum(1)
    terms = terms + crossed * b[2] + 0.5 * (ui * xj - uj * xi) * b[3]
    squared = (tensors[i] * tensors[j]).sum((1, 2))
    terms = terms + 0.25 * (xi * xj * b[4] - 4 * (qi * qj).sum(1) * b[3] + 2 * squared * b[2])
    return float(les["prefactor"]) / (2 * math.pi) * terms.sum()


def _radial(distance: Tensor, a: float) -> list[Tensor]:
    """B_0 = erf(a r) / r and those that follow, B_n+1 = -(dB_n / dr) / r, up to n = 4."""
    found = [torch.erf(a * distance) / distance]
    gaussian = torch.exp(-((a * distance) ** 2)) / (a * math.sqrt(math.pi))
    for n in range(4):
        gaussian = gaussian * 2 * a**2
        found.append(((2 * n + 1) * found[n] - gaussian) / distance**2)
    return found
