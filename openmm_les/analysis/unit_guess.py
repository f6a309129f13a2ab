"""Guesses the unit of reference values, where it is not the expected one.

A useful model reproduces its reference to some per cent. If the two are nearly proportional with a
factor that converts between units, or changes the sign, the reference is most probably in another
unit.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from openmm_les import units
from openmm_les.analysis.reference_data import UNITS, Frame
from openmm_les.arrays import FloatArray
from openmm_les.errors import InputError

logger = logging.getLogger(__name__)

_GPA = units.GPA_PER_EV_PER_CUBIC_ANGSTROM
_KCAL = units.KCAL_PER_MOL_PER_EV
_KJ = units.KJ_PER_MOL_PER_EV
_BOHR = units.BOHR_PER_ANGSTROM
_HARTREE = units.HARTREE_PER_EV
#: Other units, and the value of one unit of `UNITS` in them.
_OTHERS: dict[str, dict[str, float]] = {
    "energy": {"kcal/mol": _KCAL, "kJ/mol": _KJ, "Hartree": _HARTREE, "Rydberg": 2 * _HARTREE}
    | {"meV": 1e3},
    "forces": {"kcal/mol/A": _KCAL, "kJ/mol/A": _KJ, "kJ/mol/nm": _KJ * 10, "Hartree/A": _HARTREE}
    | {"Hartree/Bohr": _HARTREE / _BOHR, "Rydberg/Bohr": 2 * _HARTREE / _BOHR, "eV/nm": 10.0}
    | {"eV/Bohr": 1 / _BOHR, "meV/A": 1e3},
    "stress": {"GPa": _GPA, "kbar": 10 * _GPA, "bar": 1e4 * _GPA}
    | {"Hartree/Bohr^3": _HARTREE / _BOHR**3},
    "dipole": {"Debye": units.DEBYE_PER_E_ANGSTROM, "e Bohr": _BOHR, "e nm": 0.1},
    "born_charges": {},
}
#: Smallest number of values for a guess.
_MIN_VALUES = 6
#: Smallest correlation for a guess, and tolerance of its factor.
_CORRELATED, _FIT = 0.8, 1.2
#: Tolerance for total energies, most of which are energies of the isolated atoms.
_FIT_OF_TOTALS = 1.02
#: Limits of the median distance of nearest atoms [A].
_NEAR, _FAR = 0.5, 50.0
#: Bonds of hydrogen to these elements are 0.9 to 1.2 A long, which is 1.7 to 2.3 Bohr: limits.
_HOSTS, _SHORTEST, _LONGEST = (6, 7, 8), 1.65, 2.4
#: Number of structures that are examined, and of atoms in each.
_SAMPLE = 50, 300


@dataclass(frozen=True)
class Guess:
    """The probable unit of reference values."""

    unit: str
    factor: float  #: Ratio of the reference to the model


def guess(quantity: str, reference: FloatArray, model: FloatArray) -> Guess | None:
    """Guess the unit of reference values, shape (n,); None if it is that of `UNITS`, or not clear.

    `quantity` is one of `UNITS`, and `model` has the values of a model.
    """
    norm = float(model @ model)
    if len(model) < _MIN_VALUES or norm == 0.0 or not reference.any():
        return None
    slope = float(model @ reference) / norm
    correlation = slope * math.sqrt(norm / float(reference @ reference))
    if abs(correlation) < _CORRELATED:
        return None
    return _nearest(quantity, slope, _FIT)


def guess_energy(energies: Sequence[tuple[tuple[int, ...], float, float]]) -> Guess | None:
    """The same for energies, which may have other energies of isolated atoms than the model.

    Args:
        energies: atomic numbers, reference energy and model energy of each structure.
    """
    reference = np.array([energy for _, energy, _ in energies])
    model = np.array([energy for *_, energy in energies])
    elements = sorted({z for numbers, *_ in energies for z in numbers})
    counts = np.array([[numbers.count(z) for z in elements] for numbers, *_ in energies])

    def varying(values: FloatArray) -> FloatArray:
        """The part that energies of isolated atoms do not explain."""
        shifts = np.linalg.lstsq(counts, values, rcond=None)[0]
        return np.asarray(values - counts @ shifts)

    found = None
    if len(energies) - np.linalg.matrix_rank(counts) >= _MIN_VALUES:
        found = guess("energy", varying(reference), varying(model))
    if found is None and model.all():
        ratios = reference / model
        middle = float(np.median(ratios))
        if np.all(np.abs(ratios - middle) < (_FIT_OF_TOTALS - 1.0) * abs(middle)):
            found = _nearest("energy", middle, _FIT_OF_TOTALS)
    return found


def _nearest(quantity: str, slope: float, fit: float) -> Guess | None:
    factors = {UNITS[quantity]: 1.0, **_OTHERS[quantity]}
    size = abs(slope)
    unit = min(factors, key=lambda name: abs(math.log(size / factors[name])))
    if not 1.0 / fit < size / factors[unit] < fit:
        return None
    if slope < 0.0:
        of_forces = ", such as gradients" if quantity == "forces" else ""
        return Guess(f"{unit} with the other sign{of_forces}", slope)
    return None if unit == UNITS[quantity] else Guess(unit, slope)


def check_positions(frames: Sequence[Frame]) -> None:
    """Refuse positions in nm or pm, and warn of those in Bohr or otherwise too large."""
    distances, of_hydrogen = [], []
    for frame in frames[: _SAMPLE[0]]:
        numbers = np.array(frame.numbers[: _SAMPLE[1]])
        if len(numbers) < 2:
            continue
        nearest, neighbor = _nearest_atoms(frame.positions[: _SAMPLE[1]])
        distances += nearest.tolist()
        bound = (numbers == 1) & np.isin(numbers[neighbor], _HOSTS)
        of_hydrogen += nearest[bound].tolist()
    if not distances:
        return
    usual = float(np.median(distances))
    if 0.0 < usual < _NEAR or usual > _FAR:
        raise InputError(
            f"data: expected positions in A, got nearest atoms {usual:.3g} apart, which seems to "
            f"be in {'nm' if usual < _NEAR else 'pm'}; convert them"
        )
    if of_hydrogen and (bond := float(np.median(of_hydrogen))) > _SHORTEST:
        logger.warning(
            "the positions seem to be %s, expected A: hydrogen is %.3g from the nearest atom; "
            "convert them",
            "in Bohr" if bond < _LONGEST else "in another unit",
            bond,
        )


def _nearest_atoms(positions: FloatArray) -> tuple[FloatArray, npt.NDArray[np.intp]]:
    """Distance and index of the nearest other atom, without images; shape (n,) each."""
    squared = ((positions[:, None] - positions) ** 2).sum(axis=-1)
    np.fill_diagonal(squared, np.inf)
    neighbor = squared.argmin(axis=1)
    return np.sqrt(squared.min(axis=1)), neighbor
