r"""Infrared, Raman and power spectra from time series of simulations.

They are Fourier transforms of autocorrelation functions, `openmm_les.analysis.correlation`.
Classical linear response gives for the current J = dM/dt of the dipole moment M, the Born effective
charges times the velocities, the absorption cross section (McQuarrie, Statistical Mechanics, ch.
21)

$$ n \sigma(\omega) = \frac{1}{6 \varepsilon_0 c\, k_B T} \int e^{-i\omega t}
   \langle J(0) \cdot J(t) \rangle\, dt $$

Imports neither torch nor matplotlib.
"""

from __future__ import annotations

import io
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from openmm_les import units
from openmm_les.analysis.correlation import (
    QUANTUM_CORRECTIONS,
    WINDOWS,
    Transform,
    autocorrelation,
    fast_length,
    integral,
    spectral_density,
    thermal_ratio,
)
from openmm_les.analysis.options import SpectrumOptions
from openmm_les.analysis.raman import Raman, raman_activity, raman_scattering
from openmm_les.analysis.series import TimeSeries
from openmm_les.arrays import FloatArray
from openmm_les.errors import InputError

__all__ = [
    "QUANTUM_CORRECTIONS",
    "WINDOWS",
    "Raman",
    "Spectrum",
    "SpectrumOptions",
    "autocorrelation",
    "check_sampling",
    "compute",
    "integral",
    "spectral_density",
]

logger = logging.getLogger(__name__)

#: Smallest number of rows.
_MIN_ROWS = 16
#: Default resolution [1/cm], as far as the series is long enough.
_RESOLUTION = 10.0
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
    #: Raman activity, whose bands have areas in A^4/u; None without a polarizability
    raman: Raman | None
    #: Cross sections of Stokes scattering; also None without a laser
    scattering: Raman | None
    settings: Mapping[str, str]  #: The settings in words, for headers

    def columns(self) -> dict[str, FloatArray]:
        """Spectra by name with unit."""
        every = {
            "Wavenumber (cm^-1)": self.wavenumber,
            "IR Intensity (km/mol/cm^-1)": self.infrared,
            "Absorption n*alpha (cm^-1)": self.absorption,
            "Power Spectrum (states/cm^-1)": self.power,
        }
        found = {name: values for name, values in every.items() if values is not None}
        for raman in (self.raman, self.scattering):
            found |= {} if raman is None else raman.columns()
        return found

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
            found["strongest bands (cm^-1)"] = self.wavenumber[_peaks(self.infrared)].tolist()
        if self.raman is not None:
            found["Raman activity (A^4/u)"] = integral(self.wavenumber, self.raman.total)
            places = _peaks(self.raman.total)
            found["strongest Raman bands (cm^-1)"] = self.wavenumber[places].tolist()
            ratios = self.raman.depolarized[places] / self.raman.polarized[places]
            found["depolarization ratios"] = ratios.tolist()
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

    These are current or dipole, velocities, polarizability, and optionally the volume; an
    InputError if they are missing, too short, not finite or at unequal intervals.
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
    source = _source(series, options)
    temperature, origin = _temperature(series, options.temperature)
    transform, resolution = _transform(series, options)
    check_sampling(series.interval)
    wavenumber = transform.wavenumber
    correct = QUANTUM_CORRECTIONS[options.quantum_correction]
    correction = correct(thermal_ratio(wavenumber, temperature))
    infrared = absorption = power = raman = scattering = None
    if source is not None:
        infrared = correction * _infrared(series, source, transform, temperature)
        volume = options.volume
        if volume is None and "volume" in series.values:
            volume = float(series.get("volume").mean())
        if volume is not None:
            area = infrared / _KM_PER_MOL  # [A^2]
            absorption = area / (1e3 * volume) * 1e8  # [1/A] to [1/cm]
    if "polarizability" in series.values:
        polarizability = series.get("polarizability")
        raman = raman_activity(polarizability, transform, temperature, correction)
    if raman is not None and options.laser is not None:
        scattering = raman_scattering(raman, wavenumber, temperature, options.laser, resolution)
    if "velocities" in series.values and not options.raman:
        thermal = units.BOLTZMANN * temperature / units.MASS_ENERGY
        power = 2.0 * units.LIGHT_SPEED / thermal * transform.density(series.get("velocities"))
    settings = _settings(series, source, options, origin, transform, resolution)
    return Spectrum(wavenumber, infrared, absorption, power, raman, scattering, settings)


def _peaks(values: FloatArray, most: int = 5) -> npt.NDArray[np.intp]:
    """Places of the highest maxima, in their order."""
    inner = values[1:-1]
    peaks = 1 + np.flatnonzero((inner > values[:-2]) & (inner >= values[2:]))
    return np.sort(peaks[np.argsort(values[peaks])[::-1][:most]])


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(f"{entry:.0f}" if entry >= 10 else f"{entry:.3f}" for entry in value)
    return f"{value:.5g}" if isinstance(value, float) else str(value)


def _infrared(
    series: TimeSeries, source: str, transform: Transform, temperature: float
) -> FloatArray:
    """Molar absorption, without a quantum correction [km/mol per 1/cm]."""
    if source == "current":
        density = transform.density(series.get("current"))
    else:
        density = transform.density_of_change(series.get("dipole"))
    thermal = units.BOLTZMANN * temperature
    speed = units.LIGHT_SPEED * 1e8  # [A/ps]
    area = 2.0 * math.pi / 3.0 * units.COULOMB_CONSTANT / (speed * thermal) * density
    return _KM_PER_MOL * area


def _source(series: TimeSeries, options: SpectrumOptions) -> str | None:
    """Source of the infrared spectrum; None without any."""
    if options.raman or options.laser is not None:
        series.get("polarizability")  # raises, with the quantities that the series has
    if options.raman:
        return None
    if options.source != "auto":
        series.get(options.source)
        return options.source
    present = [name for name in ("current", "dipole") if name in series.values]
    if not present and not {"velocities", "polarizability"}.intersection(series.values):
        series.get("current")
    return present[0] if present else None


def _transform(series: TimeSeries, options: SpectrumOptions) -> tuple[Transform, float]:
    """How spectra are computed, and their resolution [1/cm]."""
    lags, resolution = _longest_lag(series, options)
    spacing = options.spacing or resolution / _POINTS
    num_points = math.ceil(1.0 / (units.LIGHT_SPEED * series.interval * spacing))
    num_points = fast_length(max(2 * lags + 1, num_points))
    end = options.max_wavenumber
    return Transform(series.interval, lags, options.window, num_points, end), resolution


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
        f"{series.source} does not say its temperature: {_ROOM_TEMPERATURE:g} K are assumed; give "
        "that of the simulation (--temperature)"
    )
    return _ROOM_TEMPERATURE, f"{_ROOM_TEMPERATURE:g} K, assumed"


def check_sampling(interval: float) -> None:
    """Warn if the interval between rows [ps] is too long for vibrations of hydrogen."""
    highest = 0.5 / (interval * units.LIGHT_SPEED)
    if highest < _HYDROGEN:
        logger.warning(
            f"rows every {1e3 * interval:.3g} fs show vibrations up to {highest:.0f} cm^-1; what "
            "is faster, such as bonds to hydrogen, folds back to wrong places: write rows more "
            f"often, every {1e3 * _GOOD_INTERVAL:.1f} fs"
        )


def _settings(
    series: TimeSeries,
    source: str | None,
    options: SpectrumOptions,
    temperature: str,
    transform: Transform,
    resolution: float,
) -> dict[str, str]:
    made_of = {None: "none", "current": "autocorrelation of the current"}
    made_of["dipole"] = "autocorrelation of the difference quotient of the dipole"
    length = series.time[-1] - series.time[0]
    model = series.header.model
    longest = transform.lags * transform.interval
    laser = None if options.laser is None else f"{options.laser:g} nm"
    return {
        "source": f"{series.source}, {len(series.time)} rows in {length:.6g} ps",
        "infrared": made_of[source],
        "autocorrelation": f"unbiased, up to {longest:.6g} ps",
        "window": f"{options.window}, resolution {resolution:.4g} cm^-1",
        **({} if model is None else {"model": model}),
        "temperature": temperature,
        "quantum correction": f"{options.quantum_correction} (infrared, Raman)",
        **({} if laser is None else {"laser": laser}),
    }
