"""Dense water and isolated atoms for the demonstration model, labelled with GFN2-xTB.

    python liquid.py liquid.npz                     # sampled with flexible TIP3P
    python liquid.py liquid.npz --model les-demo    # sampled with a model of this package

Boxes of 24 waters are simulated at constant volume, from 0.8 to 1.2 g/mL and at 300 and 400 K. Each
frame gives two open clusters: its molecules, made whole in a cell with a random corner. These are
labelled, not the boxes. The kernel between charges of GFN2-xTB differs from 1/r by a term in 1/r^3,
so that its sum over periodic images never ends: for one water in boxes of 14, 20 and 28 A tblite
0.8 gives +0.43, +0.28 and +0.15 meV beyond the open molecule, where dipoles alone give -2.5, -0.84
and -0.31 meV. Labels of dense boxes would contradict those of clusters.

The file has energies and forces by tblite (LGPL, used only here), and the energies of isolated H,
C, N and O; the first tenth is held out in training. That of the repository joins several such runs:
292 frames, a part of them sampled with les-demo.
"""

import argparse
from pathlib import Path

import generate
import numpy as np
import openmm
from ase import Atoms, units
from openmm import app, unit
from tblite.interface import Calculator

WATERS = 24
DENSITIES = (0.80, 0.85, 0.92, 0.99, 1.06, 1.13, 1.20)
TEMPERATURES = (300.0, 400.0)
GROUP = "liquid water"
#: Clusters of each frame.
CORNERS = 2
#: Unpaired electrons of the isolated atoms.
ATOMS = {1: 1, 6: 2, 7: 3, 8: 2}


def box_length(density: float, count: int = WATERS) -> float:
    """Edge of the box [A] of so many waters at a density [g/mL]."""
    return float((count * 18.0153 / (density * 0.602214)) ** (1 / 3))


def start(length: float, count: int, generator: np.random.Generator) -> np.ndarray:
    """Waters in random orientations on a lattice [A]."""
    shape = np.array([[0, 0, 0], [0.9572, 0, 0], [-0.239988, 0.926627, 0]])
    side = int(np.ceil(count ** (1 / 3)))
    places = np.stack(np.meshgrid(*[np.arange(side)] * 3), axis=-1).reshape(-1, 3)
    places = generator.permutation(places)[:count] * length / side
    turns = [np.linalg.qr(generator.normal(size=(3, 3)))[0] for _ in range(count)]
    return np.concatenate([place + shape @ turn for place, turn in zip(places, turns, strict=True)])


def topology(length: float, count: int) -> app.Topology:
    waters = app.Topology()
    chain = waters.addChain()
    for _ in range(count):
        residue = waters.addResidue("HOH", chain)
        oxygen, *hydrogens = [
            waters.addAtom(name, app.Element.getBySymbol(name[0]), residue)
            for name in ("O", "H1", "H2")
        ]
        for hydrogen in hydrogens:
            waters.addBond(oxygen, hydrogen)
    waters.setPeriodicBoxVectors(np.eye(3) * length / 10)
    return waters


def force_field(waters: app.Topology, length: float, rigid: bool) -> openmm.System:
    """TIP3P. Flexible, its hydrogens can fall onto oxygens of others if they start near them."""
    return app.ForceField("amber14/tip3p.xml").createSystem(
        waters,
        nonbondedMethod=app.PME,
        nonbondedCutoff=0.049 * length,
        constraints=None,
        rigidWater=rigid,
    )


def sample(
    density: float,
    temperature: float,
    frames: int,
    model: str | None,
    seed: int,
    count: int = WATERS,
) -> list[np.ndarray]:
    """Positions [A] each 0.4 ps, or each 0.2 ps of a model, after 1 ps."""
    length = box_length(density, count)
    waters = topology(length, count)
    positions = start(length, count, np.random.default_rng(seed)) / 10
    systems = [force_field(waters, length, rigid) for rigid in (True, False)]
    if model is not None:
        from openmmml import MLPotential

        systems.append(MLPotential(model).createSystem(waters))
    for k, system in enumerate(systems):
        integrator = openmm.LangevinMiddleIntegrator(temperature, 5.0, 0.0005)
        integrator.setRandomNumberSeed(seed)
        platform = openmm.Platform.getPlatformByName("Reference")
        context = openmm.Context(system, integrator, platform)
        context.setPositions(positions)
        if k == 0:
            openmm.LocalEnergyMinimizer.minimize(context, maxIterations=200)
        context.setVelocitiesToTemperature(temperature, seed)
        integrator.step(2000)
        positions = context.getState(positions=True).getPositions()
    every = 800 if model is None else 400
    found = []
    for _ in range(frames):
        integrator.step(every)
        state = context.getState(positions=True)
        found.append(state.getPositions(asNumpy=True).value_in_unit(unit.angstrom))
    return found


def cluster(positions: np.ndarray, length: float, corner: np.ndarray) -> np.ndarray:
    """Molecules of a box made whole, with their oxygens in the cell that begins at a corner [A]."""
    molecules = positions.reshape(-1, 3, 3)
    oxygens = molecules[:, :1]
    whole = molecules - length * np.round((molecules - oxygens) / length)
    return (whole - length * np.floor((oxygens - corner) / length)).reshape(-1, 3)


def atom_energy(number: int) -> float:
    """Energy of an isolated atom [eV]."""
    calculator = Calculator("GFN2-xTB", np.array([number]), np.zeros((1, 3)), uhf=ATOMS[number])
    calculator.set("verbosity", 0)
    return float(calculator.singlepoint().get("energy")) * units.Hartree


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path)
    parser.add_argument("--model", help="name of a model to sample with, in place of TIP3P")
    parser.add_argument("--frames", type=int, default=16, help="of each density and temperature")
    parser.add_argument("--densities", type=float, nargs="+", default=DENSITIES, help="[g/mL]")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    generator = np.random.default_rng(arguments.seed)
    frames = []
    for density in arguments.densities:
        length = box_length(density)
        for temperature in TEMPERATURES:
            arguments.seed += 1
            options = (arguments.frames, arguments.model, arguments.seed)
            frames += [(length, frame) for frame in sample(density, temperature, *options)]
            print(f"{density} g/mL, {temperature} K: {len(frames)} frames", flush=True)
    rows = []
    for k in generator.permutation(len(frames)):  # clusters of one frame stay together
        length, frame = frames[k]
        for corner in generator.uniform(0, length, (CORNERS, 3)):
            atoms = Atoms([8, 1, 1] * WATERS, cluster(frame, length, corner))
            energy, forces = generate.label(atoms)
            if np.abs(forces).max() < generate.LARGEST_FORCE:
                rows.append((GROUP, atoms, energy, forces))
    atom_energies = np.array([atom_energy(number) for number in ATOMS])
    extra = {"elements": np.array(list(ATOMS)).astype(np.int8), "atom_energy": atom_energies}
    generate.save(arguments.output, rows, None, **extra)


if __name__ == "__main__":
    main()
