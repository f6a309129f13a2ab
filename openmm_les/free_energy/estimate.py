"""Free energies between states by MBAR, and what says whether they can be trusted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from openmm_les.analysis.means import quiet_pymbar, series_statistics
from openmm_les.arrays import FloatArray
from openmm_les.errors import InputError
from openmm_les.units import GAS_CONSTANT

#: Parts of the samples from which convergence is judged.
FRACTIONS = (0.1, 0.25, 0.5, 0.75, 1.0)
_HALF = FRACTIONS.index(0.5)
#: Only Newton steps and self-consistent iteration: other solvers of pymbar warn of their options.
_SOLVERS = ({"method": "adaptive", "options": {"maxiter": 100, "verbose": False}},)
#: Overlap of neighbours, at rough free energies, below which iterations would only take long.
_NO_OVERLAP = 1e-6
#: Least number of samples of a window of which anything can be estimated.
SMALL_NUMBER = 2


@dataclass(frozen=True)
class States:
    """Free energies of K states in kT, counted from the first."""

    energies: FloatArray  #: Shape (K,)
    errors: FloatArray  #: Standard errors of the differences from the first, (K,); inf: no overlap
    #: Shape (K, K); in row i how likely a sample of state i is in each of the states
    overlap: FloatArray


@dataclass(frozen=True)
class Window:
    """Samples at one value of lambda."""

    value: float
    #: Energies at lambda = 1 minus those at 0 [kJ/mol], shape (n,), in order of time
    differences: FloatArray


@dataclass(frozen=True)
class Kept:
    """What counts of the samples of a window."""

    start: int  #: Samples left out, since the system was not in equilibrium yet
    inefficiency: float  #: Samples for each independent one
    count: int  #: Independent samples


@dataclass(frozen=True)
class Series:
    """The free energy difference from growing parts of the samples [kJ/mol]."""

    energies: tuple[float, ...]  #: For each of `FRACTIONS`
    errors: tuple[float, ...]


@dataclass(frozen=True)
class Estimate:
    """Free energies along lambda [kJ/mol], counted from the first window."""

    values: FloatArray  #: Lambda of each window, (K,)
    kept: tuple[Kept, ...]
    energies: FloatArray  #: By MBAR, (K,)
    errors: FloatArray  #: Standard errors, (K,)
    by_bar: FloatArray  #: The sum of BAR between neighbours, (K,)
    by_integration: FloatArray  #: The trapezoidal rule on the mean of dU/dlambda, (K,)
    overlap: FloatArray  #: See `States`
    spreads: FloatArray  #: Standard deviation of dU/dlambda in each window, (K,) [kJ/mol]
    temperature: float  #: [K]
    forward: Series  #: From the first samples of each window
    backward: Series  #: From the last ones

    @property
    def difference(self) -> float:
        """Free energy of the last window minus that of the first [kJ/mol]."""
        return float(self.energies[-1])

    @property
    def error(self) -> float:
        """Its standard error [kJ/mol]."""
        return float(self.errors[-1])

    @property
    def least_overlap(self) -> float:
        """The smallest overlap of neighbours, of both directions."""
        return min(float(np.diag(self.overlap, offset).min()) for offset in (-1, 1))

    @property
    def halves(self) -> tuple[tuple[float, float], tuple[float, float]]:
        """The difference and its error from the first and the last half of the samples [kJ/mol]."""
        first, last = self.forward, self.backward
        return (first.energies[_HALF], first.errors[_HALF]), (
            last.energies[_HALF],
            last.errors[_HALF],
        )


def of_states(reduced: FloatArray, counts: Sequence[int]) -> States:
    """Free energies by MBAR (M. R. Shirts, J. D. Chodera, J. Chem. Phys. 129, 124105 (2008)).

    Where states do not overlap, so that MBAR has no solution, the energies are rough ones (Zwanzig,
    averaged over both directions) with infinite errors.

    Args:
        reduced: energies in kT of each sample in each state, shape (K, N), samples of the first
            state first.
        counts: samples of each state.
    """
    start = _rough(reduced, counts)
    nothing = States(
        start, np.array([0.0, *[np.inf] * (len(counts) - 1)]), _overlap(reduced, counts, start)
    )
    if np.diag(nothing.overlap, 1).min() < _NO_OVERLAP:
        return nothing
    with quiet_pymbar() as pymbar, np.errstate(all="ignore"):
        try:
            mbar = pymbar.MBAR(reduced, list(counts), solver_protocol=_SOLVERS, initial_f_k=start)
            found = mbar.compute_free_energy_differences()
        except (pymbar.utils.ParameterError, np.linalg.LinAlgError):
            return nothing
    energies, errors = found["Delta_f"][0], found["dDelta_f"][0]
    if not np.isfinite(energies).all():
        return nothing
    errors = np.where(np.isfinite(errors), errors, np.inf)
    return States(energies, errors, _overlap(reduced, counts, energies))


def along_lambda(windows: Sequence[Window], temperature: float) -> Estimate:
    """Free energies where the energy is linear in lambda, from windows in order of lambda.

    Samples before equilibrium, and those that still remember the one before, are left out.
    """
    if len(windows) < 2:
        raise InputError(f"windows: expected at least two with samples, got {len(windows)}")
    for window in windows:
        if len(window.differences) < SMALL_NUMBER:
            raise InputError(
                f"windows: expected at least {SMALL_NUMBER} samples at lambda {window.value:g}, "
                f"got {len(window.differences)}; run more steps"
            )
    kt = GAS_CONSTANT * temperature
    values = np.array([window.value for window in windows])
    chosen = [_independent(window.differences) for window in windows]
    kept = tuple(each for each, _ in chosen)
    # The mean is large and has no part in the overlap: it is left out until the end.
    offset = float(np.mean(np.concatenate([samples for _, samples in chosen])))
    samples = [(differences - offset) / kt for _, differences in chosen]

    constant = (values - values[0]) * offset / kt

    def states_from(parts: Sequence[FloatArray]) -> States:
        return of_states(values[:, None] * np.concatenate(parts), [len(part) for part in parts])

    states = states_from(samples)

    def series(some: Callable[[FloatArray, int], FloatArray]) -> Series:
        """From growing parts of the samples; `some` takes a number of samples from a window."""
        parts = [[some(x, max(1, round(f * len(x)))) for x in samples] for f in FRACTIONS[:-1]]
        found = [*map(states_from, parts), states]
        energies = [kt * float(each.energies[-1] + constant[-1]) for each in found]
        return Series(tuple(energies), tuple(kt * float(each.errors[-1]) for each in found))

    means = np.array([part.mean() for part in samples])
    steps = np.diff(values)
    integral = np.concatenate([[0.0], np.cumsum(steps * (means[1:] + means[:-1]) / 2)])
    return Estimate(
        values=values,
        kept=kept,
        energies=kt * (states.energies + constant),
        errors=kt * states.errors,
        by_bar=kt * (_by_bar(values, samples) + constant),
        by_integration=kt * (integral + constant),
        overlap=states.overlap,
        spreads=kt * np.array([part.std() for part in samples]),
        temperature=temperature,
        forward=series(lambda part, number: part[:number]),
        backward=series(lambda part, number: part[-number:]),
    )


def _independent(differences: FloatArray) -> tuple[Kept, FloatArray]:
    """Samples that count, in order of time."""
    found = series_statistics(differences)
    rest = differences[found.start :]
    with quiet_pymbar() as pymbar:
        chosen = pymbar.timeseries.subsample_correlated_data(rest, g=max(1.0, found.inefficiency))
    samples = rest[list(chosen)]
    return Kept(found.start, found.inefficiency, len(samples)), samples


def _by_bar(values: FloatArray, samples: Sequence[FloatArray]) -> FloatArray:
    """Free energies in kT from BAR between neighbours; nan from where it has no solution."""
    total = [0.0]
    with quiet_pymbar() as pymbar, np.errstate(all="ignore"):
        utils = pymbar.utils
        for (low, before), (high, after) in pairwise(zip(values, samples, strict=True)):
            work = (high - low) * before, (low - high) * after
            try:
                found = pymbar.bar(*work, compute_uncertainty=False)["Delta_f"]
                total.append(total[-1] + float(found))
            except (utils.ParameterError, utils.BoundsError, utils.ConvergenceError):
                total.append(np.nan)
    return np.array(total)


def _rough(reduced: FloatArray, counts: Sequence[int]) -> FloatArray:
    """The mean of exponential averages in both directions, between neighbours."""
    starts = np.concatenate([[0], np.cumsum(counts)])
    total = [0.0]
    for i in range(len(counts) - 1):
        work = reduced[i + 1] - reduced[i]
        up, down = work[starts[i] : starts[i + 1]], work[starts[i + 1] : starts[i + 2]]
        both = -_log_mean(-up) + _log_mean(down)
        total.append(total[-1] + both / 2)
    return np.array(total)


def _log_mean(exponents: FloatArray) -> float:
    top = exponents.max()
    return float(top + np.log(np.mean(np.exp(exponents - top))))


def _overlap(reduced: FloatArray, counts: Sequence[int], energies: FloatArray) -> FloatArray:
    """The overlap matrix (P. V. Klimovich et al., J. Comput. Aided Mol. Des. 29, 397 (2015))."""
    numbers = np.array(counts, dtype=float)
    exponents = energies[:, None] - reduced
    top = exponents.max(axis=0)
    odds = np.exp(exponents - top)
    weights = odds / (numbers @ odds)
    result: FloatArray = (weights @ weights.T) * numbers
    return result
