"""Reads Allegro-LES checkpoints: a ``.ckpt`` file becomes a `CanonicalModel`.

No more than torch is needed. The form is that of ``docs/reference/formats/nequip.md``, the formulas
are those of Musaelian et al., Nat. Commun. 14, 579 (2023); couplings are in the file.
"""

from __future__ import annotations

from typing import Any

import torch

from openmm_les.artifact.canonical import CanonicalModel
from openmm_les.errors import UnsupportedModelError
from openmm_les.networks.parameters import check_large
from openmm_les_export.checkpoints.configuration import Options
from openmm_les_export.checkpoints.records import LMAX, invalid
from openmm_les_export.checkpoints.unpickle import ModelFile
from openmm_les_export.families.canonical_form import State, store_network
from openmm_les_export.families.nequip.accepted import EMBED
from openmm_les_export.families.nequip.checkpoint import (
    Weights,
    dense_maps,
    radial_basis,
    read_checkpoint,
    side_by_side,
)
from openmm_les_export.families.nequip.moments import ALLEGRO, readouts_of, store_moments
from openmm_les_export.options import ModelOptions


def read(opened: ModelFile, options: ModelOptions) -> CanonicalModel:
    """The canonical form of an Allegro-LES model, see `canonical_model`."""
    first = f"{EMBED}.type_embed.center_embed.weight"
    return read_checkpoint(opened, options, _network, "allegro", first)


def _network(options: Options, weights: Weights, state: State) -> dict[str, Any]:
    """The embedding, all layers and the readouts."""
    lmax = options.integer("l_max", 1, 1, LMAX)
    channels, scalars = (
        options.integer(f"num_{name}_features", default, 1)
        for name, default in (("tensor", 16), ("scalar", 64))
    )
    basis = Options(weights.hyper["model"][EMBED])
    hyper: dict[str, Any] = {
        **radial_basis(options, basis, weights, state, f"{EMBED}.bessel_encode", 1.0),
        "lmax": lmax,
        "channels": channels,
        "scalars": scalars,
        "num_layers": options.integer("num_layers", 2, 1, 32),
    }
    _embedding(options, weights, state, hyper)
    _layers(options, weights, state, hyper)
    _readouts(options, weights, state, hyper)
    return hyper


def _embedding(options: Options, weights: Weights, state: State, hyper: dict[str, Any]) -> None:
    """From Bessel functions and elements to the first scalars, tensors and weights of a pair."""
    types = len(state["reference_energies"])
    centre, neighbor = (
        weights.take(f"{EMBED}.type_embed.{name}_embed.weight", (types, -1))
        for name in ("center", "neighbor")
    )
    state["pair_types"] = torch.cat(
        [centre.unsqueeze(1).expand(-1, types, -1), neighbor.unsqueeze(0).expand(types, -1, -1)], 2
    )
    width = state["pair_types"].shape[2]
    (state["basis"],) = dense_maps(
        weights, f"{EMBED}.type_embed.basis_linear.mlp", hyper["num_bessel"], 0, width
    )
    scalars = hyper["scalars"]
    depth = options.integer("scalar_embed_mlp_hidden_layers_depth", 1, 0)
    embedding = dense_maps(weights, "scalar_embed_mlp.mlp_module.mlp", width, depth, scalars)
    store_network(state, "embedding", embedding, ".weight")
    signs = _signs(hyper)
    (tensors,) = dense_maps(weights, "tensor_embed.env_embed_linear.mlp", scalars, 0, len(signs))
    (projection,) = dense_maps(
        weights, "allegro.first_layer_env_embed_projection.mlp", scalars, 0, scalars + len(signs)
    )
    state["tensors"] = tensors * signs
    state["projection"] = _signed(projection, signs, scalars)


def _signs(hyper: dict[str, Any]) -> torch.Tensor:
    """(-1)^l of weights of harmonics: allegro's vector points to the neighbour, ours from it."""
    degrees = (-1.0) ** torch.arange(hyper["lmax"] + 1, dtype=torch.float64)
    return degrees.repeat(hyper["channels"])


def _signed(weight: torch.Tensor, signs: torch.Tensor, scalars: int) -> torch.Tensor:
    """A map to scalars and weights of harmonics with signs in the latter."""
    return torch.cat([weight[:, :scalars], weight[:, scalars:] * signs], 1)


def _layers(options: Options, weights: Weights, state: State, hyper: dict[str, Any]) -> None:
    """Tensor products and networks of all layers."""
    scalars, channels, number = hyper["scalars"], hyper["channels"], hyper["num_layers"]
    neighbors, signs = options.positive("avg_num_neighbors"), _signs(hyper)
    depth = options.integer("allegro_mlp_hidden_layers_depth", 1, 0)
    size = (hyper["lmax"] + 1) ** 2
    inputs = size
    for t in range(number):
        last = t == number - 1
        couplings = _couplings(weights, f"allegro.tps.{t}", channels, size)
        if couplings.shape[1] != inputs or (last and couplings.shape[3] != 1):
            raise invalid(
                f"allegro.tps.{t}", f"products of {inputs} components", tuple(couplings.shape[1:])
            )
        state[f"layers.{t}.couplings"] = couplings * neighbors**-0.5
        inputs = couplings.shape[3]
        width = scalars * (t + 1) + channels
        outputs = scalars if last else scalars + len(signs)
        maps = dense_maps(weights, f"allegro.latents.{t}.mlp", width, depth, outputs)
        if not last:
            maps[-1] = _signed(maps[-1], signs, scalars)
        store_network(state, f"layers.{t}.latent", maps, ".weight")


def _readouts(options: Options, weights: Weights, state: State, hyper: dict[str, Any]) -> None:
    """Networks of energy and latents of a pair; factors of the sum over neighbours go into them."""
    everything = hyper["scalars"] * (hyper["num_layers"] + 1)
    factor = (2 * options.positive("avg_num_neighbors")) ** -0.5

    def network(name: str, hidden: int) -> list[torch.Tensor]:
        maps = dense_maps(weights, f"{name}.mlp_module.mlp", everything, hidden, 1)
        return [*maps[:-1], maps[-1] * factor]

    depth = options.integer("readout_mlp_hidden_layers_depth", 1, 0)
    store_network(state, "energy", network("edge_readout", depth), ".weight")
    found = readouts_of(ALLEGRO, weights)
    charge = side_by_side([network(readout.name, 1) for readout in found])
    store_network(state, "charge", charge, ".weight")
    # Harmonics of degree 1 point to the neighbour there, from it here.
    hyper |= store_moments(found, weights, state, -1.0)


def _couplings(weights: Weights, name: str, channels: int, size: int) -> torch.Tensor:
    """Tensor product of channel c, [C, in, harmonics, out], from Wigner 3j symbols and weights."""
    symbols, paths = weights.take_any(f"{name}.w3j"), weights.take_any(f"{name}.weights")
    if paths.ndim == 1:  # the same for all channels
        paths = paths.unsqueeze(0)
    diagonal = symbols.shape[1:2] if symbols.ndim == 3 else ()
    for copies in (symbols.shape[:1], (channels,)):
        check_large(name, *copies, *symbols.shape[1:], *diagonal)
    if symbols.ndim == 3:  # of both inputs only the diagonal
        symbols = torch.diag_embed(symbols.transpose(1, 2)).permute(0, 2, 3, 1)
    fits = (
        symbols.ndim == 4
        and symbols.shape[2] == size
        and paths.ndim == 2
        and paths.shape[1] == symbols.shape[0]
        and paths.shape[0] in (1, channels)
    )
    if not fits:
        raise UnsupportedModelError(
            f"model: {name}: expected a tensor product with {size} harmonics and {channels} "
            f"channels, got {tuple(symbols.shape)} and {tuple(paths.shape)}"
        )
    return torch.einsum("pijk,up->uijk", symbols, paths).expand(channels, -1, -1, -1)
