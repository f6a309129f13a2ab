"""From a checkpoint of your own to OpenMM and ASE.

    python 02_export_your_own_model.py [--model my.model] [--steps 1000] [--output example-output]

Exports a MACE-LES ``.model`` file (by default the checkpoint of les-demo, which lies in this
repository), looks at what the export says of itself, runs it in OpenMM, and relaxes the same
molecule in ASE. On the command line the first half is ``openmm-les export`` and ``openmm-les
inspect``.
"""

import argparse
import sys
from pathlib import Path

import openmm
import torch
from openmm import app, unit
from openmm_les_export import export
from openmmml import MLPotential

from openmm_les import artifact
from openmm_les.units import KJ_PER_MOL_PER_EV

try:
    import ase.io
    from ase.optimize import BFGS

    from openmm_les.ase import LESCalculator
except ModuleNotFoundError:
    sys.exit("This needs ASE: pip install 'openmm-les[examples]'")

HERE = Path(__file__).parent
PDB = HERE / "alanine_dipeptide.pdb"

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--model", type=Path, default=HERE / "../training/les_demo/les-demo.model")
parser.add_argument("--steps", type=int, default=1000, help="steps of 0.5 fs")
parser.add_argument("--output", type=Path, default=Path("example-output"))
arguments = parser.parse_args()
torch.set_num_threads(1)  # 22 atoms are too few to share

# 1. Export. Weights are read without running code from the file. Where mace-torch is installed the
# result is compared with the original model, and refused if it differs.
arguments.output.mkdir(parents=True, exist_ok=True)
path = arguments.output / f"{arguments.model.stem}.les.pt"
export(arguments.model, path, licence="MIT", overwrite=True)  # say what the licence of yours is

# 2. What the file says of itself.
metadata = artifact.inspect(path)
print(f"{path}: atomic numbers {metadata['elements']}, cutoff {metadata['cutoff']:g} A")
print(f"LES: sigma {metadata['les']['sigma']:g} A, dl {metadata['les']['dl']:g} A")
print(f"compared with the original model: {metadata['verification']['status']}")

# 3. OpenMM. returnEnergyType="energy" includes the isolated atoms, as ASE does; without it OpenMM
# reports the interaction energy, whose numbers are small enough to read.
pdb = app.PDBFile(str(PDB))
potential = MLPotential("les", modelPath=path)
system = potential.createSystem(pdb.topology, returnEnergyType="energy", precision="double")
integrator = openmm.LangevinMiddleIntegrator(
    300 * unit.kelvin, 5 / unit.picosecond, 0.5 * unit.femtosecond
)
simulation = app.Simulation(pdb.topology, system, integrator)
simulation.context.setPositions(pdb.positions)
energy = simulation.context.getState(energy=True).getPotentialEnergy()
simulation.minimizeEnergy(maxIterations=100)
simulation.context.setVelocitiesToTemperature(300 * unit.kelvin, 1)
simulation.step(arguments.steps)
state = simulation.context.getState(energy=True)
in_openmm = energy / unit.kilojoule_per_mole
later = state.getPotentialEnergy() / unit.kilojoule_per_mole
print(f"OpenMM: {in_openmm:.4f} kJ/mol for the structure in the file,")
print(f"        {later:.4f} kJ/mol after minimisation and {arguments.steps} steps at 300 K")

# 4. ASE, from the same file.
atoms = ase.io.read(PDB)
atoms.calc = LESCalculator(path)
in_ase = atoms.get_potential_energy() * KJ_PER_MOL_PER_EV
print(f"ASE:    {in_ase:.4f} kJ/mol for the structure in the file,")
with BFGS(atoms, logfile=None) as optimizer:
    converged = optimizer.run(fmax=0.05, steps=200)
relaxed = atoms.get_potential_energy() * KJ_PER_MOL_PER_EV
print(f"        {relaxed:.4f} kJ/mol relaxed in {optimizer.get_number_of_steps()} steps")
print(f"On the same structure the two differ by {abs(in_ase - in_openmm):.1e} kJ/mol.")
