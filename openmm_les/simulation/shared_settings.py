"""YAML files with the settings of several runs, of which those of all stand below `base`.

Imports neither torch nor openmm.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from openmm_les.errors import InputError
from openmm_les.names import did_you_mean
from openmm_les.simulation import fields, settings_file
from openmm_les.simulation.config import RunConfig

Settings = TypeVar("Settings", bound=BaseModel)

#: What pydantic calls the name of a value, as the place of an error.
_KEY = "[key]"
#: Advice of `openmm-les run` with flags that commands for several runs do not have.
_START_AGAIN = re.compile("start again with --overwrite(, which deletes them)?")
_CONTINUE = re.compile("then continue with openmm-les run .* --resume")


def read_fields(file: Path, known: Iterable[str]) -> dict[str, Any]:
    """What stands in a file whose fields are `known`, by name; nothing of it is checked."""
    return settings_file.read(file, example="base: ...", hint=f"there are {', '.join(known)}")


def read_as(file: Path, model: type[Settings], expected: Mapping[str, str]) -> Settings:
    """Read a file; an InputError names the first field that is wrong.

    Args:
        file: YAML file.
        model: its fields, with descriptions.
        expected: what those take that are neither numbers nor texts, by name.
    """
    known = model.model_fields
    try:
        return model(**read_fields(file, known))
    except ValidationError as error:
        details = error.errors()[0]
    first, name = str(details["loc"][0]), ".".join(map(str, details["loc"]))
    if details["loc"][-1] == _KEY:
        raise InputError(
            f"{file}: {name.removesuffix(f'.{_KEY}')}: expected a text for this name, got "
            f"{fields.shown(details['input'])}, as YAML reads it: put it in quotes"
        )
    if details["type"] == "extra_forbidden":
        hint = did_you_mean(first, known) or f"; there are {', '.join(known)}"
        if first in RunConfig.model_fields:
            hint = " (a setting of the runs belongs below base)"
        raise InputError(f"{file}: {name}: unknown field{hint}")
    wanted = f"{expected.get(first) or fields.expected(known[first])} ({known[first].description})"
    got = "nothing" if details["type"] == "missing" else fields.shown(details["input"])
    raise InputError(f"{file}: {name}: expected {wanted}, got {got}")


def without_flags(message: str, directory: Path) -> str:
    """A message about the run in a directory, with advice for commands that have several runs."""
    message = _START_AGAIN.sub(lambda _: f"remove {directory}: it is then started again", message)
    return _CONTINUE.sub("then give the same command again", message)


def check_names(where: str, given: Iterable[str], refused: Mapping[str, str]) -> None:
    """Refuse names that are no settings of a run, and those of `refused`, with the reason there."""
    for name in given:
        if name in refused:
            raise InputError(f"{where}.{name}: leave it out; {refused[name]}")
        if name not in RunConfig.model_fields:
            hint = did_you_mean(name, RunConfig.model_fields) or " of `openmm-les run`"
            raise InputError(f"{where}.{name}: unknown setting{hint}")
