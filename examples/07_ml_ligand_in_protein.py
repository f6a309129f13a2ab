"""A ligand described by an LES model in its protein and water, which stay with the force field.

    python 07_ml_ligand_in_protein.py [--model les-demo] [--embedding mechanical] [--padding 1.0]

T4 lysozyme L99A with p-xylene in its cavity. Protein and water are Amber14 and TIP3P; the ligand's
charges and Lennard-Jones parameters (AM1-BCC and GAFF) come from a prmtop file of it, as
antechamber and tleap make them for any ligand. The structure and that file are among the data of
openmmtools: `pip install --no-deps openmmtools==0.27.0` is enough.

les-demo learned peptides and water, no aromatic rings: it shows how things are done. For a ligand
of yours take a model that knows its chemistry: `--model maceles-off`, or an artifact of your own.
"""

import argparse
import sys
from importlib.util import find_spec
from io import StringIO
from pathlib import Path

import numpy as np
import openmm
import torch
from openmm import app, unit
from openmmml import MLPotential

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--model", default="les-demo", help="name of a model, or artifact (.les.pt)")
parser.add_argument("--embedding", choices=["mechanical", "electrostatic"], default="mechanical")
parser.add_argument("--padding", type=float, default=1.0, help="water around the protein [nm]")
parser.add_argument("--minimize", type=int, default=100, help="iterations")
parser.add_argument("--steps", type=int, default=500, help="steps of 2 fs")
parser.add_argument("--output", type=Path, default=Path("example-output"))
arguments = parser.parse_args()
arguments.output.mkdir(parents=True, exist_ok=True)
torch.set_num_threads(1)  # 18 atoms are too few to share

openmmtools = find_spec("openmmtools")  # not imported: only its files are read
if openmmtools is None:
    sys.exit("This needs the data of openmmtools: pip install --no-deps openmmtools==0.27.0")
data = Path(openmmtools.origin).parent / "data" / "T4-lysozyme-L99A-implicit"

# 1. The ligand as a residue that ForceField knows, with the nonbonded parameters of its prmtop
#    file. It gets no bonded terms, since the model takes their place.
prmtop = app.AmberPrmtopFile(str(data / "ligand.prmtop"))
vacuum = prmtop.createSystem()
nonbonded = next(f for f in vacuum.getForces() if isinstance(f, openmm.NonbondedForce))
types, atoms, parameters = "", "", ""
for atom in prmtop.topology.atoms():
    charge, sigma, epsilon = (p._value for p in nonbonded.getParticleParameters(atom.index))
    kind, mass = f"ligand-{atom.name}", atom.element.mass._value
    types += f'<Type name="{kind}" class="{kind}" element="{atom.element.symbol}" mass="{mass}"/>'
    atoms += f'<Atom name="{atom.name}" type="{kind}" charge="{charge}"/>'
    parameters += f'<Atom type="{kind}" sigma="{sigma}" epsilon="{epsilon}"/>'
bonds = "".join(
    f'<Bond atomName1="{bond.atom1.name}" atomName2="{bond.atom2.name}"/>'
    for bond in prmtop.topology.bonds()
)
ligand_xml = f"""
<ForceField>
  <AtomTypes>{types}</AtomTypes>
  <Residues><Residue name="TMP">{atoms}{bonds}</Residue></Residues>
  <NonbondedForce coulomb14scale="0.8333333333333334" lj14scale="0.5">
    <UseAttributeFromResidue name="charge"/>{parameters}
  </NonbondedForce>
</ForceField>"""
forcefield = app.ForceField("amber14-all.xml", "amber14/tip3p.xml", StringIO(ligand_xml))

# 2. The whole system, with the force field.
pdb = app.PDBFile(str(data / "complex.pdb"))
modeller = app.Modeller(pdb.topology, pdb.positions)
padding = arguments.padding * unit.nanometer
modeller.addSolvent(forcefield, padding=padding, boxShape="dodecahedron")
topology = modeller.topology
mm_system = forcefield.createSystem(
    topology,
    nonbondedMethod=app.PME,
    nonbondedCutoff=0.9 * unit.nanometer,
    constraints=app.HBonds,
)
for force in mm_system.getForces():
    if isinstance(force, openmm.NonbondedForce):
        force.setForceGroup(2)

# 3. The ligand from the model, in a force group of its own.
ligand = [atom.index for atom in topology.atoms() if atom.residue.name == "TMP"]
options = {"embedding": arguments.embedding}
potential = MLPotential("les", modelPath=arguments.model)
system = potential.createMixedSystem(topology, mm_system, ligand, forceGroup=1, **options)
print(
    f"{len(ligand)} atoms by the model, {topology.getNumAtoms() - len(ligand)} by Amber14 and TIP3P"
)

# 4. The nonbonded forces (group 2) are computed once in 2 fs, the others each 0.5 fs.
integrator = openmm.MTSLangevinIntegrator(
    300 * unit.kelvin, 1 / unit.picosecond, 2.0 * unit.femtosecond, [(2, 1), (1, 4), (0, 4)]
)
integrator.setRandomNumberSeed(1)
simulation = app.Simulation(topology, system, integrator)
simulation.context.setPositions(modeller.positions)
simulation.minimizeEnergy(maxIterations=arguments.minimize)
simulation.context.setVelocitiesToTemperature(300 * unit.kelvin, 1)


def positions() -> np.ndarray:
    state = simulation.context.getState(positions=True)
    return state.getPositions(asNumpy=True).value_in_unit(unit.nanometer)


# The cavity: carbon atoms of the protein that are near the ligand.
start = positions()
carbons = [a.index for a in topology.atoms() if a.element == app.element.carbon]
carbons = np.setdiff1d(carbons, ligand)
distances = np.linalg.norm(start[carbons, None] - start[ligand], axis=-1)
cavity = carbons[distances.min(axis=1) < 0.5]

solute = [a.index for a in topology.atoms() if a.residue.name not in ("HOH", "NA", "CL")]
interval = max(1, arguments.steps // 10)
trajectory = arguments.output / "lysozyme.pdb"
simulation.reporters += [
    app.StateDataReporter(
        sys.stdout, interval, time=True, potentialEnergy=True, temperature=True, speed=True
    ),
    app.PDBReporter(str(trajectory), interval, enforcePeriodicBox=False, atomSubset=solute),
]
simulation.step(arguments.steps)

inside = simulation.context.getState(energy=True, groups={1}).getPotentialEnergy()
to_cavity = [r[ligand].mean(axis=0) - r[cavity].mean(axis=0) for r in (start, positions())]
moved = 10 * np.linalg.norm(to_cavity[1] - to_cavity[0])
print(f"By the model: {inside}")
print(f"The ligand moved {moved:.2f} A against the {len(cavity)} carbon atoms around it.")
print(f"Wrote {trajectory}.")
