"""What a peptide described by an LES model feels of the water, in two embeddings.

    python 08_peptide_in_water_electrostatic.py [--model les-demo] [--steps 2000] [--padding 1.0]

Mechanical embedding leaves the interactions of peptide and water to the charges of the force field.
With electrostatic embedding, which is experimental, the charges that the model found (latent
charges) take their place; they follow the geometry. One run with each, then for every frame of
both the Coulomb energy between peptide and water and the dipole of the peptide, with both sets of
charges.

Latent charges are those of a molecule in vacuum. Those of a force field are made larger, to stand
for what water does to a molecule, so that they usually bind it more.
"""

import argparse
import csv
import sys
from pathlib import Path

import numpy as np
import openmm
import torch
from openmm import app, unit
from openmmml import MLPotential
from pictures import draw_embeddings

try:
    from ase import Atoms
    from ase.units import Debye

    from openmm_les.ase import LESCalculator
except ModuleNotFoundError:
    sys.exit("This needs ASE: pip install 'openmm-les[examples]'")

HERE = Path(__file__).parent

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--model", default="les-demo", help="name of a model, or artifact (.les.pt)")
parser.add_argument("--padding", type=float, default=1.0, help="water around the peptide [nm]")
parser.add_argument("--steps", type=int, default=2000, help="steps of 0.5 fs of each run")
parser.add_argument("--frames", type=int, default=20, help="frames of each run")
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
    constraints=app.HBonds,
)
peptide = [atom for atom in topology.atoms() if atom.residue.name != "HOH"]
indices = [atom.index for atom in peptide]

# 2. The same with the peptide from the model, in both embeddings. Images of the peptide count in
#    the same way in both (mlImages), so that the Coulomb energy of peptide and water is what the
#    energies of the two differ by: in the force group of the force field, and in that of the model.
potential = MLPotential("les", modelPath=arguments.model)
latent = {"embedding": "electrostatic", "mlImages": "native"}
simulations = {}
for embedding, options in {"mechanical": {}, "electrostatic": latent}.items():
    system = potential.createMixedSystem(topology, mm_system, indices, forceGroup=1, **options)
    integrator = openmm.LangevinMiddleIntegrator(
        300 * unit.kelvin, 1 / unit.picosecond, 0.5 * unit.femtosecond
    )
    integrator.setRandomNumberSeed(1)
    simulations[embedding] = app.Simulation(topology, system, integrator)

# 3. Run both from the same start.
interval = max(1, arguments.steps // arguments.frames)
frames = []
for embedding, simulation in simulations.items():
    simulation.context.setPositions(modeller.positions)
    simulation.minimizeEnergy(maxIterations=100)
    simulation.context.setVelocitiesToTemperature(300 * unit.kelvin, 1)
    simulation.step(arguments.steps // 2)  # the water settles around the peptide
    print(f"{embedding} embedding")
    simulation.reporters.append(
        app.StateDataReporter(
            sys.stdout, interval, time=True, potentialEnergy=True, temperature=True
        )
    )
    for _ in range(arguments.steps // interval):
        simulation.step(interval)
        state = simulation.context.getState(positions=True)
        frames.append((embedding, state.getTime(), state.getPositions(asNumpy=True)))

# 4. Charges, dipoles and energies of all frames.
calculator = LESCalculator(arguments.model)
sign = calculator.artifact.metadata["charge_sign"]
nonbonded = next(f for f in mm_system.getForces() if isinstance(f, openmm.NonbondedForce))
mm_charges = np.array([nonbonded.getParticleParameters(i)[0]._value for i in indices])
symbols = [atom.element.symbol for atom in peptide]


def latent_charges(positions: np.ndarray) -> np.ndarray:
    """Charges [e] as the simulation uses them: what their sum lacks of zero is spread evenly."""
    charges = sign * Atoms(symbols, positions, calculator=calculator).get_charges()
    return charges - charges.mean()


def dipole(charges: np.ndarray, positions: np.ndarray) -> float:
    """In Debye; the positions [A] may have any origin."""
    return float(np.linalg.norm(charges @ positions) / Debye)


def energy(embedding: str, group: int) -> float:
    """Potential energy of one force group [kJ/mol]."""
    state = simulations[embedding].context.getState(energy=True, groups={group})
    return state.getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole)


rows, charges = [], []
for run, time, positions in frames:
    for simulation in simulations.values():
        simulation.context.setPositions(positions)
    by_force_field = energy("mechanical", 0) - energy("electrostatic", 0)
    by_model = energy("electrostatic", 1) - energy("mechanical", 1)
    r = positions[indices].value_in_unit(unit.angstrom)
    charges.append(latent_charges(r))
    dipoles = [dipole(mm_charges, r), dipole(charges[-1], r)]
    rows.append([run, time.value_in_unit(unit.picosecond), by_force_field, by_model, *dipoles])

names = ["run", "time [ps]"]
names += [f"{what}, {of}" for what in ("energy [kJ/mol]", "dipole [D]") for of in ("MM", "latent")]
with open(arguments.output / "embeddings.csv", "w", newline="") as file:
    csv.writer(file).writerows([names, *rows])
print("\nCoulomb energy of peptide and water [kJ/mol] and dipole of the peptide [D], means")
print(f"{'':>16}{'energy, MM':>14}{'latent':>10}{'dipole, MM':>14}{'latent':>10}")
for embedding in simulations:
    mean = np.mean([row[2:] for row in rows if row[0] == embedding], axis=0)
    print(f"{embedding:>16}{mean[0]:14.1f}{mean[1]:10.1f}{mean[2]:14.2f}{mean[3]:10.2f}")

mean, deviation = np.mean(charges, axis=0), np.std(charges, axis=0)
table = zip(
    [f"{a.residue.name} {a.name}" for a in peptide], mm_charges, mean, deviation, strict=True
)
table = [list(row) for row in table]
with open(arguments.output / "charges.csv", "w", newline="") as file:
    csv.writer(file).writerows([["atom", "MM [e]", "latent [e]", "deviation [e]"], *table])
print("\nCharges [e]")
print(f"{'':>16}{'MM':>10}{'latent':>10}{'+-':>10}")
for name, *values in table:
    print(f"{name:>16}" + "".join(f"{value:10.3f}" for value in values))
print(f"Wrote {arguments.output / 'embeddings.csv'} and {arguments.output / 'charges.csv'}.")
print(draw_embeddings(arguments.output))
