"""Isolated-atom energies given by the user, for families whose files hold none."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from openmm_les.errors import InputError
from openmm_les.files.reading import Damage, Kind, boundary, read_file
from openmm_les.files.writing import user_path

_EXPECTED = "expected energies [eV] by element, as in 1:-13.6,8:-2041.8, or a JSON or YAML file"
_FILE = Kind(
    InputError,
    "atomic energies",
    "atomic energies: {file} cannot be used ({reason}); write lines such as 'O: -2041.8'",
)
#: Characters of a wrong value that a message shows.
_SHOWN = 40


def read_atomic_energies(given: str | os.PathLike[str] | Mapping[Any, Any]) -> dict[int, float]:
    """Energies [eV] by atomic number, from a mapping, ``"1:E,8:E"``, or a JSON or YAML file."""
    if isinstance(given, Mapping):
        return _checked(given.items())
    path = user_path(given)
    if os.path.isfile(path):  # Path raises for a text that is too long for a name
        with boundary(path, _FILE):
            return _checked(_of_file(path))
    pairs = [term.split(":") for term in str(given).split(",")]
    if not all(len(pair) == 2 for pair in pairs):
        raise InputError(f"atomic energies: {_EXPECTED}, got {str(given)!r}")
    return _checked((pair[0], pair[1]) for pair in pairs)


def _checked(entries: Iterable[tuple[Any, Any]]) -> dict[int, float]:
    energies: dict[int, float] = {}
    for element, energy in entries:
        number = atomic_number(str(element).strip())
        try:
            value = float(energy)
        except (TypeError, ValueError):
            value = math.nan
        if not math.isfinite(value):
            raise InputError(
                f"atomic energies: {_EXPECTED}, got {str(energy)[:_SHOWN]!r} for {element}"
            )
        if number in energies:
            raise InputError(f"atomic energies: expected every element once, got {element} twice")
        energies[number] = value
    return energies


def _of_file(path: Path) -> list[tuple[str, str]]:
    """Elements and energies of a YAML or JSON mapping, as text and with repeated keys.

    YAML would read 1e-3 as text and No as False. No objects are constructed.
    """
    import yaml

    root = yaml.compose(read_file(path), Loader=yaml.BaseLoader)  # JSON is YAML
    if not isinstance(root, yaml.MappingNode):
        raise Damage(f"{_EXPECTED}, got no mapping")
    for key, energy in root.value:
        if not (isinstance(key, yaml.ScalarNode) and isinstance(energy, yaml.ScalarNode)):
            raise Damage(f"{_EXPECTED}, got something else in line {key.start_mark.line + 1}")
    return [(key.value, energy.value) for key, energy in root.value]


def atomic_number(element: str) -> int:
    """Atomic number of a symbol, or of a number as text."""
    from openmm.app import Element

    try:
        if element.isdecimal():
            return int(Element.getByAtomicNumber(int(element)).atomic_number)
        return int(Element.getBySymbol(element).atomic_number)
    except (KeyError, ValueError):  # ValueError: thousands of digits
        raise InputError(
            f"atomic energies: expected atomic numbers or symbols, got {element[:_SHOWN]!r}"
        ) from None
