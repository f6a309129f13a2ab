"""A peptide described by an LES model in water described by a force field (ML/MM).

    python 04_peptide_in_water_ml_mm.py [--padding 1.0] [--steps 2000] [--output example-output]

Mechanical embedding: what happens inside the peptide comes from the model; water, and everything
between water and peptide, from Amber14 and TIP3P, with PME. The model does not feel the water's
charges. 06_ml_sidechain_link_atoms.py cuts bonds.
"""

import argparse
import sys
from pathlib import Path

import openmm
import torch
from openmm import app, unit
from openmmml import MLPotential

HERE = Path(__file__).parent

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--padding", type=float, default=1.0, help="water around the peptide [nm]")
parser.add_argument("--steps", type=int, default=2000, help="steps of 0.5 fs")
parser.add_argument("--output", type=Path, default=Path("example-output"))
arguments = parser.parse_args()
arguments.output.mkdir(parents=True, exist_ok=True)
torch.set_num_threads(1)  # 22 atoms are too few to share

# 1. The whole system, with the force field.
pdb = app.PDBFile(str(HERE / "alanine_dipeptide.pdb"))
forcefield = app.ForceField("amber14-all.xml", "amber14/tip3p.xml")
modeller = app.Modeller(pdb.topology, pdb.positions)
modeller.addSolvent(forcefield, padding=arguments.padding * unit.nanometer)
topology = modeller.topology
mm_system = forcefield.createSystem(
    topology,
    nonbondedMethod=app.PME,
    nonbondedCutoff=min(0.9, 0.95 * arguments.padding) * unit.nanometer,
    constraints=app.HBonds,  # of the water only: the model's own are removed
)

# 2. The peptide's interior from the model instead, in a force group that can be asked for alone.
peptide = [atom.index for atom in topology.atoms() if atom.residue.name != "HOH"]
system = MLPotential("les-demo").createMixedSystem(topology, mm_system, peptide, forceGroup=1)
print(f"{len(peptide)} atoms by the model, {topology.getNumAtoms() - len(peptide)} by TIP3P")

# 3. Minimise and run, as always.
integrator = openmm.LangevinMiddleIntegrator(
    300 * unit.kelvin, 1 / unit.picosecond, 0.5 * unit.femtosecond
)
integrator.setRandomNumberSeed(1)
simulation = app.Simulation(topology, system, integrator)
simulation.context.setPositions(modeller.positions)
simulation.minimizeEnergy(maxIterations=100)
simulation.context.setVelocitiesToTemperature(300 * unit.kelvin, 1)
interval = max(1, arguments.steps // 10)
simulation.reporters += [
    app.StateDataReporter(
        sys.stdout, interval, time=True, potentialEnergy=True, temperature=True, speed=True
    ),
    app.PDBReporter(str(arguments.output / "peptide_in_water.pdb"), interval),
]
simulation.step(arguments.steps)

inside = simulation.context.getState(energy=True, groups={1}).getPotentialEnergy()
total = simulation.context.getState(energy=True).getPotentialEnergy()
print(f"Potential energy {total}; by the model, inside the peptide: {inside}")
print(f"Wrote {arguments.output / 'peptide_in_water.pdb'}.")
