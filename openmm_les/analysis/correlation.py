r"""Autocorrelation functions of time series, and their Fourier transforms.

$$ S(\omega) = \int e^{-i\omega t}\, w(t)\, \langle x(0) \cdot x(t) \rangle\, dt $$

(Wiener and Khinchin), with a window w that sets resolution and noise. Imports no torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from openmm_les import units
from openmm_les.arrays import FloatArray

#: Number of values that are transformed at once, to limit memory.
_CHUNK = 2**22

WINDOWS: Mapping[str, tuple[Callable[[FloatArray], FloatArray], float]] = {
    "hann": (lambda x: 0.5 * (1.0 + np.cos(math.pi * x)), 1.0),
    # Standard deviation of a quarter: 3e-4 is left at the end.
    "gaussian": (lambda x: np.exp(-8.0 * x * x), 4.0 * math.sqrt(2.0 * math.log(2.0)) / math.pi),
    "none": (np.ones_like, 0.6033545644),
}
"""Windows as functions of lag over longest lag, and the full width at half maximum of a sharp line,
times the longest lag. That of ``none`` solves sin(x) = x / 2 and has large side lobes."""

QUANTUM_CORRECTIONS: Mapping[str, Callable[[FloatArray], FloatArray]] = {
    "harmonic": np.ones_like,
    "standard": lambda x: np.tanh(x / 2.0) / (x / 2.0),
    "schofield": lambda x: np.sinh(x / 2.0) / (x / 2.0),
    "none": lambda x: -np.expm1(-x) / x,
}
r"""Quantum correction factors Q of autocorrelation functions (Ramirez et al., J. Chem. Phys. 121,
3973 (2004), doi 10.1063/1.1774986), as the factor by which they change the classical spectrum:
$Q (1 - e^{-x}) / x$ with $x = \hbar\omega / k_B T$. With ``harmonic``, exact for harmonic
vibrations, $Q = x / (1 - e^{-x})$ and the classical spectrum stays; ``standard`` has
$Q = 2 / (1 + e^{-x})$, ``schofield`` $Q = e^{x/2}$, ``none`` $Q = 1$."""


@dataclass(frozen=True)
class Transform:
    """How rows at equal intervals become spectra, and the wavenumbers of these."""

    interval: float  #: Between rows [ps]
    lags: int  #: The longest lag, in rows
    window: str  #: One of `WINDOWS`
    num_points: int  #: Of the Fourier transform, see `spectral_density`
    end: float  #: Highest wavenumber [1/cm]

    @cached_property
    def wavenumber(self) -> FloatArray:
        """Shape (m,) [1/cm]."""
        frequencies = np.fft.rfftfreq(self.num_points, self.interval)
        every = np.asarray(frequencies / units.LIGHT_SPEED, np.float64)
        return every[every <= self.end]

    def density(self, values: FloatArray) -> FloatArray:
        """Of values of shape (n, ...), summed over their components; their unit squared times ps.

        No mean is subtracted. Shape (m,).
        """
        correlation = autocorrelation(values.reshape(len(values), -1), self.lags)
        every = spectral_density(correlation, self.interval, self.window, self.num_points)
        return every[: len(self.wavenumber)]

    def density_of_change(self, values: FloatArray) -> FloatArray:
        """Of the derivative of the values by time.

        The difference quotient of a vibration is its derivative in the middle of the interval times
        sin(x) / x: no slow rotation of a large dipole leaks into high frequencies, as it would if
        the spectrum of the dipole itself were multiplied by the squared frequency.
        """
        density = self.density(np.diff(values, axis=0) / self.interval)
        shrunk = np.sinc(self.wavenumber * units.LIGHT_SPEED * self.interval) ** 2
        return np.asarray(density / shrunk)


def autocorrelation(values: FloatArray, max_lag: int) -> FloatArray:
    """Unbiased autocorrelation function <x(0) . x(t)>: each lag is divided by its number of pairs.

    Computed from the power spectrum (Wiener and Khinchin) with zero padding, for lags of 0 to
    `max_lag` rows, from values of shape (n, components), of which no mean is subtracted. Shape
    (max_lag + 1,), the square of the unit of `values`.
    """
    number, components = values.shape
    length = fast_length(number + max_lag)
    total = np.zeros(length // 2 + 1)
    step = max(1, _CHUNK // length)
    for first in range(0, components, step):
        amplitudes = np.fft.rfft(values[:, first : first + step], length, axis=0)
        total += (amplitudes.real**2 + amplitudes.imag**2).sum(axis=1)
    sums = np.fft.irfft(total, length)[: max_lag + 1]
    return np.asarray(sums / (number - np.arange(max_lag + 1)))


def spectral_density(
    correlation: FloatArray, interval: float, window: str, num_points: int
) -> FloatArray:
    r"""The integral of $e^{-i\omega t} w(t) C(t)$ over all times, for an even C.

    Args:
        correlation: C at the lags 0, 1, ..., shape (lags,).
        interval: between lags [ps].
        window: one of `WINDOWS`; it is 1 at lag 0.
        num_points: of the Fourier transform, at least 2 lags - 1; more pad with zeros.

    Returns:
        At the frequencies ``numpy.fft.rfftfreq(num_points, interval)``, unit of C times ps. Over
        both signs of the frequency they add up to C(0) times `num_points` times `interval`.
    """
    shape, _ = WINDOWS[window]
    lags = len(correlation)
    weighted = correlation * shape(np.arange(lags) / max(1, lags - 1))
    return np.asarray(interval * (2.0 * np.fft.rfft(weighted, num_points).real - weighted[0]))


def integral(wavenumber: FloatArray, values: FloatArray) -> float:
    """Area of a spectrum by the trapezoidal rule."""
    return float(((values[1:] + values[:-1]) / 2.0 * np.diff(wavenumber)).sum())


def fast_length(least: int) -> int:
    """The next power of two."""
    return 1 << (least - 1).bit_length()


def thermal_ratio(wavenumber: FloatArray, temperature: float) -> FloatArray:
    """Energies of quanta over kT, at least 1e-12, from wavenumbers [1/cm]; shape (m,)."""
    quantum = units.PLANCK * units.LIGHT_SPEED / (units.BOLTZMANN * temperature)
    return np.asarray(np.maximum(quantum * wavenumber, 1e-12))
