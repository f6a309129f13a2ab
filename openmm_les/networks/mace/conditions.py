"""Charge, spin and other conditions of a MACE model: they change the embedding of the species.

As in mace-torch, whose models add one vector to the initial scalars of every atom. Nothing else in
the network knows of it, so an atom in other conditions is an atom of another species.
"""

from typing import Any, Dict, Mapping, Tuple

import torch
from torch import Tensor
from torch.nn.functional import silu

from openmm_les.networks.blocks.weights import State, strip_prefix
from openmm_les.networks.conditions import conditions_of


def with_conditions(
    hyper: Mapping[str, Any], state: State, values: Tensor
) -> Tuple[Dict[str, Tensor], Tensor]:
    """The state of species in given conditions, and what these add to their energies.

    Args:
        state: canonical state of the species that are kept.
        values: of each condition for each species [Z, conditions].

    Returns:
        The state with another ``embedding``, and energies [Z] [eV].
    """
    terms = []
    for k, condition in enumerate(conditions_of(hyper)):
        own, value = strip_prefix(state, f"conditions.{k}."), values[:, k]
        if condition.classes is not None:
            terms.append(own["table"][(value - condition.lowest).to(torch.int64)])
        else:
            hidden = silu(value.unsqueeze(1) @ own["0.weight"] + own["0.bias"])
            terms.append(hidden @ own["1.weight"] + own["1.bias"])
    embedding = state["embedding"] + silu(torch.stack(terms).sum(0))
    energies = torch.zeros(len(values), dtype=torch.float64)
    if "condition_energy" in state:
        energies = (embedding @ state["condition_energy"]).squeeze(1)
    return {**state, "embedding": embedding}, energies
