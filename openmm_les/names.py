"""Names that people give: options of every entry point, read in one way."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


_FORCE_FIELD = (
    "; this belongs to ForceField.createSystem, which makes the System that createMixedSystem takes."
)
#: Options that people know from OpenMM, without case and underscores, and where they belong.
_OF_OTHERS = dict.fromkeys(
    (
        "constraints",
        "ewalderrortolerance",
        "flexibleconstraints",
        "nonbondedcutoff",
        "nonbondedmethod",
        "rigidwater",
        "switchdistance",
    ),
    _FORCE_FIELD,
) | {
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
    from openmm_les.errors import InputError

    accepted = tuple(accepted)
    unknown = [name for name in given if name not in accepted]
    if unknown:
        hint = _OF_OTHERS.get(_plain(unknown[0])) or did_you_mean(unknown[0], accepted) or "."
        raise InputError(
            f"{where}: unknown argument {', '.join(unknown)}{hint} Accepted: {', '.join(accepted)}."
        )


def _plain(name: str) -> str:
    return name.replace("_", "").replace("-", "").lower()
