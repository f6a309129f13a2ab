"""Options of a configuration, each checked for the type that its framework expects."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from openmm_les.errors import InputError, UnsupportedModelError
from openmm_les_export.atomic_energies import atomic_number
from openmm_les_export.checkpoints.records import describe, invalid, is_off, unsupported


class Options:
    """Options by name; each method raises `UnsupportedModelError` for values of another type.

    Messages put the prefix before names, where the file calls the options otherwise.
    """

    def __init__(self, values: Mapping[str, Any], prefix: str = "") -> None:
        self._values, self._prefix = values, prefix

    def integer(self, name: str, default: int, least: int, most: int = 10_000) -> int:
        """A whole number, 6.0 for example; bounded, so that no file asks for all memory."""
        value = self._values.get(name, default)
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not least <= value <= most or value != int(value):
            raise self._wrong(name, f"an integer of {least} to {most}", value)
        return int(value)

    def flag(self, name: str, default: bool | None = None) -> bool:
        """True or False."""
        value = self._values.get(name, default)
        if not isinstance(value, bool):
            raise self._wrong(name, "True or False", value)
        return value

    def positive(self, name: str, default: float | None = None) -> float:
        """A positive number; without a default it must be there."""
        value = self._values.get(name, default)
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not 0 < value < math.inf:
            raise self._wrong(name, "a positive number", value)
        return float(value)

    def text(self, name: str) -> str | None:
        """A word; None where the option is off."""
        value = self._values.get(name)
        if is_off(value):
            return None
        if not isinstance(value, str):
            raise self._wrong(name, "a word or None", value)
        return value

    def neighbors(self) -> float:
        """The average number of neighbours by which sums are scaled."""
        if self._values.get("avg_num_neighbors") is None:
            return 1.0
        return self.positive("avg_num_neighbors")

    def features(self, lmax: int) -> list[int]:
        """Number of features of each degree."""
        value = self._values.get("num_features", 32)
        counts = [value] * (lmax + 1) if isinstance(value, int) else value
        whole = isinstance(counts, list) and all(type(c) is int and c > 0 for c in counts)
        if not whole or len(counts) != lmax + 1:
            raise self._wrong("num_features", f"an integer or {lmax + 1} of them", value)
        return list(counts)

    def widths(self, name: str) -> list[int] | None:
        """Lengths of the hidden layers of a network, none of them perhaps; or no network."""
        value = self._values.get(name)
        if value is None:
            return None
        whole = isinstance(value, list | tuple) and all(type(w) is int and w > 0 for w in value)
        if not whole:
            raise self._wrong(name, "positive integers", value)
        return list(value)

    def elements(self, name: str) -> list[int]:
        """Atomic numbers of the types."""
        names = self._values.get(name)
        if not isinstance(names, list | tuple) or not names:
            raise self._wrong(name, "symbols of elements", names)
        try:
            return check_elements(name, [atomic_number(str(symbol)) for symbol in names])
        except InputError:
            raise self._wrong(name, "symbols of elements", names) from None

    def _wrong(self, name: str, expected: str, value: Any) -> UnsupportedModelError:
        return unsupported(f"option {self._prefix}{name}", expected, describe(value))


def check_elements(name: str, numbers: Iterable[Any]) -> list[int]:
    """Atomic numbers of a file, in its order."""
    elements = [int(z) for z in numbers]
    if len(set(elements)) != len(elements) or not all(1 <= z <= 118 for z in elements):
        raise invalid(name, "different elements", elements)
    return elements
