r"""Infrared and power spectra from time series of simulations.

Both are Fourier transforms of autocorrelation functions (Wiener and Khinchin)

$$ S(\omega) = \int e^{-i\omega t}\, w(t)\, \langle x(0) \cdot x(t) \rangle\, dt $$

with a window w that sets resolution and noise. Classical linear response gives for the
current J = dM/dt of the dipole moment M, the Born effective charges times the velocities, the
absorption cross section (McQuarrie, Statistical Mechanics, ch. 21)

$$ n \sigma(\omega) = \frac{1}{6 \varepsilon_0 c\, k_B T} \int e^{-i\omega t}
   \langle J(0) \cdot J(t) \rangle\, dt $$

Imports neither torch nor matplotlib.
"""

from __future__ import annotations

import io
import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from openmm_les import units
from openmm_les.analysis.options import SpectrumOptions
from openmm_les.analysis.series import TimeSeries
from openmm_les.arrays import FloatArray
from openmm_les.errors import InputError

logger = logging.getLogger(__name__)

#: Smallest number of rows.
_MIN_ROWS = 16
#: Default resolution [1/cm], as far as the series is long enough.
_RESOLUTION = 10.0
#: Number of values that are transformed at once, to limit memory.
_CHUNK = 2**22
#: Default temperature [K], with a warning.
_ROOM_TEMPERATURE = 300.0
#: Points of a spectrum per resolution, from zero padding.
_POINTS = 5
#: Highest wavenumber of bonds to hydrogen [1/cm].
_HYDROGEN = 4500.0
#: Interval between rows that resolves them well [ps].
_GOOD_INTERVAL = 0.003
#: km/mol for each square Angstrom of cross section, per wavenumber [1/cm].
_KM_PER_MOL = 602.214076

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
r"""Quantum correction factors Q of the dipole autocorrelation (Ramirez et al., J. Chem. Phys. 121,
3973 (2004), doi 10.1063/1.1774986), as the factor by which they change the classical spectrum:
$Q (1 - e^{-x}) / x$ with $x = \hbar\omega / k_B T$. With ``harmonic``, exact for harmonic
vibrations, $Q = x / (1 - e^{-x})$ and the classical spectrum stays; ``standard`` has
$Q = 2 / (1 + e^{-x})$, ``schofield`` $Q = e^{x/2}$, ``none`` $Q = 1$."""


@dataclass(frozen=True)
class Spectrum:
    """Spectra on common wavenumbers."""

    wavenumber: FloatArray  #: Shape (m,) [1/cm]
    #: Molar absorption of the whole model, shape (m,) [km/mol per 1/cm]: the area of a band is its
    #: integrated intensity in km/mol. None without current or dipole
    infrared: FloatArray | None
    #: Refractive index times absorption coefficient (napierian), shape (m,) [1/cm]; also None
    #: without a volume
    absorption: FloatArray | None
    #: Density of vibrational states, shape (m,) [states per 1/cm]; None without velocities. Its
    #: area is the number of degrees of freedom, if these are in equilibrium
    power: FloatArray | None
    settings: Mapping[str, str]  #: The settings in words, for headers

    def columns(self) -> dict[str, FloatArray]:
        """Spectra by name with unit."""
        every = {
            "Wavenumber (cm^-1)": self.wavenumber,
            "IR Intensity (km/mol/cm^-1)": self.infrared,
            "Absorption n*alpha (cm^-1)": self.absorption,
            "Power Spectrum (states/cm^-1)": self.power,
        }
        return {name: values for name, values in every.items() if values is not None}

    def to_csv(self) -> str:
        """A CSV table, with the settings as comments above its header."""
        text = io.StringIO()
        for name, value in self.settings.items():
            text.write(f"# {name}: {value}\n")
        columns = self.columns()
        text.write(",".join(f'"{name}"' for name in columns) + "\n")
        np.savetxt(text, np.stack(list(columns.values()), axis=1), fmt="%.8g", delimiter=",")
        return text.getvalue()

    def figures(self) -> dict[str, Any]:
        """Settings, and results such as the strongest bands, for JSON."""
        found: dict[str, Any] = dict(self.settings)
        if self.infrared is not None:
            found["integrated intensity (km/mol)"] = integral(self.wavenumber, self.infrared)
            found["strongest bands (cm^-1)"] = _bands(self.wavenumber, self.infrared)
        if self.power is not None:
            found["degrees of freedom"] = integral(self.wavenumber, self.power)
        return found

    def summary(self) -> str:
        """The same as text."""
        found = self.figures()
        width = max(map(len, found)) + 2
        return "\n".join(f"{name:<{width}}{_text(value)}" for name, value in found.items())


def compute(series: TimeSeries, options: SpectrumOptions | None = None) -> Spectrum:
    """Compute all spectra that a time series has the data for.

    These are current or dipole, velocities, and optionally the volume; an InputError if they are
    missing, too short, not finite or at unequal intervals.
    """
    options = options or SpectrumOptions()
    if options.start is not None:
        series = series.since(options.start)
    number = len(series.time)
    if number < _MIN_ROWS:
        raise InputError(
            f"{series.source}: expected at least {_MIN_ROWS} rows, got {number}; a spectrum needs "
            "some picoseconds"
        )
    source = _source(series, options.source)
    temperature, origin = _temperature(series, options.temperature)
    interval = series.interval
    lags, resolution = _longest_lag(series, options)
    check_sampling(interval)
    spacing = options.spacing or resolution / _POINTS
    num_points = math.ceil(1.0 / (units.LIGHT_SPEED * interval * spacing))
    num_points = _fast_length(max(2 * lags + 1, num_points))

    def transform(values: FloatArray) -> FloatArray:
        return spectral_density(autocorrelation(values, lags), interval, options.window, num_points)

    wavenumber = np.asarray(np.fft.rfftfreq(num_points, interval) / units.LIGHT_SPEED, np.float64)
    infrared = absorption = power = None
    if source is not None:
        infrared = _infrared(series, source, transform, wavenumber, options, temperature)
        volume = options.volume
        if volume is None and "volume" in series.values:
            volume = float(series.get("volume").mean())
        if volume is not None:
            area = infrared / _KM_PER_MOL  # [A^2]
            absorption = area / (1e3 * volume) * 1e8  # [1/A] to [1/cm]
    if "velocities" in series.values:
        momenta = series.get("velocities").reshape(number, -1)
        thermal = units.BOLTZMANN * temperature / units.MASS_ENERGY
        power = 2.0 * units.LIGHT_SPEED / thermal * transform(momenta)
    shown = wavenumber <= options.max_wavenumber

    def part(values: FloatArray | None) -> FloatArray | None:
        return None if values is None else values[shown]

    settings = _settings(series, source, options, origin, lags * interval, resolution)
    return Spectrum(wavenumber[shown], part(infrared), part(absorption), part(power), settings)


def autocorrelation(values: FloatArray, max_lag: int) -> FloatArray:
    """Unbiased autocorrelation function <x(0) . x(t)>: each lag is divided by its number of pairs.

    Computed from the power spectrum (Wiener and Khinchin) with zero padding, for lags of 0 to
    `max_lag` rows, from values of shape (n, components), of which no mean is subtracted. Shape
    (max_lag + 1,), the square of the unit of `values`.
    """
    number, components = values.shape
    length = _fast_length(number + max_lag)
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


def _bands(wavenumber: FloatArray, values: FloatArray, most: int = 5) -> list[float]:
    """Wavenumbers of the highest maxima [1/cm]."""
    inner = values[1:-1]
    peaks = 1 + np.flatnonzero((inner > values[:-2]) & (inner >= values[2:]))
    highest = peaks[np.argsort(values[peaks])[::-1][:most]]
    return [float(wavenumber[peak]) for peak in sorted(highest)]


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(f"{entry:.0f}" for entry in value)
    return f"{value:.5g}" if isinstance(value, float) else str(value)


def _infrared(
    series: TimeSeries,
    source: str,
    transform: Callable[[FloatArray], FloatArray],
    wavenumber: FloatArray,
    options: SpectrumOptions,
    temperature: float,
) -> FloatArray:
    """Molar absorption [km/mol per 1/cm]."""
    if source == "current":
        density = transform(series.get("current"))
    else:
        # The difference quotient of a vibration is its derivative in the middle of the interval
        # times sin(x) / x: no slow rotation of a large dipole leaks into high frequencies, as it
        # would if the spectrum of the dipole itself were multiplied by the squared frequency.
        density = transform(np.diff(series.get("dipole"), axis=0) / series.interval)
        density /= np.sinc(wavenumber * units.LIGHT_SPEED * series.interval) ** 2
    thermal = units.BOLTZMANN * temperature
    speed = units.LIGHT_SPEED * 1e8  # [A/ps]
    area = 2.0 * math.pi / 3.0 * units.COULOMB_CONSTANT / (speed * thermal) * density
    x = units.PLANCK * units.LIGHT_SPEED * wavenumber / thermal
    correct = QUANTUM_CORRECTIONS[options.quantum_correction]
    return _KM_PER_MOL * area * correct(np.maximum(x, 1e-12))


def _source(series: TimeSeries, wanted: str) -> str | None:
    """Source of the infrared spectrum; None without any."""
    if wanted != "auto":
        series.get(wanted)
        return wanted
    present = [name for name in ("current", "dipole") if name in series.values]
    if not present and "velocities" not in series.values:
        series.get("current")  # raises, with the quantities that the series has
    return present[0] if present else None


def _longest_lag(series: TimeSeries, options: SpectrumOptions) -> tuple[int, float]:
    """The longest lag in rows, and the resolution that follows from it [1/cm]."""
    interval = series.interval
    # Lags beyond half of the series have too few samples. Differences have one row less.
    available = (len(series.time) - 1) // 2
    _, width = WINDOWS[options.window]
    finest = width / (available * interval * units.LIGHT_SPEED)
    if options.max_lag is not None:
        lags = round(options.max_lag / interval)
        wanted = f"max_lag: {options.max_lag:g} ps"
    else:
        resolution = options.resolution or max(_RESOLUTION, finest)
        lags = math.ceil(width / (resolution * interval * units.LIGHT_SPEED) * (1 - 1e-9))
        wanted = f"resolution: {resolution:g} cm^-1"
    if not 2 <= lags <= available:
        raise InputError(
            f"{wanted} takes {lags} rows of {series.source}, expected from 2 to {available}, half "
            f"of the series: lags up to {available * interval:.4g} ps, a resolution from "
            f"{finest:.3g} cm^-1 on; simulate for longer, or ask for less"
        )
    return lags, width / (lags * interval * units.LIGHT_SPEED)


def _temperature(series: TimeSeries, given: float | None) -> tuple[float, str]:
    """Temperature of the simulation [K], and its origin in words."""
    stated = series.header.temperature
    if given is not None:
        other = "" if stated in (None, given) else f", given; the series says {stated:g} K"
        return given, f"{given:g} K{other}"
    if stated is not None:
        return stated, f"{stated:g} K, of the series"
    logger.warning(
        "%s does not say its temperature: %g K are assumed; give that of the simulation "
        "(--temperature)",
        series.source,
        _ROOM_TEMPERATURE,
    )
    return _ROOM_TEMPERATURE, f"{_ROOM_TEMPERATURE:g} K, assumed"


def check_sampling(interval: float) -> None:
    """Warn if the interval between rows [ps] is too long for vibrations of hydrogen."""
    highest = 0.5 / (interval * units.LIGHT_SPEED)
    if highest < _HYDROGEN:
        logger.warning(
            "rows every %.3g fs show vibrations up to %.0f cm^-1; what is faster, such as bonds to "
            "hydrogen, folds back to wrong places: write rows more often, every %.1f fs",
            1e3 * interval,
            highest,
            1e3 * _GOOD_INTERVAL,
        )


def _fast_length(least: int) -> int:
    """The next power of two."""
    return 1 << (least - 1).bit_length()


def _settings(
    series: TimeSeries,
    source: str | None,
    options: SpectrumOptions,
    temperature: str,
    longest: float,
    resolution: float,
) -> dict[str, str]:
    made_of = {
        None: "none",
        "current": "autocorrelation of the current",
        "dipole": "autocorrelation of the difference quotient of the dipole",
    }
    length = series.time[-1] - series.time[0]
    model = series.header.model
    return {
        "source": f"{series.source}, {len(series.time)} rows in {length:.6g} ps",
        "infrared": made_of[source],
        "autocorrelation": f"unbiased, up to {longest:.6g} ps",
        "window": f"{options.window}, resolution {resolution:.4g} cm^-1",
        **({} if model is None else {"model": model}),
        "temperature": temperature,
        "quantum correction": f"{options.quantum_correction} (infrared)",
    }
