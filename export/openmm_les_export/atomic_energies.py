"""Isolated-atom energies that the user gives, for families whose files hold none."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from openmm_les.errors import InputError
from openmm_les.files import user_path

_EXPECTED = "expected energies [eV] by element, as in 1:-13.6,8:-2041.8, or a JSON or YAML file"


def read_atomic_energies(
    given: str | os.PathLike[str] | Mapping[Any, Any],
) -> dict[int, float]:
    """Energies by atomic number.

    Args:
        given: a mapping, ``"1:E,8:E"``, or the path of a JSON or YAML file with a mapping; the keys
            are atomic numbers or symbols, the values energies [eV].

    Raises:
        InputError: it is neither, or an element or energy is none.
    """
    entries = list(given.items()) if isinstance(given, Mapping) else _entries(given)
    energies: dict[int, float] = {}
    for element, energy in entries:
        number = atomic_number(str(element).strip())
        try:
            value = float(energy)
        except (TypeError, ValueError):
            value = math.nan
        if not math.isfinite(value):
            raise InputError(f"atomic energies: {_EXPECTED}, got {energy!r} for {element}")
        if number in energies:
            raise InputError(f"atomic energies: expected every element once, got {element} twice")
        energies[number] = value
    return energies


def _entries(given: str | os.PathLike[str]) -> list[tuple[Any, Any]]:
    if user_path(given).is_file():
        return _of_file(user_path(given))
    pairs = [term.split(":") for term in str(given).split(",")]
    if not all(len(pair) == 2 for pair in pairs):
        raise InputError(f"atomic energies: {_EXPECTED}, got {str(given)!r}")
    return [(pair[0], pair[1]) for pair in pairs]


def _of_file(path: Path) -> list[tuple[Any, Any]]:
    import yaml

    try:
        # JSON is YAML. All values stay text: YAML would read 1e-3 as text and No as False.
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=yaml.BaseLoader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"atomic energies: cannot read {path}: {reason}") from error
    if not isinstance(content, dict):
        raise InputError(f"atomic energies: {_EXPECTED}, got {path} without them")
    return list(content.items())


def atomic_number(element: str) -> int:
    """From a symbol, or a number as text.

    Raises:
        InputError: there is no such element.
    """
    if element.isdecimal():
        return int(element)
    from openmm.app import Element

    try:
        return int(Element.getBySymbol(element).atomic_number)
    except KeyError:
        raise InputError(
            f"atomic energies: expected atomic numbers or symbols, got {element!r}"
        ) from None
