"""Files of time series: CSV, NPZ and HDF5, read in whole and written row by row.

Every row is complete on the disk (as far as this process is concerned) before the next one comes,
and rows from some step on can be taken back, so that a simulation can continue its file. A row
that cannot be written is not there at all.
"""

from __future__ import annotations

import csv
import io
import json
import os
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from openmm_les.analysis.hdf5 import HDF5File, h5py
from openmm_les.analysis.series import (
    QUANTITIES,
    STEP,
    TIME,
    Header,
    TimeSeries,
    from_arrays,
    from_table,
    is_series,
)
from openmm_les.analysis.series_file import SeriesFile, check_array, shape_of, units_of
from openmm_les.arrays import FloatArray
from openmm_les.errors import InputError, LESError, one_line
from openmm_les.files.writing import write_atomically

#: Digits of a number in a CSV file: more than single precision has.
_DIGITS = 10
#: What the comment below the column names begins with; the rest is JSON.
_MARK = "# {"
#: Bytes that describe an array in an NPZ file, at most.
_PREAMBLE = 10_000


class CSVFile(SeriesFile):
    """A table with the column names that OpenMM's reporters write; anything reads it.

    What it says of the simulation stands below them, in one line that is a comment for numpy.
    """

    def is_ours(self) -> bool:
        with self.path.open(newline="", encoding="utf-8-sig") as stream:
            return is_series(_columns(stream))

    def read(self) -> TimeSeries:
        source = str(self.path)
        with self.path.open(newline="", encoding="utf-8-sig") as stream:
            columns = _columns(stream)
            start = stream.tell()
            line = stream.readline()
            header = _header(source, line)
            if not line.startswith(_MARK):
                stream.seek(start)
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", UserWarning)  # of numpy: no rows yet
                    table = np.loadtxt(stream, delimiter=",", ndmin=2, dtype=np.float64)
            except ValueError as error:
                raise InputError(
                    f"{source}: expected a table of numbers below its header, got something else "
                    f"({one_line(error)}); delete the broken line if it is the last"
                ) from None
        if table.size and table.shape[1] != len(columns):
            raise InputError(
                f"{source}: expected {len(columns)} columns, as many as in the header, got "
                f"{table.shape[1]}"
            )
        return from_table(source, columns, table.reshape(-1, max(1, len(columns))), header)

    def check_columns(self, series: TimeSeries) -> None:
        super().check_columns(series)
        with self.path.open(encoding="utf-8") as stream:
            names = stream.readline()
        if names != self._names():
            raise InputError(
                f"append: expected {self.path} to have its columns in the order in which they are "
                "written, got another; choose another file"
            )

    def create(self) -> None:
        write_atomically(self.path, (self._names() + self._comment()).encode())

    def _names(self) -> str:
        quantities = (STEP, TIME, *self.quantities)
        names = [name for quantity in quantities for name in quantity.columns(self.atoms)]
        return "#" + ",".join(f'"{name}"' for name in names) + "\n"

    def _comment(self) -> str:
        entries = self.header.entries()
        if not entries:
            return ""
        return "# " + json.dumps({**entries, "units": units_of(())}) + "\n"

    def append(self, step: int, time: float, values: Mapping[str, FloatArray]) -> None:
        numbers = [number for q in self.quantities for number in np.ravel(values[q.name])]
        words = [str(step), *(f"{number:.{_DIGITS}g}" for number in (time, *numbers))]
        line = (",".join(words) + "\n").encode()
        with self.path.open("ab", buffering=0) as stream:
            length = stream.seek(0, os.SEEK_END)
            try:
                while line:
                    line = line[stream.write(line) :]
            except OSError:
                stream.truncate(length)
                raise

    def cut(self, rows: int) -> None:
        with self.path.open("r+b") as stream:
            left = rows + 1  # and the column names
            while left and (line := stream.readline()):
                left -= not line.startswith(_MARK.encode())
            place = stream.tell()
            if not stream.readline().startswith(_MARK.encode()):
                stream.seek(place)
            stream.truncate(stream.tell())


class NPZFile(SeriesFile):
    """Arrays for numpy.load. Each row writes the whole file again, so keep these short."""

    def is_ours(self) -> bool:
        with zipfile.ZipFile(self.path) as archive:
            names = {Path(name).stem for name in archive.namelist()}
        others = {"atoms", "units", *Header.names(), *QUANTITIES}
        return {STEP.name, TIME.name} <= names and names <= {STEP.name, TIME.name, *others}

    def read(self) -> TimeSeries:
        source = str(self.path)
        with zipfile.ZipFile(self.path) as archive:
            there = set(archive.namelist())

            def get(names: Sequence[str]) -> dict[str, Any]:
                return {
                    name: self._array(archive, name) for name in names if f"{name}.npy" in there
                }

            units = json.loads(get(["units"]).get("units", "{}"))
            header = Header.of(source, get(Header.names()), units)
            arrays = get([STEP.name, TIME.name, "atoms", *QUANTITIES])
        if TIME.name not in arrays:
            arrays |= dict.fromkeys(Path(name).stem for name in sorted(there))  # for the message
            arrays.pop(TIME.name, None)
        return from_arrays(source, arrays, units, header)

    def _array(self, archive: zipfile.ZipFile, name: str) -> Any:
        """An array, or the text that one holds, whose size was looked at first."""
        with archive.open(f"{name}.npy") as stream:
            version = np.lib.format.read_magic(stream)
            reader = {
                (1, 0): np.lib.format.read_array_header_1_0,
                (2, 0): np.lib.format.read_array_header_2_0,
            }[version]
            shape, _, dtype = reader(stream)
        is_text = dtype.kind == "U" and shape == () and dtype.itemsize <= 4 * _PREAMBLE
        if not is_text:
            check_array(self.path, name, shape, dtype)
        with archive.open(f"{name}.npy") as stream:
            array = np.lib.format.read_array(stream, allow_pickle=False)
        return str(array) if is_text else array

    def create(self) -> None:
        empty = {q.name: np.zeros((0, *shape_of(q, self.atoms))) for q in self.quantities}
        self._write({"step": np.zeros(0, dtype=np.int64), "time": np.zeros(0), **empty})

    def append(self, step: int, time: float, values: Mapping[str, FloatArray]) -> None:
        row = {"step": step, "time": time, **values}
        self._write(
            {
                name: np.concatenate([array, np.asarray(row[name])[None]])
                for name, array in self._rows().items()
            }
        )

    def cut(self, rows: int) -> None:
        self._write({name: array[:rows] for name, array in self._rows().items()})

    def _rows(self) -> dict[str, Any]:
        with np.load(self.path, allow_pickle=False) as archive:
            return {name: archive[name] for name in ("step", "time", *self._quantity_names())}

    def _quantity_names(self) -> list[str]:
        return [q.name for q in self.quantities]

    def _write(self, arrays: Mapping[str, Any]) -> None:
        content = io.BytesIO()
        np.savez(
            content,
            **arrays,
            **self.header.entries(),
            atoms=np.array(self.atoms, dtype=np.int64),
            units=json.dumps(units_of((TIME, *self.quantities))),
        )
        part = self.path.with_name(f".{self.path.name}.part")
        try:
            part.write_bytes(content.getvalue())
            os.replace(part, self.path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise


_FORMATS: dict[str, type[SeriesFile]] = {
    ".csv": CSVFile,
    ".npz": NPZFile,
    ".h5": HDF5File,
    ".hdf5": HDF5File,
}


def open_series(
    path: str | os.PathLike[str],
    names: Sequence[str] = (),
    atoms: Sequence[int] = (),
    header: Header | None = None,
) -> SeriesFile:
    """The file at `path`, in the format that its name says.

    Args:
        path: ends in ``.csv``, ``.npz``, ``.h5`` or ``.hdf5``.
        names: what is written, for a file that is to be written.
        atoms: indices of the atoms, likewise.
        header: of the simulation, likewise.

    Raises:
        InputError: another ending, or h5py is not installed.
    """
    file = Path(os.path.expanduser(path))
    kind = _FORMATS.get(file.suffix.lower())
    if kind is None:
        raise InputError(f"file: expected a name that ends in {', '.join(_FORMATS)}, got {file}")
    if kind is HDF5File:
        h5py()
    return kind(file, names, atoms, header)


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
    except LESError:
        raise
    except Exception as error:  # the libraries raise whatever a damaged file leads to
        if isinstance(error, OSError) and error.strerror:
            raise InputError(f"file: cannot read {file.path}: {error.strerror}") from None
        kind = {".npz": "an NPZ", ".csv": "a CSV"}.get(file.path.suffix.lower(), "an HDF5")
        raise InputError(
            f"{file.path}: expected {kind} file of numbers, got something else ({one_line(error)})"
        ) from error


def _columns(stream: IO[str]) -> list[str]:
    """Names of the columns, with which a table begins."""
    return next(csv.reader([stream.readline().removeprefix("#")]), [])


def _header(source: str, line: str) -> Header:
    """What the line below the names says of the simulation."""
    if not line.startswith(_MARK):
        return Header()
    try:
        entries = json.loads(line.removeprefix("#"))
        units = dict(entries.pop("units", {}))
    except (ValueError, TypeError, AttributeError, RecursionError):
        raise InputError(
            f"{source}: expected JSON in the comment below the column names, got something else; "
            "correct or delete that line"
        ) from None
    return Header.of(source, entries, units)
