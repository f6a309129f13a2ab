"""Effective weights of e3nn's layers, from their records; a linear map acts as ``x @ W``.

Every normalisation that e3nn multiplies in at run time (path weights of the file, activation
constants, square roots of widths) is multiplied into the weights, in float64.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

from openmm_les.errors import ModelFileError, UnsupportedModelError
from openmm_les.networks.parameters import check_large
from openmm_les_export.checkpoints.records import Irrep, Record, describe, invalid, unsupported

#: Degrees of the Wigner 3j symbols that have the other sign in e3nn before 0.5, in any order; all
#: that e3nn has. There is no rule.
_OTHER_SIGN = (
    "1 2 2, 1 3 3, 1 4 4, 1 5 5, 1 6 6, 1 7 7, 1 8 8, 1 9 9, 1 10 10, 1 11 11, 3 4 6, 3 5 7, "
    "3 6 8, 3 7 9, 3 8 10, 3 9 11, 4 4 5, 4 5 6, 4 6 7, 4 7 8, 4 8 9, 4 9 10, 4 10 11, 5 5 5, "
    "5 6 6, 5 6 10, 5 7 7, 5 7 11, 5 8 8, 5 9 9, 5 10 10, 5 11 11, 6 6 9, 6 7 10, 6 8 11, 7 7 9, "
    "7 8 10, 7 9 11, 8 8 9, 8 9 10, 8 10 11, 9 9 9, 9 10 10, 9 11 11"
)
_OTHER_SIGNS = {tuple(map(int, triple.split())) for triple in _OTHER_SIGN.split(",")}
#: Since this version e3nn computes the symbols by a closed formula, as we do.
_CLOSED_FORMULA = (0, 5)
#: The table is that of this version.
FIRST = (0, 4)


def sign_of_symbol(version: tuple[int, ...], degrees: tuple[int, ...]) -> float:
    """A Wigner 3j symbol in a version of e3nn, as multiple of ours."""
    return -1.0 if version < _CLOSED_FORMULA and tuple(sorted(degrees)) in _OTHER_SIGNS else 1.0


class Path(NamedTuple):
    """A path of the channel-wise tensor product: degrees of node, edge and message."""

    node: int
    edge: int
    out: int
    slot: int
    """Which of the message's channel blocks the path fills."""
    weight: float


def degrees(irreps: list[Irrep], path: str) -> list[int]:
    """Degrees of representations that are all of natural parity, p = (-1)^l."""
    for irrep in irreps:
        if irrep.p != (-1) ** irrep.l:
            raise UnsupportedModelError(
                f"model: {path}: expected irreps of parity (-1)^l, got {irrep}; openmm-les does "
                "not implement pseudo-scalars and pseudo-tensors"
            )
    return [irrep.l for irrep in irreps]


def channel_count(irreps: list[Irrep], path: str) -> tuple[int, int]:
    """Channels C and highest degree of node features ``Cx0e + Cx1o + ...``."""
    found = degrees(irreps, path)
    if found != list(range(len(found))) or len({irrep.mul for irrep in irreps}) != 1:
        got = " + ".join(map(str, irreps))
        raise unsupported(path, "the same number of channels for each degree 0, 1, ...", got)
    return irreps[0].mul, found[-1]


def _flat_blocks(record: Record, shapes: list[tuple[int, ...]]) -> list[torch.Tensor]:
    """Cuts the flat weight vector into one float64 block per instruction."""
    weight = record.tensor("weight").to(torch.float64)
    sizes = [math.prod(shape) for shape in shapes]
    if weight.ndim != 1 or weight.numel() != sum(sizes):
        raise invalid(f"{record.path}.weight", f"{sum(sizes)} numbers", tuple(weight.shape))
    return [
        block.view(shape) for block, shape in zip(torch.split(weight, sizes), shapes, strict=True)
    ]


def linear_by_degree(record: Record) -> dict[int, torch.Tensor]:
    """Matrices [in, out] of an equivariant linear layer, one per output degree.

    Rows follow the order of the input channels of that degree, whether e3nn keeps them in one entry
    or in several.
    """
    inputs, outputs = record.irreps("irreps_in"), record.irreps("irreps_out")
    in_degrees, out_degrees = degrees(inputs, record.path), degrees(outputs, record.path)
    if len(set(out_degrees)) != len(out_degrees):
        raise unsupported(record.path, "each output degree once", " + ".join(map(str, outputs)))
    if record.value("bias_numel", 0):
        raise unsupported(record.path, "no bias", "one")
    starts = {}
    sizes: dict[int, int] = {}
    for i, irrep in enumerate(inputs):
        starts[i] = sizes.get(irrep.l, 0)
        sizes[irrep.l] = starts[i] + irrep.mul
    for irrep in outputs:
        check_large(record.path, sizes.get(irrep.l, 0), irrep.mul)
    maps = {
        irrep.l: torch.zeros(sizes.get(irrep.l, 0), irrep.mul, dtype=torch.float64)
        for irrep in outputs
    }
    instructions = [instruction.args for instruction in record.value("instructions")]
    blocks = _flat_blocks(record, [tuple(args[2]) for args in instructions])
    for (i_in, i_out, shape, weight), block in zip(instructions, blocks, strict=True):
        degree = out_degrees[i_out]
        if in_degrees[i_in] != degree or shape != (inputs[i_in].mul, outputs[i_out].mul):
            raise ModelFileError(f"model: {record.path}: instructions do not fit the irreps")
        maps[degree][starts[i_in] : starts[i_in] + shape[0]] = block * float(weight)
    return maps


def species_linear_by_degree(record: Record, elements: int) -> dict[int, torch.Tensor]:
    """Per-species matrices [Z, in, out] of a tensor product with the species' one-hot vector."""
    inputs, outputs = record.irreps("irreps_in1"), record.irreps("irreps_out")
    in_degrees, out_degrees = degrees(inputs, record.path), degrees(outputs, record.path)
    if [tuple(irrep) for irrep in record.irreps("irreps_in2")] != [(elements, 0, 1)]:
        raise ModelFileError(f"model: {record.path}: expected {elements} species")
    instructions = [instruction.args for instruction in record.value("instructions")]
    blocks = _flat_blocks(record, [tuple(args[6]) for args in instructions])
    maps: dict[int, torch.Tensor] = {}
    for (i_in, _, i_out, mode, weighted, weight, shape), block in zip(
        instructions, blocks, strict=True
    ):
        degree = out_degrees[i_out]
        expected = (inputs[i_in].mul, elements, outputs[i_out].mul)
        if mode != "uvw" or not weighted or in_degrees[i_in] != degree or tuple(shape) != expected:
            raise ModelFileError(f"model: {record.path}: instructions do not fit the irreps")
        if degree in maps:
            raise unsupported(record.path, "one path to each degree", "more")
        # The Wigner 3j symbol that couples degree l with a scalar is 1 / sqrt(2 l + 1).
        maps[degree] = block.transpose(0, 1) * (float(weight) / math.sqrt(2 * degree + 1))
    return maps


def convolution_paths(record: Record, channels: int) -> list[Path]:
    """Paths of the channel-wise product of neighbours and edges, in the order of its weights."""
    node, edge = record.irreps("irreps_in1"), record.irreps("irreps_in2")
    out = record.irreps("irreps_out")
    for irreps in (node, edge, out):
        degrees(irreps, record.path)
    paths = []
    for instruction in record.value("instructions"):
        i_node, i_edge, i_out, mode, weighted, weight, shape = instruction.args
        if mode != "uvu" or not weighted or tuple(shape) != (channels, 1):
            raise UnsupportedModelError(
                f"model: {record.path}: expected weighted 'uvu' paths with {channels} channels, "
                f"got {mode!r} with {describe(shape)}"
            )
        paths.append(Path(node[i_node].l, edge[i_edge].l, out[i_out].l, i_out, float(weight)))
    if sorted(path.slot for path in paths) != list(range(len(out))):
        raise unsupported(
            record.path, f"one path to each of the {len(out)} messages", f"{len(paths)} paths"
        )
    return paths


def activation_constant(record: Record) -> float:
    """Factor with which e3nn multiplies silu to give it unit second moment."""
    function = record.value("f")
    if describe(function) != "torch.nn.functional.silu":
        raise unsupported(record.path, "the activation (gate) silu", describe(function))
    return 1.0 if record.value("_is_id") else record.number("cst")


def radial_mlp(record: Record) -> list[torch.Tensor]:
    """Matrices of the radial network: silu between them, none after the last."""
    layers = list(record.modules().values())
    matrices = []
    factor = 1.0
    for i, layer in enumerate(layers):
        weight = layer.tensor("weight").to(torch.float64)
        var_in, var_out = layer.number("var_in"), layer.number("var_out")
        activated = "act" in layer.modules()
        if activated is (i == len(layers) - 1):
            raise UnsupportedModelError(
                f"model: {layer.path}: expected silu after every layer but the last"
            )
        if weight.ndim != 2 or weight.shape[0] != layer.number("h_in"):
            raise ModelFileError(
                f"model: {layer.path}.weight: expected a matrix of the layer's size"
            )
        scale = factor / math.sqrt(weight.shape[0] * var_in)
        if activated:
            # The factor behind the activation moves into the next matrix.
            factor = activation_constant(layer.module("act")) * math.sqrt(var_out)
        else:
            scale *= math.sqrt(var_out)
        matrices.append(weight * scale)
    return matrices
