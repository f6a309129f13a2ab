"""Structures with reference values, read from files."""

from __future__ import annotations

import itertools
import logging
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from openmm_les.arrays import FloatArray
from openmm_les.errors import InputError, one_line

logger = logging.getLogger(__name__)

#: Names that data sets use, the first that is there is taken.
KEYS: dict[str, tuple[str, ...]] = {
    "energy": ("REF_energy", "energy", "dft_energy", "total_energy", "Energy"),
    "forces": ("REF_forces", "forces", "force", "dft_forces", "Forces"),
    "dipole": ("REF_dipole", "dipole", "dft_dipole", "dipole_moment"),
    "born_charges": ("REF_bec", "bec", "born_charges", "born_effective_charges", "BEC"),
    "stress": ("REF_stress", "stress", "dft_stress", "Stress"),
}
#: How names look that may be references of a quantity.
_LOOKS = {
    "energy": "energ",
    "forces": "forc|grad",
    "dipole": "dipol",
    "born_charges": "bec|born",
    "stress": "stress|virial",
}
#: Of a structure itself.
_STRUCTURE = ("numbers", "positions", "momenta", "tags", "initial_charges", "initial_magmoms")
#: Numbers of columns in the properties of an extended XYZ file.
_COLUMNS = re.compile(r":[SRIL]:(\d+)(?![^:\s\"])")
#: Places of the six components of a stress in its matrix, as ASE orders them.
_VOIGT = [[0, 5, 4], [5, 1, 3], [4, 3, 2]]
BORN_AXES = ("Pr", "rP")
#: In which quantities are read.
UNITS = {
    "energy": "eV",
    "forces": "eV/A",
    "dipole": "e A",
    "born_charges": "e",
    "stress": "eV/A^3",
}


@dataclass(frozen=True)
class Frame:
    """A structure and what its reference says of it; None for what that does not.

    Attributes:
        numbers: atomic numbers, shape (n,).
        positions: shape (n, 3) [A].
        cell: lattice vectors in rows, shape (3, 3) [A]; None where not periodic.
        energy: of the whole structure [eV].
        forces: shape (n, 3) [eV/A].
        dipole: shape (3,) [e A].
        born_charges: shape (n, 3, 3) [e], axes atom, polarization, displacement.
        stress: dE/dstrain over the volume, shape (3, 3) [eV/A^3]; None without a cell.
        source: the file it comes from.
        keys: under which names the file has these quantities.
        unused: what else the file says of it.
    """

    numbers: tuple[int, ...]
    positions: FloatArray
    cell: FloatArray | None
    energy: float | None = None
    forces: FloatArray | None = None
    dipole: FloatArray | None = None
    born_charges: FloatArray | None = None
    stress: FloatArray | None = None
    source: str = ""
    keys: Mapping[str, str] = field(default_factory=dict)
    unused: tuple[str, ...] = ()


def read_frames(
    path: Path,
    *,
    keys: dict[str, str] | None = None,
    born_axes: str = "Pr",
    limit: int | None = None,
) -> list[Frame]:
    """Read structures with reference values.

    Args:
        path: extended XYZ, or what else ASE reads.
        keys: under which name a quantity of `KEYS` stands, where it is not one of these.
        born_axes: order of Born effective charges in the file: ``'Pr'`` for dP_a/dr_b, ``'rP'`` for
            the transpose (as in SPICE).
        limit: read so many structures.

    Raises:
        InputError: the file cannot be read, has no reference values, or wrong shapes.
    """
    if born_axes not in BORN_AXES:
        raise InputError(f"born_axes: expected one of {', '.join(BORN_AXES)}, got {born_axes!r}")
    if limit is not None and limit < 1:
        raise InputError(f"limit: expected a number of structures above 0, got {limit}")
    path = Path(os.path.expanduser(path))
    structures = read_structures(path, limit)
    frames = []
    for index, atoms in enumerate(structures):
        where = f"{path}, structure {index}"
        found, used = _reference(atoms, keys or {}, where)
        if born_axes == "rP" and "born_charges" in found:
            found["born_charges"] = found["born_charges"].transpose(0, 2, 1)
        if atoms.pbc.any() != atoms.pbc.all():
            raise InputError(
                f"{where}: expected all three directions periodic or none, got "
                f"{tuple(map(bool, atoms.pbc))}; LES has no sum for slabs or wires"
            )
        numbers = tuple(int(z) for z in atoms.numbers)
        cell = np.array(atoms.cell) if atoms.pbc.all() else None
        if cell is None:
            found.pop("stress", None)
        unused = tuple(set(_stored(atoms)) - {*used.values(), *_STRUCTURE})
        frames.append(
            Frame(
                numbers,
                np.array(atoms.positions),
                cell,
                **found,
                source=str(path),
                keys=used,
                unused=unused,
            )
        )
    missing = {name for name in keys or {} if all(getattr(f, name) is None for f in frames)}
    if missing or not any(getattr(frame, name) is not None for frame in frames for name in KEYS):
        wanted = ", ".join((keys or {}).get(name, name) for name in sorted(missing) or KEYS)
        raise InputError(
            f"{path}: expected reference values ({wanted}), got {_names(structures[0])}; say what "
            "they are called with --energy-key, --forces-key, --stress-key, --dipole-key or "
            "--born-key"
        )
    _tell_unused(path, frames)
    return frames


def _tell_unused(path: Path, frames: Sequence[Frame]) -> None:
    """Warn of what may be a reference value and is under a name that nobody knows."""
    for name, pattern in _LOOKS.items():
        if any(name in frame.keys for frame in frames):
            continue
        for key in sorted({key for frame in frames for key in frame.unused}):
            if re.search(pattern, key, re.IGNORECASE):
                logger.warning(
                    "%s: %s is not compared, since it has none of the names of %s (%s); if it is "
                    "that, in %s, say so with --%s-key",
                    path,
                    key,
                    name.replace("_", " "),
                    ", ".join(KEYS[name]),
                    UNITS[name],
                    name.partition("_")[0],
                )


def read_structures(path: Path, limit: int | None = None) -> list[Any]:
    """Structures of a file as ASE reads them, with whatever it says of them.

    Args:
        path: extended XYZ, or what else ASE reads.
        limit: read so many structures.

    Raises:
        InputError: the file cannot be read, or has no structures.
    """
    try:
        import ase.io
    except ModuleNotFoundError as error:
        if error.name != "ase":
            raise
        raise InputError(
            "data: reading structures needs ASE: pip install 'openmm-les[ase]'"
        ) from None
    try:
        if path.suffix.lower() in (".xyz", ".extxyz"):
            _check_counts(path, limit)
        structures = ase.io.read(path, index=slice(limit), do_not_split_by_at_sign=True)
    except InputError:
        raise
    except Exception as error:  # ASE's readers raise whatever a broken line leads to
        if isinstance(error, OSError) and error.strerror:
            raise InputError(f"data: cannot read {path}: {error.strerror}") from None
        raise InputError(f"data: {path} is not a file that ASE reads: {one_line(error)}") from error
    found = structures if isinstance(structures, list) else [structures]
    if not found:
        raise InputError(f"data: expected structures, got none in {path}")
    return found


def _check_counts(path: Path, limit: int | None) -> None:
    """Refuse an XYZ file that claims more than it holds, which ASE would look for without end.

    What else is wrong with it, ASE says better.

    Raises:
        InputError: fewer lines than atoms, or fewer columns than named.
    """
    with path.open(encoding="utf-8", errors="replace") as stream:
        for index in itertools.count():
            first = stream.readline()
            if index == limit or not first.strip().isdecimal():
                return
            count, names = int(first), stream.readline()
            lines = [line for line in itertools.islice(stream, count) if line.strip()]
            where = f"data: {path} is not a file that ASE reads: structure {index}"
            if len(lines) < count:
                raise InputError(f"{where}: expected {count} atoms, got {len(lines)} lines of them")
            columns = sum(int(number[:18]) for number in _COLUMNS.findall(names))
            if lines and columns > len(lines[0].split()):
                raise InputError(
                    f"{where}: expected {columns} columns, as many as its properties have, got "
                    f"{len(lines[0].split())}"
                )


def _reference(
    atoms: Any, keys: dict[str, str], where: str
) -> tuple[dict[str, Any], dict[str, str]]:
    """Reference values of a structure by the names of `KEYS`, and their names in the file."""
    stored = _stored(atoms)
    shapes = {
        "energy": (),
        "forces": (len(atoms), 3),
        "dipole": (3,),
        "born_charges": (len(atoms), 3, 3),
        "stress": (3, 3),
    }
    found: dict[str, Any] = {}
    used: dict[str, str] = {}
    for name, shape in shapes.items():
        candidates = (keys[name],) if name in keys else KEYS[name]
        key = next((candidate for candidate in candidates if candidate in stored), None)
        if key is None:
            continue
        try:
            value = np.asarray(stored[key], dtype=np.float64)
        except (TypeError, ValueError):
            raise InputError(
                f"{where}: expected numbers for {key}, got {str(stored[key])[:40]!r}"
            ) from None
        if name == "stress" and value.size == 6:
            value = value.ravel()[_VOIGT]
        if value.size != np.prod(shape, dtype=int):
            raise InputError(
                f"{where}: expected {key} of shape {shape}, got {value.shape}; it is taken for "
                f"{name}: give another key for that"
            )
        if not np.isfinite(value).all():
            raise InputError(f"{where}: expected finite numbers for {key}, got NaN or infinity")
        found[name] = float(value.item()) if name == "energy" else value.reshape(shape)
        used[name] = key
    return found, used


def _stored(atoms: Any) -> dict[str, Any]:
    """Everything that a file says of a structure; ASE keeps what it knows in a calculator."""
    results = {} if atoms.calc is None else atoms.calc.results
    return {**results, **atoms.info, **atoms.arrays}


def _names(atoms: Any) -> str:
    return ", ".join(name for name in _stored(atoms) if name not in ("numbers", "positions")) or (
        "none"
    )
