"""Drift of the total energy in 2 ps of NVE dynamics, single precision, CPU.

    python benchmarks/energy_conservation.py [--large]

Water (192 atoms, periodic) and a dipeptide (45 atoms), each with the published small model;
with ``--large`` 1536 atoms of water instead, with the direct sum and with the mesh. Prints a table
and writes ``benchmarks/results/energy_conservation.json`` (``energy_conservation_large.json``).
"""

import argparse
import json
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import openmm
import torch
from ase import Atoms
from environment import environment
from openmm import unit
from openmm_les_export import export
from openmmml import MLPotential
from step.models import TRAINED
from step.systems import structure, topology_of

from openmm_les.units import KJ_PER_MOL_PER_EV

RESULTS = Path(__file__).resolve().parent / "results"
#: Model and number of atoms.
CASES = {"water, 192 atoms, periodic": ("water", 192), "dipeptide, not periodic": ("dipeptide", 45)}


def drift(
    artifact: Path, atoms: Atoms, picoseconds: float, step: float, **options: str
) -> dict[str, float]:
    """Slope and scatter of the total energy per atom, after 0.2 ps of thermostatted dynamics."""
    system = MLPotential("les", modelPath=artifact).createSystem(topology_of(atoms), **options)
    reference = openmm.Platform.getPlatformByName("Reference")

    thermostat = openmm.LangevinMiddleIntegrator(300, 10, 0.0005)
    thermostat.setRandomNumberSeed(1)
    context = openmm.Context(system, thermostat, reference)
    context.setPositions(atoms.positions * 0.1)
    openmm.LocalEnergyMinimizer.minimize(context, maxIterations=50)
    context.setVelocitiesToTemperature(300, 1)
    thermostat.step(400)
    start = context.getState(positions=True, velocities=True)

    integrator = openmm.VerletIntegrator(step)
    context = openmm.Context(system, integrator, reference)
    context.setState(start)
    times, energies = [], []
    begin, every = time.perf_counter(), 20
    for _ in range(round(picoseconds / step / every)):
        integrator.step(every)
        state = context.getState(energy=True)
        total = state.getPotentialEnergy() + state.getKineticEnergy()
        times.append(state.getTime().value_in_unit(unit.picosecond))
        energies.append(total.value_in_unit(unit.kilojoule_per_mole))
    per_atom = 1e3 * np.array(energies) / KJ_PER_MOL_PER_EV / len(atoms)
    slope, offset = np.polyfit(times, per_atom, 1)
    return {
        "atoms": len(atoms),
        "step_fs": 1e3 * step,
        "drift_mev_per_atom_ps": float(slope),
        "scatter_mev_per_atom": float(np.std(per_atom - slope * np.array(times) - offset)),
        "wall_s": time.perf_counter() - begin,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--picoseconds", type=float, default=2.0)
    parser.add_argument("--step", type=float, default=0.00025, help="time step [ps]")
    parser.add_argument("--large", action="store_true", help="1536 atoms: direct sum and mesh")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    name = "energy_conservation_large" if arguments.large else "energy_conservation"
    output = arguments.output or RESULTS / f"{name}.json"
    torch.set_num_threads(arguments.threads)
    warnings.simplefilter("ignore")
    report = {"environment": environment(arguments.threads), "cases": {}}
    print(f"{'':40s} {'drift':>20s} {'scatter':>14s}")
    print(f"{'':40s} {'meV/atom/ps':>20s} {'meV/atom':>14s}")
    with tempfile.TemporaryDirectory() as folder:
        for name, (model, size) in CASES.items():
            if arguments.large and model != "water":
                continue
            artifact = export(TRAINED[model], Path(folder) / f"{model}.les.pt")
            runs = {name: (structure(size), {})}
            if arguments.large:
                runs = {
                    f"water, 1536 atoms, ewald={method!r}": (structure(1536), {"ewald": method})
                    for method in ("direct", "mesh")
                }
            for label, (atoms, options) in runs.items():
                case = drift(
                    artifact, atoms, arguments.picoseconds, arguments.step, device="cpu", **options
                )
                report["cases"][label] = case
                print(
                    f"{label:40s} {case['drift_mev_per_atom_ps']:20.4f} "
                    f"{case['scatter_mev_per_atom']:14.4f}",
                    flush=True,
                )
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
