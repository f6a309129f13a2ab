"""100 ps of alanine dipeptide at 300 K with the demonstration model: does it stay intact?

    python stability.py [--picoseconds 100]

Prints the largest change of a bond against the minimised structure, and the mean temperature.
"""

import argparse
from pathlib import Path

import numpy as np
import openmm
import torch
from openmm import app, unit
from openmmml import MLPotential

PDB = Path(__file__).parents[2] / "examples" / "alanine_dipeptide.pdb"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--picoseconds", type=float, default=100.0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    pdb = app.PDBFile(str(PDB))
    system = MLPotential("les-demo").createSystem(pdb.topology)
    integrator = openmm.LangevinMiddleIntegrator(300, 1, 0.0005)
    integrator.setRandomNumberSeed(1)
    simulation = app.Simulation(pdb.topology, system, integrator)
    simulation.context.setPositions(pdb.positions)
    simulation.minimizeEnergy()
    simulation.context.setVelocitiesToTemperature(300, 1)
    bonds = np.array([(bond.atom1.index, bond.atom2.index) for bond in pdb.topology.bonds()])

    def lengths() -> np.ndarray:
        state = simulation.context.getState(positions=True)
        r = state.getPositions(asNumpy=True).value_in_unit(unit.angstrom)
        return np.linalg.norm(r[bonds[:, 0]] - r[bonds[:, 1]], axis=1)

    relaxed, largest, kinetic = lengths(), 0.0, []
    every = 200
    for k in range(round(arguments.picoseconds / 0.0005 / every)):
        simulation.step(every)
        largest = max(largest, float(np.abs(lengths() - relaxed).max()))
        energy = simulation.context.getState(energy=True).getKineticEnergy()
        kinetic.append(energy.value_in_unit(unit.kilojoule_per_mole))
        if k % 100 == 99:
            print(f"{(k + 1) * every * 0.0005:6.1f} ps, bonds within {largest:.3f} A", flush=True)
    freedom = 3 * pdb.topology.getNumAtoms() - 3
    temperature = 2 * np.mean(kinetic) / (freedom * 8.31446e-3)
    print(f"mean temperature {temperature:.1f} K; largest change of a bond {largest:.3f} A")


if __name__ == "__main__":
    main()
