"""Moments in the field of MM charges written out as one energy, differentiated by autograd alone.

Shares no code with `openmm_les`. Units: e, Angstrom and, with the constant `coulomb`, eV.
"""

import math
from collections.abc import Callable

import torch
from oracles.coupling import lattice

#: Terms of an Ewald sum beyond this many widths of a Gaussian are below 1e-14.
REACH = 5.7
Function = Callable[[torch.Tensor], torch.Tensor]


def cloud(width: float) -> Function:
    """erf(r/w)/r of vectors [..., 3], or 1/r."""

    def value(x):
        r = x.norm(dim=-1)
        return torch.erf(r / width) / r if width > 0 else 1 / r

    return value


def reaction_field(width: float, cutoff: float, dielectric: float) -> Function:
    def value(x):
        r = x.norm(dim=-1)
        k = (dielectric - 1) / (2 * dielectric + 1) / cutoff**3
        c = 3 * dielectric / (2 * dielectric + 1) / cutoff
        return torch.where(r < cutoff, cloud(width)(x) + k * r**2 - c, torch.zeros_like(r))

    return value


def nearest(function: Function, cell: torch.Tensor) -> Function:
    def value(x):
        turns = torch.round(x.detach() @ torch.linalg.inv(cell.detach()))
        return function(x - turns @ cell)

    return value


def waves(cell: torch.Tensor, alpha: float) -> Function:
    """The reciprocal part of psi, and its level."""
    volume = torch.linalg.det(cell).abs()
    reciprocal = torch.linalg.inv(cell).T
    plain = 2 * math.pi * reciprocal.detach().numpy()
    k = torch.tensor(lattice(plain, 2 * alpha * REACH) @ plain_inverse(plain)).round()
    k = 2 * math.pi * k[k.abs().sum(1) > 0] @ reciprocal
    k2 = (k**2).sum(1)
    weights = 4 * math.pi / volume * torch.exp(-k2 / (4 * alpha**2)) / k2

    def value(x):
        return (weights * torch.cos(x @ k.T)).sum(-1) - math.pi / (volume * alpha**2)

    return value


def plain_inverse(rows):
    return torch.linalg.inv(torch.tensor(rows)).numpy()


def images_of(cell: torch.Tensor) -> torch.Tensor:
    """Vectors of the lattice near the origin, which follow the cell."""
    plain = cell.detach().numpy()
    found = lattice(plain, 2.2 * max(torch.linalg.norm(cell.detach(), dim=1)).item())
    return torch.tensor(found @ plain_inverse(plain)).round() @ cell


def ewald(cell: torch.Tensor, alpha: float, width: float) -> Function:
    """psi of a charge and all images, as the cloud of an ML site sees them."""

    def value(x):
        # Near the home of x, wherever it is.
        home = torch.round(x.detach() @ torch.linalg.inv(cell.detach())) @ cell
        r = ((x - home)[..., None, :] + images_of(cell)).norm(dim=-1)
        real = torch.erfc(alpha * r) / r
        if width > 0:
            real = real - torch.erfc(r / width) / r
        return real.sum(-1) + waves(cell, alpha)(x)

    return value


def only_images(cell: torch.Tensor, alpha: float, itself: bool) -> Function:
    """psi - 1/r of the separation x as it is, less than 2 boxes long; of 0, if it is `itself`."""

    def value(x):
        shifts = images_of(cell)
        others = shifts[shifts.detach().norm(dim=1) > 1e-6]
        r = (x[..., None, :] + others).norm(dim=-1)
        total = (torch.erfc(alpha * r) / r).sum(-1) + waves(cell, alpha)(x)
        if not itself:
            return total - torch.erf(alpha * x.norm(dim=-1)) / x.norm(dim=-1)
        squared = alpha**2 * (x**2).sum(-1)
        terms = [(-squared) ** k / (math.factorial(k) * (2 * k + 1)) for k in range(5)]
        return total - 2 * alpha / math.sqrt(math.pi) * sum(terms)

    return value


def acting(value: torch.Tensor, x: torch.Tensor, moments, sign: int) -> torch.Tensor:
    """``q + u . grad + Q : grad grad / 2`` of a function of each x, for moments of each."""
    q, u, tensors = moments

    def gradient(values):
        grads = [torch.autograd.grad(v.sum(), x, create_graph=True)[0] for v in values]
        return torch.stack(grads)

    first = gradient([value])[0]
    second = gradient(first.unbind(1))
    quadrupole = torch.einsum("nab,anb->n", tensors, second) / 2
    return q * value + sign * (u * first).sum(1) + quadrupole


def cross(function: Function, moments, r, mm_charges, mm_r, pairs=None) -> torch.Tensor:
    """The energy of moments with charges: all, or that of (site, charge, factor)."""
    if pairs is None:
        i, j = (
            each.flatten()
            for each in torch.meshgrid(*map(torch.arange, (len(r), len(mm_r))), indexing="ij")
        )
        factors = torch.ones(len(i), dtype=r.dtype)
    else:
        i, j = (torch.tensor([pair[k] for pair in pairs]) for k in (0, 1))
        factors = torch.tensor([pair[2] for pair in pairs], dtype=r.dtype)
    x = r[i] - mm_r[j]
    x = x if x.requires_grad else x.requires_grad_()
    values = acting(function(x), x, [m[i] for m in moments], 1)
    return (factors * mm_charges[j] * values).sum()


def images(cell: torch.Tensor, alpha: float, moments, r) -> torch.Tensor:
    """The energy of moments with the images of all of them."""
    total = torch.zeros([], dtype=r.dtype)
    number = len(r)
    i, j = torch.cartesian_prod(torch.arange(number), torch.arange(number)).T
    for itself in (False, True):
        chosen = (i == j) == itself
        x = r[i[chosen]] - r[j[chosen]]
        x = x if x.requires_grad else x.requires_grad_()
        value = only_images(cell, alpha, itself)(x)
        for sites, sign in ((j, -1), (i, 1)):
            value = acting(value, x, [m[sites[chosen]] for m in moments], sign)
        total = total + value.sum() / 2
    return total
