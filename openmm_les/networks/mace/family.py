"""MACE-LES: hyper-parameters, tensors, and where its code is."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field, model_validator

from openmm_les.networks.conditions import Condition, Conditions
from openmm_les.networks.parameters import (
    Bessel,
    Count,
    Degree,
    Order,
    Parameters,
    Positive,
    Real,
    Tensors,
    Width,
    check_large,
    check_paths,
)
from openmm_les.networks.registry import Family


class Agnesi(Parameters):
    """A distance transform of MACE."""

    kind: Literal["agnesi"]
    a: Positive
    q: Positive
    p: Positive


class Soft(Parameters):
    """Another one."""

    kind: Literal["soft"]
    alpha: Positive


class ZBL(Parameters):
    """Repulsion of nuclei."""

    energy: Real
    length: Positive
    power: Annotated[float, Field(strict=True, ge=-10, le=10)]
    coefficients: Annotated[list[Real], Field(max_length=16)]
    exponents: Annotated[list[Real], Field(max_length=16)]
    cutoff_order: Order


class MACELayer(Parameters):
    """A message-passing layer of MACE."""

    node_lmax: Degree
    paths: Annotated[list[tuple[Degree, Degree, Degree]], Field(min_length=1, max_length=1000)]
    correlation: Annotated[int, Field(strict=True, ge=1, le=4)]
    output_lmax: Degree
    readout: Literal["linear", "nonlinear"]
    readout_width: Width


class MACE(Bessel):
    """Family ``mace``."""

    lmax: Degree
    channels: Count
    energy_shift: Real
    layers: Annotated[list[MACELayer], Field(min_length=1, max_length=32)]
    distance_transform: Annotated[Agnesi | Soft, Field(discriminator="kind")] | None = None
    zbl: ZBL | None = None
    conditions: Conditions = Field(default=[])

    @model_validator(mode="after")
    def _check_layers(self) -> MACE:
        node_lmax = 0
        for layer in self.layers:
            highest = (node_lmax, self.lmax, self.lmax)
            if layer.node_lmax != node_lmax:
                raise ValueError(
                    "expected each layer to take the degrees that the one before makes"
                )
            check_paths(layer.paths, highest)
            node_lmax = layer.output_lmax
        return self


def _mace(hyper: MACE, tensors: Tensors) -> None:
    z, c, degrees = len(hyper.elements), hyper.channels, range(hyper.lmax + 1)
    tensors.take("embedding", z, c)
    for t, layer in enumerate(hyper.layers):
        name = f"layers.{t}"
        for d in range(layer.node_lmax + 1):
            tensors.take(f"{name}.up.{d}", c, c)
        for d in degrees:
            paths = sum(out == d for _, _, out in layer.paths)
            tensors.take(f"{name}.mix.{d}", paths * c, c)
            tensors.perhaps(f"{name}.selector.{d}", z, c, c)
        width = tensors.network(f"{name}.radial", hyper.num_bessel, len(layer.paths) * c)
        check_large(f"weights: {name}", width, hyper.lmax + 1, c, z if t == 0 else 1)
        tensors.perhaps(f"{name}.density", hyper.num_bessel, 1)
        order = max(3, layer.correlation)
        monomials = math.comb((hyper.lmax + 1) ** 2 + order, order)
        for d in range(layer.output_lmax + 1):
            rank, _, _ = tensors.take(f"{name}.product.{d}.basis", None, 2 * d + 1, monomials)
            tensors.take(f"{name}.product.{d}.weights", z, rank, c)
            tensors.take(f"{name}.output.{d}", c, c)
            tensors.perhaps(f"{name}.skip.{d}", z, c, c)
        for readout in ("energy", "charge"):
            tensors.network(f"{name}.{readout}", c, 1)
    if hyper.distance_transform is not None:
        tensors.take("transform.radii", z)
    if hyper.zbl is not None:
        tensors.take("zbl.radii", z)
    for k, condition in enumerate(hyper.conditions):
        _condition(condition, tensors, f"conditions.{k}", c)
    if hyper.conditions:
        tensors.perhaps("condition_energy", c, 1)


def _condition(condition: Condition, tensors: Tensors, name: str, channels: int) -> None:
    if condition.classes is not None:
        tensors.take(f"{name}.table", condition.classes, channels)
        return
    width = tensors.take(f"{name}.0.weight", 1, None)[1]
    tensors.take(f"{name}.0.bias", width)
    tensors.take(f"{name}.1.weight", width, channels)
    tensors.take(f"{name}.1.bias", channels)


FAMILIES = (
    Family(
        name="mace",
        title="MACE-LES",
        parameters=MACE,
        take_tensors=_mace,
        network="openmm_les.networks.mace.network:MACENetwork",
        reader="openmm_les_export.families.mace.reader:read",
        accepted="openmm_les_export.families.mace.accepted:ACCEPTED",
        reference="openmm_les_export.families.mace.reference:reference",
        original="mace-torch",
        extra="mace",
        options=("head",),
    ),
)
