"""Whether a free energy can be trusted, and what would make it so."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

from openmm_les.free_energy.estimate import Estimate
from openmm_les.units import GAS_CONSTANT

#: Least overlap of neighbours (P. V. Klimovich et al., J. Comput. Aided Mol. Des. 29, 397 (2015)).
LEAST_OVERLAP = 0.03
#: Least number of independent samples of a window.
LEAST_SAMPLES = 50
#: Most standard errors between what the first and the last half of the samples give.
MOST_DEVIATIONS = 3.0
#: Distance of neighbours that is aimed at, in standard deviations of their energy difference [kT].
_DISTANCE = 2.0
#: Most windows that are added between two neighbours at a time.
_MOST_NEW = 5
_DIGITS = 4


@dataclass(frozen=True)
class Verdict:
    """What is wrong with an estimate."""

    problems: tuple[str, ...]  #: One sentence each, with what to do; empty: none
    new_values: tuple[float, ...]  #: Lambda of windows to add

    @property
    def word(self) -> str:
        """One word for tables."""
        return "unreliable" if self.problems else "reliable"


def judge(estimate: Estimate) -> Verdict:
    """Judge overlap, number of samples and convergence in time."""
    problems, new = [], []
    for i, (low, high) in enumerate(pairwise(map(float, estimate.values))):
        overlap = min(float(estimate.overlap[i, i + 1]), float(estimate.overlap[i + 1, i]))
        if overlap >= LEAST_OVERLAP:
            continue
        between = _between(estimate, i, low, high)
        new += between
        text = f"overlap of lambda {low:g} and {high:g} is {overlap:.2g}, less than {LEAST_OVERLAP}"
        names = ", ".join(f"{value:g}" for value in between)
        what = f"add windows at {names}" if between else "no window fits between them"
        problems.append(f"{text}: {what}")
    few = [
        f"{kept.count} at {value:g}"
        for value, kept in zip(estimate.values, estimate.kept, strict=True)
        if kept.count < LEAST_SAMPLES
    ]
    if few:
        problems.append(
            f"fewer than {LEAST_SAMPLES} independent samples in some windows ({', '.join(few)}): "
            "run more steps"
        )
    (first, first_error), (last, last_error) = estimate.halves
    error = math.hypot(first_error, last_error)
    if abs(first - last) > MOST_DEVIATIONS * error:
        problems.append(
            f"the first half of the samples gives {first:.2f} and the last half {last:.2f} kJ/mol, "
            f"more than {MOST_DEVIATIONS:g} standard errors apart: run more steps"
        )
    return Verdict(tuple(problems), tuple(new))


def _between(estimate: Estimate, index: int, low: float, high: float) -> list[float]:
    """Equal values between neighbours, so many that the new neighbours should overlap."""
    spread = max(float(estimate.spreads[index]), float(estimate.spreads[index + 1]))
    distance = (high - low) * spread / (GAS_CONSTANT * estimate.temperature)
    number = min(max(1, math.ceil(distance / _DISTANCE) - 1), _MOST_NEW)
    step = (high - low) / (number + 1)
    values = [round(low + step * (part + 1), _DIGITS) for part in range(number)]
    return [value for value in dict.fromkeys(values) if low < value < high]
