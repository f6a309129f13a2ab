"""Types of the settings of a run, and how help describes them; imports no torch, no openmm."""

from __future__ import annotations

import os
import re
import types
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BeforeValidator, Field
from pydantic.fields import FieldInfo

from openmm_les.evaluation.options import EvaluationOptions
from openmm_les.names import options_of

#: Of random numbers, for OpenMM.
LARGEST_SEED = 2**31 - 1
#: Options of the model that a run has.
OF_EVALUATION = (
    *("precision", "device", "engine", "cudaGraphs"),
    *("maxNeighbors", "ewald", "ewaldTolerance", "lesCutoff"),
    *("charge", "spin", "features"),
)


def _number(value: Any) -> Any:
    """Refuse yes and no of YAML, which would become 1 and 0."""
    if isinstance(value, bool):
        raise ValueError("a truth value is not a number")
    return value


def _integer(value: Any) -> Any:
    """Accept 1e6, too, which YAML reads as text."""
    if isinstance(value, str) and (number := float(value)).is_integer():
        return int(number)
    return _number(value)


def _upper(value: Any) -> Any:
    return value.upper() if isinstance(value, str) else value


def _on_or_off(value: Any) -> Any:
    """YAML reads on and off as truth values."""
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else value


def unit_of(field: FieldInfo) -> str | None:
    """The unit of a field, which its description has in brackets."""
    found = re.search(r"\[(.+?)\]", field.description or "")
    return found[1] if found else None


def bare(value: Any, field: FieldInfo) -> Any:
    """The plain number or text of a Quantity, a path or a number of numpy."""
    if hasattr(value, "value_in_unit"):
        from openmm import unit

        units = {"K": unit.kelvin, "bar": unit.bar, "1/ps": unit.picosecond**-1}
        units |= {"fs": unit.femtosecond, "nm": unit.nanometer, "e": unit.elementary_charge}
        try:
            return value.value_in_unit(units[unit_of(field) or ""])
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError("a quantity of another dimension") from error
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, list | tuple):
        return [bare(part, field) for part in value]
    if isinstance(value, dict):
        return {name: bare(part, field) for name, part in value.items()}
    if getattr(value, "shape", None) == () and hasattr(value, "item"):
        return value.item()
    return value


def shown(value: Any) -> str:
    """A value for messages: short, a Quantity with its unit."""
    text = str(value) if hasattr(value, "value_in_unit") else repr(value)
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "..."


def split(value: Any) -> Any:
    """The parts of a text with commas, as in a flag; other values are returned unchanged."""
    return [part.strip() for part in value.split(",")] if isinstance(value, str) else value


def _texts(value: Any) -> Any:
    value = split(value)
    if isinstance(value, list | tuple) and (not value or "" in value):
        raise ValueError("a list with an empty entry")
    return value


def _numbers_by_name(value: Any) -> Any:
    """Read ``a=1,b=2``, as in a flag."""
    if not isinstance(value, str):
        return value
    pairs = (part.partition("=") for part in split(value))
    return {name.strip(): number for name, _, number in pairs}


Number = Annotated[float, BeforeValidator(_number)]
Integer = Annotated[int, BeforeValidator(_integer)]
Texts = Annotated[tuple[str, ...], BeforeValidator(_texts)]
NumbersByName = Annotated[dict[str, float | tuple[float, ...]], BeforeValidator(_numbers_by_name)]
Ensemble = Annotated[Literal["NVT", "NPT", "NVE"], BeforeValidator(_upper)]
Switch = Annotated[Literal["auto", "on", "off"], BeforeValidator(_on_or_off)]
OnOrOff = Annotated[Literal["on", "off"], BeforeValidator(_on_or_off)]

_SAME: Any = object()


def evaluation(name: str, default: Any = _SAME) -> Any:
    """The field for an option of `EvaluationOptions`: its default, its description, its limits."""
    declared = options_of(EvaluationOptions)[name]
    low, high = declared.option.limits or (None, None)
    return Field(
        declared.default if default is _SAME else default,
        description=declared.option.description.replace("None", "null"),
        ge=low,
        le=high,
    )


#: Characters of a wrong value that a message shows.
_SHOWN = 80
_EXPECTED = {int: "an integer", float: "a bare number", str: "a text"}
_EXPECTED[tuple] = "a list of texts, or one text with commas,"
_EXPECTED[dict] = "numbers by name, or a text such as a=1,b=2,"


def expected(field: FieldInfo) -> str:
    """What values a field takes, such as ``an integer of at least 1``."""
    kind, is_optional = _kind(field)
    if get_origin(kind) is Literal:
        text = "one of " + ", ".join(map(str, get_args(kind)))
    else:
        text = _EXPECTED.get(kind, "a path")
    limits = [_limit(rule) for rule in field.metadata]
    text += "".join(f" {limit}" for limit in limits if limit)
    return f"{text} or null" if is_optional else text


def metavar(field: FieldInfo) -> str:
    """How help names the value of a flag."""
    kind, _ = _kind(field)
    if get_origin(kind) is Literal:
        return "[" + "|".join(map(str, get_args(kind))) + "]"
    return {
        int: "INTEGER",
        float: "NUMBER",
        str: "TEXT",
        tuple: "LIST",
        dict: "NAME=NUMBER,...",
    }.get(kind, "PATH")


def is_list(field: FieldInfo) -> bool:
    """Whether a flag may be given several times, each time with some of the entries."""
    return _kind(field)[0] in (tuple, dict)


def default(field: FieldInfo) -> str:
    """The default of a field as it is written in a file."""
    if field.is_required():
        return "required"
    return "null" if field.default is None else str(field.default)


def _kind(field: FieldInfo) -> tuple[Any, bool]:
    """The bare type of a field, and whether null is allowed too."""
    kind = field.annotation
    is_optional = get_origin(kind) in (Union, types.UnionType)
    if is_optional:
        kind = next(part for part in get_args(kind) if part is not type(None))
    if get_origin(kind) is Annotated:
        kind = get_args(kind)[0]
    return (get_origin(kind) if get_origin(kind) in (tuple, dict) else kind), is_optional


def _limit(rule: Any) -> str:
    for attribute, text in (("gt", "above"), ("ge", "of at least"), ("le", "and at most")):
        if (bound := getattr(rule, attribute, None)) is not None:
            return f"{text} {bound}"
    return ""
