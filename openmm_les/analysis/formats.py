"""Files of time series: CSV and HDF5, read as a whole and written row by row.

A row is handed to the operating system before the next one comes, and is written completely or not
at all. Rows can be removed from the end, so that a resumed simulation continues its file.
"""

from __future__ import annotations

import csv
import io
import json
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

import numpy as np

from openmm_les.analysis.hdf5 import HDF5File, h5py
from openmm_les.analysis.series import STEP, TIME, Header, TimeSeries, from_table, is_series
from openmm_les.analysis.series_file import SeriesFile, units_of
from openmm_les.arrays import FloatArray
from openmm_les.errors import InputError, one_line
from openmm_les.files.reading import Kind, boundary
from openmm_les.files.writing import write_atomically

#: Digits of a number in a CSV file: more than single precision has.
_DIGITS = 10
_KIND = Kind(InputError, "file", "file: {file} is not a CSV or HDF5 file of numbers: {reason}")
#: How the comment below the column names begins; the rest is JSON.
_COMMENT = "# {"


class CSVFile(SeriesFile):
    """A table with column names as OpenMM's reporters write them.

    Metadata of the simulation are JSON in the line below, which is a comment for numpy.
    """

    def is_ours(self) -> bool:
        with self.path.open(newline="", encoding="utf-8-sig") as stream:
            return is_series(_columns(stream))

    def read(self, *, is_growing: bool = False) -> TimeSeries:
        source = str(self.path)
        with self.path.open(newline="", encoding="utf-8-sig") as file:
            stream: IO[str] = file
            if is_growing:  # its last row may break
                stream = io.StringIO(file.read())
                stream.truncate(stream.getvalue().rfind("\n") + 1)
            columns = _columns(stream)
            start = stream.tell()
            line = stream.readline()
            header = _header(source, line)
            if not line.startswith(_COMMENT):
                stream.seek(start)
            return _series(source, columns, stream, header)

    def sample(self, rows: int) -> TimeSeries:
        """Some rows, evenly over the file, of which little else is read; all if they are few.

        Works for a file that grows, whose last row may break.
        """
        source, found = str(self.path), {}
        with self.path.open("rb") as stream:
            names = stream.readline().decode("utf-8-sig")
            start = stream.tell()
            header = _header(source, line := stream.readline().decode())
            if line.startswith(_COMMENT):
                start = stream.tell()
            size = stream.seek(0, os.SEEK_END)
            for place in np.linspace(start, size, rows, endpoint=False, dtype=np.int64):
                stream.seek(max(0, int(place) - 1))
                stream.readline()  # the rest of the row before
                first, row = stream.tell(), stream.readline()
                if row.endswith(b"\n"):
                    found[first] = row.decode()
        table = io.StringIO("".join(found.values()))
        return _series(source, _columns(io.StringIO(names)), table, header)

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
                left -= not line.startswith(_COMMENT.encode())
            place = stream.tell()
            if not stream.readline().startswith(_COMMENT.encode()):
                stream.seek(place)
            stream.truncate(stream.tell())


_FORMATS: dict[str, type[SeriesFile]] = {".csv": CSVFile, ".h5": HDF5File, ".hdf5": HDF5File}


def open_series(
    path: str | os.PathLike[str],
    names: Sequence[str] = (),
    atoms: Sequence[int] = (),
    header: Header | None = None,
) -> SeriesFile:
    """A file of time series, in the format of its suffix; see `SeriesFile` for the arguments."""
    file = Path(os.path.expanduser(path))
    kind = _FORMATS.get(file.suffix.lower())
    if kind is None:
        raise InputError(f"file: expected a name that ends in {', '.join(_FORMATS)}, got {file}")
    if kind is HDF5File:
        h5py()
    return kind(file, names, atoms, header)


def read(path: str | os.PathLike[str]) -> TimeSeries:
    """Read a time series, written by LESReporter or with the same names and units."""
    file = open_series(path)
    with boundary(file.path, _KIND):
        return file.read()


def _series(source: str, columns: list[str], rows: IO[str], header: Header) -> TimeSeries:
    """The series of a stream that is at its first row."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of numpy: no rows yet
            table = np.loadtxt(rows, delimiter=",", ndmin=2, dtype=np.float64)
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


def _columns(stream: IO[str]) -> list[str]:
    """Column names, from the first line."""
    return next(csv.reader([stream.readline().removeprefix("#")]), [])


def _header(source: str, line: str) -> Header:
    """Metadata in the line below the column names, if that is a comment."""
    if not line.startswith(_COMMENT):
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
