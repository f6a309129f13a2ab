"""MACE-LES: hyper-parameters, tensors, and where its code is."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field, StrictBool, model_validator

from openmm_les.networks.conditions import Condition, Conditions
from openmm_les.networks.moments import Moments
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


class MomentScales(Parameters):
    """Factors of the sums of readouts, or of their squares."""

    dipoles: Real = 1.0
    quadrupoles: Real = 1.0
    kappa: Real = 1.0
    alpha: Real = 1.0


#: The factors of outer products in a readout: see `openmm_les.networks.mace.moments.Dyads`.
Dyads = Literal["factors", "squares", "matrix"]


class MACELayer(Parameters):
    """A message-passing layer of MACE."""

    node_lmax: Degree
    paths: Annotated[list[tuple[Degree, Degree, Degree]], Field(min_length=1, max_length=1000)]
    correlation: Annotated[int, Field(strict=True, ge=1, le=4)]
    output_lmax: Degree
    readout: Literal["linear", "nonlinear"]
    readout_width: Width
    quadrupole_dyads: Dyads | None = None
    alpha_dyads: Dyads | None = None


class MACE(Bessel):
    """Family ``mace``."""

    lmax: Degree
    channels: Count
    energy_shift: Real
    layers: Annotated[list[MACELayer], Field(min_length=1, max_length=32)]
    distance_transform: Annotated[Agnesi | Soft, Field(discriminator="kind")] | None = None
    zbl: ZBL | None = None
    conditions: Conditions = Field(default=[])
    moments: Moments | None = None
    moment_scales: MomentScales | None = None
    rounded_symbols: StrictBool = False
    squared_moments: list[Literal["kappa", "alpha"]] = Field(default=[], max_length=2)

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

    @model_validator(mode="after")
    def _check_moments(self) -> MACE:
        if (self.moments is None) != (self.moment_scales is None):
            raise ValueError("expected moments and moment_scales, or none of them")
        known = self.moments or Moments.model_construct()
        for layer in self.layers:
            vectors = layer.output_lmax >= 1
            if layer.quadrupole_dyads and not (known.quadrupoles and vectors):
                raise ValueError(
                    "expected quadrupole_dyads only in a model with quadrupoles and in layers "
                    "with output_lmax of at least 1"
                )
            if layer.alpha_dyads and not (known.alpha == "anisotropic" and vectors):
                raise ValueError(
                    "expected alpha_dyads only in a model with anisotropic alpha and in layers "
                    "with output_lmax of at least 1"
                )
        if not all(getattr(known, name) for name in self.squared_moments):
            raise ValueError(
                f"expected squares of moments in the model, got {self.squared_moments}"
            )
        return self


def _mace(hyper: MACE, tensors: Tensors) -> None:
    z, c, degrees = len(hyper.elements), hyper.channels, range(hyper.lmax + 1)
    tensors.take("embedding", z, c)
    bases = _tables(hyper, tensors)
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
        if hyper.moments is not None:
            _layer_moments(hyper.moments, bases, layer, tensors, name, c)
    if hyper.distance_transform is not None:
        tensors.take("transform.radii", z)
    if hyper.zbl is not None:
        tensors.take("zbl.radii", z)
    for k, condition in enumerate(hyper.conditions):
        _condition(condition, tensors, f"conditions.{k}", c)
    if hyper.conditions:
        tensors.perhaps("condition_energy", c, 1)


def _tables(hyper: MACE, tensors: Tensors) -> dict[str, bool]:
    """Takes values by element and bases of tensors; which of the latter there are."""
    z, moments = len(hyper.elements), hyper.moments
    tensors.perhaps("fixed_charges", z)
    if moments is None:
        return {}
    if moments.alpha:
        tensors.perhaps("atomic_alpha", z)
    return {
        "quadrupole": moments.quadrupoles and tensors.perhaps("quadrupole_basis", 5, 3, 3),
        "alpha": moments.alpha == "anisotropic" and tensors.perhaps("alpha_basis", 6, 3, 3),
    }


def _layer_moments(
    moments: Moments,
    bases: dict[str, bool],
    layer: MACELayer,
    tensors: Tensors,
    name: str,
    channels: int,
) -> None:
    """Takes the readouts of a layer, which has the degrees that they need."""
    if moments.dipoles and layer.output_lmax >= 1:
        tensors.perhaps(f"{name}.dipole", channels, 1)
    if bases["quadrupole"] and layer.output_lmax >= 2:
        tensors.perhaps(f"{name}.quadrupole", channels, 1)
    if bases["alpha"] and layer.output_lmax >= 2 and f"{name}.alpha_tensor.0" in tensors:
        for degree in (0, 2):
            tensors.take(f"{name}.alpha_tensor.{degree}", channels, 1)
    for scalar in ("kappa", "alpha"):
        if getattr(moments, scalar) and f"{name}.{scalar}.0" in tensors:
            tensors.network(f"{name}.{scalar}", channels, 1)
    for kind in ("quadrupole", "alpha"):
        factors = getattr(layer, f"{kind}_dyads")
        if factors is not None:
            _, width = tensors.take(f"{name}.{kind}_dyads.vectors", channels, None)
            outputs = width * width if factors == "matrix" else width
            tensors.network(f"{name}.{kind}_dyads.factors", channels, outputs, ".weight")


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
        citation="Batatia et al., NeurIPS 35, 11423 (2022)",
    ),
)
