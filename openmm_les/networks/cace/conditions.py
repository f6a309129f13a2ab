"""Conditions of a CACE model: numbers behind the features of every atom, such as its total charge.

They are the same for all atoms of a system, so the first maps of the networks of energy and charges
take them as part of their biases.
"""

from typing import Dict

from torch import Tensor

from openmm_les.networks.blocks.weights import State


def with_conditions(state: State, values: Tensor) -> Dict[str, Tensor]:
    """The state of a model in given conditions, whose networks take the features alone.

    Args:
        state: canonical state; each condition has a row at the end of the first maps.
        values: of the conditions [conditions].
    """
    changed = dict(state)
    for name in ("energy.0", "energy.linear", "charge.0", "charge.linear"):
        weight = changed.get(f"{name}.weight")
        if weight is None:
            continue
        features = len(weight) - len(values)
        bias = changed.get(f"{name}.bias", weight.new_zeros(weight.shape[1]))
        changed[f"{name}.weight"] = weight[:features]
        changed[f"{name}.bias"] = bias + values @ weight[features:]
    return changed
