"""Files of time series: CSV, NPZ and HDF5, read in whole and written row by row.

Every row is complete on the disk (as far as this process is concerned) before the next one comes,
and rows from some step on can be taken back, so that a simulation can continue its file.
"""

from __future__ import annotations

import csv
import json
import os
import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from openmm_les.analysis.series import (
    QUANTITIES,
    STEP,
    TIME,
    FloatArray,
    Quantity,
    TimeSeries,
    from_table,
)
from openmm_les.errors import InputError

#: Digits of a number in a CSV file: more than single precision has.
_DIGITS = 10


class SeriesFile(ABC):
    """A file that holds a time series.

    Args:
        path: of the file.
        names: quantities of `QUANTITIES` in the order in which they are written.
        atoms: indices of the atoms, for quantities that each atom has.
    """

    def __init__(self, path: Path, names: Sequence[str] = (), atoms: Sequence[int] = ()) -> None:
        self.path = path
        self.atoms = tuple(atoms)
        self.quantities: tuple[Quantity, ...] = tuple(QUANTITIES[name] for name in names)

    def check_columns(self, series: TimeSeries) -> None:
        """Refuse a file that holds other quantities or atoms than those that will be written.

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

    @abstractmethod
    def read(self) -> TimeSeries:
        """Read all of it."""

    @abstractmethod
    def create(self) -> None:
        """Make the file without rows; replaces one that is there."""

    @abstractmethod
    def append(self, step: int, time: float, values: Mapping[str, FloatArray]) -> None:
        """Write one row: step, time [ps] and all quantities in their units."""

    @abstractmethod
    def cut(self, rows: int) -> None:
        """Keep this many rows from the beginning."""


class CSVFile(SeriesFile):
    """A table with the header that OpenMM's reporters write; anything reads it."""

    def read(self) -> TimeSeries:
        source = str(self.path)
        with self.path.open(newline="", encoding="utf-8") as stream:
            first = stream.readline().removeprefix("#")
            header = next(csv.reader([first]), [])
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", UserWarning)  # of numpy: no rows yet
                    table = np.loadtxt(stream, delimiter=",", ndmin=2, dtype=np.float64)
            except ValueError as error:
                raise InputError(
                    f"{source}: expected a table of numbers below its header, got something else "
                    f"({error}); delete the broken line if it is the last"
                ) from None
        if table.size and table.shape[1] != len(header):
            raise InputError(
                f"{source}: expected {len(header)} columns, as many as in the header, got "
                f"{table.shape[1]}"
            )
        return from_table(source, header, table.reshape(-1, max(1, len(header))))

    def check_columns(self, series: TimeSeries) -> None:
        super().check_columns(series)
        with self.path.open(encoding="utf-8") as stream:
            header = stream.readline()
        if header != self._header():
            raise InputError(
                f"append: expected {self.path} to have its columns in the order in which they are "
                "written, got another; choose another file"
            )

    def create(self) -> None:
        with self.path.open("w", encoding="utf-8", newline="\n") as stream:
            stream.write(self._header())

    def _header(self) -> str:
        quantities = (STEP, TIME, *self.quantities)
        names = [name for quantity in quantities for name in quantity.columns(self.atoms)]
        return "#" + ",".join(f'"{name}"' for name in names) + "\n"

    def append(self, step: int, time: float, values: Mapping[str, FloatArray]) -> None:
        numbers = [number for q in self.quantities for number in np.ravel(values[q.name])]
        words = [str(step), *(f"{number:.{_DIGITS}g}" for number in (time, *numbers))]
        with self.path.open("a", encoding="utf-8", newline="\n") as stream:
            stream.write(",".join(words) + "\n")

    def cut(self, rows: int) -> None:
        with self.path.open("r+b") as stream:
            for _ in range(rows + 1):  # and the header
                stream.readline()
            stream.truncate(stream.tell())


class NPZFile(SeriesFile):
    """Arrays for numpy.load. Each row writes the whole file again, so keep these short."""

    def read(self) -> TimeSeries:
        try:
            with np.load(self.path, allow_pickle=False) as archive:
                arrays = {name: archive[name] for name in archive.files}
        except (OSError, ValueError, EOFError) as error:
            raise InputError(f"{self.path}: expected an NPZ file of numbers: {error}") from None
        units = json.loads(str(arrays.pop("units", "{}")))
        return _from_arrays(str(self.path), arrays, units)

    def create(self) -> None:
        empty = {q.name: np.zeros((0, *_shape(q, self.atoms))) for q in self.quantities}
        self._write({"step": np.zeros(0, dtype=np.int64), "time": np.zeros(0), **empty})

    def append(self, step: int, time: float, values: Mapping[str, FloatArray]) -> None:
        with np.load(self.path, allow_pickle=False) as archive:
            row = {"step": step, "time": time, **values}
            arrays = {
                name: np.concatenate([archive[name], np.asarray(row[name])[None]])
                for name in ("step", "time", *(q.name for q in self.quantities))
            }
        self._write(arrays)

    def cut(self, rows: int) -> None:
        with np.load(self.path, allow_pickle=False) as archive:
            names = ("step", "time", *(q.name for q in self.quantities))
            arrays = {name: archive[name][:rows] for name in names}
        self._write(arrays)

    def _write(self, arrays: dict[str, Any]) -> None:
        units = {q.name: q.unit for q in (TIME, *self.quantities)}
        part = self.path.with_name(f".{self.path.name}.part")
        with part.open("wb") as stream:
            np.savez(
                stream,
                **arrays,
                atoms=np.array(self.atoms, dtype=np.int64),
                units=json.dumps(units),
            )
        os.replace(part, self.path)


class HDF5File(SeriesFile):
    """Datasets that grow, each with an attribute ``unit``; the choice for large series."""

    def read(self) -> TimeSeries:
        try:
            with _h5py().File(self.path, "r") as file:
                arrays = {name: np.asarray(dataset) for name, dataset in file.items()}
                units = {name: file[name].attrs.get("unit") for name in arrays}
        except OSError as error:
            raise InputError(f"{self.path}: expected an HDF5 file: {error}") from None
        return _from_arrays(
            str(self.path), arrays, {name: unit for name, unit in units.items() if unit is not None}
        )

    def create(self) -> None:
        with _h5py().File(self.path, "w") as file:
            file.create_dataset("atoms", data=np.array(self.atoms, dtype=np.int64))
            for quantity in (STEP, TIME, *self.quantities):
                shape = _shape(quantity, self.atoms)
                dataset = file.create_dataset(
                    quantity.name,
                    shape=(0, *shape),
                    maxshape=(None, *shape),
                    chunks=(max(1, 8192 // max(1, int(np.prod(shape)))), *shape),
                    dtype=np.int64 if quantity is STEP else np.float64,
                )
                dataset.attrs["unit"] = quantity.unit

    def append(self, step: int, time: float, values: Mapping[str, FloatArray]) -> None:
        row = {"step": step, "time": time, **values}
        # Opened and closed for each row: a process that is killed leaves a whole file behind.
        with _h5py().File(self.path, "r+") as file:
            for quantity in (STEP, TIME, *self.quantities):
                dataset = file[quantity.name]
                dataset.resize(len(dataset) + 1, axis=0)
                dataset[-1] = row[quantity.name]

    def cut(self, rows: int) -> None:
        with _h5py().File(self.path, "r+") as file:
            for quantity in (STEP, TIME, *self.quantities):
                file[quantity.name].resize(rows, axis=0)


_FORMATS: dict[str, type[SeriesFile]] = {
    ".csv": CSVFile,
    ".npz": NPZFile,
    ".h5": HDF5File,
    ".hdf5": HDF5File,
}


def open_series(
    path: str | os.PathLike[str], names: Sequence[str] = (), atoms: Sequence[int] = ()
) -> SeriesFile:
    """The file at `path`, in the format that its name says.

    Args:
        path: ends in ``.csv``, ``.npz``, ``.h5`` or ``.hdf5``.
        names: what is written, for a file that is to be written.
        atoms: indices of the atoms, likewise.

    Raises:
        InputError: another ending, or h5py is not installed.
    """
    file = Path(path)
    kind = _FORMATS.get(file.suffix.lower())
    if kind is None:
        raise InputError(f"file: expected a name that ends in {', '.join(_FORMATS)}, got {file}")
    if kind is HDF5File:
        _h5py()
    return kind(file, names, atoms)


def read(path: str | os.PathLike[str]) -> TimeSeries:
    """Read a time series.

    Args:
        path: what LESReporter wrote, or a table or arrays with the same names and units.

    Raises:
        InputError: the file cannot be read, or holds something else.
    """
    file = open_series(path)
    try:
        return file.read()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"file: cannot read {file.path}: {reason}") from None


def _from_arrays(source: str, arrays: dict[str, Any], units: Mapping[str, str]) -> TimeSeries:
    """A time series from named arrays; without a unit they are taken to have the right one."""
    if TIME.name not in arrays:
        raise InputError(f"{source}: expected an array 'time' [ps], got {', '.join(arrays)}")
    time = np.asarray(arrays.pop(TIME.name), dtype=np.float64)
    steps = arrays.pop(STEP.name, None)
    atoms = tuple(int(atom) for atom in arrays.pop("atoms", ()))
    values = {}
    for name, array in arrays.items():
        quantity = QUANTITIES.get(name)
        if quantity is None:
            continue
        if units.get(name, quantity.unit) != quantity.unit:
            raise InputError(
                f"{source}: expected {name} in {quantity.unit}, got {units[name]}; convert it"
            )
        value = np.asarray(array, dtype=np.float64)
        inner = value.shape[1:]
        fits = inner[1:] == quantity.shape if quantity.per_atom else inner == quantity.shape
        if len(value) != len(time) or not fits:
            each = ("atoms", *quantity.shape) if quantity.per_atom else quantity.shape
            wanted = ", ".join(map(str, (len(time), *each)))
            raise InputError(f"{source}: expected {name} of shape ({wanted}), got {value.shape}")
        values[name] = value
    return TimeSeries(source, time, values, steps, atoms)


def _shape(quantity: Quantity, atoms: Sequence[int]) -> tuple[int, ...]:
    return (len(atoms), *quantity.shape) if quantity.per_atom else quantity.shape


def _h5py() -> Any:
    try:
        import h5py
    except ModuleNotFoundError as error:
        if error.name != "h5py":
            raise
        raise InputError(
            "file: HDF5 needs h5py: pip install 'openmm-les[analysis]', or use a .csv file"
        ) from None
    return h5py
