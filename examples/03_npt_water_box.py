"""Constant pressure: a small box of water, and the density a model gives it.

    python 03_npt_water_box.py [--waters 64] [--steps 4000] [--output example-output]

The density of water is a test that a model has to pass. les-demo learnt from 132 boxes of 24
waters, labelled with GFN2-xTB: it has errors of both. Use this as a recipe,
with a model that was trained for liquids.
"""

import argparse
import sys
from pathlib import Path

import openmm
from openmm import app, unit
from openmmml import MLPotential

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--model", type=Path, help="an exported model (.les.pt); default: les-demo")
parser.add_argument("--waters", type=int, default=64)
parser.add_argument("--steps", type=int, default=4000, help="steps of 0.5 fs")
parser.add_argument("--output", type=Path, default=Path("example-output"))
arguments = parser.parse_args()
arguments.output.mkdir(parents=True, exist_ok=True)

# 1. Water molecules in a box, with the bonds of the topology: by them OpenMM knows which atoms are
# one molecule, and the barostat moves molecules as a whole. A PDB file of your own needs CONECT
# records or residues with standard names.
forcefield = app.ForceField("amber14/tip3p.xml")
modeller = app.Modeller(app.Topology(), [] * unit.nanometer)
modeller.addSolvent(forcefield, numAdded=arguments.waters)
topology = modeller.topology


def start(system: openmm.System, state: openmm.State | None = None) -> app.Simulation:
    """A simulation at 300 K and 1 bar, minimised unless it goes on from a state."""
    # A new volume is tried every 25 steps, which costs one more evaluation of the model.
    system.addForce(openmm.MonteCarloBarostat(1 * unit.bar, 300 * unit.kelvin, 25))
    integrator = openmm.LangevinMiddleIntegrator(
        300 * unit.kelvin, 5 / unit.picosecond, 0.5 * unit.femtosecond
    )
    integrator.setRandomNumberSeed(1)
    simulation = app.Simulation(topology, system, integrator)
    if state is None:
        simulation.context.setPositions(modeller.positions)
        simulation.minimizeEnergy(maxIterations=100)
        simulation.context.setVelocitiesToTemperature(300 * unit.kelvin, 1)
    else:
        simulation.context.setPeriodicBoxVectors(*state.getPeriodicBoxVectors())
        simulation.context.setPositions(state.getPositions())
        simulation.context.setVelocities(state.getVelocities())
    return simulation


# 2. Relax with the force field first. A model is reliable only near what it learnt, and waters that
# overlap are far from it.
cutoff = min(0.9, 0.4 * topology.getUnitCellDimensions().x)
tip3p = start(forcefield.createSystem(topology, nonbondedMethod=app.PME, nonbondedCutoff=cutoff))
tip3p.step(10000)
relaxed = tip3p.context.getState(positions=True, velocities=True)

# 3. The model.
if arguments.model is None:
    potential = MLPotential("les-demo")
else:
    potential = MLPotential("les", modelPath=arguments.model)
simulation = start(potential.createSystem(topology), relaxed)
table = arguments.output / "water.csv"
columns = {
    "time": True,
    "potentialEnergy": True,
    "temperature": True,
    "density": True,
    "speed": True,
}
interval = max(1, arguments.steps // 20)
simulation.reporters += [
    app.StateDataReporter(str(table), interval, **columns),
    app.StateDataReporter(sys.stdout, interval, **columns),
    app.PDBReporter(str(arguments.output / "water.pdb"), max(1, arguments.steps)),
]
simulation.step(arguments.steps)
print(f"Wrote {table}, and the last structure to water.pdb beside it.")
print("Water has 0.997 g/mL.")
