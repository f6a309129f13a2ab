"""Radial features of all layers of a network from its canonical weights."""

from typing import Any, List, Mapping, Optional, Sequence, Tuple

import torch
from torch import nn

from openmm_les.networks.blocks.radial import ExactRadial, bessel_basis, tabulate
from openmm_les.networks.blocks.transforms import TransformedBasis
from openmm_les.networks.blocks.weights import State

#: Tables of more functions of the distance than this (84 MB with 40 features) are not made.
_MOST_TABLES = 64


def hidden_radial(layer: State) -> List[torch.Tensor]:
    """Weights of a layer's radial MLP but for the last."""
    names = sorted((n for n in layer if n.startswith("radial.")), key=lambda n: int(n[7:]))
    return [layer[name] for name in names[:-1]]


def last_radial(layer: State) -> torch.Tensor:
    """The last weights of a layer's radial MLP."""
    count = len(hidden_radial(layer))
    return layer[f"radial.{count}"]


def radial_features(
    hyper: Mapping[str, Any],
    state: State,
    layers: Sequence[State],
    outputs: List[torch.Tensor],
    dtype: torch.dtype,
    exact: bool,
) -> Tuple[nn.Module, List[torch.Tensor]]:
    """The radial module, and the maps from its features to the outputs of each layer.

    Args:
        layers: weights of each layer; the density of a layer that has one follows its features.
        outputs: for each layer what takes its hidden features, shape [width, outputs].
        exact: keep the MLP instead of its table.
    """
    bessel = bessel_basis(hyper, state["bessel_frequencies"])
    basis: nn.Module = bessel
    if "distance_transform" in hyper:
        basis = TransformedBasis(bessel, hyper["distance_transform"], state["transform.radii"])
    densities = [layer.get("density") for layer in layers]
    mlp = ExactRadial(basis, [hidden_radial(layer) for layer in layers], densities)
    if exact or len(mlp.basis.functions()[0]) > _MOST_TABLES:
        return mlp, outputs
    widths: List[int] = []
    maps: List[Optional[torch.Tensor]] = []
    for output, density in zip(outputs, densities, strict=True):
        widths += [output.shape[0]] if density is None else [output.shape[0], 1]
        maps += [output] if density is None else [output, None]
    return tabulate(mlp, widths, maps, dtype=dtype)
