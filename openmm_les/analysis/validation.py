"""Validates a model against reference energies, forces, stresses, dipoles and Born charges."""

from __future__ import annotations

import csv
import io
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from openmm_les.analysis import unit_guess
from openmm_les.analysis.reference_data import KEYS, UNITS, Frame, read_frames
from openmm_les.arrays import FloatArray
from openmm_les.artifact import Artifact
from openmm_les.errors import InputError, SimulationError
from openmm_les.evaluation.conditions import conditions_in
from openmm_les.evaluation.options import EvaluationOptions
from openmm_les.evaluation.system_model import SystemModel
from openmm_les.evaluation.systems import SystemModels

__all__ = ["KEYS", "Frame", "Statistics", "Validation", "formula", "read_frames", "validate"]

logger = logging.getLogger(__name__)

#: Name, unit and scale of each quantity in the statistics.
_REPORTED = {
    "energy": ("energy per atom", "meV", 1e3),
    "energy_shifted": ("energy per atom, shifted", "meV", 1e3),
    "forces": ("forces", "meV/A", 1e3),
    "stress": ("stress", "meV/A^3", 1e3),
    "dipole": ("dipole", "e A", 1.0),
    "born_charges": ("Born charges", "e", 1.0),
}
#: Warn if transposed Born charges leave less than this fraction of the error.
_CLEARLY_BETTER = 0.9


@dataclass(frozen=True)
class Statistics:
    """Errors of one quantity."""

    quantity: str
    unit: str  #: Of `rmse`, `mae` and `bias`
    number: int  #: Number of values
    rmse: float  #: Root mean square error
    mae: float  #: Mean absolute error
    bias: float  #: Mean of model minus reference
    #: Coefficient of determination, 1 - sum (model - reference)^2 / sum (reference - mean)^2; NaN
    #: where the reference does not vary
    r2: float
    slope: float  #: Of the line, with intercept, that fits the model's values over the reference's

    @classmethod
    def of(cls, quantity: str, unit: str, reference: FloatArray, model: FloatArray) -> Statistics:
        """Compare two arrays of shape (n,)."""
        error = model - reference
        spread = reference - reference.mean()
        variance = float(spread @ spread) or float("nan")
        return cls(
            quantity,
            unit,
            len(error),
            rmse=float(np.sqrt(np.mean(error**2))),
            mae=float(np.abs(error).mean()),
            bias=float(error.mean()),
            r2=1.0 - float(error @ error) / variance,
            slope=float(spread @ model) / variance,
        )


@dataclass
class Validation:
    """Reference and model values of all structures."""

    frames: list[Frame] = field(default_factory=list)  #: The reference
    #: Values of the model in the same order; None where the reference has None
    results: list[Frame] = field(default_factory=list)
    model: Mapping[str, str] = field(default_factory=dict)  #: Path and hash of the artifact

    @property
    def files(self) -> list[str]:
        """Files of the reference."""
        return sorted({frame.source for frame in self.frames} - {""})

    @property
    def keys(self) -> dict[str, list[str]]:
        """Names in the files of the quantities that are compared."""
        return {
            name: sorted({frame.keys[name] for frame in self.frames if name in frame.keys})
            for name in KEYS
            if self.has(name) and any(name in frame.keys for frame in self.frames)
        }

    @property
    def not_compared(self) -> list[str]:
        """Names in the files of values that are not compared."""
        compared = {key for keys in self.keys.values() for key in keys}
        there = {key for frame in self.frames for key in (*frame.unused, *frame.keys.values())}
        return sorted(there - compared)

    def pairs(self, name: str) -> tuple[FloatArray, FloatArray]:
        """Values of a quantity, or ``'energy_shifted'``, where both reference and model have it.

        Shape (n,) each; energies are per atom.
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
        return np.concatenate(references, axis=None), np.concatenate(models, axis=None)

    @cached_property
    def _shift(self) -> FloatArray:
        """Shift of the energies per atom by one energy for each element, from least squares.

        References differ in these energies (isolated atoms, formation energies, ...), on which
        forces do not depend.
        """
        frames = [frame for frame in self.frames if frame.energy is not None]
        elements = sorted({z for frame in frames for z in frame.numbers})
        counts = np.array([[frame.numbers.count(z) for z in elements] for frame in frames])
        fractions = counts / counts.sum(axis=1, keepdims=True)
        reference, model = self.pairs("energy")
        shifts = np.linalg.lstsq(fractions, reference - model, rcond=None)[0]
        return np.asarray(fractions @ shifts)

    def statistics(self) -> list[Statistics]:
        """Statistics of each quantity."""
        return [
            Statistics.of(label, unit, *(scale * values for values in self.pairs(name)))
            for name, (label, unit, scale) in _REPORTED.items()
            if self.has(name)
        ]

    def has(self, name: str) -> bool:
        """Whether a quantity can be compared; see `pairs`."""
        name = name.removesuffix("_shifted")
        return any(getattr(result, name) is not None for result in self.results)

    def to_csv(self) -> str:
        """A table with a row for each structure; cells without a reference value are empty."""
        text = io.StringIO()
        table = csv.writer(text, lineterminator="\n")
        columns = ["frame", "formula", "atoms"]
        columns += ["energy reference (eV)", "energy model (eV)", "energy error (meV/atom)"]
        columns += ["energy error, shifted (meV/atom)", "force RMSE (meV/A)"]
        columns += ["stress RMSE (meV/A^3)"]
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
            row.append(_rmse(frame.stress, result.stress, 1e3))
            if frame.dipole is None or result.dipole is None:
                row += [""] * 6
            else:
                row += [*frame.dipole, *result.dipole]
            row.append(_rmse(frame.born_charges, result.born_charges))
            table.writerow(f"{value:.8g}" if isinstance(value, float) else value for value in row)
        return text.getvalue()


def validate(
    artifact: Artifact,
    frames: Sequence[Frame],
    *,
    precision: str = "double",
    device: str = "cpu",
    progress: Callable[[Iterable[int]], Iterable[int]] = iter,
) -> Validation:
    """Evaluate a model on structures with reference values.

    Charges, spins and other conditions of a model are those of each structure, or its defaults.
    Dipoles and Born effective charges are those of `SystemModel.response`; dipoles of periodic
    structures are not compared. A warning names reference values that seem to be in another unit.

    Args:
        progress: wraps the loop over structures, such as a progress bar.

    Raises:
        InputError: an element that the model does not know, a box too small, or positions that are
            not in Angstrom.
        SimulationError: a structure without a valid energy.
    """
    unit_guess.check_positions(frames)
    changes = {"precision": precision, "device": device}
    models = SystemModels(artifact, EvaluationOptions().changed("validate", changes))
    found: dict[int, Frame] = {}
    conditions = [conditions_in(artifact, frame.stored) for frame in frames]

    def atoms(index: int) -> tuple[Any, ...]:
        frame = frames[index]
        return frame.numbers, frame.cell is None, repr(conditions[index])

    # Structures of the same atoms follow each other, so that they share a model.
    order = sorted(range(len(frames)), key=atoms)
    for index in progress(order):
        frame = frames[index]
        try:
            structure = frame.numbers, frame.positions, frame.cell
            model = models.model_for(*structure, conditions[index])
            found[index] = _evaluate(model, frame)
        except (InputError, SimulationError) as error:
            raise type(error)(f"structure {index}: {error}") from error
    results = [found[index] for index in range(len(frames))]
    source = {"path": str(artifact.path), "sha256": artifact.sha256}
    result = Validation(list(frames), results, source)
    _check_units(result)
    _check_born_axes(result)
    return result


def formula(numbers: Sequence[int]) -> str:
    """Chemical formula, such as C3H7N1O2."""
    from openmm.app import Element

    symbols = [str(Element.getByAtomicNumber(z).symbol) for z in numbers]
    return "".join(f"{symbol}{symbols.count(symbol)}" for symbol in sorted(set(symbols)))


def _evaluate(model: SystemModel, frame: Frame) -> Frame:
    """Values of the model for the quantities that the reference has."""
    energy = forces = dipole = born = stress = None
    if not (frame.energy is None and frame.forces is None and frame.stress is None):
        result = model.evaluate(frame.positions, frame.cell)
        if frame.energy is not None:
            energy = result.energy + model.reference_energy
        if frame.forces is not None:
            forces = result.forces
        if frame.stress is not None and frame.cell is not None:
            stress = result.virial / np.linalg.det(frame.cell)
    if frame.dipole is not None or frame.born_charges is not None:
        response = model.response(frame.positions, frame.cell)
        if frame.dipole is not None:
            dipole = response.dipole
        if frame.born_charges is not None:
            born = response.born_charges
    return Frame(frame.numbers, frame.positions, frame.cell, energy, forces, dipole, born, stress)


def _check_units(result: Validation) -> None:
    """Warn of reference values that seem to be in another unit, or to have the other sign."""
    guesses = {
        name: unit_guess.guess(name, *result.pairs(name))
        for name in ("forces", "stress", "dipole", "born_charges")
        if result.has(name)
    }
    if result.has("energy"):
        energies = [
            (frame.numbers, frame.energy, model.energy)
            for frame, model in zip(result.frames, result.results, strict=True)
            if frame.energy is not None and model.energy is not None
        ]
        guesses["energy"] = unit_guess.guess_energy(energies)
    for name, guess in guesses.items():
        if guess is not None:
            keys = ", ".join(result.keys.get(name, [name]))
            logger.warning(
                f"the {name.replace('_', ' ')} of the reference ({keys}) seems to be in "
                f"{guess.unit}, expected {UNITS[name]}: it is {guess.factor:.4g} times that of the "
                "model; convert it"
            )


def _check_born_axes(result: Validation) -> None:
    """Warn if the Born charges of the reference fit better when transposed."""
    error = swapped = 0.0
    for frame, model in zip(result.frames, result.results, strict=True):
        if frame.born_charges is not None and model.born_charges is not None:
            error += float(((model.born_charges - frame.born_charges) ** 2).sum())
            other = frame.born_charges.transpose(0, 2, 1)
            swapped += float(((model.born_charges - other) ** 2).sum())
    if swapped < _CLEARLY_BETTER**2 * error:
        logger.warning(
            "the Born effective charges of the reference fit better transposed (an RMSE of "
            f"{(swapped / error) ** 0.5:.3g} of the present one): if they are stored as [atom, r, "
            "P], as those of SPICE, give --born-axes rP"
        )


def _rmse(reference: FloatArray | None, model: FloatArray | None, scale: float = 1.0) -> Any:
    if reference is None or model is None:
        return ""
    return scale * float(np.sqrt(np.mean((model - reference) ** 2)))
