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
#: Unpaired electrons of the isolated atoms.
ATOMS = {1: 1, 6: 2, 7: 3, 8: 2}


def box_length(density: float) -> float:
    """Edge of the box [A] at a density [g/mL]."""
    return float((WATERS * 18.0153 / (density * 0.602214)) ** (1 / 3))


def start(length: float, generator: np.random.Generator) -> np.ndarray:
    """Waters in random orientations on a lattice [A]."""
    shape = np.array([[0, 0, 0], [0.9572, 0, 0], [-0.239988, 0.926627, 0]])
    side = int(np.ceil(WATERS ** (1 / 3)))
    places = np.stack(np.meshgrid(*[np.arange(side)] * 3), axis=-1).reshape(-1, 3)
    places = generator.permutation(places)[:WATERS] * length / side
    turns = [np.linalg.qr(generator.normal(size=(3, 3)))[0] for _ in range(WATERS)]
    return np.concatenate([place + shape @ turn for place, turn in zip(places, turns, strict=True)])


def topology(length: float) -> app.Topology:
    waters = app.Topology()
    chain = waters.addChain()
    for _ in range(WATERS):
        residue = waters.addResidue("HOH", chain)
        oxygen, *hydrogens = [
            waters.addAtom(name, app.Element.getBySymbol(name[0]), residue)
            for name in ("O", "H1", "H2")
        ]
        for hydrogen in hydrogens:
            waters.addBond(oxygen, hydrogen)
    waters.setPeriodicBoxVectors(np.eye(3) * length / 10)
    return waters


def force_field(waters: app.Topology, length: float) -> openmm.System:
    return app.ForceField("amber14/tip3p.xml").createSystem(
        waters,
        nonbondedMethod=app.PME,
        nonbondedCutoff=0.049 * length,
        constraints=None,
        rigidWater=False,
    )


def sample(
    density: float, temperature: float, frames: int, model: str | None, seed: int
) -> list[np.ndarray]:
    """Positions [A] each 0.4 ps, after 4 ps."""
    length = box_length(density)
    waters = topology(length)
    positions = start(length, np.random.default_rng(seed)) / 10
    if model is not None:  # from a liquid already
        positions = sample(density, temperature, 1, None, seed)[0] / 10
        from openmmml import MLPotential

        system = MLPotential(model).createSystem(waters)
    else:
        system = force_field(waters, length)
    integrator = openmm.LangevinMiddleIntegrator(temperature, 5.0, 0.0005)
    integrator.setRandomNumberSeed(seed)
    platform = openmm.Platform.getPlatformByName("Reference")
    context = openmm.Context(system, integrator, platform)
    context.setPositions(positions)
    openmm.LocalEnergyMinimizer.minimize(context, maxIterations=200)
    context.setVelocitiesToTemperature(temperature, seed)
    integrator.step(8000)
    found = []
    for _ in range(frames):
        integrator.step(800)
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path)
    parser.add_argument("--model", help="name of a model to sample with, in place of TIP3P")
    parser.add_argument("--frames", type=int, default=8, help="of each density and temperature")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    numbers = np.array([8, 1, 1] * WATERS)
    rows = []
    for density in DENSITIES:
        for temperature in TEMPERATURES:
            arguments.seed += 1
            frames = sample(density, temperature, arguments.frames, arguments.model, arguments.seed)
            length = box_length(density)
            for positions in frames:
                try:
                    rows.append((length, positions, *label(numbers, positions, length)))
                except RuntimeError as error:  # the charges did not converge
                    print(f"left out: {error}")
            print(f"{density} g/mL, {temperature} K: {len(rows)} structures", flush=True)
    length, positions, energy, forces, virial = zip(*rows, strict=True)
    np.savez_compressed(
        arguments.output,
        numbers=numbers.astype(np.int8),
        length=np.array(length),
        positions=np.array(positions).astype(np.float32),
        energy=np.array(energy),
        forces=np.array(forces).astype(np.float32),
        virial=np.array(virial),
        elements=np.array(list(ATOMS)).astype(np.int8),
        atom_energy=np.array([atom_energy(number) for number in ATOMS]),
    )


if __name__ == "__main__":
    main()
