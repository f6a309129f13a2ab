"""Means of correlated series, with their statistical errors."""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from openmm_les.arrays import FloatArray
from openmm_les.errors import InputError
from openmm_les.versions import optional

#: Blocks whose means give the error of a mean.
BLOCKS = 10
#: Starts of the equilibrated part that are tried.
_STARTS = 200


@dataclass(frozen=True)
class Statistics:
    """The mean of a series after its equilibration."""

    mean: float
    error: float  #: Standard error of the mean; nan for fewer than two values
    inefficiency: float  #: Statistical inefficiency: values for each independent one
    start: int  #: Values left out at the start
    count: int  #: Values of which this is the mean


def series_statistics(values: ArrayLike) -> Statistics:
    """The mean of a series [n] of equal time steps, without what comes before equilibration.

    The start is that which leaves most independent values (J. D. Chodera, J. Chem. Theory Comput.
    12, 1799 (2016)), as pymbar finds it, whose inefficiency is g = 1 + 2 tau; the error of the mean
    is s sqrt(g / n).

    Raises:
        InputError: no values, values that are not finite, or pymbar is not installed.
    """
    series = np.asarray(values, dtype=np.float64).ravel()
    if series.size == 0 or not np.isfinite(series).all():
        got = "none" if series.size == 0 else "some that are not"
        raise InputError(f"values: expected at least one, all of them finite, got {got}")
    start, inefficiency = _equilibration(series)
    rest = series[start:]
    error = math.nan
    if rest.size > 1:
        error = float(rest.std(ddof=1)) * math.sqrt(inefficiency / rest.size)
    return Statistics(float(rest.mean()), error, inefficiency, start, rest.size)


def block_error(values: ArrayLike) -> float:
    """Standard error of the mean of a series [n], from the means of ten blocks of equal length.

    Right where blocks are longer than what is correlated (H. Flyvbjerg and H. G. Petersen, J. Chem.
    Phys. 91, 461 (1989)). Values at the start that fill no block are left out. It is nan for fewer
    than two values for each block.
    """
    series = np.asarray(values, dtype=np.float64).ravel()
    length = series.size // BLOCKS
    if length < 2:
        return math.nan
    means = series[series.size - BLOCKS * length :].reshape(BLOCKS, length).mean(axis=1)
    return float(means.std(ddof=1)) / math.sqrt(BLOCKS)


def with_error(mean: float, error: float) -> str:
    """A mean as text, with two digits of its error where that is known."""
    if not 0.0 < error < math.inf:
        return f"{mean:.6g}"
    decimals = decimals_of(error)
    return f"{mean:.{decimals}f} ± {error:.{decimals}f}"


def decimals_of(error: float) -> int:
    """Decimals with which an error has two digits; 0 where it is not above 0 and finite."""
    return max(0, 1 - math.floor(math.log10(error))) if 0.0 < error < math.inf else 0


def inefficiency_of(values: FloatArray) -> float:
    """Statistical inefficiency of a series [n] in equilibrium: values for each independent one."""
    if values.size < 4 or np.ptp(values) == 0.0:
        return 1.0
    with quiet_pymbar() as pymbar:
        return float(pymbar.timeseries.statistical_inefficiency(values))


@contextlib.contextmanager
def quiet_pymbar() -> Iterator[Any]:
    """The package pymbar, without the general advice that it logs as warnings, inside the block."""
    logger = logging.getLogger("pymbar")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield optional("pymbar", "campaign", "statistics need pymbar; install it")
    finally:
        logger.setLevel(level)


def _equilibration(series: FloatArray) -> tuple[int, float]:
    """Start and statistical inefficiency of the equilibrated part."""
    if series.size < 4 or np.ptp(series) == 0.0:
        return 0, 1.0
    skip = max(1, series.size // _STARTS)
    with quiet_pymbar() as pymbar:
        start, inefficiency, _ = pymbar.timeseries.detect_equilibration(series, nskip=skip)
    return int(start), float(inefficiency)
