"""What networks of a CACE model take behind the features: the charge of a system."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from openmm_les.errors import UnsupportedModelError
from openmm_les_export.checkpoints.records import Record, describe
from openmm_les_export.families.canonical_form import State

#: Conditions by their names in the data, where each atom has the value of its system.
KEYS = {"charge_states": "total_charge"}


def conditions_of(record: Record) -> list[str]:
    """Conditions of a network, in the order of their columns; refuses any other input."""
    if record.qualified_name.startswith("les."):  # the wrapper around it chooses the input
        return []
    keys = record.value("feature_key")
    listed = keys if isinstance(keys, list) else [keys]
    if listed[:1] != ["node_feats"] or not all(str(key) in KEYS for key in listed[1:]):
        raise UnsupportedModelError(
            f"model: option {record.path}.feature_key: expected 'node_feats', with or without "
            f"{' or '.join(map(repr, KEYS))} behind it, got {describe(keys)}"
        )
    return [KEYS[key] for key in listed[1:]]


def read_conditions(records: Sequence[Record]) -> list[dict[str, str]]:
    """The hyper-parameter ``conditions`` of a model with these networks."""
    names = dict.fromkeys(name for record in records for name in conditions_of(record))
    keys = {name: key for key, name in KEYS.items()}
    return [{"name": name, "per": "system", "key": keys[name]} for name in names]


def with_conditions(order: torch.Tensor, record: Record) -> torch.Tensor:
    """Where the inputs of a network stand, from where the features do."""
    return torch.cat([order, len(order) + torch.arange(len(conditions_of(record)))])


def spread(state: State, prefix: str, record: Record, names: Sequence[str]) -> None:
    """Give the first maps of a network a row for each condition, zero if it is not its own."""
    own = conditions_of(record)
    for name in (f"{prefix}.0.weight", f"{prefix}.linear.weight"):
        if name not in state:
            continue
        features = len(state[name]) - len(own)
        rows = dict(zip(own, state[name][features:], strict=True))
        zero = torch.zeros(state[name].shape[1], dtype=torch.float64)
        behind = [rows.get(each, zero) for each in names]
        state[name] = torch.cat([state[name][:features], *(row[None] for row in behind)])
