"""Canonical weights: parts of them, the species present, their precision."""

from typing import Collection, Dict, Mapping, Sequence

import torch
from torch import Tensor, nn

State = Mapping[str, Tensor]


def strip_prefix(state: State, prefix: str) -> Dict[str, Tensor]:
    """The part of a state whose names begin with a prefix, without it."""
    return {name[len(prefix) :]: t for name, t in state.items() if name.startswith(prefix)}


def select_species(
    state: State, species: Sequence[int], per_species: Sequence[str]
) -> Dict[str, Tensor]:
    """The canonical state with only some of the model's elements.

    `per_species` are parts of the names of tensors whose first axis runs over the elements.
    """
    index = torch.tensor(list(species), dtype=torch.int64)
    return {
        name: tensor.index_select(0, index) if any(part in name for part in per_species) else tensor
        for name, tensor in state.items()
    }


def cast(module: nn.Module, dtype: torch.dtype, keep: Collection[nn.Module] = ()) -> None:
    """Cast all floating-point buffers of a network but those of some modules.

    What acts on single nodes (node features, self-connections, readouts) stays float64. Rounding it
    to float32 costs 1e-7 e in the charge of a lone atom, times the slope of its self-energy 2e-6
    eV; and it is so small that double precision costs little. Their derivatives come from and go
    to what is float32, with buffers whose names begin with ``slope_``.
    """
    for part in module.modules():
        for name, buffer in part.named_buffers(recurse=False):
            if buffer.is_floating_point() and (part not in keep or name.startswith("slope_")):
                setattr(part, name, buffer.to(dtype))
