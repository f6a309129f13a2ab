"""Which time step holds the total energy: hydrogen mass repartitioning and multiple time steps.

    python benchmarks/time_steps.py [--model les-demo] [--picoseconds 2] [--starts 2]

NVE dynamics of alanine dipeptide after a thermostat at 300 K. Writes the tables into
docs/howto/time-steps.md, and ``benchmarks/results/time_steps.json``:

- in vacuum, described by the model alone, with hydrogen atoms of several masses;
- as an ML region in a box of TIP3P water, where the model acts once in an outer step and the force
  field every 0.5 fs. Without a reference the region feels nothing in between; with one it feels
  the bonded terms of the force field, which are subtracted from the model's forces again.

A drift is the slope of the total energy, a scatter its standard deviation around that slope; of
several starts the worst is shown.
"""

import argparse
import json
import os
import sys
from pathlib import Path

import numpy as np
import openmm
import torch
from environment import environment
from openmm import Vec3, app, unit
from openmmml import MLPotential

ROOT = Path(__file__).resolve().parents[1]
PDB = ROOT / "examples" / "alanine_dipeptide.pdb"
PAGE = ROOT / "docs" / "howto" / "time-steps.md"
OUTPUT = ROOT / "benchmarks" / "results" / "time_steps.json"
MASSES = (1.008, 2.0, 3.0)  # of hydrogen [amu]
STEPS = (0.5, 1.0, 1.5, 2.0, 3.0)  # [fs]
OUTER_STEPS = (1.0, 2.0, 3.0, 4.0)  # [fs]
INNER_STEP = 0.5  # [fs]
REPORT = 12.0  # between two records of the energy: a multiple of every step [fs]
#: More than this [kJ/mol] lost or won says that the dynamics is unstable.
BROKEN = 100.0


def repartition(system: openmm.System, topology: app.Topology, mass: float) -> None:
    """Give hydrogen atoms another mass, at the cost of the atoms they are bonded to."""
    for bond in topology.bonds():
        heavy, light = sorted(bond, key=lambda atom: atom.element is app.element.hydrogen)
        if light.element is app.element.hydrogen:
            moved = mass - system.getParticleMass(light.index).value_in_unit(unit.dalton)
            system.setParticleMass(light.index, mass)
            rest = system.getParticleMass(heavy.index).value_in_unit(unit.dalton) - moved
            system.setParticleMass(heavy.index, rest)


def context_of(
    system: openmm.System, steps: list[openmm.Integrator], platform: str
) -> openmm.Context:
    """A Context with a thermostat, its first integrator, and those that are measured.

    It is made once for all of them: to prepare the model takes longer than many runs.
    """
    integrators = openmm.CompoundIntegrator()
    thermostat = openmm.LangevinMiddleIntegrator(300, 10, 0.0005)
    thermostat.setRandomNumberSeed(1)
    for integrator in (thermostat, *steps):
        integrator.setConstraintTolerance(1e-7)
        integrators.addIntegrator(integrator)
    properties = {"Threads": "1"} if platform == "CPU" else {}
    return openmm.Context(
        system, integrators, openmm.Platform.getPlatformByName(platform), properties
    )


def equilibrated(context: openmm.Context, positions: list[Vec3], seed: int) -> openmm.State:
    """A state near 300 K: 0.5 ps of strong friction."""
    context.getIntegrator().setCurrentIntegrator(0)
    context.setPositions(positions)
    openmm.LocalEnergyMinimizer.minimize(context, maxIterations=50)
    context.setVelocitiesToTemperature(300, seed)
    context.getIntegrator().step(1000)
    return context.getState(positions=True, velocities=True)


def conservation(context: openmm.Context, step: float, picoseconds: float) -> tuple[float, float]:
    """Drift [kJ/mol/ps] and scatter [kJ/mol] of the total energy, infinite where it breaks."""
    every = round(REPORT / step)
    times, energies = [], []
    for _ in range(round(1000 * picoseconds / REPORT)):
        try:
            context.getIntegrator().step(every)
            state = context.getState(energy=True)
        except openmm.OpenMMException:
            return np.inf, np.inf
        total = state.getPotentialEnergy() + state.getKineticEnergy()
        energies.append(total.value_in_unit(unit.kilojoule_per_mole))
        times.append(state.getTime().value_in_unit(unit.picosecond))
        if not abs(energies[-1] - energies[0]) < BROKEN:
            return np.inf, np.inf
    slope, offset = np.polyfit(times, energies, 1)
    return float(slope), float(np.std(energies - slope * np.array(times) - offset))


def worst(
    label: str,
    context: openmm.Context,
    states: list[openmm.State],
    measured: tuple[int, float, float],
) -> tuple[float, float]:
    """The largest drift of all starts, with an integrator, its step [fs], and a duration [ps]."""
    number, step, picoseconds = measured
    context.getIntegrator().setCurrentIntegrator(number)
    found = []
    for state in states:
        context.setState(state)
        found.append(conservation(context, step, picoseconds))
    print(f"{label}: {found}", file=sys.stderr, flush=True)
    return max(found, key=lambda value: abs(value[0]))


def hydrogen_masses(potential: MLPotential, picoseconds: float, starts: int) -> dict[str, list]:
    """Rows of steps, columns of masses."""
    pdb = app.PDBFile(str(PDB))
    values: dict[str, list] = {f"{step:g}": [] for step in STEPS}
    for mass in MASSES:
        system = potential.createSystem(pdb.topology)
        repartition(system, pdb.topology, mass)
        verlets = [openmm.VerletIntegrator(1e-3 * step) for step in STEPS]
        context = context_of(system, verlets, "Reference")
        states = [equilibrated(context, pdb.positions, seed) for seed in range(1, 1 + starts)]
        for number, step in enumerate(STEPS, 1):
            label = f"hydrogen {mass:g} amu, {step:g} fs"
            found = worst(label, context, states, (number, step, picoseconds))
            values[f"{step:g}"].append(found)
    return values


def add_reference(mixed: openmm.System, isolated: openmm.System) -> None:
    """Bonded terms of the region, with the fast forces and subtracted from the slow ones."""
    kinds = (openmm.HarmonicBondForce, openmm.HarmonicAngleForce, openmm.PeriodicTorsionForce)
    for force in isolated.getForces():
        if isinstance(force, kinds):
            fast, slow = openmm.XmlSerializer.clone(force), openmm.XmlSerializer.clone(force)
            negate(slow)
            fast.setForceGroup(0)
            slow.setForceGroup(1)
            mixed.addForce(fast)
            mixed.addForce(slow)


def negate(force: openmm.Force) -> None:
    """The force with the opposite sign: force constants are the last parameters of these terms."""
    term = type(force).__name__.removesuffix("Force").removeprefix("Harmonic")
    term = term.removeprefix("Periodic")
    get, change = (getattr(force, f"{verb}{term}Parameters") for verb in ("get", "set"))
    for index in range(getattr(force, f"getNum{term}s")()):
        *others, constant = get(index)
        change(index, *others, -constant)


def multiple_steps(potential: MLPotential, picoseconds: float, starts: int) -> dict[str, list]:
    """Rows of outer steps; without and with a reference."""
    pdb = app.PDBFile(str(PDB))
    field = app.ForceField("amber14-all.xml", "amber14/tip3p.xml")
    modeller = app.Modeller(pdb.topology, pdb.positions)
    modeller.addSolvent(field, boxSize=Vec3(1.65, 1.65, 1.65) * unit.nanometer)
    classical = field.createSystem(
        modeller.topology,
        nonbondedMethod=app.PME,
        nonbondedCutoff=0.75 * unit.nanometer,
        switchDistance=0.65 * unit.nanometer,
        constraints=app.HBonds,
    )
    region = range(pdb.topology.getNumAtoms())
    plain = potential.createMixedSystem(modeller.topology, classical, list(region), forceGroup=1)
    referenced = openmm.XmlSerializer.clone(plain)
    add_reference(referenced, field.createSystem(pdb.topology))
    states: list[openmm.State] = []
    values: dict[str, list] = {f"{outer:g}": [] for outer in OUTER_STEPS}
    for name, system in (("no reference", plain), ("with reference", referenced)):
        nested = [
            openmm.MTSIntegrator(1e-3 * outer, [(1, 1), (0, round(outer / INNER_STEP))])
            for outer in OUTER_STEPS
        ]
        context = context_of(system, nested, "CPU")
        while len(states) < starts:
            states.append(equilibrated(context, modeller.positions, 1 + len(states)))
        for number, outer in enumerate(OUTER_STEPS, 1):
            label = f"{name}, outer step {outer:g} fs"
            found = worst(label, context, states, (number, outer, picoseconds))
            values[f"{outer:g}"].append(found)
    return values


def table(corner: str, heads: list[str], rows: dict[str, list]) -> str:
    """Markdown: drift, and in parentheses scatter."""
    lines = [f"| {' | '.join([corner, *heads])} |", "|---" * (1 + len(heads)) + "|"]
    for name, values in rows.items():
        cells = [
            "unstable" if np.isinf(drift) else f"{drift:.2f} ({scatter:.2f})"
            for drift, scatter in values
        ]
        lines.append(f"| {' | '.join([name, *cells])} |")
    return "\n".join(lines)


def write(name: str, content: str) -> None:
    """Replace what lies between the marks of this name in the page."""
    before, rest = PAGE.read_text().split(f"<!-- {name} -->\n")
    _, after = rest.split(f"<!-- end of {name} -->\n")
    PAGE.write_text(f"{before}<!-- {name} -->\n{content}\n<!-- end of {name} -->\n{after}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="les-demo", help="a name, or an artifact")
    parser.add_argument("--picoseconds", type=float, default=2.0)
    parser.add_argument("--starts", type=int, default=2)
    parser.add_argument("--output", type=Path, default=OUTPUT)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    # One way to compute the model in all runs, and no search for another while they are timed.
    os.environ.setdefault("OPENMM_LES_TUNE_AFTER", "inf")
    path = Path(arguments.model)
    potential = (
        MLPotential("les", modelPath=path) if path.exists() else MLPotential(arguments.model)
    )
    settings = arguments.picoseconds, arguments.starts
    report = {
        "environment": environment(1),
        "model": path.name,
        "picoseconds": arguments.picoseconds,
        "starts": arguments.starts,
    }
    report["hydrogen masses"] = hydrogen_masses(potential, *settings)
    heads = [f"{mass:g} amu" for mass in MASSES]
    write("hydrogen masses", table("time step [fs]", heads, report["hydrogen masses"]))
    report["multiple time steps"] = multiple_steps(potential, *settings)
    heads = ["no reference", "with reference"]
    write("multiple time steps", table("outer step [fs]", heads, report["multiple time steps"]))
    machine = report["environment"]
    write(
        "conditions",
        f"`{path.name}`, {arguments.picoseconds:g} ps of NVE after 0.5 ps at 300 K, the worst of"
        f"\n{arguments.starts} starts, single precision, {machine['cpu']}, {machine['date']}.",
    )
    arguments.output.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
