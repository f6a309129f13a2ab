"""What a model may be: bounds of every number that describes it, for artifacts and exports alike.

The bounds are physical, and far wider than any model that anybody has published; what lies beyond
is damage, or would take all memory. ``docs/design.md`` says what the fields mean.
"""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from itertools import pairwise
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StrictBool,
    StrictStr,
    ValidationError,
    model_validator,
)

from openmm_les.errors import ArtifactError
from openmm_les.files.reading import Damage

Real = Annotated[float, Field(strict=True, ge=-1e6, le=1e6)]
Positive = Annotated[float, Field(strict=True, gt=0, le=1e6)]
Length = Annotated[float, Field(strict=True, ge=0.1, le=50)]
Element = Annotated[int, Field(strict=True, ge=1, le=118)]
Order = Annotated[int, Field(strict=True, ge=1, le=100)]
Degree = Annotated[int, Field(strict=True, ge=0, le=11)]
Width = Annotated[int, Field(strict=True, ge=0, le=10_000)]
Count = Annotated[int, Field(strict=True, ge=1, le=10_000)]
Few = Annotated[int, Field(strict=True, ge=0, le=32)]
Layers = Annotated[int, Field(strict=True, ge=1, le=32)]
Index = Annotated[int, Field(strict=True, ge=0, le=100_000)]
#: Three indices, or three degrees.
Triple = tuple[Width, Width, Width]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class LES(_Model):
    """Parameters of the electrostatics."""

    sigma: Annotated[float, Field(strict=True, ge=0.05, le=20)]
    dl: Annotated[float, Field(strict=True, ge=0.2, le=50)]
    prefactor: Annotated[float, Field(strict=True, gt=0, le=1e5)]
    remove_self_interaction: StrictBool
    bec_remove_mean: StrictBool
    bec_epsilon_factor: Annotated[float, Field(strict=True, gt=0, le=1e5)]


class Hyper(_Model):
    """Hyper-parameters of all families."""

    elements: Annotated[list[Element], Field(min_length=1)]
    cutoff: Length
    cutoff_order: Order

    @model_validator(mode="after")
    def _check_elements(self) -> Hyper:
        if len(set(self.elements)) != len(self.elements):
            raise ValueError(f"expected different elements, got {self.elements}")
        return self


class Bessel(Hyper):
    """Of those with Bessel functions."""

    num_bessel: Annotated[int, Field(strict=True, ge=1, le=1000)]
    bessel_prefactor: Annotated[float, Field(strict=True, gt=0, le=100)]


class Agnesi(_Model):
    """A distance transform of MACE."""

    kind: Literal["agnesi"]
    a: Positive
    q: Positive
    p: Positive


class Soft(_Model):
    """Another one."""

    kind: Literal["soft"]
    alpha: Positive


class ZBL(_Model):
    """Repulsion of nuclei."""

    energy: Real
    length: Positive
    power: Annotated[float, Field(strict=True, ge=-10, le=10)]
    coefficients: Annotated[list[Real], Field(max_length=16)]
    exponents: Annotated[list[Real], Field(max_length=16)]
    cutoff_order: Order


class MACELayer(_Model):
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

    @model_validator(mode="after")
    def _check_layers(self) -> MACE:
        node_lmax = 0
        for layer in self.layers:
            highest = (node_lmax, self.lmax, self.lmax)
            if layer.node_lmax != node_lmax:
                raise ValueError(
                    "expected each layer to take the degrees that the one before makes"
                )
            _check_paths(layer.paths, highest)
            node_lmax = layer.output_lmax
        return self


class CACE(Bessel):
    """Family ``cace``."""

    monomials: Annotated[list[tuple[Degree, Degree, Degree]], Field(min_length=1, max_length=364)]
    invariants: list[list[tuple[Annotated[list[Index], Field(max_length=8)], Real]]]
    num_messages: Few

    @model_validator(mode="after")
    def _check_terms(self) -> CACE:
        degrees = [sum(entry) for entry in self.monomials]
        complete = [(d + 1) * (d + 2) // 2 for d in range(max(degrees) + 1)]
        counts = [degrees.count(d) for d in range(len(complete))]
        if degrees != sorted(degrees) or counts != complete or not _differ(self.monomials):
            raise ValueError("expected all monomials of each degree, lower ones first")
        size = len(degrees)
        if sum(len(terms) for terms in self.invariants) > 30_000:
            raise ValueError("expected at most 30000 products in all invariants")
        if not self.invariants or not all(
            terms and all(factors and max(factors) < size for factors, _ in terms)
            for terms in self.invariants
        ):
            raise ValueError(f"expected invariants made of the {size} monomials")
        return self


class NequIPLayer(_Model):
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
        _check_paths(
            [(self.nodes[node][0], edge, self.outputs[out][0]) for node, edge, out in self.paths],
            (11, 11, 11),
        )
        return self

    def columns(self, slot: int) -> int:
        """Columns of an output slot before the gate."""
        gates = sum(width for _, width, kind in self.outputs if kind == "gate")
        return self.outputs[slot][1] + (gates if self.outputs[slot][2] == "silu" else 0)


class NequIP(Bessel):
    """Family ``nequip``."""

    lmax: Degree
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


class Allegro(Bessel):
    """Family ``allegro``."""

    lmax: Degree
    channels: Count
    scalars: Count
    num_layers: Layers


class CHGNet(Hyper):
    """Family ``chgnet``."""

    inner_cutoff: Length
    energy_offset: Real
    nonlinear_bonds: StrictBool
    nonlinear_angles: StrictBool
    num_layers: Layers


FAMILIES: Mapping[str, type[Hyper]] = {
    "mace": MACE,
    "cace": CACE,
    "nequip": NequIP,
    "allegro": Allegro,
    "chgnet": CHGNet,
}


class Metadata(BaseModel):
    """What an artifact says of itself, beside format and version; other fields may come with it."""

    model_config = ConfigDict(extra="allow", frozen=True, allow_inf_nan=False)

    family: StrictStr
    elements: list[Element]
    cutoff: Length
    les: LES
    hyper: dict[str, Any]
    source: dict[str, Any]
    dtype: Literal["float32", "float64"] | None = None
    charge_sign: Literal[1, -1] | None = None
    licence: StrictStr | None = None
    citation: StrictStr | None = None
    provenance: dict[str, StrictStr] = {}
    verification: dict[str, Any] = {}
    versions: dict[str, Any] = {}
    units: dict[str, Any] = {}


def _check_paths(paths: list[tuple[int, int, int]], highest: tuple[int, int, int]) -> None:
    """Degrees of a tensor product must be there, and make a triangle."""
    for path in paths:
        node, edge, out = path
        within = all(degree <= most for degree, most in zip(path, highest, strict=True))
        if not within or not abs(node - edge) <= out <= node + edge:
            raise ValueError(f"expected degrees up to {highest} that couple, got {path}")


def _differ(entries: list[tuple[int, int, int]]) -> bool:
    return len(set(entries)) == len(entries)


def check_metadata(metadata: Mapping[str, Any]) -> None:
    """Refuses an artifact that says of itself what cannot be.

    Raises:
        Damage: names the field, what was expected and what came.
    """
    _validate(Metadata, metadata, "")
    check_model(metadata["family"], metadata["hyper"], metadata["les"])
    for name in ("elements", "cutoff"):
        if metadata[name] != metadata["hyper"].get(name):
            raise Damage(
                f"{name}: expected what hyper has, {_shown(metadata['hyper'].get(name))}, got "
                f"{_shown(metadata[name])}"
            )


def check_model(family: str, hyper: Mapping[str, Any], les: Mapping[str, Any]) -> Hyper:
    """Refuses parameters that no model can have.

    Args:
        family: of the model.
        hyper: its hyper-parameters.
        les: its LES parameters.

    Returns:
        The hyper-parameters.

    Raises:
        ArtifactError: the family is not known to this version.
        Damage: names the parameter, what was expected and what came.
    """
    if family not in FAMILIES:
        raise ArtifactError(
            f"family: expected one of {sorted(FAMILIES)}, got {_shown(family)}; upgrade with "
            "'pip install -U openmm-les'"
        )
    _validate(LES, les, "les")
    checked: Hyper = _validate(FAMILIES[family], hyper, "hyper")
    return checked


def _validate(model: type[Any], values: Any, where: str) -> Any:
    try:
        return model.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, ([where] if where else []) + [*first["loc"]]))
        # pydantic's words for our own checks begin with a class name.
        text = first["msg"].removeprefix("Value error, ")
        got = "" if first["type"] == "value_error" else f", got {_shown(first['input'])}"
        raise Damage(f"{place}: {text[:1].lower()}{text[1:]}{got}") from error


_shown = reprlib.Repr().repr
