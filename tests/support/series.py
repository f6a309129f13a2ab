"""Time series for the tests of the analysis."""

import math

import numpy as np
from openmm import unit

from openmm_les.analysis import formats
from openmm_les.analysis.series import QUANTITIES

LIGHT = 0.0299792458  # cm/ps
KELVIN = 300.0
GAS_CONSTANT = unit.MOLAR_GAS_CONSTANT_R.value_in_unit(
    unit.dalton * unit.angstrom**2 / unit.picosecond**2 / unit.kelvin
)


def oscillator(wavenumber=1650.0, duration=20.0, interval=1e-3, slope=1.0, phase=0.3):
    """A vibration with the energy kT: time, dipole [e A] and mass-weighted velocity.

    `slope` is the derivative of the dipole along the mass-weighted coordinate [e / u^1/2].
    """
    time = np.arange(0.0, duration, interval)
    omega = 2 * np.pi * LIGHT * wavenumber
    amplitude = math.sqrt(2 * GAS_CONSTANT * KELVIN) / omega
    angle = omega * time + phase
    direction = np.array([1.0, 2.0, -2.0]) / 3.0
    dipole = slope * amplitude * np.cos(angle)[:, None] * direction
    velocity = -amplitude * omega * np.sin(angle)
    return time, dipole, velocity, direction


def write(path, number, names=tuple(QUANTITIES), atoms=(4, 0, 7)):
    """A file with random numbers; returns them."""
    generator = np.random.default_rng(6)
    file = formats.open_series(path, names, atoms)
    file.create()
    rows = []
    for row in range(number):
        values = {
            q.name: generator.normal(size=(len(atoms),) * q.per_atom + q.shape)
            for q in file.quantities
        }
        file.append(10 * (row + 1), 0.005 * (row + 1), values)
        rows.append(values)
    return file, rows
