"""In which unit reference values seem to be, where that is not the one in which they are read.

A model that is any good has the values of its reference up to some per cent. If they are nearly
proportional with a factor that is a conversion between units, or a sign, they are most probably not
what they are taken for.
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

_KCAL = units.KCAL_PER_MOL_PER_EV
_KJ = units.KJ_PER_MOL_PER_EV
_BOHR = units.BOHR_PER_ANGSTROM
_HARTREE = units.HARTREE_PER_EV
#: What 1 in the unit of `UNITS` is in others.
_OTHERS: dict[str, dict[str, float]] = {
    "energy": {
        "kcal/mol": _KCAL,
        "kJ/mol": _KJ,
        "Hartree": _HARTREE,
        "Rydberg": 2 * _HARTREE,
        "meV": 1e3,
    },
    "forces": {
        "kcal/mol/A": _KCAL,
        "kJ/mol/A": _KJ,
        "kJ/mol/nm": _KJ * 10,
        "Hartree/A": _HARTREE,
        "Hartree/Bohr": _HARTREE / _BOHR,
        "Rydberg/Bohr": 2 * _HARTREE / _BOHR,
        "eV/nm": 10.0,
        "eV/Bohr": 1 / _BOHR,
        "meV/A": 1e3,
    },
    "stress": {
        "GPa": units.GPA_PER_EV_PER_CUBIC_ANGSTROM,
        "kbar": 10 * units.GPA_PER_EV_PER_CUBIC_ANGSTROM,
        "bar": 1e4 * units.GPA_PER_EV_PER_CUBIC_ANGSTROM,
        "Hartree/Bohr^3": _HARTREE / _BOHR**3,
    },
    "dipole": {"Debye": units.DEBYE_PER_E_ANGSTROM, "e Bohr": _BOHR, "e nm": 0.1},
    "born_charges": {},
}
#: Fewer numbers prove nothing.
_FEWEST = 6
#: Correlation from which on two sets of numbers say the same, and how well factors have to fit.
_CORRELATED, _FIT = 0.8, 1.2
#: The same for energies, of which the largest part is that of the isolated atoms.
_FIT_OF_TOTALS = 1.02
#: Nearest atoms are this far apart at least and at most, as a median [A].
_NEAR, _FAR = 0.5, 50.0
#: And hydrogen from an atom of these elements, which it is bound to: 0.9 to 1.2 A, 1.7 to 2.3 Bohr.
_HOSTS, _IN_BOHR = (6, 7, 8), (1.65, 2.4)
#: Structures that are looked at, and atoms of each.
_LOOK_AT = 50, 300


@dataclass(frozen=True)
class Guess:
    """What reference values seem to be.

    Attributes:
        unit: in words.
        factor: of the reference over the model.
    """

    unit: str
    factor: float


def guess(quantity: str, reference: FloatArray, model: FloatArray) -> Guess | None:
    """The unit in which values seem to be, if it is not that of `UNITS`.

    Args:
        quantity: one of `UNITS`.
        reference: shape (n,).
        model: what a model says of the same, shape (n,).
    """
    norm = float(model @ model)
    if len(model) < _FEWEST or norm == 0.0 or not reference.any():
        return None
    slope = float(model @ reference) / norm
    correlation = slope * math.sqrt(norm / float(reference @ reference))
    if abs(correlation) < _CORRELATED:
        return None
    return _nearest(quantity, slope, _FIT)


def guess_energy(energies: Sequence[tuple[tuple[int, ...], float, float]]) -> Guess | None:
    """The same for energies, which may count from other isolated atoms than those of the model.

    Args:
        energies: atomic numbers, energy of the reference, and of the model, of each structure.
    """
    reference = np.array([energy for _, energy, _ in energies])
    model = np.array([energy for *_, energy in energies])
    elements = sorted({z for numbers, *_ in energies for z in numbers})
    counts = np.array([[numbers.count(z) for z in elements] for numbers, *_ in energies])

    def varying(values: FloatArray) -> FloatArray:
        """What no energies of isolated atoms explain."""
        shifts = np.linalg.lstsq(counts, values, rcond=None)[0]
        return np.asarray(values - counts @ shifts)

    found = None
    if len(energies) - np.linalg.matrix_rank(counts) >= _FEWEST:
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
    """Refuse positions that are in another unit than Angstrom.

    Raises:
        InputError: in nm or pm, where no model has a result; Bohr is told by a warning.
    """
    distances, of_hydrogen = [], []
    for frame in frames[: _LOOK_AT[0]]:
        numbers = np.array(frame.numbers[: _LOOK_AT[1]])
        if len(numbers) < 2:
            continue
        nearest, neighbor = _nearest_atoms(frame.positions[: _LOOK_AT[1]])
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
    if of_hydrogen and _IN_BOHR[0] < float(np.median(of_hydrogen)) < _IN_BOHR[1]:
        logger.warning(
            "the positions seem to be in Bohr, expected A: hydrogen is %.3g from the nearest atom; "
            "convert them",
            float(np.median(of_hydrogen)),
        )


def _nearest_atoms(positions: FloatArray) -> tuple[FloatArray, npt.NDArray[np.intp]]:
    """Distance of the nearest other atom, without images, and which it is; shape (n,) each."""
    squared = ((positions[:, None] - positions) ** 2).sum(axis=-1)
    np.fill_diagonal(squared, np.inf)
    neighbor = squared.argmin(axis=1)
    return np.sqrt(squared.min(axis=1)), neighbor
