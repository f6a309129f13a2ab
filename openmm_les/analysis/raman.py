r"""Raman spectra from time series of the polarizability.

Without a resonance (Placzek), molecules of every orientation scatter a linearly polarized laser as
two correlation functions say: those of the mean $a = \tfrac13 \mathrm{tr}\,\alpha$ of the
polarizability volume, and of its anisotropy, $\gamma^2 = \tfrac32\, \beta : \beta$ with
$\beta = \alpha - a$ (McQuarrie, Statistical Mechanics, ch. 21; Thomas et al., Phys. Chem. Chem.
Phys. 15, 6608 (2013), doi 10.1039/c3cp44302g).

Imports no torch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from openmm_les import units
from openmm_les.analysis.correlation import Transform, thermal_ratio
from openmm_les.arrays import FloatArray

#: Of a cross section: square Angstrom in 1e-30 cm^2.
_CROSS_SECTION = 1e14
_ANGSTROM_PER_CM = 1e8


@dataclass(frozen=True)
class Raman:
    """A Raman spectrum of the whole model, as its two independent parts, shape (m,) each."""

    isotropic: FloatArray  #: What varies with the mean polarizability
    #: VH: the analyser is perpendicular to the polarization of the laser
    depolarized: FloatArray
    label: str  #: What this is
    unit: str

    @property
    def anisotropic(self) -> FloatArray:
        """What varies with the anisotropy, in both polarizations of the scattered light."""
        return np.asarray(7.0 / 3.0 * self.depolarized)

    @property
    def polarized(self) -> FloatArray:
        """VV: the analyser is parallel to the polarization of the laser."""
        return np.asarray(self.isotropic + 4.0 / 3.0 * self.depolarized)

    @property
    def total(self) -> FloatArray:
        """VV and VH."""
        return self.polarized + self.depolarized

    def columns(self) -> dict[str, FloatArray]:
        """The spectra by name with unit."""
        every = {
            "VV": self.polarized,
            "VH": self.depolarized,
            "Isotropic": self.isotropic,
            "Anisotropic": self.anisotropic,
        }
        return {f"{self.label} {name} ({self.unit})": values for name, values in every.items()}

    def scaled(self, factor: FloatArray, label: str, unit: str) -> Raman:
        """Another quantity, with a factor for each wavenumber."""
        return Raman(factor * self.isotropic, factor * self.depolarized, label, unit)


def raman_activity(
    polarizability: FloatArray, transform: Transform, temperature: float, correction: FloatArray
) -> Raman:
    r"""Raman activity for each wavenumber [A^4/u per 1/cm].

    $\frac{2c}{k_B T} \int e^{-i\omega t} \langle 45\, \dot a(0) \dot a(t) + \tfrac{21}{2}\,
    \dot\beta(0) : \dot\beta(t) \rangle\, dt$: the area of the band of a harmonic vibration is $45
    a'^2 + 7 \gamma'^2$, with derivatives by its mass-weighted coordinate. It depends neither on the
    laser nor on the temperature.

    Args:
        polarizability: symmetric, shape (n, 3, 3) [A^3].
        temperature: of the simulation [K].
        correction: factors of the classical spectrum, shape (m,).
    """
    mean = np.trace(polarizability, axis1=1, axis2=2)[:, None] / 3.0
    anisotropy = polarizability - mean[:, :, None] * np.eye(3)
    thermal = units.BOLTZMANN * temperature / units.MASS_ENERGY
    factor = 2.0 * units.LIGHT_SPEED / thermal * correction
    isotropic = 45.0 * factor * transform.density_of_change(mean)
    depolarized = 4.5 * factor * transform.density_of_change(anisotropy)
    return Raman(isotropic, depolarized, "Raman Activity", "A^4/u/cm^-1")


def raman_scattering(
    activity: Raman, wavenumber: FloatArray, temperature: float, laser: float, lowest: float
) -> Raman:
    r"""Differential cross section of Stokes scattering at a right angle [1e-30 cm^2/sr per 1/cm].

    $\frac{(2\pi)^4 (\tilde\nu_0 - \tilde\nu)^4}{45} \frac{h}{8\pi^2 c \tilde\nu\, (1 - e^{-x})}$
    times the activity, with $x = h c \tilde\nu / k_B T$: of the energy scattered, for a laser that
    is polarized perpendicular to the plane of scattering.

    Args:
        wavenumber: shape (m,) [1/cm].
        laser: wavelength [nm].
        lowest: what is below this wavenumber [1/cm] is NaN: there the line of the laser itself is
            not resolved.
    """
    shown = np.where(wavenumber < lowest, np.nan, wavenumber)
    scattered = 2.0 * math.pi * (1e7 / laser - shown) / _ANGSTROM_PER_CM  # [1/A]
    squares = units.PLANCK / (8.0 * math.pi**2 * units.MASS_ENERGY * units.LIGHT_SPEED) / shown
    population = -1.0 / np.expm1(-thermal_ratio(shown, temperature))
    factor = _CROSS_SECTION * scattered**4 / 45.0 * squares * population
    return activity.scaled(np.asarray(factor), "Raman Cross Section", "10^-30 cm^2/sr/cm^-1")
