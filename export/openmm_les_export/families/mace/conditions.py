"""Reads the embedding of charge, spin and other inputs of a MACE model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from openmm_les_export.checkpoints.accepted import (
    Block,
    Options,
    any_value,
    check_options,
    listing,
    modules,
    off,
)
from openmm_les_export.checkpoints.records import Record, describe, invalid, unsupported
from openmm_les_export.families import e3nn_weights
from openmm_les_export.families.canonical_form import State
from openmm_les_export.families.mace.heads import Head

#: What mace-torch takes where a structure does not state it; others it needs.
_DEFAULTS = {"total_charge": 0.0, "total_spin": 1.0, "elec_temp": 0.0} | {
    "fermi_level": 0.0,
    "charges": 0.0,
}
#: Their names there, and here.
_PER = {"graph": "system", "atom": "atom"}
_SPEC: Options = {
    **any_value("type per num_classes offset emb_dim use_bias key"),
    "in_dim": (1,),
}
_CONTAINER = "torch.nn.modules.container"
CONDITION_BLOCKS = {
    "mace.modules.embeddings.GenericJointEmbedding": Block(
        any_value("base_dim out_dim specs"), modules("embedders:ModuleDict project:Sequential")
    ),
    f"{_CONTAINER}.ModuleDict": listing("Embedding", "Sequential"),
    f"{_CONTAINER}.Sequential": listing("Linear", "SiLU"),
    "torch.nn.modules.sparse.Embedding": Block(
        {
            **any_value("num_embeddings embedding_dim padding_idx norm_type"),
            **any_value("scale_grad_by_freq sparse"),
            **off("max_norm"),
        },
        tensors=("weight",),
    ),
    "torch.nn.modules.linear.Linear": Block(
        any_value("in_features out_features"), tensors=("weight", "bias")
    ),
    "torch.nn.modules.activation.SiLU": Block(off("inplace")),
}


def read_conditions(model: Record, head: Head, state: State, channels: int) -> dict[str, Any]:
    """The hyper-parameter ``conditions``, if the model has any; weights go into the state.

    Features are silu(sum_k P_k e_k) of embeddings e_k; the maps P_k are folded into these.
    """
    if "joint_embedding" not in model.modules():
        return {}
    joint = model.module("joint_embedding")
    specs, embedders = joint.value("specs"), joint.module("embedders")
    if not isinstance(specs, Mapping) or list(specs) != list(embedders.modules()):
        raise invalid(joint.path_of("specs"), "one for each embedding", describe(specs))
    project = linear_map(joint.module("project.0"))[0]
    widths = [_width(embedder) for embedder in embedders.modules().values()]
    if tuple(project.shape) != (sum(widths), channels):
        expected = f"a map from {sum(widths)} numbers to {channels} channels"
        raise invalid(f"{joint.path}.project", expected, list(project.shape))
    conditions = []
    for k, (name, width) in enumerate(zip(specs, widths, strict=True)):
        rows, project = project[:width], project[width:]
        check_options(joint.path_of(f"specs.{name}"), specs[name], _SPEC)
        embedder = embedders.module(name)
        conditions.append(_condition(embedder, name, specs[name], state, f"conditions.{k}", rows))
    if "embedding_readout" in model.modules():
        readout = model.module("embedding_readout")
        matrices = [e3nn_weights.linear_by_degree(readout.module("linear"))[0]]
        state["condition_energy"] = head.readout(matrices, readout)[0]
    return {"conditions": conditions}


def _condition(
    embedder: Record,
    name: str,
    spec: Mapping[str, Any],
    state: State,
    prefix: str,
    rows: torch.Tensor,
) -> dict[str, Any]:
    """One condition, and its embedding times its `rows` of the joint map."""
    if spec.get("per") not in _PER:
        raise unsupported(f"{embedder.path}: per", "'graph' or 'atom'", describe(spec.get("per")))
    found: dict[str, Any] = {"name": name, "per": _PER[spec["per"]]}
    default = _DEFAULTS.get(name)
    if embedder.kind == "Embedding":
        table = embedder.tensor("weight").to(torch.float64) @ rows
        state[f"{prefix}.table"] = table
        lowest = -_integer(embedder, spec.get("offset", 0))
        found |= {"classes": len(table), "lowest": lowest}
        if default is not None and not lowest <= default < lowest + len(table):
            default = None
    else:
        for layer, place in enumerate(("0", "2")):
            weight, bias = linear_map(embedder.module(place))
            if layer == 1:
                weight, bias = weight @ rows, bias @ rows
            state[f"{prefix}.{layer}.weight"], state[f"{prefix}.{layer}.bias"] = weight, bias
    key = name if spec.get("key") is None else spec["key"]
    found |= {"default": default} if default is not None else {}
    return found | ({"key": str(key)} if key != name else {})


def _width(embedder: Record) -> int:
    """Numbers that an embedding gives."""
    last = embedder if embedder.kind == "Embedding" else embedder.module("2")
    return int(last.tensor("weight").shape[1 if embedder.kind == "Embedding" else 0])


def linear_map(record: Record) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight [in, out] and bias [out], zero where it has none."""
    weight = record.tensor("weight").to(torch.float64).T.contiguous()
    bias = record.tensors().get("bias", torch.zeros(weight.shape[1]))
    return weight, bias.to(torch.float64)


def _integer(embedder: Record, offset: Any) -> int:
    if isinstance(offset, bool) or not isinstance(offset, int | float) or int(offset) != offset:
        raise unsupported(f"{embedder.path}: offset", "an integer", describe(offset))
    return int(offset)
