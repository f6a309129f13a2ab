"""Options of every entry point: their names, what they mean, which values they accept."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import inspect
import numbers
import re
import types
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from openmm_les.errors import InputError

Called = TypeVar("Called", bound=Callable[..., Any])
Options = TypeVar("Options")

#: Global parameter and setting of a run: 0 is the force field, 1 the mixed System.
LAMBDA = "lambda_interpolate"
#: Names whose two spellings have different units.
_UNITS = {"electricField": "V/nm", "electric_field": "V/A"}

_FORCE_FIELD = "; this belongs to ForceField.createSystem, whose System createMixedSystem takes."
_OF_FORCE_FIELDS = (
    "constraints",
    "ewalderrortolerance",
    "flexibleconstraints",
    "nonbondedcutoff",
    "nonbondedmethod",
    "rigidwater",
    "switchdistance",
)
#: Names that other packages have for an option of ours, without case and underscores.
_SYNONYMS = {"dtype": "precision", "defaultdtype": "precision"}
#: Hints for options of OpenMM that are not ours, by their names without case and underscores.
_OF_OPENMM = dict.fromkeys(_OF_FORCE_FIELDS, _FORCE_FIELD) | {
    "hydrogenmass": f"{_FORCE_FIELD} Without a force field, move mass from heavy atoms to their "
    "hydrogen atoms with system.setParticleMass."
}


@dataclass(frozen=True)
class Option:
    """What one option means, in the annotation of a field: ``Annotated[int, Option(...)]``."""

    description: str
    metavar: str | None = None
    limits: tuple[float, float | None] | None = None  #: None for no largest one
    hint: str = ""  #: what to do instead of a value that is not accepted, for the message
    flag: str | None = None  #: on the command line, by default the name of the field


@dataclass(frozen=True)
class Field:
    name: str
    option: Option
    default: Any
    kinds: tuple[Any, ...]  #: its types, without None
    choices: tuple[object, ...]  #: the accepted values; empty for others
    is_optional: bool  #: whether None is accepted

    def checked(self, value: Any) -> Any:
        """The value, numbers as those of Python, if it is accepted."""
        if value is None and self.is_optional:
            return None
        if self.choices:
            for choice in self.choices:
                if isinstance(value, bool) is isinstance(choice, bool) and value == choice:
                    return choice
            expected = " or ".join(map(repr, self.choices))
        elif self.option.limits:
            is_whole = int in self.kinds
            kind = numbers.Integral if is_whole else numbers.Real
            expected = "an integer" if is_whole else "a number"
            low, high = self.option.limits
            is_number = isinstance(value, kind) and not isinstance(value, bool)
            if is_number and low <= value and (high is None or value <= high):
                return int(value) if is_whole else float(value)
            expected += f" of at least {low:g}" if high is None else f" from {low:g} to {high:g}"
        else:
            return value
        raise InputError(f"{self.name}: expected {expected}, got {value!r}{self.option.hint}")


def options_of(kind: Any) -> Mapping[str, Field]:
    """The options of a dataclass by name, from its annotations, which are read once."""
    return _read_options(kind)


@functools.cache
def _read_options(kind: Any) -> Mapping[str, Field]:
    hints = get_type_hints(kind, include_extras=True)
    return {
        field.name: _field(field.name, hints[field.name], field.default)
        for field in dataclasses.fields(kind)
    }


def _field(name: str, hint: Any, default: Any) -> Field:
    hint, option = get_args(hint)
    args = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    kinds = tuple(each for each in args if each is not type(None))
    choices = tuple(
        choice for each in kinds if get_origin(each) is Literal for choice in get_args(each)
    )
    return Field(name, option, default, kinds, choices, is_optional=kinds != args)


def check_options(options: Any) -> None:
    """Check and convert the values of a frozen dataclass."""
    for name, field in options_of(type(options)).items():
        object.__setattr__(options, name, field.checked(getattr(options, name)))


def described(kind: type[Options]) -> type[Options]:
    """Add the descriptions of its options to the docstring of a dataclass."""
    lines = [f"    {name}: {field.option.description}" for name, field in options_of(kind).items()]
    kind.__doc__ = "\n".join([inspect.cleandoc(kind.__doc__ or ""), "", "Attributes:", *lines])
    return kind


def did_you_mean(given: str, accepted: Iterable[str]) -> str:
    """``"; did you mean NAME?"`` for the nearest accepted name, if one is near; else nothing."""
    plain = {_plain(name): name for name in accepted}
    synonym = _SYNONYMS.get(_plain(given))
    matches = (
        [synonym] if synonym in plain else difflib.get_close_matches(_plain(given), plain, n=1)
    )
    return f"; did you mean {plain[matches[0]]}?" if matches else ""


def refuse_unknown(where: str, given: Iterable[str], accepted: Iterable[str]) -> None:
    """Raise an `InputError` that names unknown arguments, and the accepted one nearest to them."""
    accepted = tuple(accepted)
    unknown = [name for name in given if name not in accepted]
    if unknown:
        hint = _OF_OPENMM.get(_plain(unknown[0])) or did_you_mean(unknown[0], accepted) or "."
        raise InputError(
            f"{where}: unknown argument {', '.join(unknown)}{hint} Accepted: {', '.join(accepted)}."
        )


def read_arguments(
    where: str,
    given: Mapping[str, Any],
    accepted: Iterable[str],
    aliases: Mapping[str, str] | None = None,
    taken: Iterable[str] = (),
) -> dict[str, Any]:
    """Arguments under the names of a function, in the spelling of OpenMM or of ASE.

    `aliases` are other names, and those of `accepted` that they stand for; `taken` are names that
    the caller of the function accepts and does not hand on.
    """
    accepted = tuple(accepted)
    canonical = {name: name for name in accepted} | dict(aliases or {})
    canonical = {
        each: name for alias, name in canonical.items() for each in spellings(alias)
    } | canonical
    unknown = (name for name in given if name not in canonical)
    refuse_unknown(where, unknown, (*accepted, *taken))
    found: dict[str, Any] = {}
    spelled: dict[str, str] = {}
    for name, value in given.items():
        own = canonical[name]
        if name != own and name in _UNITS:
            raise InputError(
                f"{where}: expected {own} [{_UNITS[own]}], got {name}, which is a field in "
                f"{_UNITS[name]} elsewhere; convert the value"
            )
        if own in found:
            raise InputError(
                f"{where}: {spelled[own]} and {name} are the same argument; give one of them"
            )
        found[own], spelled[own] = value, name
    return found


def both_spellings(
    where: str, extra: Iterable[str] = (), aliases: Mapping[str, str] | None = None
) -> Callable[[Called], Called]:
    """Let a method accept its arguments, `extra` names and `aliases` as `read_arguments` does."""

    def decorate(function: Called) -> Called:
        parameters = inspect.signature(function).parameters.values()
        positional = [each.name for each in parameters if each.kind is each.POSITIONAL_OR_KEYWORD]
        named = [each.name for each in parameters if each.kind is each.KEYWORD_ONLY]
        accepted = (*positional[1:], *named, *extra)

        @functools.wraps(function)
        def read(self: Any, *args: Any, **kwargs: Any) -> Any:
            by_place = dict(zip(positional[1:], args, strict=False))
            read_arguments(where, by_place | kwargs, accepted, aliases)
            return function(self, *args, **read_arguments(where, kwargs, accepted, aliases))

        return read  # type: ignore[return-value]

    return decorate


def flag_of(name: str) -> str:
    """The command-line flag of an option."""
    return "--" + name.replace("_", "-")


def spellings(name: str) -> tuple[str, str]:
    """``maxNeighbors`` and ``max_neighbors``, from either."""
    camel = re.sub(r"_([a-z])", lambda match: match[1].upper(), name)
    snake = re.sub(r"(?<=[a-z0-9])([A-Z])", lambda match: "_" + match[1].lower(), name)
    return camel, snake


def _plain(name: str) -> str:
    return name.replace("_", "").replace("-", "").lower()


def shorten(names: Iterable[object], separator: str = ", ") -> str:
    """The first five names, and how many more there are, for a message."""
    listed = list(map(str, names))
    more = f"{separator.rstrip(', ')} and {len(listed) - 5} more" if len(listed) > 5 else ""
    return separator.join(listed[:5]) + more
