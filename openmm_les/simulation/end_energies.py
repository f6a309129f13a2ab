"""The energies at both ends of an interpolation, of which every energy in between follows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from openmm import app, unit

from openmm_les.names import LAMBDA

FORCE_FIELD_ENERGY = "Energy of the force field (kJ/mole)"
MIXED_ENERGY = "Energy of ML/MM (kJ/mole)"
_HEADER = f'#"Step","{FORCE_FIELD_ENERGY}","{MIXED_ENERGY}"\n'


class EndEnergyReporter:
    """Appends the potential energies at lambda = 0 and 1 to a file, closed between rows.

    The energy is linear in lambda, so that these two are what free energies need.
    """

    def __init__(self, path: Path, interval: int) -> None:
        self._path = path
        self._interval = interval

    def describeNextReport(self, simulation: app.Simulation) -> dict[str, Any]:
        steps = self._interval - simulation.currentStep % self._interval
        return {"steps": steps, "periodic": None, "include": []}

    def report(self, simulation: app.Simulation, state: Any) -> None:
        ends = end_energies(simulation)
        with self._path.open("a", encoding="ascii", newline="\n") as stream:
            if stream.tell() == 0:
                stream.write(_HEADER)
            stream.write(f"{simulation.currentStep},{ends[0]!r},{ends[1]!r}\n")


def end_energies(simulation: app.Simulation) -> tuple[float, float]:
    """Potential energies of the force field and of ML/MM [kJ/mol]; lambda stays as it is."""
    context = simulation.context
    now = context.getParameter(LAMBDA)

    def energy(value: float) -> float:
        context.setParameter(LAMBDA, value)
        found = context.getState(energy=True).getPotentialEnergy()
        return float(found.value_in_unit(unit.kilojoule_per_mole))

    try:
        return energy(0.0), energy(1.0)
    finally:
        context.setParameter(LAMBDA, now)
