"""Which versions of other packages go together: facts that were tried, without any import."""

from __future__ import annotations

import importlib
import importlib.metadata
import re
from typing import Any

from openmm_les.errors import InputError

#: What this package cannot do without, as pip is told; the same as in pyproject.toml.
REQUIREMENTS = {
    "click": "click>=8.1",
    "filelock": "filelock>=3.13",
    "numpy": "numpy>=1.24",
    "openmm": "openmm>=8.6.1",
    "openmmml": "openmmml>=1.8",
    "pydantic": "pydantic>=2",
    "pyyaml": "pyyaml>=6",
    "requests": "requests>=2.31",
    "torch": "torch>=2.9",
}

#: What each release of openmmtorch on PyPI was compiled for: the torch it needs, and the first
#: OpenMM with which reading a System from XML, or copying it, crashes the process.
OPENMMTORCH_BUILT_FOR = {"1.5": ("2.9", "8.6")}


def extras() -> dict[str, list[str]]:
    """Requirements of every extra of this package, as its installed metadata states them.

    Raises:
        importlib.metadata.PackageNotFoundError: this package was not installed by pip.
    """
    found: dict[str, list[str]] = {}
    for line in importlib.metadata.requires("openmm-les") or ():
        requirement, _, marker = line.partition(";")
        if extra := re.search(r"""extra == ['"]([\w-]+)['"]""", marker):
            found.setdefault(extra[1], []).append(requirement.strip())
    return found


def version_of(name: str) -> str | None:
    """Version of an installed package, such as ``2.9.1+cpu``; None where it is absent."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def numbers_of(version: str) -> tuple[int, ...]:
    """The numbers a version starts with, for comparisons: (2, 9, 1) of ``2.9.1+cpu``."""
    match = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(part) for part in match.group().split(".")) if match else ()


def optional(module: str, extra: str, message: str) -> Any:
    """A module of a package that an extra brings; an InputError with the message without it."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module.partition(".")[0]:
            raise
        raise InputError(f"{message}: pip install 'openmm-les[{extra}]'") from None
