"""Isolated-atom energies given by the user, for families whose files hold none."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from openmm_les.errors import InputError
from openmm_les.files.reading import Damage, Kind, boundary, read_file
from openmm_les.files.writing import user_path

logger = logging.getLogger(__name__)

#: Stands for zero for all elements.
ZERO = "zero"
_EXPECTED = (
    f"expected energies [eV] by element, as in 1:-13.6,8:-2041.8, a JSON or YAML file, or '{ZERO}'"
)
_FILE = Kind(
    InputError,
    "atomic energies",
    "atomic energies: {file} cannot be used ({reason}); write lines such as 'O: -2041.8'",
)
#: Characters of a wrong value that a message shows.
_SHOWN = 40


def reference_energies(
    given: str | os.PathLike[str] | Mapping[Any, Any] | None, elements: Sequence[int], title: str
) -> list[float]:
    """Energies [eV] of the elements of a model whose files hold none, by the family's title.

    `given` is what `read_atomic_energies` takes, or ``"zero"``.
    """
    if given == ZERO:
        logger.warning(
            "isolated-atom energies are zero as requested: total energies are those of the network "
            "and of LES alone"
        )
        return [0.0] * len(elements)
    energies = {} if given is None else read_atomic_energies(given)
    missing = [z for z in elements if z not in energies]
    if missing:
        raise InputError(
            f"atomic energies: a {title} file holds none; give those that were subtracted from its "
            f"training data [eV], as in --atomic-energies {','.join(f'{z}:E' for z in missing)}, "
            f"or a JSON or YAML file; --atomic-energies {ZERO} if nothing was subtracted, or if "
            "only differences of energies matter"
        )
    return [energies[z] for z in elements]


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
    """Elements and energies of a mapping as text, which YAML may read as other types; keys may
    repeat.
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
