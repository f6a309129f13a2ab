"""One side chain of a protein in water described by an LES model, the rest by Amber14.

    python 06_ml_sidechain_link_atoms.py [--residue 17] [--steps 200] [--output example-output]

The border of the ML region cuts the bond from CA to CB; a link atom (hydrogen) stands for CA in
what the model sees, and its forces act on CA and CB. The protein is the villin headpiece in water
that comes with OpenMM: 8867 atoms, of which the model describes 14.
"""

import argparse
import sys
from pathlib import Path

import openmm
import torch
from openmm import app, unit
from openmmml import MLPotential

BACKBONE = ("N", "H", "H1", "H2", "H3", "CA", "HA", "HA2", "HA3", "C", "O", "OXT")

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--residue", type=int, default=17, help="number of the residue, from 1")
parser.add_argument("--steps", type=int, default=200, help="steps of 1 fs")
parser.add_argument("--output", type=Path, default=Path("example-output"))
arguments = parser.parse_args()
arguments.output.mkdir(parents=True, exist_ok=True)
torch.set_num_threads(1)  # 15 atoms are too few to share

# 1. The whole system, with the force field.
pdb = app.PDBFile(str(Path(app.__file__).parent / "data" / "test.pdb"))
topology = pdb.topology
mm_system = app.ForceField("amber14-all.xml", "amber14/tip3p.xml").createSystem(
    topology,
    nonbondedMethod=app.PME,
    nonbondedCutoff=0.9 * unit.nanometer,
    constraints=app.HBonds,  # those inside the ML region are removed
)

for force in mm_system.getForces():
    if isinstance(force, openmm.NonbondedForce):
        force.setForceGroup(2)

# 2. The side chain from the model, in a force group of its own.
residue = list(topology.residues())[arguments.residue - 1]
side_chain = [atom.index for atom in residue.atoms() if atom.name not in BACKBONE]
system = MLPotential("les-demo").createMixedSystem(topology, mm_system, side_chain, forceGroup=1)
print(f"{residue.name}{arguments.residue}: {len(side_chain)} atoms and one link atom by the model")
print(f"{topology.getNumAtoms() - len(side_chain)} atoms by Amber14 and TIP3P")

# 3. The free hydrogen atoms of the side chain need steps of 0.5 fs: the model and the bonded terms
#    (groups 1 and 0) are computed twice in a step of 1 fs, the nonbonded forces (2) once.
integrator = openmm.MTSLangevinIntegrator(
    300 * unit.kelvin, 1 / unit.picosecond, 1.0 * unit.femtosecond, [(2, 1), (1, 2), (0, 2)]
)
integrator.setRandomNumberSeed(1)
simulation = app.Simulation(topology, system, integrator)
simulation.context.setPositions(pdb.positions)
simulation.minimizeEnergy(maxIterations=20)
simulation.context.setVelocitiesToTemperature(300 * unit.kelvin, 1)
interval = max(1, arguments.steps // 10)
trajectory = arguments.output / "side_chain.pdb"
simulation.reporters += [
    app.StateDataReporter(
        sys.stdout, interval, time=True, potentialEnergy=True, temperature=True, speed=True
    ),
    app.PDBReporter(str(trajectory), interval, atomSubset=[a.index for a in residue.atoms()]),
]
simulation.step(arguments.steps)

state = simulation.context.getState(energy=True, positions=True, groups={1})
ends = {atom.name: state.getPositions()[atom.index] for atom in residue.atoms()}
bond = unit.norm(ends["CA"] - ends["CB"]).in_units_of(unit.angstrom)
print(f"Inside the side chain, by the model: {state.getPotentialEnergy()}; CA-CB: {bond}")
print(f"Wrote {trajectory}.")
