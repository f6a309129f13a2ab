"""Messages of CACE, of three kinds (Cheng, npj Comput. Mater. 10, 157 (2024), eqs. 9-11)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from openmm_les_export.checkpoints.records import Record, describe, invalid, unsupported
from openmm_les_export.families.cace.networks import expect, feature_order, read_network
from openmm_les_export.families.canonical_form import State


def read_messages(
    representation: Record, state: State, hyper: dict[str, Any], sizes: tuple[int, int, int]
) -> None:
    """Tensors and hyper-parameters of the layers after the first.

    `sizes` are the numbers of channels, invariants and mixed radial functions. What neighbours send
    is scaled by ``mp_norm_factor``, what an atom remembers of itself is not.
    """
    channels, _, functions = sizes
    degrees = max(map(sum, hyper["monomials"])) + 1
    full, by_degree = (degrees, channels), (degrees, functions, channels)
    scale, order = representation.number("mp_norm_factor"), feature_order(1, *sizes)
    layers = representation.items("message_passing_list")
    hyper["num_messages"] = len(layers)
    outputs: dict[str, tuple[int, int]] = {}
    for t, layer in enumerate(layers):
        kinds = [record.kind for record in layer.modules().values()]
        if not kinds or len(set(kinds)) != len(kinds):
            raise unsupported(layer.path, "messages of different kinds", kinds)
        for record in layer.modules().values():
            if record.kind == "MessageBchi":
                prefix, shape = f"message.{t}", _outputs(record, full)
                read_network(record, state, prefix, order, scale, shape[0] * shape[1])
                outputs[prefix] = shape
            elif record.kind == "MessageAr":
                for name, part, factor in (("prefactor", "factor", scale), ("invr0", "rate", 1.0)):
                    for degree, tensor in enumerate(_by_degree(record, name, by_degree)):
                        state[f"decay.{t}.{degree}.{part}"] = factor * tensor
            else:
                for degree, tensor in enumerate(_by_degree(record, "memory_coef", by_degree)):
                    state[f"memory.{t}.{degree}"] = tensor
    if outputs and set(outputs.values()) == {(1, 1)}:
        hyper["shared_messages"] = True
    else:
        _spread(state, outputs, full)


def _outputs(record: Record, full: tuple[int, int]) -> tuple[int, int]:
    """Degrees and channels that have weights of their own; 1 where all share one."""
    flags = [record.value(name, False) for name in ("shared_l", "shared_channels")]
    if not all(flag in (None, True, False) for flag in flags):
        raise unsupported(f"{record.path}.shared_l", "True or False", describe(flags))
    degrees, channels = (1 if shared else n for shared, n in zip(flags, full, strict=True))
    return degrees, channels


def _by_degree(record: Record, name: str, shape: tuple[int, int, int]) -> list[torch.Tensor]:
    """Coefficients of each degree [C, M]."""
    tensors = record.module(name).tensors()
    if list(tensors) != [str(d) for d in range(shape[0])]:
        raise invalid(record.path_of(name), f"those of {shape[0]} degrees", list(tensors))
    for degree, tensor in tensors.items():
        expect(tensor, shape[1:], f"{record.path}.{name}.{degree}")
    return [tensor.to(torch.float64).T for tensor in tensors.values()]


def _spread(state: State, outputs: Mapping[str, tuple[int, int]], full: tuple[int, int]) -> None:
    """Gives networks whose outputs are shared one for each degree and channel."""
    for prefix, shape in outputs.items():
        last = max(int(name.split(".")[2]) for name in state if name.startswith(f"{prefix}."))
        for part in ("weight", "bias"):
            tensor = state[f"{prefix}.{last}.{part}"]
            spread = tensor.view(*tensor.shape[:-1], *shape).expand(*tensor.shape[:-1], *full)
            state[f"{prefix}.{last}.{part}"] = spread.flatten(-2)
