"""MD steps of OpenMM and of ASE behind one interface."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import openmm
from ase import Atoms, units
from ase.md.verlet import VelocityVerlet
from openmm import unit

from openmm_les.benchmark.steps import platform_for
from openmm_les.units import ANGSTROM_PER_NM, FORCE_PER_EV_PER_ANGSTROM
from step.systems import load

#: Short, so that random weights cannot throw atoms at each other [fs]. It changes no cost.
TIME_STEP = 0.2


@dataclass(frozen=True)
class Case:
    """What one process measures; paths, so that it fits on a command line."""

    row: str
    artifact: str
    peer: str
    structure: str
    device: str
    threads: int

    def atoms(self) -> Atoms:
        return load(Path(self.structure))

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


class Steps(Protocol):
    """Something that makes MD steps."""

    def step(self, steps: int) -> None:
        """Velocity-Verlet steps, each with one evaluation of energy and forces."""

    def evaluate(self) -> np.ndarray:
        """One evaluation of energy and forces [eV/A], shape (n, 3)."""


class OpenMMSteps:
    """Steps of an OpenMM Context."""

    def __init__(self, system: openmm.System, case: Case) -> None:
        self._integrator = openmm.VerletIntegrator(0.001 * TIME_STEP)
        self._context = openmm.Context(system, self._integrator, platform_for(case.device))
        self._context.setPositions(case.atoms().positions / ANGSTROM_PER_NM)

    def step(self, steps: int) -> None:
        self._integrator.step(steps)

    def evaluate(self) -> np.ndarray:
        state = self._context.getState(energy=True, forces=True)
        per_nm = unit.kilojoule_per_mole / unit.nanometer
        forces: np.ndarray = state.getForces(asNumpy=True).value_in_unit(per_nm)
        return forces / FORCE_PER_EV_PER_ANGSTROM


class ASESteps:
    """Steps of an ASE calculator."""

    def __init__(self, calculator: Any, case: Case) -> None:
        self._atoms = case.atoms()
        self._atoms.calc = calculator
        self._dynamics = VelocityVerlet(self._atoms, timestep=TIME_STEP * units.fs)

    def step(self, steps: int) -> None:
        for _ in range(steps):
            self._dynamics.step()

    def evaluate(self) -> np.ndarray:
        self._atoms.calc.reset()
        forces: np.ndarray = self._atoms.get_forces()
        return forces
