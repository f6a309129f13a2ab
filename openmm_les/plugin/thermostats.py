"""The temperature of the thermostat of a simulation, from its integrator or forces."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import openmm
from openmm import unit


def temperature_of(context: openmm.Context) -> float | None:
    """Temperature of the thermostat [K]; None without one, or if several differ."""
    found = {*_of_integrator(context.getIntegrator()), *_of_forces(context)}
    return found.pop() if len(found) == 1 else None


def _of_integrator(integrator: Any) -> Iterator[float]:
    if isinstance(integrator, openmm.CompoundIntegrator):
        integrator = integrator.getIntegrator(integrator.getCurrentIntegrator())
    if isinstance(integrator, openmm.CustomIntegrator):
        variables = range(integrator.getNumGlobalVariables())
        names = [integrator.getGlobalVariableName(variable) for variable in variables]
        if "kT" in names:  # as OpenMM's MTSLangevinIntegrator and openmmtools have it [kJ/mol]
            thermal = integrator.getGlobalVariableByName("kT") * unit.kilojoule_per_mole
            yield from _kelvin(thermal / unit.MOLAR_GAS_CONSTANT_R)
    elif isinstance(integrator, openmm.NoseHooverIntegrator):
        for chain in range(integrator.getNumThermostats()):
            yield from _kelvin(integrator.getTemperature(chain))
    elif hasattr(integrator, "getTemperature"):
        yield from _kelvin(integrator.getTemperature())


def _of_forces(context: openmm.Context) -> Iterator[float]:
    for force in context.getSystem().getForces():
        if isinstance(force, openmm.AndersenThermostat):
            yield from _kelvin(context.getParameter(force.Temperature()) * unit.kelvin)


def _kelvin(temperature: Any) -> Iterator[float]:
    """A valid temperature, rounded to remove errors of conversions."""
    value = temperature.value_in_unit(unit.kelvin)
    if 0.0 < value < math.inf:
        yield float(f"{value:.9g}")
