"""Net charges of structures: a penalty on them, and charges that add up to given ones."""

import torch
from torch import Tensor

from openmm_les.errors import InputError


def net_charges(charges: Tensor, batch: Tensor, structures: int | None = None) -> Tensor:
    """The sum of the charges of each structure.

    Args:
        charges: shape [n], or [n, channels] [e].
        batch: index of the structure of each atom, shape [n].
        structures: how many there are; by default one more than the largest index.

    Returns:
        Shape [structures], or [structures, channels] [e].
    """
    if structures is None:
        structures = int(batch.max()) + 1 if len(batch) else 0
    zeros = charges.new_zeros([structures, *charges.shape[1:]])
    return zeros.index_add(0, batch, charges)


def net_charge_penalty(
    charges: Tensor, batch: Tensor, total_charge: Tensor | None = None
) -> Tensor:
    """The mean over structures of (net charge - total charge)^2, a term for the loss.

    It changes no model, only what is learnt.

    Args:
        charges, batch: see `net_charges`.
        total_charge: of each structure, of the shape of `net_charges` [e]; 0 by default.

    Returns:
        Shape [] [e^2].
    """
    net = _net_charges(charges, batch, total_charge)
    return (net - _like(total_charge, net)).square().mean()


def with_net_charge(
    charges: Tensor,
    batch: Tensor,
    total_charge: Tensor | None = None,
    weights: Tensor | None = None,
) -> Tensor:
    """The nearest charges that add up to the total charge of each structure exactly.

    What is missing is spread over the atoms, by default evenly. It makes every charge depend on all
    atoms of its structure: a part of the model, which must be there whenever it is evaluated.

    Args:
        charges, batch, total_charge: see `net_charge_penalty`.
        weights: share of each atom in what is missing, relative to the others, positive, shape [n].

    Returns:
        Of the shape of the charges [e].
    """
    if weights is None:
        weights = charges.new_ones(len(batch))
    elif weights.shape != batch.shape:
        raise InputError(
            f"weights: expected one for each of {len(batch)} atoms, got {list(weights.shape)}"
        )
    if not bool((weights > 0).all()):
        raise InputError(f"weights: expected numbers above 0, got {float(weights.min())}")
    net = _net_charges(charges, batch, total_charge)
    missing = _like(total_charge, net) - net
    weights = weights.to(charges)
    share = weights / net_charges(weights, batch, len(net))[batch]
    return charges + share.view(-1, *[1] * (charges.dim() - 1)) * missing[batch]


def _net_charges(charges: Tensor, batch: Tensor, total_charge: Tensor | None) -> Tensor:
    """Net charges of as many structures as there are total charges; some may have no atoms."""
    if total_charge is None:
        return net_charges(charges, batch)
    least = int(batch.max()) + 1 if len(batch) else 0
    if total_charge.dim() == 0 or len(total_charge) < least:
        raise InputError(
            f"total_charge: expected one for each of {least} structures, got the shape "
            f"{list(total_charge.shape)}"
        )
    return net_charges(charges, batch, len(total_charge))


def _like(total_charge: Tensor | None, net: Tensor) -> Tensor:
    if total_charge is None:
        return torch.zeros_like(net)
    if total_charge.shape != net.shape:
        raise InputError(
            f"total_charge: expected the shape of the net charges, {list(net.shape)}, got "
            f"{list(total_charge.shape)}"
        )
    return total_charge.to(net)
