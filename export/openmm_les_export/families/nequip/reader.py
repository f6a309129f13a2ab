"""Reads NequIP-LES checkpoints: a ``.ckpt`` file becomes a `CanonicalModel`.

No more than torch is needed. The form is that of ``docs/reference/formats/nequip.md``, the formulas
are those of Batzner et al., Nat. Commun. 13, 2453 (2022).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from openmm_les.artifact.canonical import CanonicalModel
from openmm_les.networks.blocks.angular import wigner_3j
from openmm_les_export.checkpoints.configuration import Options
from openmm_les_export.checkpoints.records import LMAX, invalid, unsupported
from openmm_les_export.checkpoints.unpickle import ModelFile
from openmm_les_export.families.canonical_form import State, store_network
from openmm_les_export.families.e3nn_weights import sign_of_symbol
from openmm_les_export.families.nequip.checkpoint import (
    Weights,
    dense_maps,
    radial_basis,
    read_checkpoint,
    side_by_side,
    symbols_version,
    version,
)
from openmm_les_export.families.nequip.layout import Block, Layer, convention, layers, path_scale
from openmm_les_export.families.nequip.moments import NEQUIP, readouts_of, store_moments
from openmm_les_export.options import ModelOptions

#: Factors by which e3nn gives silu and tanh unit second moment, from a million random numbers.
SILU, TANH = 1.6791767923989418, 1.5937334472592695
_ACTIVATIONS = {"silu": SILU, "tanh": TANH, "gate": SILU}


def read(opened: ModelFile, options: ModelOptions) -> CanonicalModel:
    """The canonical form of a NequIP-LES model, see `canonical_model`."""
    return read_checkpoint(opened, options, _network, "nequip", "type_embed.embed_module.weight")


def _network(options: Options, weights: Weights, state: State) -> dict[str, Any]:
    """The embedding, all layers and the readouts."""
    types = len(state["reference_energies"])
    state["embedding"] = weights.take("type_embed.embed_module.weight", (types, -1))
    # nequip scales its Bessel functions by 2 pi / r_max^2.
    factor = 2 * math.pi / options.positive("r_max") ** 2
    radial = radial_basis(options, options, weights, state, "bessel_encode", factor)
    hyper, lmax = weights.hyper, options.integer("l_max", 1, 0, LMAX)
    features = options.features(lmax)
    found = convention(version(hyper, "nequip"), lmax, options.flag("parity", True), features)
    e3nn, stated = symbols_version(hyper), _stated_symbols(weights)
    embedding = state["embedding"].shape[1]
    scale = options.neighbors() ** -0.5
    bessels, radial_depth = radial["num_bessel"], options.integer("radial_mlp_depth", 2, 0)
    specs, factors, entering = [], [1.0], [1.0]
    for t, layer in enumerate(
        layers(found, options.integer("num_layers", 4, 1, 32), embedding, features[0])
    ):
        _layer(layer, f"layer{t}_convnet.conv.", f"layers.{t}.", weights, state, factors)
        # Factors of the paths are folded into the last map of the radial network.
        columns = []
        for node, edge, slot in layer.paths:
            degrees = (layer.nodes[node].l, edge, layer.outputs[slot].l)
            symbol = stated.get(degrees, sign_of_symbol(e3nn, degrees))
            factor = scale * path_scale(edge, degrees[2]) * symbol
            columns.append(torch.full((layer.nodes[node].mul,), factor, dtype=torch.float64))
        name = f"layer{t}_convnet.conv.edge_mlp.mlp"
        maps = dense_maps(weights, name, bessels, radial_depth, layer.radial_columns())
        maps[-1] = maps[-1] * torch.cat(columns)
        store_network(state, f"layers.{t}.radial", maps)
        kinds = layer.kinds()
        specs.append(
            {
                "nodes": [[irrep.l, irrep.mul] for irrep in layer.nodes],
                "paths": [list(path) for path in layer.paths],
                "outputs": [
                    [irrep.l, irrep.mul, kind]
                    for irrep, kind in zip(layer.outputs, kinds, strict=True)
                ],
                "skips": [[b.source, b.target] for b in layer.skip_blocks(1)] if t else [],
            }
        )
        entering, factors = factors, [_ACTIVATIONS[kind] for kind in kinds]
    moments = _readouts(options, weights, state, layer, (entering, factors))
    return {**radial, "lmax": lmax, "layers": specs, **moments}


def _readouts(
    options: Options,
    weights: Weights,
    state: State,
    layer: Layer,
    factors: tuple[Sequence[float], Sequence[float]],
) -> dict[str, Any]:
    """Networks of energy and latents, and hyper-parameters of the latter.

    Takes the last layer, and the factors of the activations before and after it.
    """
    scalars, entering, factor = layer.outputs[0].mul, factors[0], factors[1][0]

    def network(name: str, hidden: int) -> list[torch.Tensor]:
        first, *others = dense_maps(weights, f"{name}.mlp_module.mlp", scalars, hidden, 1)
        return [first * factor, *others]

    depth = options.integer("readout_mlp_hidden_layers_depth", 0, 0)
    store_network(state, "energy", network("per_atom_energy_readout", depth), ".weight")
    found = readouts_of(NEQUIP, weights)
    charge = side_by_side([network(each.name, 0) for each in found if each.kind == "scalars"])
    store_network(state, "charge", charge, ".weight")
    hyper = store_moments(found, weights, state, 1.0)
    for name, kinds, irrep in (
        ("vector", ("vectors", "squares"), (1, -1)),
        ("tensor", ("tensors",), (2, 1)),
    ):
        read, slot = [each for each in found if each.kind in kinds], 0
        if read:
            nodes = [(node.l, node.p) for node in layer.nodes]
            if irrep not in nodes:
                raise unsupported(read[0].name, f"features of {name}s before the last layer", "none")
            slot = nodes.index(irrep)
            width = layer.nodes[slot].mul
            columns = [weights.take(f"{each.name}.linear.weight", (width,)) for each in read]
            scale = entering[slot] * width**-0.5
            state[f"moments.{name}s"] = torch.stack(columns, 1) * scale
        if hyper:
            hyper["readouts"][f"{name}_slot"] = slot
    return hyper


def _layer(
    layer: Layer, source: str, prefix: str, weights: Weights, state: State, factors: Sequence[float]
) -> None:
    """The equivariant maps of a layer; factors of its input's activations are folded in."""
    first = layer.first_blocks()
    for block, matrix in zip(first, _blocks(weights, source + "linear_1", first), strict=True):
        state[f"{prefix}up.{block.source}"] = matrix * factors[block.source]
    second = layer.second_blocks()
    for block, matrix in zip(second, _blocks(weights, source + "linear_2", second), strict=True):
        row = 0
        for p, (node, _, out) in enumerate(layer.paths):
            if out == block.target:
                rows = layer.nodes[node].mul
                state[f"{prefix}mix.{p}"] = matrix[row : row + rows]
                row += rows
    if prefix == "layers.0.":
        return  # so that a lone atom has no features
    embedding = state["embedding"]
    skips = layer.skip_blocks(embedding.shape[1])
    for block, tensor in zip(skips, _blocks(weights, source + "sc", skips), strict=True):
        maps = torch.einsum("uvw,zv->zuw", tensor, embedding)
        state[f"{prefix}skip.{block.target}"] = maps * factors[block.source]


def _blocks(weights: Weights, name: str, blocks: Sequence[Block]) -> list[torch.Tensor]:
    """Cuts a flat vector of weights, and scales as e3nn does."""
    sizes = [math.prod(block.shape) for block in blocks]
    flat = weights.take(f"{name}.weight", (sum(sizes),))
    return [
        part.view(block.shape) * block.scale
        for part, block in zip(torch.split(flat, sizes), blocks, strict=True)
    ]


def _multiple(symbol: torch.Tensor, degrees: tuple[int, ...]) -> float:
    """The multiple of a Wigner 3j symbol that a tensor is; 0 if it is none."""
    if len(degrees) != 3 or max(degrees) > LMAX:
        return 0.0
    try:
        expected = torch.from_numpy(wigner_3j(*degrees).copy())
    except ValueError:  # they do not couple
        return 0.0
    if symbol.shape != expected.shape:
        return 0.0
    scale = float((expected * symbol).sum())
    return scale if torch.allclose(symbol, scale * expected, rtol=0.0, atol=1e-6) else 0.0


def _stated_symbols(weights: Weights) -> dict[tuple[int, ...], float]:
    """Those Wigner 3j symbols that the file holds, as multiples of ours.

    In single precision they are rounded.
    """
    scales = {}
    for name, symbol in weights.couplings().items():
        degrees = tuple(int(part) for part in name.split("_") if part.isdecimal())
        scale = _multiple(symbol, degrees)
        if not math.isclose(abs(scale), 1.0, rel_tol=1e-6):
            raise invalid(f"_w3j_{name}", "a Wigner 3j symbol", "other numbers")
        scales[degrees] = scale
    return scales
