"""YAML files with the settings of several runs, of which those of all stand below `base`.

Imports neither torch nor openmm.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from openmm_les.errors import InputError
from openmm_les.names import did_you_mean
from openmm_les.simulation import fields, settings_file
from openmm_les.simulation.config import RunConfig

Settings = TypeVar("Settings", bound=BaseModel)


def read_as(file: Path, model: type[Settings], expected: Mapping[str, str]) -> Settings:
    """Read a file; an InputError names the first field that is wrong.

    Args:
        file: YAML file.
        model: its fields, with descriptions.
        expected: what those take that are neither numbers nor texts, by name.
    """
    try:
        return model(**settings_file.read(file))
    except ValidationError as error:
        details = error.errors()[0]
    first, name = str(details["loc"][0]), ".".join(map(str, details["loc"]))
    known = model.model_fields
    if details["type"] == "extra_forbidden":
        hint = did_you_mean(first, known) or f"; there are {', '.join(known)}"
        if first in RunConfig.model_fields:
            hint = " (a setting of the runs belongs below base)"
        raise InputError(f"{file}: {name}: unknown field{hint}")
    wanted = f"{expected.get(first) or fields.expected(known[first])} ({known[first].description})"
    got = "nothing" if details["type"] == "missing" else fields.shown(details["input"])
    raise InputError(f"{file}: {name}: expected {wanted}, got {got}")


def check_names(where: str, given: Iterable[str], refused: Mapping[str, str]) -> None:
    """Refuse names that are no settings of a run, and those of `refused`, with the reason there."""
    for name in given:
        if name in refused:
            raise InputError(f"{where}.{name}: leave it out; {refused[name]}")
        if name not in RunConfig.model_fields:
            hint = did_you_mean(name, RunConfig.model_fields) or " of `openmm-les run`"
            raise InputError(f"{where}.{name}: unknown setting{hint}")
