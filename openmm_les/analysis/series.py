"""Time series of electric properties: names, units and checks; imports no torch, no openmm."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from openmm_les.arrays import FloatArray, IntArray
from openmm_les.errors import InputError, one_line

_XYZ = ("X", "Y", "Z")
_XYZ_BY_XYZ = tuple(p + r for p in _XYZ for r in _XYZ)
#: Relative tolerance of intervals, for rounding in tables and sums of time steps.
_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Quantity:
    """A property in a time series."""

    name: str  #: Of the dataset in HDF5 files
    label: str  #: How columns of a CSV file begin
    unit: str  #: The only one in which it is written and read
    per_atom: bool = False
    axes: tuple[str, ...] = ("",)  #: Names of its components
    shape: tuple[int, ...] = ()  #: Of one value (of one atom)

    def columns(self, atoms: Iterable[int]) -> list[str]:
        """Names of the columns of a CSV file; atoms only matter for properties of each atom."""
        words = [str(atom) for atom in atoms] if self.per_atom else [""]
        unit = f"({self.unit})" if self.unit else ""
        return [
            " ".join(filter(None, (self.label, word, axis, unit)))
            for word in words
            for axis in self.axes
        ]


QUANTITIES: dict[str, Quantity] = {
    quantity.name: quantity
    for quantity in (
        Quantity("volume", "Box Volume", "nm^3"),
        Quantity("les_energy", "LES Energy", "eV"),
        Quantity("dipole", "Dipole", "e A", axes=_XYZ, shape=(3,)),
        Quantity("current", "Current", "e A/ps", axes=_XYZ, shape=(3,)),
        Quantity("polarizability", "Polarizability", "A^3", axes=_XYZ_BY_XYZ, shape=(3, 3)),
        Quantity("charges", "Charge", "e", True),
        Quantity("atomic_dipoles", "Atomic Dipole", "e A", True, _XYZ, (3,)),
        Quantity("quadrupoles", "Quadrupole", "e A^2", True, _XYZ_BY_XYZ, (3, 3)),
        Quantity("induced_charges", "Induced Charge", "e", True),
        Quantity("induced_dipoles", "Induced Dipole", "e A", True, _XYZ, (3,)),
        Quantity("born_charges", "Born Charge", "e", True, _XYZ_BY_XYZ, (3, 3)),
        Quantity("velocities", "Mass-Weighted Velocity", "u^1/2 A/ps", True, _XYZ, (3,)),
    )
}
"""All quantities that a file can hold, beside step and time. Born effective charges have the axes
[atom, direction of the polarization, direction of the displacement]. A polarizability is that of
the whole model, as a volume. Charges and atomic dipoles include the induced ones. Velocities are
multiplied by the square root of the mass, so that a spectrum needs no masses."""

STEP, TIME = Quantity("step", "Step", ""), Quantity("time", "Time", "ps")

_BY_LABEL = {quantity.label: quantity for quantity in (STEP, TIME, *QUANTITIES.values())}
_COLUMN = re.compile(
    rf"(?P<label>{'|'.join(map(re.escape, _BY_LABEL))})"
    r"(?: (?P<atom>\d+))?(?: (?P<axis>[XYZ]{1,2}))?(?: \((?P<unit>[^()]*)\))?"
)


@dataclass(frozen=True)
class Header:
    """Metadata of the simulation; None where unknown."""

    temperature: float | None = None  #: Temperature of the thermostat [K]
    model: str | None = None  #: File name of the artifact
    model_sha256: str | None = None
    #: Sign of charges, dipoles and currents: ``'physical'``, or ``'unknown'`` where the model does
    #: not state it
    charge_sign: str | None = None

    def entries(self) -> dict[str, Any]:
        """Known entries by name."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    @classmethod
    def of(cls, source: str, entries: Mapping[str, Any], units: Mapping[str, str]) -> Header:
        """Read the entries of a file, whose units are known by name; unknown ones are ignored."""
        names = [name for name in ("model", "model_sha256", "charge_sign") if name in entries]
        found: dict[str, Any] = {name: one_line(entries[name]) for name in names}
        if "temperature" in entries:
            given, unit = entries["temperature"], units.get("temperature", "K")
            try:
                found["temperature"] = float(given)
            except (TypeError, ValueError):
                found["temperature"] = math.nan
            if unit != "K" or not 0.0 < found["temperature"] < math.inf:
                raise InputError(
                    f"{source}: expected a temperature above 0 in K, got "
                    f"{one_line(given, 40)} {one_line(unit, 40)}; correct its header"
                )
        return cls(**found)

    def check_same(self, other: Header, path: object) -> None:
        """Refuse to continue the series at `path` by a simulation with other metadata."""
        for entry in fields(self):
            there, new = getattr(self, entry.name), getattr(other, entry.name)
            if entry.name == "model" or there is None or new is None or there == new:
                continue
            if entry.name == "temperature" and math.isclose(there, new, rel_tol=1e-6):
                continue
            raise InputError(
                f"append: expected {path} to have {entry.name.replace('_', ' ')} {new} as this "
                f"simulation, got {there}; choose another file"
            )


@dataclass(frozen=True)
class TimeSeries:
    """Properties at n times."""

    source: str  #: The file, for messages
    time: FloatArray  #: Shape (n,) [ps]
    #: Arrays of shape (n, ...) by the names of `QUANTITIES`, in their units
    values: Mapping[str, FloatArray]
    steps: IntArray | None = None  #: Numbers of the time steps, shape (n,); None where unknown
    atoms: tuple[int, ...] = ()  #: Indices of the atoms, for quantities of each atom
    header: Header = Header()  #: Metadata of the simulation

    def get(self, name: str) -> FloatArray:
        """A quantity; raises an InputError if it is missing or not finite."""
        if name not in self.values:
            column = QUANTITIES[name].columns([0])[0]
            found = ", ".join(self.values) or "only the time"
            raise InputError(
                f"{self.source}: expected the quantity {name} (in CSV files a column {column!r} "
                f"and its like), got {found}; have it written with LESReporter"
            )
        value = self.values[name]
        bad = np.asarray(~np.isfinite(value.reshape(len(value), -1)).all(axis=1))
        if bad.any():
            raise InputError(
                f"{self.source}: expected finite numbers for {name}, got NaN or infinity in "
                f"{_rows(bad)}; the simulation became unstable there: leave these rows out"
            )
        return value

    @cached_property
    def interval(self) -> float:
        """Time between two rows [ps]; raises an InputError if it is not constant."""
        if len(self.time) < 2:
            raise InputError(
                f"{self.source}: expected a series in time, got {len(self.time)} row(s)"
            )
        if not np.isfinite(self.time).all():
            raise InputError(f"{self.source}: expected a finite time in every row, got NaN")
        gaps = np.diff(self.time)
        usual = float(np.median(gaps))
        uneven = np.abs(gaps - usual) > _TOLERANCE * abs(usual)
        if usual <= 0.0 or uneven.any():
            row = int(np.argmax(uneven)) if uneven.any() else 0
            raise InputError(
                f"{self.source}: expected equal intervals of time, got {gaps[row]:.6g} ps after "
                f"row {row + 1} and {usual:.6g} ps elsewhere; rows are missing or double, or the "
                "file holds several runs: take one of them, or begin later (--start)"
            )
        return float(self.time[-1] - self.time[0]) / (len(self.time) - 1)

    def since(self, start: float) -> TimeSeries:
        """The part from a time [ps] on."""
        keep = self.time >= start - 1e-9
        values = {name: value[keep] for name, value in self.values.items()}
        steps = None if self.steps is None else self.steps[keep]
        return replace(self, time=self.time[keep], values=values, steps=steps)


def from_table(
    source: str, columns: list[str], table: FloatArray, header: Header | None = None
) -> TimeSeries:
    """Read a time series from a table, shape (n, columns); unknown columns are ignored."""
    places: dict[str, dict[tuple[str, str], int]] = {}
    for place, text in enumerate(columns):
        match = _COLUMN.fullmatch(text.strip())
        if match is None:
            continue
        quantity = _BY_LABEL[match["label"]]
        if (match["unit"] or "") != quantity.unit:
            raise InputError(
                f"{source}: expected {quantity.name} in {quantity.unit or 'no unit'}, got the "
                f"column {text.strip()!r}; convert it, and name it {quantity.columns([0])[0]!r}"
            )
        of_quantity = places.setdefault(quantity.name, {})
        component = (match["atom"] or "", match["axis"] or "")
        if component in of_quantity:
            raise InputError(f"{source}: expected one column {text.strip()!r}, got two")
        of_quantity[component] = place
    moments = places.pop(TIME.name, {})
    if list(moments) != [("", "")]:
        raise InputError(
            f"{source}: expected a column 'Time (ps)', got {one_line(', '.join(columns))}"
        )
    time = table[:, moments["", ""]]
    step = places.pop(STEP.name, {}).get(("", ""))
    steps = None if step is None else as_steps(source, table[:, step])
    atoms: tuple[int, ...] = ()
    values = {}
    for name, found in places.items():
        quantity = QUANTITIES[name]
        words = dict.fromkeys(atom for atom, _ in found)
        if quantity.per_atom:
            atoms = tuple(int(word) for word in words if word)
        wanted = [(word, axis) for word in words for axis in quantity.axes]
        if sorted(wanted) != sorted(found) or quantity.per_atom == ("" in words):
            raise InputError(
                f"{source}: expected the columns {', '.join(quantity.columns([0])[:3])} and so on "
                f"for {name}, got some of them; write the file again"
            )
        order = [found[key] for key in wanted]
        many = (len(words),) if quantity.per_atom else ()
        values[name] = table[:, order].reshape(len(table), *many, *quantity.shape)
    return TimeSeries(source, time, values, steps, atoms, header or Header())


def from_arrays(
    source: str, arrays: Mapping[str, Any], units: Mapping[str, str], header: Header
) -> TimeSeries:
    """Read a time series from arrays by name; units that are not given are assumed to be right.

    Beside `QUANTITIES` and ``'time'`` there may be ``'step'`` and ``'atoms'``.
    """
    if TIME.name not in arrays:
        raise InputError(
            f"{source}: expected an array 'time' [ps], got {one_line(', '.join(arrays))}"
        )
    values = {}
    for name, quantity in {TIME.name: TIME, **QUANTITIES}.items():
        if name in arrays and units.get(name, quantity.unit) != quantity.unit:
            raise InputError(
                f"{source}: expected {name} in {quantity.unit}, got "
                f"{one_line(units[name], 40)}; convert it"
            )
    time = np.asarray(arrays[TIME.name], dtype=np.float64)
    if time.ndim != 1:
        raise InputError(f"{source}: expected time of shape (n,), got {time.shape}")
    steps = arrays.get(STEP.name)
    if steps is not None:
        steps = as_steps(source, np.asarray(steps))
        if steps.shape != time.shape:
            raise InputError(f"{source}: expected step of shape {time.shape}, got {steps.shape}")
    atoms = tuple(int(atom) for atom in np.ravel(arrays.get("atoms", ())))
    for name, quantity in QUANTITIES.items():
        if name not in arrays:
            continue
        value = np.asarray(arrays[name], dtype=np.float64)
        inner = value.shape[1:]
        fits = inner[1:] == quantity.shape if quantity.per_atom else inner == quantity.shape
        if len(np.atleast_1d(value)) != len(time) or not fits:
            each = ("atoms", *quantity.shape) if quantity.per_atom else quantity.shape
            wanted = ", ".join(map(str, (len(time), *each)))
            raise InputError(f"{source}: expected {name} of shape ({wanted}), got {value.shape}")
        values[name] = value
    return TimeSeries(source, time, values, steps, atoms, header)


def as_steps(source: str, values: npt.NDArray[Any]) -> IntArray:
    """Numbers of time steps as integers."""
    numbers = np.asarray(values, dtype=np.float64)
    if not (np.isfinite(numbers) & (np.abs(numbers) < 2**53)).all():
        raise InputError(f"{source}: expected a number of steps in every row, got something else")
    return np.asarray(values).astype(np.int64)


def is_series(columns: Iterable[str]) -> bool:
    """Whether these are the columns of a time series, and no others."""
    labels = [match and match["label"] for match in map(_COLUMN.fullmatch, columns)]
    return None not in labels and {STEP.label, TIME.label} < set(labels)


def _rows(bad: npt.NDArray[np.bool_]) -> str:
    """Names of rows, counted from 1, for messages."""
    number = int(bad.sum())
    return f"row {np.argmax(bad) + 1}" + (f" and {number - 1} more" if number > 1 else "")
