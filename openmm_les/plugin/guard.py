"""Stops simulations that have become unstable: a model gives finite energies to atoms far apart."""

from __future__ import annotations

from typing import Any, SupportsIndex

import numpy as np
import openmm
from openmm import app, unit

from openmm_les.errors import InputError, SimulationError
from openmm_les.plugin.arguments import read_interval, read_temperature
from openmm_les.plugin.thermostats import temperature_of

#: Default limit [K], and its smallest ratio to the temperature of the thermostat.
_MAX_KELVIN, _MAX_RATIO = 5000.0, 10.0


class TemperatureGuard:
    """Stops a simulation that is far too hot; append it to ``simulation.reporters``.

    A check costs as much as a report of the velocities, little beside the steps of a model.

    Args:
        reportInterval: steps between checks.
        maxTemperature: a Quantity, or a number [K]; None for 5000 K, or ten times the temperature
            of the thermostat where that is more.

    Raises:
        InputError: an interval or a temperature that cannot be used.
    """

    def __init__(self, reportInterval: SupportsIndex = 10, maxTemperature: Any = None) -> None:
        self._interval = read_interval(reportInterval)
        self._limit = read_temperature("maxTemperature", maxTemperature)
        self._masses: np.ndarray[Any, np.dtype[np.float64]] | None = None
        self._freedom = 0

    def describeNextReport(self, simulation: app.Simulation) -> dict[str, Any]:
        """When the next check is due, for OpenMM."""
        steps = self._interval - simulation.currentStep % self._interval
        return {"steps": steps, "periodic": None, "include": ["velocities"]}

    def report(self, simulation: app.Simulation, state: openmm.State) -> None:
        """Check the temperature; a SimulationError if it is too high."""
        if isinstance(simulation.integrator, openmm.BrownianIntegrator):
            raise InputError(
                "TemperatureGuard: expected an integrator whose velocities are those of the atoms, "
                "got a BrownianIntegrator, whose velocities mean nothing; leave the guard out"
            )
        kelvin = self.temperature(simulation.system, state)
        target = temperature_of(simulation.context) or 0.0
        limit = self._limit or max(_MAX_KELVIN, _MAX_RATIO * target)
        if kelvin <= limit:
            return
        step = simulation.integrator.getStepSize().value_in_unit(unit.femtosecond)
        raise SimulationError.with_remedy(
            f"the temperature is {kelvin:.4g} K at step {simulation.currentStep}, with time steps "
            f"of {step:g} fs: the atoms fly apart; take a smaller time step (0.5 fs where bonds to "
            "hydrogen are free), and minimise the start structure"
        )

    def temperature(self, system: openmm.System, state: openmm.State) -> float:
        """Temperature of the velocities [K]; motion of the centre of mass counts, too."""
        if self._masses is None:
            masses = (system.getParticleMass(i) for i in range(system.getNumParticles()))
            self._masses = np.array([mass.value_in_unit(unit.dalton) for mass in masses])
            moving = int(np.count_nonzero(self._masses))
            self._freedom = max(1, 3 * moving - system.getNumConstraints())
        velocities = state.getVelocities(asNumpy=True)
        velocities = velocities.value_in_unit(unit.nanometer / unit.picosecond)
        with np.errstate(over="ignore", invalid="ignore"):
            twice_energy = float(np.dot(self._masses, (velocities**2).sum(axis=1)))  # [kJ/mol]
        gas_constant = unit.MOLAR_GAS_CONSTANT_R.value_in_unit(
            unit.kilojoule_per_mole / unit.kelvin
        )
        return twice_energy / (self._freedom * float(gas_constant))
