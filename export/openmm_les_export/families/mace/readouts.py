"""Reads the readouts of scalars of a MACE model: those of energy and charge, and their like."""

from __future__ import annotations

from typing import Any

import torch

from openmm_les_export.checkpoints.records import Record, unsupported
from openmm_les_export.families import e3nn_weights
from openmm_les_export.families.canonical_form import State, store_network
from openmm_les_export.families.mace.heads import Head


def _readout_pairs(model: Record, layers: int) -> list[tuple[Record | None, Record | None]]:
    """Energy and charge readout of each layer, None where a layer has none."""
    energy, charge = model.items("readouts"), model.items("les_readouts")
    if len(energy) != len(charge):
        raise unsupported("les_readouts", f"as many as readouts, {len(energy)}", len(charge))
    if len(energy) == 1 and model.value("use_last_readout_only", False):
        return [(None, None)] * (layers - 1) + [(energy[0], charge[0])]
    if len(energy) != layers:
        raise unsupported("readouts", f"one for each of {layers} layers", len(energy))
    return list(zip(energy, charge, strict=True))


def output_scale(model: Record, name: str = "les_output_scale") -> float:
    """Factor of charges, or of another moment; files from before it have none, which is 1."""
    return 1.0 if model.value(name, None) is None else model.number(name)


def read_readouts(
    model: Record,
    state: State,
    layers: list[dict[str, Any]],
    head: Head,
    scales: tuple[float, float],
) -> None:
    """Readouts of one head: their kind goes into the layers, their weights into the state.

    The scales are those of energies and charges.
    """
    for t, (energy, charge) in enumerate(_readout_pairs(model, len(layers))):
        prefix, width = f"layers.{t}.", len(state[f"layers.{t}.output.0"])
        if energy is None or charge is None:
            stacks = [[torch.zeros(width, 1, dtype=torch.float64)] for _ in range(2)]
        else:
            stacks = [head.readout(scalar_readout(record), record) for record in (energy, charge)]
            if [m.shape for m in stacks[0]] != [m.shape for m in stacks[1]]:
                raise unsupported(charge.path, f"the layout of {energy.path}", "another")
        for name, stack, scale in zip(("energy", "charge"), stacks, scales, strict=True):
            store_network(state, f"{prefix}{name}", [*stack[:-1], stack[-1] * scale])
        linear = len(stacks[0]) == 1
        layers[t]["readout"] = "linear" if linear else "nonlinear"
        layers[t]["readout_width"] = 0 if linear else int(stacks[0][0].shape[1])


def scalar_readout(record: Record) -> list[torch.Tensor]:
    """Matrices of a readout on scalars: one, or two with silu between them."""
    if record.kind == "LinearReadoutBlock":
        return [e3nn_weights.linear_by_degree(record.module("linear"))[0]]
    hidden = record.irreps("hidden_irreps")
    if len(hidden) != 1 or hidden[0][1:] != (0, 1):
        raise unsupported(record.path, "hidden scalars", " + ".join(map(str, hidden)))
    (activation,) = record.items("non_linearity.acts")
    constant = e3nn_weights.activation_constant(activation)
    first, second = (
        e3nn_weights.linear_by_degree(record.module(name))[0] for name in ("linear_1", "linear_2")
    )
    return [first, second * constant]
