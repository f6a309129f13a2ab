"""Options of the analysis of simulations and of reference data; imports nothing heavy."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Literal

from openmm_les.errors import InputError
from openmm_les.names import Option, check_options, described


@described
@dataclass(frozen=True)
class SpectrumOptions:
    """How a spectrum is computed; an InputError for a value out of range."""

    source: Annotated[
        Literal["auto", "current", "dipole"],
        Option(
            "What the infrared spectrum is computed from; auto: the current where there is one.",
            flag="--from",
        ),
    ] = "auto"
    window: Annotated[
        Literal["hann", "gaussian", "none"], Option("Window on the autocorrelation function.")
    ] = "hann"
    resolution: Annotated[
        float | None,
        Option(
            "Full width at half maximum of a sharp line; default: 10, or what the length allows.",
            "CM-1",
        ),
    ] = None
    max_lag: Annotated[float | None, Option("Longest lag, instead of a resolution.", "PS")] = None
    spacing: Annotated[
        float | None,
        Option(
            "Largest spacing of the rows, by zero padding; default: a fifth of the resolution.",
            "CM-1",
        ),
    ] = None
    max_wavenumber: Annotated[float, Option("End of the spectrum.", "CM-1")] = 4500.0
    temperature: Annotated[
        float | None,
        Option(
            "Temperature of the simulation; default: what the series says, or 300 with a warning.",
            "K",
        ),
    ] = None
    quantum_correction: Annotated[
        Literal["harmonic", "standard", "schofield", "none"],
        Option("Quantum correction factor of infrared and Raman spectra."),
    ] = "harmonic"
    raman: Annotated[bool, Option("Compute the Raman spectrum alone.")] = False
    laser: Annotated[
        float | None,
        Option("Wavelength of the laser, for Raman cross sections beside the activity.", "NM"),
    ] = None
    volume: Annotated[
        float | None,
        Option(
            "Volume of the box, for the absorption coefficient; default: the mean of the series, "
            "if it has one.",
            "NM3",
        ),
    ] = None
    start: Annotated[float | None, Option("Leave out what is before this time.", "PS")] = None

    def __post_init__(self) -> None:
        check_options(self)
        above_zero = ("resolution", "max_lag", "spacing", "max_wavenumber", "temperature")
        for name in (*above_zero, "volume", "laser"):
            value = getattr(self, name)
            if value is not None and not 0.0 < value < math.inf:
                raise InputError(f"{name}: expected a number above 0, got {value}")
        if self.laser is not None and 1e7 / self.laser <= self.max_wavenumber:
            raise InputError(
                f"laser: expected a wavelength [nm] whose light has a wavenumber above "
                f"{self.max_wavenumber:g} cm^-1 (max_wavenumber), got {self.laser:g} nm"
            )
        if self.resolution is not None and self.max_lag is not None:
            raise InputError(
                "resolution and max_lag: expected one of them, since each follows from the other, "
                "got both"
            )


@described
@dataclass(frozen=True)
class ReferenceOptions:
    """Which structures and quantities of a file with reference data are read."""

    limit: Annotated[int | None, Option("Take the first N structures.", "N")] = None
    energy_key: Annotated[str | None, Option("Key of the energy [eV] in DATA.", "NAME")] = None
    forces_key: Annotated[str | None, Option("Key of the forces [eV/A].", "NAME")] = None
    stress_key: Annotated[str | None, Option("Key of the stress [eV/A^3].", "NAME")] = None
    dipole_key: Annotated[str | None, Option("Key of the dipole [e A].", "NAME")] = None
    born_key: Annotated[str | None, Option("Key of the Born effective charges [e].", "NAME")] = None
    born_axes: Annotated[
        Literal["Pr", "rP"],
        Option(
            "Axes of the Born effective charges: polarization before displacement, or after it, as "
            "in SPICE."
        ),
    ] = "Pr"

    @property
    def keys(self) -> dict[str, str]:
        """Keys in the file, by quantity, where they are given."""
        keys = {"energy": self.energy_key, "forces": self.forces_key, "stress": self.stress_key}
        keys |= {"dipole": self.dipole_key, "born_charges": self.born_key}
        return {name: key for name, key in keys.items() if key is not None}
