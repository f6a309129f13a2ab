"""Born effective charges of a batch of structures, by autograd of charges that a network gives."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from openmm_les.errors import InputError
from openmm_les.learning.neutrality import net_charges


def born_charges(
    charges: Tensor,
    positions: Tensor,
    batch: Tensor,
    cell: Tensor,
    *,
    remove_mean: bool = True,
    factor: float = 1.0,
) -> Tensor:
    r"""Born effective charges, the derivatives :math:`Z_{i,ab} = \partial P_a / \partial r_{ib}`.

    Open: :math:`q_i \delta_{ab} + \sum_j r_{ja}\, \partial q_j / \partial r_{ib}`. Periodic (Zhong
    et al., arXiv:2504.05169, for any cell): :math:`q_i \delta_{ab} + \sum_d \frac{a_{da}}{2\pi}
    \sum_j \sin 2\pi(s_{dj} - s_{di})\, \partial q_j / \partial r_{ib}`, with fractional coordinates
    :math:`s_d` along the lattice vectors :math:`\mathbf a_d`. Autograd differentiates the result.

    Args:
        charges: of all n atoms, which depend on the positions by autograd, shape [n] [e].
        positions: shape [n, 3] [A].
        batch: index of the structure of each atom, shape [n].
        cell: lattice vectors in rows, shape [structures, 3, 3] [A], zeros for open structures.
        remove_mean: whether the mean charge of each structure is subtracted first.
        factor: what the charges are multiplied with.

    Returns:
        Shape [n, 3, 3] [e], in the dtype of the charges.

    Raises:
        InputError: autograd cannot differentiate the charges here.
    """
    if not torch.is_grad_enabled() or (charges.requires_grad and not positions.requires_grad):
        raise InputError(
            "Born effective charges: expected charges that autograd differentiates by positions; "
            "set positions.requires_grad_() before the model is evaluated, without torch.no_grad()"
        )
    if remove_mean:
        sizes = torch.bincount(batch, minlength=len(cell)).to(charges).clamp(min=1.0)
        charges = charges - (net_charges(charges, batch, len(cell)) / sizes)[batch]
    charges = factor * charges
    unit = torch.eye(3, dtype=cell.dtype, device=cell.device)
    periodic = cell.detach().flatten(1).any(dim=1).view(-1, 1, 1)
    # An open structure has coordinates in the place of sines, and 1 in that of cosines.
    lengths = torch.where(periodic, cell / (2.0 * math.pi), unit)
    angles = (positions.unsqueeze(1) @ torch.linalg.inv(lengths)[batch]).squeeze(1)
    turns = periodic.view(-1, 1)[batch]
    sines = torch.where(turns, torch.sin(angles), angles).to(charges)
    cosines = torch.where(turns, torch.cos(angles), torch.ones_like(angles)).to(charges)
    flow = cosines.unsqueeze(2) * _sums_moved(charges, positions, sines)
    if bool(periodic.any()):
        of_cosines = torch.where(turns, cosines, torch.zeros_like(cosines))
        moved = _sums_moved(charges, positions, of_cosines)
        flow = flow - torch.where(turns, sines, torch.zeros_like(sines)).unsqueeze(2) * moved
    own = unit.to(charges) * charges.view(-1, 1, 1)
    return own + lengths.to(charges).transpose(1, 2)[batch] @ flow


def _sums_moved(charges: Tensor, positions: Tensor, weights: Tensor) -> Tensor:
    """Derivatives [n, d, 3] by positions of the sums of charges with weights [n, d]."""
    if not charges.requires_grad:
        return weights.new_zeros([*weights.shape, 3])
    moved = []
    for column in weights.unbind(1):
        (found,) = torch.autograd.grad(
            charges, positions, column, create_graph=True, allow_unused=True
        )
        moved.append(torch.zeros_like(positions) if found is None else found)
    return torch.stack(moved, dim=1).to(weights)
