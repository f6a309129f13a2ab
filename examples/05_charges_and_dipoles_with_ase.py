"""Latent charges, dipoles and what is long-ranged: two waters drawn apart.

    python 05_charges_and_dipoles_with_ase.py [--model my.les.pt] [--output example-output]

An LES model finds charges from energies and forces alone. Beyond the reach of the network they are
all that two molecules feel of each other: their energy becomes exactly that of the charges, where a
model without LES would give zero.

The charges were never fitted to dipoles: les-demo gives one water 2.0 D here, nature 1.85 D.
"""

import argparse
import csv
import sys
from pathlib import Path

import numpy as np
from pictures import draw_dimer

try:
    from ase import Atoms
    from ase.optimize import BFGS
    from ase.units import Debye, kJ, mol

    from openmm_les.ase import LESCalculator
except ModuleNotFoundError:
    sys.exit("This needs ASE: pip install 'openmm-les[examples]'")

COULOMB = 14.3996454  # eV A / e^2

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--model", default="les-demo", help="name of a model, or artifact")
parser.add_argument("--points", type=int, default=40)
parser.add_argument("--output", type=Path, default=Path("example-output"))
arguments = parser.parse_args()
arguments.output.mkdir(parents=True, exist_ok=True)

calculator = LESCalculator(arguments.model)
# Energies do not change when all charges change sign; the exporter found out which sign makes
# oxygen negative and stored it in the file.
sign = calculator.artifact.metadata["charge_sign"] or 1


def charges_and_dipole(atoms: Atoms) -> tuple[np.ndarray, float]:
    """Charges [e], and the dipole [Debye] about the centre of mass.

    Latent charges need not add up to exactly zero; about one point the dipole is defined all the
    same, and the rest is small.
    """
    charges = sign * atoms.get_charges()
    dipole = charges @ (atoms.positions - atoms.get_center_of_mass())
    return charges, float(np.linalg.norm(dipole) / Debye)


# 1. Two waters, relaxed: the one in front gives a hydrogen bond.
positions = [[-1.55, -0.12, 0], [-1.93, 0.76, 0], [-0.60, 0.04, 0]]
positions += [[1.35, 0.11, 0], [1.68, -0.37, -0.76], [1.68, -0.37, 0.76]]
atoms = Atoms("OHHOHH", positions, calculator=calculator)
with BFGS(atoms, logfile=None) as optimizer:
    optimizer.run(fmax=0.005, steps=200)
relaxed, bond = atoms.positions.copy(), atoms.get_distance(0, 3)
axis = (relaxed[3] - relaxed[0]) / bond
atoms.positions[3:] += 1000 * axis
apart = atoms.get_potential_energy()

# 2. Draw them apart along the line between the oxygens.
rows = []
for distance in np.geomspace(bond - 0.2, 12, arguments.points):
    atoms.positions = relaxed
    atoms.positions[3:] += (distance - bond) * axis
    energy = (atoms.get_potential_energy() - apart) / (kJ / mol)
    charges, dipole = charges_and_dipole(atoms)
    between = np.linalg.norm(atoms.positions[:3, None] - atoms.positions[3:], axis=-1)
    coulomb = COULOMB * charges[:3] @ (1 / between) @ charges[3:] / (kJ / mol)
    rows.append([distance, energy, coulomb, charges[:3].sum(), charges[0], dipole])

names = [
    "O-O [A]",
    "energy [kJ/mol]",
    "of the charges",
    "donor's charge [e]",
    "its O",
    "dipole [D]",
]
print("".join(f"{name:>20}" for name in names))
for row in rows:
    print("".join(f"{value:20.4f}" for value in row))
with open(arguments.output / "dimer.csv", "w", newline="") as file:
    csv.writer(file).writerows([names, *rows])
print(f"Wrote {arguments.output / 'dimer.csv'}.")
print(draw_dimer(arguments.output))
