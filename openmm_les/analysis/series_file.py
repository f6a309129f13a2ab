"""What files of time series have in common, whatever their format."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from openmm_les.analysis.series import QUANTITIES, Header, Quantity, TimeSeries
from openmm_les.arrays import FloatArray
from openmm_les.errors import InputError

#: Arrays may take this much memory, or so many times the size of their file: what compression and
#: chunks that were never written make of honest data.
_ALWAYS, _EXPANSION = 2**26, 50
#: Kinds of numpy types that are numbers.
_NUMBERS = "biuf"


class SeriesFile(ABC):
    """A file that holds a time series.

    Whatever is written is written completely or not at all; what the operating system refuses
    becomes an `OutputError` in `openmm_les.plugin.reporter`.

    Args:
        path: of the file.
        names: quantities of `QUANTITIES` in the order in which they are written.
        atoms: indices of the atoms, for quantities that each atom has.
        header: what is written of the simulation.
    """

    def __init__(
        self,
        path: Path,
        names: Sequence[str] = (),
        atoms: Sequence[int] = (),
        header: Header | None = None,
    ) -> None:
        self.path = path
        self.atoms = tuple(atoms)
        self.quantities: tuple[Quantity, ...] = tuple(QUANTITIES[name] for name in names)
        self.header = header or Header()

    def check_columns(self, series: TimeSeries) -> None:
        """Refuse a file that holds something else than what will be written.

        Args:
            series: what the file holds.

        Raises:
            InputError: names both.
        """
        wanted = [q.name for q in self.quantities]
        per_atom = any(q.per_atom for q in self.quantities)
        if sorted(series.values) != sorted(wanted):
            raise InputError(
                f"append: expected {self.path} to hold {', '.join(wanted)}, got "
                f"{', '.join(series.values)}; report the same, or choose another file"
            )
        if per_atom and series.atoms != self.atoms:
            raise InputError(
                f"append: expected {self.path} to be of the same {len(self.atoms)} atoms, got "
                f"{len(series.atoms)} atoms or others; choose another file"
            )
        series.header.check_same(self.header, self.path)

    @abstractmethod
    def is_ours(self) -> bool:
        """Whether the file that is there is a time series, and may be replaced by another."""

    @abstractmethod
    def read(self) -> TimeSeries:
        """Read all of it; damage may raise anything."""

    @abstractmethod
    def create(self) -> None:
        """Make the file without rows; replaces one that is there."""

    @abstractmethod
    def append(self, step: int, time: float, values: Mapping[str, FloatArray]) -> None:
        """Write one row: step, time [ps] and all quantities in their units."""

    @abstractmethod
    def cut(self, rows: int) -> None:
        """Keep this many rows from the beginning."""


def units_of(quantities: Sequence[Quantity]) -> dict[str, str]:
    """Units of quantities and of the header, by name."""
    return {**{q.name: q.unit for q in quantities if q.unit}, "temperature": "K"}


def shape_of(quantity: Quantity, atoms: Sequence[int]) -> tuple[int, ...]:
    """Shape of one value."""
    return (len(atoms), *quantity.shape) if quantity.per_atom else quantity.shape


def check_array(path: Path, name: str, shape: Sequence[int], dtype: Any) -> None:
    """Refuse an array before it takes memory.

    Args:
        path: of the file that holds it.
        name: of the array.
        shape: as the file says.
        dtype: its numpy type.

    Raises:
        InputError: it is no array of numbers, or too large for its file.
    """
    kind = np.dtype(dtype)
    if kind.kind not in _NUMBERS or kind.subdtype is not None:
        raise InputError(f"{path}: expected numbers for {name}, got the type {kind.kind!r}")
    size = kind.itemsize
    for length in shape:  # of Python, which do not overflow
        size *= int(length)
    most = max(_ALWAYS, _EXPANSION * os.path.getsize(path))
    if size > most:
        raise InputError(
            f"{path}: expected {name} to take at most {most / 1e6:.0f} MB in a file of this size, "
            f"got {size / 1e6:.3g} MB; the file is damaged"
        )
