"""Dense water in periodic boxes, and isolated atoms, for the demonstration model: GFN2-xTB.

    python liquid.py liquid.npz                        # sampled with flexible TIP3P
    python liquid.py more.npz --model les-demo         # sampled with a model of this package

Frames of 24 waters at constant volume, from 0.85 to 1.2 g/mL and at 300 and 400 K; each box takes
its place in the file with energy, forces and virial by tblite (LGPL, used only here), and the
energies of isolated H, C, N and O. Everything in the file was made by this script.
"""

import argparse
from pathlib import Path

import numpy as np
import openmm
from ase import units
from openmm import app, unit
from tblite.interface import Calculator

WATERS = 24
DENSITIES = (0.85, 0.92, 0.99, 1.06, 1.13, 1.20)
TEMPERATURES = (300.0, 400.0)
#: Frames beyond this force are no part of anything one would simulate [eV/A].
LARGEST_FORCE = 15.0
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


def label(
    numbers: np.ndarray, positions: np.ndarray, length: float
) -> tuple[float, np.ndarray, np.ndarray]:
    """Energy [eV], forces [eV/A] and dE/d(strain) [eV]."""
    calculator = Calculator(
        "GFN2-xTB",
        numbers,
        positions / units.Bohr,
        lattice=np.eye(3) * length / units.Bohr,
        periodic=np.array([True] * 3),
    )
    calculator.set("verbosity", 0)
    result = calculator.singlepoint()
    forces = -np.asarray(result.get("gradient")) * units.Hartree / units.Bohr
    virial = np.asarray(result.get("virial")) * units.Hartree
    return float(result.get("energy")) * units.Hartree, forces, virial


def atom_energy(number: int) -> float:
    """Energy of an isolated atom [eV]."""
    calculator = Calculator("GFN2-xTB", np.array([number]), np.zeros((1, 3)), uhf=ATOMS[number])
    calculator.set("verbosity", 0)
    return float(calculator.singlepoint().get("energy")) * units.Hartree


def save(path: Path, numbers: np.ndarray, rows: list[tuple]) -> None:
    length, positions, energy, forces, virial = zip(*rows, strict=True)
    np.savez_compressed(
        path,
        numbers=numbers.astype(np.int8),
        length=np.array(length),
        positions=np.array(positions).astype(np.float32),
        energy=np.array(energy),
        forces=np.array(forces).astype(np.float32),
        virial=np.array(virial),
        elements=np.array(list(ATOMS)).astype(np.int8),
        atom_energy=np.array([atom_energy(number) for number in ATOMS]),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path)
    parser.add_argument("--model", help="name of a model to sample with, in place of TIP3P")
    parser.add_argument("--frames", type=int, default=8, help="of each density and temperature")
    parser.add_argument("--densities", type=float, nargs="+", default=DENSITIES, help="[g/mL]")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    numbers = np.array([8, 1, 1] * WATERS)
    rows = []
    for density in arguments.densities:
        for temperature in TEMPERATURES:
            arguments.seed += 1
            frames = sample(density, temperature, arguments.frames, arguments.model, arguments.seed)
            length = box_length(density)
            for positions in frames:
                energy, forces, virial = label(numbers, positions, length)
                if np.abs(forces).max() < LARGEST_FORCE:
                    rows.append((length, positions, energy, forces, virial))
            print(f"{density} g/mL, {temperature} K: {len(rows)} structures", flush=True)
            save(arguments.output, numbers, rows)  # so that little is lost


if __name__ == "__main__":
    main()
