"""What an artifact may say of its model: bounds of every number, for artifacts and exports."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictStr, ValidationError

from openmm_les.errors import ArtifactError
from openmm_les.files.reading import Damage
from openmm_les.networks import registry
from openmm_les.networks.parameters import Bessel, Element, Hyper, Length, Parameters, Tensors


class LES(Parameters):
    sigma: Annotated[float, Field(strict=True, ge=0.05, le=20)]  # [A]
    dl: Annotated[float, Field(strict=True, ge=0.2, le=50)]  # [A]
    prefactor: Annotated[float, Field(strict=True, gt=0, le=1e5)]  # [eV A]
    remove_self_interaction: StrictBool
    bec_remove_mean: StrictBool
    bec_epsilon_factor: Annotated[float, Field(strict=True, gt=0, le=1e5)]
    #: Largest integer coordinate of a reciprocal vector in the trained sum; None: no bound.
    n_max: Annotated[int, Field(strict=True, ge=1, le=1000)] | None = None
    #: How often the periodic sum of the training subtracts the self-interaction; None: once.
    periodic_self_terms: Annotated[int, Field(strict=True, ge=1, le=100)] | None = None
    #: Whether the model was trained on periodic structures alone, or on open ones; None: on either.
    is_periodic: StrictBool | None = None


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


def check_metadata(metadata: Mapping[str, Any]) -> None:
    """Refuses an artifact that says of itself what cannot be."""
    _validate(Metadata, metadata, "")
    check_model(metadata["family"], metadata["hyper"], metadata["les"])
    for name in ("elements", "cutoff"):
        if metadata[name] != metadata["hyper"].get(name):
            raise Damage(
                f"{name}: expected what hyper has, {_shown(metadata['hyper'].get(name))}, got "
                f"{_shown(metadata[name])}"
            )


def check_model(family: str, hyper: Mapping[str, Any], les: Mapping[str, Any]) -> Hyper:
    """Refuses parameters that no model can have, and returns the hyper-parameters."""
    families = registry.families()
    if family not in families:
        raise ArtifactError(
            f"family: expected one of {sorted(families)}, got {_shown(family)}; upgrade with "
            "'pip install -U openmm-les', or install the plug-in of this family"
        )
    _validate(LES, les, "les")
    checked: Hyper = _validate(families[family].parameters, hyper, "hyper")
    return checked


def check_state(family: str, hyper: Hyper, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Refuses weights whose names and shapes do not fit the hyper-parameters."""
    tensors = Tensors(shapes)
    tensors.take("reference_energies", len(hyper.elements))
    if isinstance(hyper, Bessel):
        tensors.take("bessel_frequencies", hyper.num_bessel)
    registry.families()[family].take_tensors(hyper, tensors)
    tensors.check_all_taken()


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
