"""Base class of files of time series."""

from __future__ import annotations

import math
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from openmm_les.analysis.series import QUANTITIES, Header, Quantity, TimeSeries
from openmm_les.arrays import FloatArray
from openmm_les.errors import InputError

#: Largest array [bytes], or its largest ratio to the size of the file, which compression and empty
#: chunks can reach.
_MAX_SIZE, _MAX_RATIO = 2**26, 50
#: Kinds of numpy types that are numbers.
_NUMBERS = "biuf"


class SeriesFile(ABC):
    """A file that holds a time series, with `names` of `QUANTITIES` in the order of writing.

    Rows are written completely or not at all; errors of the operating system are passed on.
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
        """Refuse to append to a file with other quantities, atoms or metadata (InputError)."""
        wanted = [q.name for q in self.quantities]
        if sorted(series.values) != sorted(wanted):
            raise InputError(
                f"append: expected {self.path} to hold {', '.join(wanted)}, got "
                f"{', '.join(series.values)}; report the same, or choose another file"
            )
        if any(q.per_atom for q in self.quantities) and series.atoms != self.atoms:
            raise InputError(
                f"append: expected {self.path} to be of the same {len(self.atoms)} atoms, got "
                f"{len(series.atoms)} atoms or others; choose another file"
            )
        series.header.check_same(self.header, self.path)

    @abstractmethod
    def is_ours(self) -> bool:
        """Whether the existing file is a time series, which may be replaced."""

    @abstractmethod
    def read(self) -> TimeSeries:
        """Read the whole file; a damaged one may raise any exception."""

    @abstractmethod
    def create(self) -> None:
        """Create the file without rows, or replace an existing one."""

    @abstractmethod
    def append(self, step: int, time: float, values: Mapping[str, FloatArray]) -> None:
        """Write one row: step, time [ps] and all quantities in their units."""

    @abstractmethod
    def cut(self, rows: int) -> None:
        """Keep the first `rows` rows."""


def units_of(quantities: Sequence[Quantity]) -> dict[str, str]:
    """Units of quantities and of the header, by name."""
    return {**{q.name: q.unit for q in quantities if q.unit}, "temperature": "K"}


def shape_of(quantity: Quantity, atoms: Sequence[int]) -> tuple[int, ...]:
    """Shape of one row of a quantity."""
    return (len(atoms), *quantity.shape) if quantity.per_atom else quantity.shape


def check_array(path: Path, name: str, shape: Sequence[int], dtype: Any) -> None:
    """Refuse an array that is not of numbers, or too large for its file, before it is read."""
    kind = np.dtype(dtype)
    if kind.kind not in _NUMBERS or kind.subdtype is not None:
        raise InputError(f"{path}: expected numbers for {name}, got the type {kind.kind!r}")
    size = kind.itemsize * math.prod(map(int, shape))  # of Python, which do not overflow
    most = max(_MAX_SIZE, _MAX_RATIO * os.path.getsize(path))
    if size > most:
        raise InputError(
            f"{path}: expected {name} to take at most {most / 1e6:.0f} MB in a file of this size, "
            f"got {size / 1e6:.3g} MB; the file is damaged"
        )
