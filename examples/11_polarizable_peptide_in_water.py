"""A peptide that the water around it polarizes: ML/MM with a model that has polarizabilities.

    python 11_polarizable_peptide_in_water.py [--steps 1000] [--padding 0.8]

With electrostatic embedding the latent charges of the peptide meet the charges of the water. With
polarization='mm', which is experimental, its atoms also respond to their field: the model of
training/les_demo_x/ has a polarizability for each atom. One run of alanine dipeptide in TIP3P; for
every frame the dipole of the peptide without and with what the water induces in it, and the energy
that this brings.

The model shows how it works, no more: its polarizabilities are about a fifth of those of the method
it was trained on (benchmarks/results/README.md).
"""

import argparse
import csv
import math
import sys
from pathlib import Path

import numpy as np
import openmm
import torch
from openmm import app, unit
from openmm_les_export import export
from openmmml import MLPotential
from pictures import draw_polarization

from openmm_les import load_model
from openmm_les.evaluation.system_model import SystemModel
from openmm_les.units import COULOMB_CONSTANT, DEBYE_PER_E_ANGSTROM

HERE = Path(__file__).parent
MODEL = HERE.parent / "training" / "les_demo_x" / "les-demo-x.model"

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--model", type=Path, default=MODEL, help="a trained model or an artifact")
parser.add_argument("--padding", type=float, default=0.8, help="water around the peptide [nm]")
parser.add_argument("--steps", type=int, default=1000, help="steps of 0.5 fs")
parser.add_argument("--frames", type=int, default=50)
parser.add_argument("--output", type=Path, default=Path("example-output"))
arguments = parser.parse_args()
arguments.output.mkdir(parents=True, exist_ok=True)
torch.set_num_threads(1)  # 22 atoms are too few to share

# 0. A trained model becomes an artifact once.
path = arguments.model
if path.suffix != ".pt":
    path = arguments.output / f"{path.stem}.les.pt"
    if not path.exists():
        export(arguments.model, path)

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
    constraints=app.HBonds,
)
indices = [atom.index for atom in topology.atoms() if atom.residue.name != "HOH"]

# 2. The same with the peptide from the model, that responds to the water or does not.
potential = MLPotential("les", modelPath=path)
simulations = {}
for polarization in ("mm", "none"):
    system = potential.createMixedSystem(
        topology,
        mm_system,
        indices,
        forceGroup=1,
        embedding="electrostatic",
        polarization=polarization,
        chargeTolerance=0.5,
    )
    integrator = openmm.LangevinMiddleIntegrator(
        300 * unit.kelvin, 1 / unit.picosecond, 0.5 * unit.femtosecond
    )
    integrator.setRandomNumberSeed(1)
    simulations[polarization] = app.Simulation(topology, system, integrator)

# 3. Run the polarizable one.
simulation = simulations["mm"]
simulation.context.setPositions(modeller.positions)
simulation.minimizeEnergy(maxIterations=100)
simulation.context.setVelocitiesToTemperature(300 * unit.kelvin, 1)
simulation.step(arguments.steps // 2)  # the water settles around the peptide
interval = max(1, arguments.steps // arguments.frames)
simulation.reporters.append(
    app.StateDataReporter(sys.stdout, interval, time=True, potentialEnergy=True, temperature=True)
)
states = []
for _ in range(arguments.steps // interval):
    simulation.step(interval)
    states.append(simulation.context.getState(positions=True))

# 4. What the water does to the peptide in each frame.
artifact = load_model(path)
numbers = [a.element.atomic_number for a in topology.atoms() if a.index in set(indices)]
model = SystemModel(artifact, numbers, periodic=False, precision="double")
nonbonded = next(f for f in mm_system.getForces() if isinstance(f, openmm.NonbondedForce))
count = mm_system.getNumParticles()
charges = np.array([nonbonded.getParticleParameters(i)[0]._value for i in range(count)])
surroundings = np.setdiff1d(np.arange(count), indices)


def field_of_water(positions: np.ndarray, box: np.ndarray) -> np.ndarray:
    """At the atoms of the peptide, of the nearest images [V/A]; sites are Gaussians of 1 A."""
    r = positions[indices][:, None] - positions[surroundings]
    r -= box * np.round(r / box)
    distance = np.linalg.norm(r, axis=2)
    a = 1 / math.sqrt(2)
    inside = torch.erf(torch.tensor(a * distance)).numpy() / distance
    inside -= 2 * a / math.sqrt(math.pi) * np.exp(-((a * distance) ** 2))
    return COULOMB_CONSTANT * np.einsum(
        "j,ij,ija->ia", charges[surroundings], inside / distance**2, r
    )


def energy(polarization: str, positions) -> float:
    """Potential energy of the model in its surroundings [kJ/mol]."""
    context = simulations[polarization].context
    context.setPositions(positions)
    state = context.getState(energy=True, groups={1})
    return state.getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole)


rows = []
for state in states:
    positions = state.getPositions(asNumpy=True)
    gained = energy("mm", positions) - energy("none", positions)
    r = positions.value_in_unit(unit.angstrom)
    box = state.getPeriodicBoxVectors(asNumpy=True).value_in_unit(unit.angstrom).diagonal()
    moments = model.physical_moments(model.evaluate(r[indices]).moments)
    # From the centre, where it does not matter that charges may not quite add up to zero.
    alone = moments.dipole(r[indices] - r[indices].mean(0))
    alpha = moments.alpha if moments.alpha.ndim == 3 else moments.alpha[:, None, None] * np.eye(3)
    by_water = np.einsum("iab,ib->a", alpha, field_of_water(r, box))
    dipoles = [alone, by_water, alone + by_water]
    dipoles = [DEBYE_PER_E_ANGSTROM * np.linalg.norm(dipole) for dipole in dipoles]
    rows.append([state.getTime().value_in_unit(unit.picosecond), *dipoles, gained])

names = ["time [ps]", "dipole alone [D]", "induced by water [D]", "together [D]"]
with open(arguments.output / "polarization.csv", "w", newline="") as file:
    csv.writer(file).writerows([[*names, "energy of polarization [kJ/mol]"], *rows])
mean = np.mean(rows, axis=0)
print(f"\nDipole of the peptide: {mean[1]:.2f} D alone, {mean[3]:.2f} D in water")
print(f"The water induces {mean[2]:.2f} D; it brings {mean[4]:.2f} kJ/mol.")
print(f"Wrote {arguments.output / 'polarization.csv'}.")
print(draw_polarization(arguments.output))
