"""Density of 64 waters at 1 bar with the demonstration model.

    python density.py [--model les-demo] [--picoseconds 100] [--temperature 300]

From TIP3P at 1 g/mL; the first fifth equilibrates. Hydrogens weigh 4 amu, which changes no average
over positions, for steps of 1 fs. Prints the mean, with an error from blocks, and writes frames to
label where ``--frames`` names a file.

Then it tells whether the density is that of the method: of open clusters cut from the last frame,
with their molecules closer together or further apart, energies by the model and by GFN2-xTB.
"""

import argparse
from pathlib import Path

import generate
import liquid
import numpy as np
import openmm
import torch
from ase import Atoms
from openmm import unit
from openmmml import MLPotential

from openmm_les import artifact as artifacts
from openmm_les import catalog
from openmm_les.evaluation.system_model import SystemModel

BLOCKS = 5
#: Distances of molecules, over those of the last frame, and the size and number of the clusters.
SCALES, CLUSTER, CLUSTERS = (0.97, 1.0, 1.03, 1.06, 1.09), 32, 3
HYDROGEN_MASS = 4.0  # [amu]


def scan(model: str, positions: np.ndarray, length: float) -> None:
    """Prints energies of clusters, relative to those of the frame [meV a molecule]."""
    path = Path(model) if model.endswith(".les.pt") else catalog.artifact_path(model)
    numbers = [8, 1, 1] * CLUSTER
    alone = SystemModel(artifacts.load(path), numbers, periodic=False)
    print("scale" + "".join(f"{scale:8.2f}" for scale in SCALES))
    for center in np.random.default_rng(0).uniform(0, length, (CLUSTERS, 3)):
        molecules = liquid.cluster(positions, length, center - length / 2).reshape(-1, 3, 3)
        near = np.argsort(np.linalg.norm(molecules[:, 0] - center, axis=1))[:CLUSTER]
        molecules = molecules[near]
        found = []
        for scale in SCALES:
            moved = (molecules + (scale - 1) * (molecules[:, :1] - center)).reshape(-1, 3)
            label, _ = generate.label(Atoms(numbers, moved))
            found.append((label, alone.evaluate(moved).energy))
        relative = 1e3 / CLUSTER * (np.array(found) - found[SCALES.index(1.0)])
        for name, energies in zip(("GFN2", "model"), relative.T, strict=True):
            print(f"{name:5}" + "".join(f"{energy:8.1f}" for energy in energies))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="les-demo", help="a name, or a *.les.pt file")
    parser.add_argument("--waters", type=int, default=64)
    parser.add_argument("--picoseconds", type=float, default=100.0)
    parser.add_argument("--temperature", type=float, default=300.0, help="[K]")
    parser.add_argument("--frames", help="an NPZ file for positions and box lengths")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    waters = liquid.topology(liquid.box_length(1.0, arguments.waters), arguments.waters)
    positions = liquid.sample(
        1.0, arguments.temperature, 1, None, arguments.seed, arguments.waters
    )[0]
    system = MLPotential("les", modelPath=arguments.model).createSystem(waters)
    for hydrogen in range(system.getNumParticles()):
        if hydrogen % 3:
            system.setParticleMass(hydrogen, HYDROGEN_MASS)
    system.addForce(openmm.MonteCarloBarostat(1 * unit.bar, arguments.temperature, 25))
    integrator = openmm.LangevinMiddleIntegrator(arguments.temperature, 1, 0.001)
    integrator.setRandomNumberSeed(arguments.seed)
    context = openmm.Context(system, integrator, openmm.Platform.getPlatformByName("Reference"))
    context.setPositions(positions / 10)
    context.setVelocitiesToTemperature(arguments.temperature, arguments.seed)
    mass = 18.0153 * arguments.waters / 0.602214  # of a g/mL in A^3
    densities, frames, lengths = [], [], []
    for k in range(round(10 * arguments.picoseconds)):
        integrator.step(100)
        state = context.getState(positions=True)
        volume = state.getPeriodicBoxVolume().value_in_unit(unit.angstrom**3)
        densities.append(mass / volume)
        if k % 20 == 19:
            frames.append(state.getPositions(asNumpy=True).value_in_unit(unit.angstrom))
            lengths.append(volume ** (1 / 3))
        if k % 100 == 99:
            print(f"{0.1 * (k + 1):6.1f} ps: {np.mean(densities[-100:]):.3f} g/mL", flush=True)
    if arguments.frames:
        np.savez_compressed(arguments.frames, positions=np.array(frames), length=np.array(lengths))
    kept = densities[len(densities) // 5 :]
    blocks = [np.mean(part) for part in np.array_split(kept, BLOCKS)]
    error = np.std(blocks, ddof=1) / BLOCKS**0.5
    print(f"{np.mean(blocks):.3f} +- {error:.3f} g/mL")
    last = state.getPositions(asNumpy=True).value_in_unit(unit.angstrom)
    scan(arguments.model, last, volume ** (1 / 3))


if __name__ == "__main__":
    main()
