"""A model against reference data: energies, forces, dipoles and Born effective charges."""

from __future__ import annotations

import csv
import io
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from openmm_les.analysis.series import FloatArray
from openmm_les.artifact import Artifact
from openmm_les.errors import InputError, SimulationError
from openmm_les.system_model import SystemModel

logger = logging.getLogger(__name__)

#: Names that data sets use, the first that is there is taken.
KEYS: dict[str, tuple[str, ...]] = {
    "energy": ("REF_energy", "energy", "dft_energy", "total_energy", "Energy"),
    "forces": ("REF_forces", "forces", "force", "dft_forces", "Forces"),
    "dipole": ("REF_dipole", "dipole", "dft_dipole", "dipole_moment"),
    "born_charges": ("REF_bec", "bec", "born_charges", "born_effective_charges", "BEC"),
}
BORN_AXES = ("Pr", "rP")
#: The transposed order is told to be better if it leaves less than this fraction of the error.
_CLEARLY_BETTER = 0.9


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
    """

    numbers: tuple[int, ...]
    positions: FloatArray
    cell: FloatArray | None
    energy: float | None = None
    forces: FloatArray | None = None
    dipole: FloatArray | None = None
    born_charges: FloatArray | None = None


@dataclass(frozen=True)
class Statistics:
    """How well one quantity is reproduced.

    Attributes:
        quantity: its name.
        unit: of `rmse`, `mae` and `bias`.
        number: of values.
        rmse: root mean square error.
        mae: mean absolute error.
        bias: mean of model minus reference.
        r2: coefficient of determination, 1 - sum (model - reference)^2 / sum (reference - mean)^2;
            NaN where the reference does not vary.
        slope: of the line, with intercept, that fits the model's values over the reference's.
    """

    quantity: str
    unit: str
    number: int
    rmse: float
    mae: float
    bias: float
    r2: float
    slope: float

    @classmethod
    def of(cls, quantity: str, unit: str, reference: FloatArray, model: FloatArray) -> Statistics:
        """Compare two arrays of shape (n,)."""
        error = model - reference
        spread = reference - reference.mean()
        variance = float(spread @ spread)
        varies = variance > 0.0
        return cls(
            quantity,
            unit,
            len(error),
            rmse=float(np.sqrt(np.mean(error**2))),
            mae=float(np.abs(error).mean()),
            bias=float(error.mean()),
            r2=1.0 - float(error @ error) / variance if varies else float("nan"),
            slope=float(spread @ model) / variance if varies else float("nan"),
        )


@dataclass
class Validation:
    """Reference and model, frame by frame.

    Attributes:
        frames: the reference.
        results: what the model says, in the same order, with the same things missing.
    """

    frames: list[Frame] = field(default_factory=list)
    results: list[Frame] = field(default_factory=list)

    def pairs(self, name: str) -> tuple[FloatArray, FloatArray]:
        """All values of reference and model where both have them, shape (n,) each.

        Args:
            name: ``'energy'`` is for each atom; also ``'energy_shifted'``.
        """
        if name == "energy_shifted":
            reference, model = self.pairs("energy")
            return reference, model + self._shift
        chosen = [
            (getattr(frame, name), getattr(result, name), len(frame.numbers))
            for frame, result in zip(self.frames, self.results, strict=True)
            if getattr(result, name) is not None
        ]
        if not chosen:
            return np.zeros(0), np.zeros(0)
        references, models, sizes = zip(*chosen, strict=True)
        if name == "energy":
            return np.array(references) / sizes, np.array(models) / sizes
        return np.concatenate([np.ravel(r) for r in references]), np.concatenate(
            [np.ravel(m) for m in models]
        )

    @cached_property
    def _shift(self) -> FloatArray:
        """What one energy for each element adds to the model's energies per atom, by least squares.

        References agree on these energies up to a choice (isolated atoms, formation energies, ...),
        of which forces know nothing.
        """
        both = [
            (frame, result)
            for frame, result in zip(self.frames, self.results, strict=True)
            if frame.energy is not None
        ]
        elements = sorted({z for frame, _ in both for z in frame.numbers})
        counts = np.array([[frame.numbers.count(z) for z in elements] for frame, _ in both])
        fractions = counts / counts.sum(axis=1, keepdims=True)
        reference, model = self.pairs("energy")
        shifts = np.linalg.lstsq(fractions, reference - model, rcond=None)[0]
        return np.asarray(fractions @ shifts)

    def statistics(self) -> list[Statistics]:
        """A row for each quantity that there is."""
        rows = []
        for name, label, unit, scale in (
            ("energy", "energy per atom", "meV", 1e3),
            ("energy_shifted", "energy per atom, shifted", "meV", 1e3),
            ("forces", "forces", "meV/A", 1e3),
            ("dipole", "dipole", "e A", 1.0),
            ("born_charges", "Born charges", "e", 1.0),
        ):
            if self.has(name):
                reference, model = self.pairs(name)
                rows.append(Statistics.of(label, unit, scale * reference, scale * model))
        return rows

    def has(self, name: str) -> bool:
        """Whether there is anything to compare for a quantity; see `pairs`."""
        name = name.removesuffix("_shifted")
        return any(getattr(result, name) is not None for result in self.results)

    def to_csv(self) -> str:
        """A row for each frame; empty cells for what its reference does not say."""
        text = io.StringIO()
        table = csv.writer(text, lineterminator="\n")
        columns = ["frame", "formula", "atoms"]
        columns += ["energy reference (eV)", "energy model (eV)", "energy error (meV/atom)"]
        columns += ["energy error, shifted (meV/atom)", "force RMSE (meV/A)"]
        columns += [f"dipole {side} {x} (e A)" for side in ("reference", "model") for x in "XYZ"]
        columns += ["Born charge RMSE (e)"]
        table.writerow(columns)
        shifts = iter(self._shift if self.has("energy") else ())
        for index, (frame, result) in enumerate(zip(self.frames, self.results, strict=True)):
            size = len(frame.numbers)
            row: list[Any] = [index, formula(frame.numbers), size]
            if frame.energy is None or result.energy is None:
                row += [""] * 4
            else:
                error = (result.energy - frame.energy) / size
                row += [frame.energy, result.energy, 1e3 * error, 1e3 * (error + next(shifts))]
            row.append(_rmse(frame.forces, result.forces, 1e3))
            if frame.dipole is None or result.dipole is None:
                row += [""] * 6
            else:
                row += [*frame.dipole, *result.dipole]
            row.append(_rmse(frame.born_charges, result.born_charges))
            table.writerow(f"{value:.8g}" if isinstance(value, float) else value for value in row)
        return text.getvalue()


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
    structures = _read(path, limit)
    frames = []
    for index, atoms in enumerate(structures):
        where = f"{path}, structure {index}"
        found = _reference(atoms, keys or {}, where)
        if born_axes == "rP" and "born_charges" in found:
            found["born_charges"] = found["born_charges"].transpose(0, 2, 1)
        if atoms.pbc.any() != atoms.pbc.all():
            raise InputError(
                f"{where}: expected all three directions periodic or none, got "
                f"{tuple(map(bool, atoms.pbc))}; LES has no sum for slabs or wires"
            )
        numbers = tuple(int(z) for z in atoms.numbers)
        cell = np.array(atoms.cell) if atoms.pbc.all() else None
        frames.append(Frame(numbers, np.array(atoms.positions), cell, **found))
    missing = {name for name in keys or {} if all(getattr(f, name) is None for f in frames)}
    if missing or not any(getattr(frame, name) is not None for frame in frames for name in KEYS):
        wanted = ", ".join((keys or {}).get(name, name) for name in sorted(missing) or KEYS)
        raise InputError(
            f"{path}: expected reference values ({wanted}), got {_names(structures[0])}; say what "
            "they are called with --energy-key, --forces-key, --dipole-key or --born-key"
        )
    return frames


def validate(
    artifact: Artifact,
    frames: Sequence[Frame],
    *,
    precision: str = "double",
    device: str = "cpu",
    progress: Callable[[Iterable[int]], Iterable[int]] = iter,
) -> Validation:
    """Evaluate a model on structures with reference values.

    Dipoles and Born effective charges are those of `SystemModel.response`. A model that has no
    dipole for a structure, since that is periodic, is not compared with one.

    Args:
        artifact: the model.
        frames: structures and reference values.
        precision: of the model.
        device: torch device.
        progress: wraps the loop over structures, in an order that saves time.

    Raises:
        InputError: an element that the model does not know, a box too small.
        SimulationError: a structure without a valid energy.
    """
    models: dict[tuple[tuple[int, ...], bool], SystemModel] = {}
    found: dict[int, Frame] = {}
    # Structures of the same atoms one after the other, so that one model is there at a time.
    order = sorted(range(len(frames)), key=lambda i: (frames[i].numbers, frames[i].cell is None))
    for index in progress(order):
        frame = frames[index]
        key = (frame.numbers, frame.cell is None)
        try:
            if key not in models:
                models.clear()
                models[key] = SystemModel(
                    artifact,
                    frame.numbers,
                    periodic=frame.cell is not None,
                    cell=frame.cell,
                    positions=frame.positions,
                    precision=precision,
                    device=device,
                )
            found[index] = _evaluate(models[key], frame)
        except (InputError, SimulationError) as error:
            raise type(error)(f"structure {index}: {error}") from error
    result = Validation(list(frames), [found[index] for index in range(len(frames))])
    _check_born_axes(result)
    return result


def formula(numbers: Sequence[int]) -> str:
    """Elements and how many atoms of each there are, as in C3H7N1O2."""
    from openmm.app import Element

    symbols = [str(Element.getByAtomicNumber(z).symbol) for z in numbers]
    return "".join(f"{symbol}{symbols.count(symbol)}" for symbol in sorted(set(symbols)))


def _evaluate(model: SystemModel, frame: Frame) -> Frame:
    """What the model says of a structure, for the quantities that its reference has."""
    energy = forces = dipole = born = None
    if frame.energy is not None or frame.forces is not None:
        result = model.evaluate(frame.positions, frame.cell)
        if frame.energy is not None:
            energy = result.energy + model.reference_energy
        if frame.forces is not None:
            forces = result.forces
    if frame.dipole is not None or frame.born_charges is not None:
        response = model.response(frame.positions, frame.cell)
        if frame.dipole is not None:
            dipole = response.dipole
        if frame.born_charges is not None:
            born = response.born_charges
    return Frame(frame.numbers, frame.positions, frame.cell, energy, forces, dipole, born)


def _check_born_axes(result: Validation) -> None:
    """Tell when the reference would fit better the other way round."""
    error = swapped = 0.0
    for frame, model in zip(result.frames, result.results, strict=True):
        if frame.born_charges is not None and model.born_charges is not None:
            error += float(((model.born_charges - frame.born_charges) ** 2).sum())
            other = frame.born_charges.transpose(0, 2, 1)
            swapped += float(((model.born_charges - other) ** 2).sum())
    if swapped < _CLEARLY_BETTER**2 * error:
        logger.warning(
            "the Born effective charges of the reference fit better transposed (an RMSE of %.3g of "
            "the present one): if they are stored as [atom, r, P], as those of SPICE, give "
            "--born-axes rP",
            (swapped / error) ** 0.5,
        )


def _read(path: Path, limit: int | None) -> list[Any]:
    try:
        import ase.io
    except ModuleNotFoundError as error:
        if error.name != "ase":
            raise
        raise InputError(
            "data: reading structures needs ASE: pip install 'openmm-les[ase]'"
        ) from None
    try:
        structures = ase.io.read(path, index=slice(limit))
    except Exception as error:  # ASE's readers raise whatever a broken line leads to
        if isinstance(error, OSError) and error.strerror:
            raise InputError(f"data: cannot read {path}: {error.strerror}") from None
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"data: {path} is not a file that ASE reads: {reason}") from error
    found = structures if isinstance(structures, list) else [structures]
    if not found:
        raise InputError(f"data: expected structures, got none in {path}")
    return found


def _reference(atoms: Any, keys: dict[str, str], where: str) -> dict[str, Any]:
    """Reference values of a structure by the names of `KEYS`."""
    stored = _stored(atoms)
    shapes = {
        "energy": (),
        "forces": (len(atoms), 3),
        "dipole": (3,),
        "born_charges": (len(atoms), 3, 3),
    }
    found: dict[str, Any] = {}
    for name, shape in shapes.items():
        candidates = (keys[name],) if name in keys else KEYS[name]
        key = next((candidate for candidate in candidates if candidate in stored), None)
        if key is None:
            continue
        value = np.asarray(stored[key], dtype=np.float64)
        if value.size != np.prod(shape, dtype=int):
            raise InputError(
                f"{where}: expected {key} of shape {shape}, got {value.shape}; it is taken for "
                f"{name}: give another key for that"
            )
        if not np.isfinite(value).all():
            raise InputError(f"{where}: expected finite numbers for {key}, got NaN or infinity")
        found[name] = float(value.item()) if name == "energy" else value.reshape(shape)
    return found


def _stored(atoms: Any) -> dict[str, Any]:
    """Everything that a file says of a structure; ASE keeps what it knows in a calculator."""
    results = {} if atoms.calc is None else atoms.calc.results
    return {**results, **atoms.info, **atoms.arrays}


def _names(atoms: Any) -> str:
    return ", ".join(name for name in _stored(atoms) if name not in ("numbers", "positions")) or (
        "none"
    )


def _rmse(reference: FloatArray | None, model: FloatArray | None, scale: float = 1.0) -> Any:
    if reference is None or model is None:
        return ""
    return scale * float(np.sqrt(np.mean((model - reference) ** 2)))
