"""Time series in HDF5 files that stay intact when the disk is full.

On a full disk, HDF5 can neither write nor discard its changes, and the process crashes. So HDF5
changes a copy-on-write layer in memory; Python writes the changes, or reverts them if that fails.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from openmm_les.analysis.series import QUANTITIES, STEP, TIME, Header, TimeSeries, from_arrays
from openmm_les.analysis.series_file import SeriesFile, check_array, shape_of, units_of
from openmm_les.arrays import FloatArray
from openmm_les.errors import InputError
from openmm_les.files.writing import write_atomically
from openmm_les.versions import optional

#: Approximate number of values in a chunk.
_CHUNK = 8192
_KNOWN = (STEP.name, TIME.name, "atoms", *QUANTITIES)


class HDF5File(SeriesFile):
    """Datasets that grow, each with an attribute ``unit``; suited to large series."""

    def is_ours(self) -> bool:
        with h5py().File(self.path, "r", locking=False) as file:
            return STEP.name in file and TIME.name in file and set(file) <= set(_KNOWN)

    def read(self) -> TimeSeries:
        arrays, units = {}, {}
        with h5py().File(self.path, "r") as file:
            for name in filter(file.__contains__, _KNOWN):
                dataset = self._dataset(file, name)
                check_array(self.path, name, dataset.shape, dataset.dtype)
                arrays[name] = np.asarray(dataset)
                if "unit" in dataset.attrs:
                    units[name] = str(dataset.attrs["unit"])
            entries = {name: file.attrs[name] for name in file.attrs}
        units["temperature"] = str(entries.get("temperature_unit", "K"))
        header = Header.of(str(self.path), entries, units)
        return from_arrays(str(self.path), arrays, units, header)

    def _dataset(self, file: Any, name: str) -> Any:
        """A dataset that is stored in this file."""
        found = file.get(name)
        inside = isinstance(file.get(name, getlink=True), h5py().HardLink)
        if not inside or not isinstance(found, h5py().Dataset):
            raise InputError(f"{self.path}: expected a dataset {name}, got a link or a group")
        if found.is_virtual or found.external:
            raise InputError(
                f"{self.path}: expected the numbers of {name} in this file, got a reference to "
                "another one; copy them"
            )
        return found

    def create(self) -> None:
        content = io.BytesIO()
        with h5py().File(content, "w") as file:
            for name, value in self.header.entries().items():
                file.attrs[name] = value
            if self.header.temperature is not None:
                file.attrs["temperature_unit"] = units_of(())["temperature"]
            file.create_dataset("atoms", data=np.array(self.atoms, dtype=np.int64))
            for quantity in (STEP, TIME, *self.quantities):
                shape = shape_of(quantity, self.atoms)
                dataset = file.create_dataset(
                    quantity.name,
                    shape=(0, *shape),
                    maxshape=(None, *shape),
                    chunks=(max(1, _CHUNK // max(1, int(np.prod(shape)))), *shape),
                    dtype=np.int64 if quantity is STEP else np.float64,
                )
                dataset.attrs["unit"] = quantity.unit
        write_atomically(self.path, content.getvalue())

    def append(self, step: int, time: float, values: Mapping[str, FloatArray]) -> None:
        row = {"step": step, "time": time, **values}

        def add(file: Any) -> None:
            for quantity in (STEP, TIME, *self.quantities):
                dataset = file[quantity.name]
                dataset.resize(len(dataset) + 1, axis=0)
                dataset[-1] = row[quantity.name]

        self._change(add)

    def cut(self, rows: int) -> None:
        def truncate(file: Any) -> None:
            for quantity in (STEP, TIME, *self.quantities):
                file[quantity.name].resize(rows, axis=0)

        self._change(truncate)

    def _change(self, change: Callable[[Any], None]) -> None:
        # Opened and closed for each row, so that a killed process leaves an intact file.
        with _Overlay(self.path) as overlay:
            with h5py().File(overlay, "r+") as file:
                change(file)
            overlay.apply()


class _Overlay(io.RawIOBase):
    """A file with changes in memory."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._descriptor = os.open(path, os.O_RDWR)
        self._length = self._size = os.fstat(self._descriptor).st_size
        self._position = 0
        self._changes: list[tuple[int, bytes]] = []

    def close(self) -> None:
        if not self.closed:
            os.close(self._descriptor)
        super().close()

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        self._position = start + offset
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        first, last = self._position, self._position + len(view)
        view[:] = os.pread(self._descriptor, len(view), first).ljust(len(view), b"\0")
        for offset, content in self._changes:  # about a dozen for each row
            begin, end = max(first, offset), min(last, offset + len(content))
            if begin < end:
                view[begin - first : end - first] = content[begin - offset : end - offset]
        self._position = last
        return len(view)

    def write(self, content: Any) -> int:
        self._changes.append((self._position, bytes(content)))
        self._position += len(self._changes[-1][1])
        self._size = max(self._size, self._position)
        return len(self._changes[-1][1])

    def truncate(self, size: int | None = None) -> int:
        self._size = self._position if size is None else size
        return self._size

    def apply(self) -> None:
        """Write the changes."""
        before = [
            (offset, os.pread(self._descriptor, len(content), offset))
            for offset, content in self._changes
        ]
        try:
            _write(self._descriptor, self._changes)
            os.ftruncate(self._descriptor, self._size)
        except OSError:
            # Needs no space: the blocks exist.
            os.ftruncate(self._descriptor, self._length)
            _write(self._descriptor, before[::-1])
            raise


def _write(descriptor: int, pieces: list[tuple[int, bytes]]) -> None:
    for offset, content in pieces:
        done = 0
        while done < len(content):
            done += os.pwrite(descriptor, content[done:], offset + done)


def h5py() -> Any:
    """The package h5py; raises an InputError if it is not installed."""
    return optional("h5py", "analysis", "file: HDF5 needs h5py; use a .csv file, or install it")
