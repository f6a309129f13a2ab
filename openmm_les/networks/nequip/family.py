"""NequIP-LES and Allegro-LES: hyper-parameters, tensors, and where their code is."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Annotated, Literal

from pydantic import Field, StrictBool, model_validator

from openmm_les.networks.moments import Moments, latent_rows
from openmm_les.networks.parameters import (
    Bessel,
    Count,
    Degree,
    Few,
    Layers,
    Parameters,
    Positive,
    Tensors,
    Triple,
    Width,
    check_large,
    check_paths,
)
from openmm_les.networks.registry import Family


class Readouts(Parameters):
    """How many of each kind there are for the latents of a model with moments, in this order."""

    scalars: Annotated[int, Field(strict=True, ge=1, le=32)]
    vectors: Few  #: vectors
    squares: Few  #: products of a vector with itself
    tensors: Few  #: components of degree 2
    positive: StrictBool  #: whether kappa and alpha are functions that make them so
    kappa_scale: Positive = 1.0
    alpha_scale: Positive = 1.0

    def components(self) -> int:
        """Numbers that all of them are."""
        return self.scalars + 3 * self.vectors + 9 * self.squares + 5 * self.tensors


class NodeReadouts(Readouts):
    """Those of NequIP, with the slots of which vectors and tensors are read; 0 for none."""

    vector_slot: Width
    tensor_slot: Width


class LatentBessel(Bessel):
    """Hyper-parameters of both families: charges alone, or moments and how they are read."""

    lmax: Degree
    moments: Moments | None = None
    readouts: Readouts | None = None

    @model_validator(mode="after")
    def _check_readouts(self) -> LatentBessel:
        if (self.moments is None) is not (self.readouts is None):
            raise ValueError("expected moments and readouts, or neither")
        return self


class NequIPLayer(Parameters):
    """A layer of NequIP."""

    nodes: Annotated[list[tuple[Degree, Count]], Field(min_length=1, max_length=64)]
    outputs: Annotated[
        list[tuple[Degree, Count, Literal["silu", "tanh", "gate"]]],
        Field(min_length=1, max_length=64),
    ]
    paths: Annotated[list[Triple], Field(min_length=1, max_length=1000)]
    skips: Annotated[list[tuple[Width, Width]], Field(max_length=1000)]

    @model_validator(mode="after")
    def _check_slots(self) -> NequIPLayer:
        nodes, outputs = len(self.nodes), len(self.outputs)
        if not all(node < nodes and out < outputs for node, _, out in self.paths) or not all(
            node < nodes and out < outputs for node, out in self.skips
        ):
            raise ValueError("expected paths and skips between slots that are there")
        check_paths(
            [(self.nodes[node][0], edge, self.outputs[out][0]) for node, edge, out in self.paths],
            (11, 11, 11),
        )
        return self

    def columns(self, slot: int) -> int:
        """Columns of an output slot before the gate."""
        gates = sum(width for _, width, kind in self.outputs if kind == "gate")
        return self.outputs[slot][1] + (gates if self.outputs[slot][2] == "silu" else 0)


class NequIP(LatentBessel):
    """Family ``nequip``."""

    readouts: NodeReadouts | None = None
    layers: Annotated[list[NequIPLayer], Field(min_length=1, max_length=32)]

    @model_validator(mode="after")
    def _check_layers(self) -> NequIP:
        for before, layer in pairwise(self.layers):
            if layer.nodes != [slot[:2] for slot in before.outputs]:
                raise ValueError("expected each layer to take the slots that the one before makes")
        if any(edge > self.lmax for layer in self.layers for _, edge, _ in layer.paths):
            raise ValueError(f"expected paths of degrees up to lmax, {self.lmax}")
        if len(self.layers[0].nodes) != 1 or self.layers[0].nodes[0][0] != 0:
            raise ValueError("expected scalars to enter the first layer")
        return self

    @model_validator(mode="after")
    def _check_slots(self) -> NequIP:
        nodes = self.layers[-1].nodes
        for degree, (_, slot, number) in enumerate(self.slots(), 1):
            if slot >= len(nodes) or (number and nodes[slot][0] != degree):
                raise ValueError(f"expected a slot of degree {degree} to be read, got {slot}")
        return self

    def slots(self) -> list[tuple[str, int, int]]:
        """Name, slot of the features, and number, of what is read from vectors and tensors."""
        found = self.readouts
        if found is None:
            return []
        vectors = found.vectors + found.squares
        return [
            ("vectors", found.vector_slot, vectors),
            ("tensors", found.tensor_slot, found.tensors),
        ]


class Allegro(LatentBessel):
    """Family ``allegro``."""

    channels: Count
    scalars: Count
    num_layers: Layers

    @model_validator(mode="after")
    def _check_harmonics(self) -> Allegro:
        if self.readouts is not None and self.lmax < (2 if self.readouts.tensors else 1):
            raise ValueError(f"expected harmonics of the degrees that are read, got {self.lmax}")
        return self


def _latents(hyper: NequIP | Allegro, tensors: Tensors) -> int:
    """Takes the matrix from readouts to latents; what their network gives."""
    found = hyper.readouts
    if found is None:
        return 1
    tensors.take("moments.rows", latent_rows({"moments": hyper.moments}), found.components())
    if isinstance(hyper, Allegro):
        return found.scalars + found.vectors + found.squares + found.tensors
    for name, slot, number in hyper.slots():
        if number:
            tensors.take(f"moments.{name}", hyper.layers[-1].nodes[slot][1], number)
    return found.scalars


def _nequip(hyper: NequIP, tensors: Tensors) -> None:
    z = len(hyper.elements)
    tensors.take("energy_scales", z)
    tensors.take("embedding", z, hyper.layers[0].nodes[0][1])
    for t, layer in enumerate(hyper.layers):
        name = f"layers.{t}"
        for slot, (_, width) in enumerate(layer.nodes):
            tensors.take(f"{name}.up.{slot}", width, width)
        for p, (node, _, out) in enumerate(layer.paths):
            tensors.take(f"{name}.mix.{p}", layer.nodes[node][1], layer.columns(out))
        for node, out in layer.skips:
            tensors.take(f"{name}.skip.{out}", z, layer.nodes[node][1], layer.columns(out))
        columns = sum(layer.nodes[node][1] for node, _, _ in layer.paths)
        width = tensors.network(f"{name}.radial", hyper.num_bessel, columns)
        widest = max(layer.columns(slot) for slot in range(len(layer.outputs)))
        check_large(f"weights: {name}", width, hyper.lmax + 1, widest, z if t == 0 else 1)
    scalars = hyper.layers[-1].outputs[0][1]
    tensors.network("energy", scalars, 1, ".weight")
    tensors.network("charge", scalars, _latents(hyper, tensors), ".weight")


def _allegro(hyper: Allegro, tensors: Tensors) -> None:
    z, f, c, harmonics = len(hyper.elements), hyper.scalars, hyper.channels, (hyper.lmax + 1) ** 2
    weights = c * (hyper.lmax + 1)
    tensors.take("energy_scales", z)
    (_, _, embedding) = tensors.take("pair_types", z, z, None)
    tensors.take("basis", hyper.num_bessel, embedding)
    tensors.network("embedding", embedding, f, ".weight")
    tensors.take("tensors", f, weights)
    tensors.take("projection", f, f + weights)
    width: int | None = harmonics
    for t in range(hyper.num_layers):
        last = t == hyper.num_layers - 1
        shape = (c, width, harmonics, 1 if last else None)
        width = tensors.take(f"layers.{t}.couplings", *shape)[3]
        outputs = f + (0 if last else weights)
        tensors.network(f"layers.{t}.latent", (t + 1) * f + c, outputs, ".weight")
    tensors.network("energy", (hyper.num_layers + 1) * f, 1, ".weight")
    tensors.network("charge", (hyper.num_layers + 1) * f, _latents(hyper, tensors), ".weight")


_NEQUIP = Family(
    name="nequip",
    title="NequIP-LES",
    parameters=NequIP,
    take_tensors=_nequip,
    network="openmm_les.networks.nequip.network:NequIPNetwork",
    reader="openmm_les_export.families.nequip.reader:read",
    accepted="openmm_les_export.families.nequip.accepted:NEQUIP_ACCEPTED",
    reference="openmm_les_export.families.nequip.reference:NequIPReference",
    original="nequip",
    extra="nequip",
    options=("norm_factor", "self_interaction", "calibrate"),
    citation="Batzner et al., Nat. Commun. 13, 2453 (2022)",
)
_ALLEGRO = replace(
    _NEQUIP,
    name="allegro",
    title="Allegro-LES",
    parameters=Allegro,
    take_tensors=_allegro,
    network="openmm_les.networks.nequip.allegro:AllegroNetwork",
    reader="openmm_les_export.families.nequip.allegro:read",
    accepted="openmm_les_export.families.nequip.accepted:ALLEGRO_ACCEPTED",
    original="nequip-allegro",
    citation="Musaelian et al., Nat. Commun. 14, 579 (2023)",
)
FAMILIES = (_NEQUIP, _ALLEGRO)
