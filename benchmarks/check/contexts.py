"""What OpenMM does around a PythonForce: threads, CUDA contexts, values that are not numbers."""

import ctypes
import threading
from typing import Any

import numpy as np
import openmm

from check.stages import Visit

_PARTICLES = 64
#: For each call of `harmonic`: whether it came in the main thread, and the CUDA context.
_seen: list[tuple[bool, int | None]] = []


def platforms() -> list[str]:
    """Platforms to try, those of a GPU first."""
    count = openmm.Platform.getNumPlatforms()
    names = [openmm.Platform.getPlatform(i).getName() for i in range(count)]
    return [name for name in ("CUDA", "OpenCL", "CPU") if name in names]


def new_context(
    system: openmm.System, integrator: openmm.Integrator, name: str, precision: str | None = None
) -> openmm.Context:
    """A Context on one device, on one CPU thread."""
    properties = {"Threads": "1"} if name == "CPU" else {}
    if precision and name in ("CUDA", "OpenCL"):
        properties["Precision"] = precision
    return openmm.Context(system, integrator, openmm.Platform.getPlatformByName(name), properties)


def probes(visit: Visit) -> None:
    """From which thread and CUDA context OpenMM calls, and what it makes of NaN."""
    for name in platforms():
        for call in ("getState", "step", "minimise", "barostat", "customcv"):
            with visit.piece(f"{name}/{call}") as found:
                found |= _who_calls(name, call)
        with visit.piece(f"{name}/nan") as found:
            found |= _not_a_number(name)
        with visit.piece(f"{name}/two_ewald_forces") as found:
            found["difference_kJ_per_mol"] = _two_ewald_forces(name)


def _current_context() -> int | None:
    """Address of the CUDA context that is current in this thread."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    current = ctypes.c_void_p()
    return current.value if driver.cuCtxGetCurrent(ctypes.byref(current)) == 0 else None


def _gas(force: openmm.Force) -> openmm.System:
    system = openmm.System()
    system.setDefaultPeriodicBoxVectors(*(np.eye(3) * 3.0))
    for _ in range(_PARTICLES):
        system.addParticle(12.0)
    system.addForce(force)
    return system


def _positions() -> np.ndarray:
    grid = np.arange(4) * 0.6
    return np.stack(np.meshgrid(grid, grid, grid), -1).reshape(-1, 3)


def harmonic(state: openmm.State) -> tuple[float, np.ndarray]:
    """Springs to the origin; a function of the module, since a CustomCVForce pickles it."""
    _seen.append((threading.get_ident() == threading.main_thread().ident, _current_context()))
    r = state.getPositions(asNumpy=True)._value
    return float((r * r).sum()), -2.0 * r


def _who_calls(name: str, call: str) -> dict[str, Any]:
    _seen.clear()
    force = openmm.PythonForce(harmonic)
    force.setUsesPeriodicBoundaryConditions(True)
    if call == "customcv":
        inner, force = force, openmm.CustomCVForce("2*x")
        force.addCollectiveVariable("x", inner)
    system = _gas(force)
    if call == "barostat":
        system.addForce(openmm.MonteCarloBarostat(1.0, 300.0, 1))
    before = _current_context()
    context = new_context(system, openmm.VerletIntegrator(0.001), name)
    context.setPositions(_positions())
    if call in ("step", "barostat"):
        context.getIntegrator().step(3)
    elif call == "minimise":
        openmm.LocalEnergyMinimizer.minimize(context, 10.0, 3)
    context.getState(energy=True, forces=True)
    return {
        "calls": len(_seen),
        "in_main_thread": all(main for main, _ in _seen),
        "cuda_contexts": len({current for _, current in _seen}),
        "context_before_is_after": before == _current_context(),
    }


def _not_a_number(name: str) -> dict[str, Any]:
    """What the platform hands out where a force is NaN; our own forces raise instead."""

    def broken(state: openmm.State) -> tuple[float, np.ndarray]:
        return float("nan"), np.full((_PARTICLES, 3), np.nan)

    context = new_context(_gas(openmm.PythonForce(broken)), openmm.VerletIntegrator(0.001), name)
    context.setPositions(_positions())
    state = context.getState(energy=True, forces=True)
    forces = state.getForces(asNumpy=True)._value
    return {
        "energy": repr(state.getPotentialEnergy()._value),
        "largest_force": repr(float(np.abs(forces).max())),
        "forces_are_nan": bool(np.isnan(forces).all()),
    }


def _two_ewald_forces(name: str) -> float:
    """Two NonbondedForces with Ewald summation in one System, against the Reference platform."""
    energies = []
    for platform in (name, "Reference"):
        system = _gas(openmm.CustomExternalForce("0"))
        for charge in (0.5, 0.1):
            force = openmm.NonbondedForce()
            force.setNonbondedMethod(openmm.NonbondedForce.Ewald)
            force.setCutoffDistance(1.0)
            for i in range(_PARTICLES):
                force.addParticle(charge * (-1) ** i, 1.0, 0.0)
            system.addForce(force)
        context = new_context(system, openmm.VerletIntegrator(0.001), platform, "double")
        context.setPositions(_positions())
        energies.append(context.getState(energy=True).getPotentialEnergy()._value)
    return float(energies[0] - energies[1])
