"""Dense networks on the features of CACE's representation."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from openmm_les.errors import ModelFileError
from openmm_les.networks.parameters import check_large
from openmm_les_export.checkpoints.records import Record, describe, invalid, unsupported
from openmm_les_export.families.canonical_form import State

_SILU = "torch.nn.functional.silu"


def feature_order(layers: int, channels: int, invariants: int, functions: int) -> torch.Tensor:
    """Where the features of the canonical form (layer, channel, invariant, function) stand."""
    shape = (functions, invariants, channels, layers)
    check_large("node_feats", *shape)
    return torch.arange(math.prod(shape)).view(shape).permute(3, 2, 1, 0).flatten()


def read_network(
    record: Record,
    state: State,
    prefix: str,
    order: torch.Tensor,
    scale: float = 1.0,
    outputs: int = 1,
) -> None:
    """A dense network on features.

    It has linear maps with silu between them, in ``outnet`` or ``hnet``, and perhaps one beside, in
    ``linear_nn``. The scale is a factor of its outputs.
    """
    modules = record.modules()
    layers = record.items("hnet" if "hnet" in modules else "outnet")
    width = len(order)
    for k, layer in enumerate(layers):
        last = k == len(layers) - 1
        activation = _activation(layer)
        if activation != ("Identity" if last else "silu"):
            raise unsupported(layer.path, "silu after every layer but the last", activation)
        weight, bias = _linear(layer, width)
        if k == 0:
            weight = weight[order]
        factor = scale if last else 1.0
        state[f"{prefix}.{k}.weight"], state[f"{prefix}.{k}.bias"] = factor * weight, factor * bias
        width = weight.shape[1]
    if width != outputs or not layers:
        raise invalid(record.path, f"{outputs} outputs", width)
    beside = modules.get("linear_nn")
    if (beside is not None) != bool(record.value("add_linear_nn", False)):
        raise ModelFileError(
            f"model: {record.path}: add_linear_nn and linear_nn contradict each other"
        )
    if beside is not None:
        if _activation(beside) != "Identity":
            raise unsupported(beside.path, "no activation", _activation(beside))
        weight, bias = _linear(beside, len(order))
        if weight.shape[1] != outputs:
            raise invalid(beside.path, f"{outputs} outputs", weight.shape[1])
        state[f"{prefix}.linear.weight"] = scale * weight[order]
        state[f"{prefix}.linear.bias"] = scale * bias


def _activation(layer: Record) -> str:
    """Name of what follows a linear map, ``"Identity"`` for nothing."""
    if "activation" in layer.modules():
        return layer.module("activation").kind
    value = layer.value("activation")
    if value is None:
        return "Identity"
    return "silu" if getattr(value, "qualified_name", "") == _SILU else describe(value)


def _linear(layer: Record, inputs: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight [in, out] and bias [out], zero if there is none."""
    linear = layer.module("linear")
    weight = linear.tensor("weight").to(torch.float64)
    expect(weight, (weight.shape[0], inputs), f"{linear.path}.weight")
    bias = linear.tensors().get("bias")
    if bias is None:
        return weight.T, torch.zeros(len(weight), dtype=torch.float64)
    expect(bias, (len(weight),), f"{linear.path}.bias")
    return weight.T, bias.to(torch.float64)


def expect(tensor: torch.Tensor, shape: Sequence[int], name: str) -> None:
    """Refuses a tensor of another shape."""
    if tuple(tensor.shape) != tuple(shape):
        raise invalid(name, f"shape {shape}", tuple(tensor.shape))
