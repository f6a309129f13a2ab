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
from openmm_les.errors import InputError
from openmm_les.files.reading import Damage, Kind, boundary
from openmm_les.versions import optional

logger = logging.getLogger(__name__)

#: Names in data sets; the first one that a file has is used.
KEYS: dict[str, tuple[str, ...]] = {
    "energy": ("REF_energy", "energy", "dft_energy", "total_energy", "Energy"),
    "forces": ("REF_forces", "forces", "force", "dft_forces", "Forces"),
    "dipole": ("REF_dipole", "dipole", "dft_dipole", "dipole_moment"),
    "born_charges": ("REF_bec", "bec", "born_charges", "born_effective_charges", "BEC"),
    "stress": ("REF_stress", "stress", "dft_stress", "Stress"),
}
#: Patterns of names that may be reference values.
_PATTERNS = {"energy": "energ", "forces": "forc|grad", "dipole": "dipol"}
_PATTERNS |= {"born_charges": "bec|born", "stress": "stress|virial"}
#: Arrays of a structure that are no reference values.
_STRUCTURE = ("numbers", "positions", "momenta", "tags", "initial_charges", "initial_magmoms")
#: Numbers of columns in the properties of an extended XYZ file.
_COLUMNS = re.compile(r":[SRIL]:(\d+)(?![^:\s\"])")
#: Indices of the six components of a stress in the order of ASE.
_VOIGT = [[0, 5, 4], [5, 1, 3], [4, 3, 2]]
BORN_AXES = ("Pr", "rP")
#: Units in which quantities are read.
UNITS = {"energy": "eV", "forces": "eV/A", "dipole": "e A", "born_charges": "e", "stress": "eV/A^3"}


@dataclass(frozen=True)
class Frame:
    """A structure with its reference values; None for those that the reference lacks."""

    numbers: tuple[int, ...]  #: Atomic numbers, shape (n,)
    positions: FloatArray  #: Shape (n, 3) [A]
    cell: FloatArray | None  #: Lattice vectors in rows, shape (3, 3) [A]; None where not periodic
    energy: float | None = None  #: Of the whole structure [eV]
    forces: FloatArray | None = None  #: Shape (n, 3) [eV/A]
    dipole: FloatArray | None = None  #: Shape (3,) [e A]
    #: Shape (n, 3, 3) [e], axes atom, polarization, displacement
    born_charges: FloatArray | None = None
    #: dE/dstrain over the volume, shape (3, 3) [eV/A^3]; None without a cell
    stress: FloatArray | None = None
    source: str = ""  #: The file it comes from
    keys: Mapping[str, str] = field(default_factory=dict)  #: Names of these quantities in the file
    #: All values in the file by name, among which a model may find its conditions.
    stored: Mapping[str, Any] = field(default_factory=dict)

    @property
    def unused(self) -> set[str]:
        """Names of other values in the file."""
        return set(self.stored) - {*self.keys.values(), *_STRUCTURE}


def read_frames(
    path: Path,
    *,
    keys: dict[str, str] | None = None,
    born_axes: str = "Pr",
    limit: int | None = None,
) -> list[Frame]:
    """Read structures with reference values.

    Args:
        path: extended XYZ, or another format of ASE.
        keys: names in the file by quantity, where they are not those of `KEYS`.
        born_axes: order of Born effective charges in the file: ``'Pr'`` for dP_a/dr_b, ``'rP'`` for
            the transpose (as in SPICE).
        limit: largest number of structures to read.

    Raises:
        InputError: the file cannot be read, has no reference values, or wrong shapes.
    """
    if born_axes not in BORN_AXES:
        raise InputError(f"born_axes: expected one of {', '.join(BORN_AXES)}, got {born_axes!r}")
    if limit is not None and limit < 1:
        raise InputError(f"limit: expected a number of structures above 0, got {limit}")
    path = Path(os.path.expanduser(path))
    structures = read_structures(path, limit)
    frames = [
        _frame(atoms, path, index, keys or {}, born_axes) for index, atoms in enumerate(structures)
    ]
    missing = {name for name in keys or {} if all(getattr(f, name) is None for f in frames)}
    if missing or not any(getattr(frame, name) is not None for frame in frames for name in KEYS):
        wanted = ", ".join((keys or {}).get(name, name) for name in sorted(missing) or KEYS)
        raise InputError(
            f"{path}: expected reference values ({wanted}), got {_names(structures[0])}; give "
            "their names with --energy-key, --forces-key, --stress-key, --dipole-key or --born-key"
        )
    _warn_of_unused(path, frames)
    return frames


def _frame(atoms: Any, path: Path, index: int, keys: dict[str, str], born_axes: str) -> Frame:
    where = f"{path}, structure {index}"
    found, used = _reference(atoms, keys, where)
    if born_axes == "rP" and "born_charges" in found:
        found["born_charges"] = found["born_charges"].transpose(0, 2, 1)
    if atoms.pbc.any() != atoms.pbc.all():
        raise InputError(
            f"{where}: expected all three directions periodic or none, got "
            f"{tuple(map(bool, atoms.pbc))}; LES has no sum for slabs or wires"
        )
    cell = np.array(atoms.cell) if atoms.pbc.all() else None
    if cell is None:
        found.pop("stress", None)
    return Frame(
        tuple(int(z) for z in atoms.numbers),
        np.array(atoms.positions),
        cell,
        **found,
        source=str(path),
        keys=used,
        stored=_stored(atoms),
    )


def _warn_of_unused(path: Path, frames: Sequence[Frame]) -> None:
    """Warn of values that look like reference values by their names, but are not used."""
    for name, pattern in _PATTERNS.items():
        if any(name in frame.keys for frame in frames):
            continue
        for key in sorted({key for frame in frames for key in frame.unused}):
            if re.search(pattern, key, re.IGNORECASE):
                logger.warning(
                    f"{path}: {key} is not compared, since it has none of the names of "
                    f"{name.replace('_', ' ')} ({', '.join(KEYS[name])}); if it is that, in "
                    f"{UNITS[name]}, pass --{name.partition('_')[0]}-key"
                )


def read_structures(path: Path, limit: int | None = None, option: str = "data") -> list[Any]:
    """ASE's Atoms from a file, with all its values; at most `limit` structures.

    Raises an InputError, for the option, if the file cannot be read, or has no structures.
    """
    cannot = f"{option}: {{file}} is not a file that ASE reads: {{reason}}"
    ase_io = optional("ase.io", "ase", f"{option}: reading structures needs ASE")
    with boundary(path, Kind(InputError, option, cannot)):
        if path.suffix.lower() in (".xyz", ".extxyz"):
            _check_counts(path, limit)
        try:
            structures = ase_io.read(path, index=slice(limit), do_not_split_by_at_sign=True)
        except ImportError as error:  # of a package that a format needs
            raise Damage(str(error)) from error
    found = structures if isinstance(structures, list) else [structures]
    if not found:
        raise InputError(f"{option}: expected structures, got none in {path}")
    return found


def _check_counts(path: Path, limit: int | None) -> None:
    """Refuse an XYZ file with fewer lines or columns than it claims; ASE would read on forever."""
    with path.open(encoding="utf-8", errors="replace") as stream:
        for index in itertools.count():
            first = stream.readline()
            if index == limit or not first.strip().isdecimal():
                return
            count, names = int(first), stream.readline()
            lines = [line for line in itertools.islice(stream, count) if line.strip()]
            if len(lines) < count:
                raise Damage(f"structure {index}: expected {count} atoms, got {len(lines)} lines")
            columns = sum(int(number[:18]) for number in _COLUMNS.findall(names))
            if lines and columns > len(lines[0].split()):
                raise Damage(
                    f"structure {index}: expected {columns} columns, as its properties say, got "
                    f"{len(lines[0].split())}"
                )


def _reference(
    atoms: Any, keys: dict[str, str], where: str
) -> tuple[dict[str, Any], dict[str, str]]:
    """Reference values by the names of `KEYS`, and their names in the file."""
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
                f"{where}: expected {key} of shape {shape}, got {value.shape}; it is used as "
                f"{name}: give another key for that"
            )
        if not np.isfinite(value).all():
            raise InputError(f"{where}: expected finite numbers for {key}, got NaN or infinity")
        found[name] = float(value.item()) if name == "energy" else value.reshape(shape)
        used[name] = key
    return found, used


def _stored(atoms: Any) -> dict[str, Any]:
    """All values of a structure; those that ASE knows are in a calculator."""
    results = {} if atoms.calc is None else atoms.calc.results
    return {**results, **atoms.info, **atoms.arrays}


def _names(atoms: Any) -> str:
    names = [name for name in _stored(atoms) if name not in ("numbers", "positions")]
    return ", ".join(names) or "none"
