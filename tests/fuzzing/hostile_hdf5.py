"""HDF5 files that claim more than they hold, or hold what is no number."""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import partial
from typing import Any

from fuzzing.cases import Hostile, Seed
from fuzzing.hostile_texts import ALIENS

Change = Callable[[Any], None]


def _changed(change: Change, seed: Seed) -> bytes:
    """The first seed, changed through h5py."""
    import h5py

    stream = io.BytesIO(seed.content(seed.files[0]))
    with h5py.File(stream, "r+") as file:
        change(file)
    return stream.getvalue()


def _time(**options: Any) -> Change:
    """Another array of times."""

    def change(file: Any) -> None:
        del file["time"]
        file.create_dataset("time", **options)

    return change


def _link(make: Callable[[Any], Any]) -> Change:
    """A link, or a group, in place of the times."""

    def change(file: Any) -> None:
        import h5py

        del file["time"]
        file["time"] = make(h5py)

    return change


def _group(file: Any) -> None:
    del file["time"]
    file.create_group("time")


def _virtual(file: Any) -> None:
    import h5py

    del file["time"]
    layout = h5py.VirtualLayout(shape=(10**9,), dtype="f8")
    layout[:48] = h5py.VirtualSource("/etc/passwd", "x", shape=(48,))
    file.create_virtual_dataset("time", layout)


def _unit(value: Any) -> Change:
    def change(file: Any) -> None:
        file["time"].attrs["unit"] = value

    return change


def _many(file: Any) -> None:
    for k in range(5000):
        file.create_group(f"x{k}")


def _deep(file: Any) -> None:
    place = file
    for _ in range(500):
        place = place.create_group("x")


def _sparse(name: str, rows: int) -> Change:
    def change(file: Any) -> None:
        shape = (rows, *file[name].shape[1:])
        del file[name]
        file.create_dataset(name, shape=shape, chunks=(1024, *shape[1:]), dtype="f8")

    return change


_CHANGES: dict[str, Change] = {
    "10^12 times in no chunks": _time(shape=(10**12,), chunks=(1024,), dtype="f8"),
    "10^8 times in no chunks": _time(shape=(10**8,), chunks=(1024,), dtype="f8"),
    "10^8 by 10^8 times": _time(shape=(10**8, 10**8), chunks=(8, 8), dtype="f8"),
    "times that swell": _time(
        shape=(30_000_000,), chunks=(1_000_000,), dtype="f8", compression="gzip", fillvalue=1.0
    ),
    "10^8 rows of a quantity": _sparse("dipole", 10**8),
    "10^9 atoms": _time(shape=(48, 10**9), chunks=(1, 1024), dtype="f8"),
    "no dimension": _time(data=3.0),
    "no numbers": _time(dtype="f8"),
    "no rows": _time(shape=(0,), dtype="f8"),
    "texts": _time(data=[b"a"] * 48),
    "texts of any length": _time(data=["a"] * 48),
    "records": _time(data=[(1, 2.0)] * 48, dtype=[("a", "i4"), ("b", "f8")]),
    "complex numbers": _time(data=[1j] * 48),
    "switches": _time(data=[True] * 48),
    "not finite": _time(data=[float("nan")] * 48),
    "group": _group,
    "link to itself": _link(lambda h5py: h5py.SoftLink("/time")),
    "link to nowhere": _link(lambda h5py: h5py.SoftLink("/nowhere")),
    "link to another file": _link(lambda h5py: h5py.ExternalLink("/etc/passwd", "/x")),
    "numbers of another file": _virtual,
    "many groups": _many,
    "deep groups": _deep,
    "unit of numbers": _unit([1.0, 2.0]),
    "unit of bytes": _unit(b"\xff\xfe"),
    "unit with escapes": _unit("\x1b[31mps"),
    "unit of a megabyte": _unit("x" * 60_000),
}


def series() -> dict[str, Hostile]:
    """In place of a time series."""
    found: dict[str, Hostile] = {
        name: partial(_changed, change) for name, change in _CHANGES.items()
    }
    for name, alien in ALIENS.items():
        found[name] = lambda seed, make=alien: make(seed.content(seed.files[0]))
    return found
