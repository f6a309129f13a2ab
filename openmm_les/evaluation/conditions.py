"""The conditions that a model is computed in: from options, or from what a structure holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from openmm_les.artifact import Artifact
from openmm_les.errors import InputError
from openmm_les.networks.conditions import OPTIONS, conditions_of, option_of

#: Kinds of atoms, an element in one condition each. The work of a network grows with them.
_MOST_KINDS = 64

#: Atomic number, then the value of each condition.
Kind = tuple[Any, ...]


def kinds_of_atoms(
    artifact: Artifact, numbers: Sequence[int], given: Mapping[str, Any]
) -> list[Kind]:
    """The kind of each atom: its element and the value of each condition of the model.

    Args:
        given: values of conditions by name; one for all atoms or, where the model has one for each
            atom, a sequence. Others have their defaults.

    Raises:
        InputError: a condition that the model does not take, needs, or has no weights for.
    """
    known = conditions_of(artifact.metadata["hyper"])
    names = [condition.name for condition in known]
    for name in given:
        if name in OPTIONS.values() and any(each.option == name for each in known):
            raise InputError(f"features[{name!r}]: give it as {name}=...")
        if name not in names:
            takes = ", ".join(condition.option for condition in known) or "no such inputs"
            raise InputError(
                f"{option_of(name)}: {artifact.path} was not trained with {name}, so its energy "
                f"does not depend on it; leave it out (this model takes {takes})"
            )
    columns = [condition.column(given.get(condition.name), len(numbers)) for condition in known]
    kinds: list[Kind] = list(zip(numbers, *columns, strict=True))
    if len(set(kinds)) > _MOST_KINDS and len(set(kinds)) > len(set(numbers)):
        per_atom = ", ".join(each.option for each in known if each.per == "atom")
        raise InputError(
            f"{per_atom}: expected at most {_MOST_KINDS} different atoms by element and values, "
            f"got {len(set(kinds))}; round the values"
        )
    return kinds


def conditions_in(artifact: Artifact, stored: Mapping[str, Any]) -> dict[str, Any]:
    """Those conditions of a model that a structure holds, by their names.

    `stored` are all values of a structure, ``info`` and ``arrays`` of ASE. Names are those of the
    condition, then that in the training data, then ``charge`` or ``spin``.
    """
    found = {}
    for condition in conditions_of(artifact.metadata["hyper"]):
        name = next((name for name in condition.names if stored.get(name) is not None), None)
        if name is not None:
            found[condition.name] = stored[name]
    return found
