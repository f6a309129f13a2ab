"""Options of every entry point: their names, what they mean, which values they accept."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import inspect
import numbers
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from openmm_les.errors import InputError

Called = TypeVar("Called", bound=Callable[..., Any])

#: Names whose two spellings mean different things, with their units.
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
#: Where options belong that people know from OpenMM, by their names without case and underscores.
_OF_OTHERS = dict.fromkeys(_OF_FORCE_FIELDS, _FORCE_FIELD) | {
    "hydrogenmass": f"{_FORCE_FIELD} Without a force field, move mass from heavy atoms to their "
    "hydrogen atoms with system.setParticleMass.",
}


@dataclass(frozen=True)
class Option:
    """What one option means and which values it accepts.

    Attributes:
        description: one line, without a full stop; a unit stands in brackets.
        choices: the accepted values; empty for others.
        limits: the smallest and the largest accepted number; None for no largest one.
        is_integer: whether the numbers are integers.
        hint: what to do instead, for the message.
    """

    description: str
    choices: tuple[object, ...] = ()
    limits: tuple[float, float | None] | None = None
    is_integer: bool = False
    hint: str = ""

    def checked(self, name: str, value: Any) -> Any:
        """The value, numbers as those of Python.

        Raises:
            InputError: it is not accepted.
        """
        if self.choices:
            for choice in self.choices:
                if isinstance(value, bool) is isinstance(choice, bool) and value == choice:
                    return choice
            expected = " or ".join(map(repr, self.choices))
        elif self.limits:
            kind = numbers.Integral if self.is_integer else numbers.Real
            low, high = self.limits
            is_number = isinstance(value, kind) and not isinstance(value, bool)
            if is_number and low <= value and (high is None or value <= high):
                return int(value) if self.is_integer else float(value)
            expected = "an integer" if self.is_integer else "a number"
            expected += f" of at least {low:g}" if high is None else f" from {low:g} to {high:g}"
        else:
            return value
        raise InputError(f"{name}: expected {expected}, got {value!r}{self.hint}")


def option(default: Any, description: str, **rules: Any) -> Any:
    """A field of a dataclass of options; see `Option` for `rules`."""
    return dataclasses.field(default=default, metadata={"option": Option(description, **rules)})


def options_of(kind: Any) -> dict[str, Option]:
    """The options that a dataclass has, by name."""
    return {
        field.name: field.metadata["option"]
        for field in dataclasses.fields(kind)
        if "option" in field.metadata
    }


def check_options(options: Any) -> None:
    """Check and convert the values of a frozen dataclass; None is accepted where it is the default.

    Raises:
        InputError: names the first option whose value is not accepted.
    """
    for name, rule in options_of(options).items():
        value = getattr(options, name)
        if value is not None or type(options).__dataclass_fields__[name].default is not None:
            object.__setattr__(options, name, rule.checked(name, value))


def did_you_mean(given: str, accepted: Iterable[str]) -> str:
    """``"; did you mean NAME?"`` for the nearest accepted name, or nothing if none is near.

    Case and underscores do not count: ``maxneighbours`` and ``max_neighbors`` are near to
    ``maxNeighbors``.
    """
    plain = {_plain(name): name for name in accepted}
    matches = difflib.get_close_matches(_plain(given), plain, n=1)
    return f"; did you mean {plain[matches[0]]}?" if matches else ""


def refuse_unknown(where: str, given: Iterable[str], accepted: Iterable[str]) -> None:
    """Raise an `InputError` that names arguments nobody knows and the one probably meant."""
    accepted = tuple(accepted)
    unknown = [name for name in given if name not in accepted]
    if unknown:
        hint = _OF_OTHERS.get(_plain(unknown[0])) or did_you_mean(unknown[0], accepted) or "."
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
    """Arguments under the names that a function has for them, from either spelling.

    OpenMM says ``maxNeighbors`` where ASE says ``max_neighbors``; both are understood everywhere.

    Args:
        where: the function, for messages.
        given: as the user gave them.
        accepted: names that the function has.
        aliases: further names, and those of `accepted` that they stand for.
        taken: names that are accepted, too, but not among `given`: somebody has taken them before.

    Raises:
        InputError: an unknown name, one argument under two names, or a name that means another unit
            elsewhere.
    """
    accepted = tuple(accepted)
    meant = {name: name for name in accepted} | dict(aliases or {})
    meant = {each: name for alias, name in meant.items() for each in spellings(alias)} | meant
    unknown = (name for name in given if name not in meant)
    refuse_unknown(where, unknown, (*accepted, *taken))
    found: dict[str, Any] = {}
    spelled: dict[str, str] = {}
    for name, value in given.items():
        own = meant[name]
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
    where: str, further: Iterable[str] = (), aliases: Mapping[str, str] | None = None
) -> Callable[[Called], Called]:
    """Let a function take its arguments in the spelling of OpenMM and of ASE; see `read_arguments`.

    Args:
        where: what users call it.
        further: names that its ``**kwargs`` accept.
        aliases: other names for its arguments.
    """

    def decorate(function: Called) -> Called:
        parameters = inspect.signature(function).parameters.values()
        positional = [each.name for each in parameters if each.kind is each.POSITIONAL_OR_KEYWORD]
        named = [each.name for each in parameters if each.kind is each.KEYWORD_ONLY]
        accepted = (*positional[1:], *named, *further)

        @functools.wraps(function)
        def read(self: Any, *args: Any, **kwargs: Any) -> Any:
            by_place = dict(zip(positional[1:], args, strict=False))
            read_arguments(where, by_place | kwargs, accepted, aliases)
            return function(self, *args, **read_arguments(where, kwargs, accepted, aliases))

        return read  # type: ignore[return-value]

    return decorate


def spellings(name: str) -> tuple[str, str]:
    """``maxNeighbors`` and ``max_neighbors``, from either."""
    camel = re.sub(r"_([a-z])", lambda match: match[1].upper(), name)
    snake = re.sub(r"(?<=[a-z0-9])([A-Z])", lambda match: "_" + match[1].lower(), name)
    return camel, snake


def _plain(name: str) -> str:
    return name.replace("_", "").replace("-", "").lower()
