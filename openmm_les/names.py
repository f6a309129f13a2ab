"""Names that people give: options of every entry point, read in one way."""

from __future__ import annotations

import difflib
import functools
import inspect
import re
from collections.abc import Callable, Iterable, Mapping
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
