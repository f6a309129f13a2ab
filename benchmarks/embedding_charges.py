"""What MM charges feel of a region: latent charges, those of a force field, and DFT.

    python benchmarks/embedding_charges.py DIPEPTIDES.xyz NAME=MODEL.les.pt [NAME=...]

DIPEPTIDES.xyz holds isolated, neutral peptides with dipole moments [e A] and MBIS charges [e] by
DFT (extended XYZ, ``dipole`` and ``mbi_charges``). Each is assigned Amber ff14SB by its bonds.
Dipole moments of the charges that electrostatic embedding uses (the model's, shifted evenly to the
right sum) and of the force field are compared with DFT, atom by atom charges with MBIS. Then the
interaction of alanine dipeptide with the water around it, in a box of TIP3P, with both kinds of
charges. Prints tables and writes ``benchmarks/results/embedding_charges.json``.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import openmm
import torch
from ase import Atoms
from ase.neighborlist import natural_cutoffs, neighbor_list
from environment import environment
from openmm import Vec3, app, unit

from openmm_les.ase import LESCalculator
from openmm_les.electrostatics.embedding import build_coupling
from openmm_les.units import KJ_PER_MOL_PER_EV

Array = np.ndarray
DEBYE = 0.20819434  # e A
BONDED = 1.15  # of the sum of covalent radii
STEPS_BEFORE = 5000  # of 2 fs
STEPS_BETWEEN = 1000
ROOT = Path(__file__).parents[1]


# ---------------------------------------------------------------- charges of isolated peptides
def bonds_of(atoms: Atoms) -> list[tuple[int, int]]:
    first, second = neighbor_list("ij", atoms, natural_cutoffs(atoms, mult=BONDED))
    return [(int(i), int(j)) for i, j in zip(first, second, strict=True) if i < j]


def is_between_residues(atoms: Atoms, bond: tuple[int, int], near: list[set[int]]) -> bool:
    """A peptide bond: C with an O of its own, to N with another carbon atom."""
    carbon, nitrogen = sorted(bond, key=lambda i: int(atoms.numbers[i]))
    if (atoms.numbers[carbon], atoms.numbers[nitrogen]) != (6, 7):
        return False
    is_carbonyl = any(atoms.numbers[i] == 8 and len(near[i]) == 1 for i in near[carbon])
    return is_carbonyl and sum(atoms.numbers[i] == 6 for i in near[nitrogen]) == 2


def topology_of(atoms: Atoms) -> tuple[app.Topology, list[int]]:
    """Topology with a residue for each piece between peptide bonds, and the atoms in its order."""
    bonds = bonds_of(atoms)
    near: list[set[int]] = [set() for _ in atoms]
    for first, second in bonds:
        near[first].add(second)
        near[second].add(first)
    inside = [set(neighbors) for neighbors in near]
    for bond in bonds:
        if is_between_residues(atoms, bond, near):
            inside[bond[0]].discard(bond[1])
            inside[bond[1]].discard(bond[0])
    topology = app.Topology()
    chain = topology.addChain()
    made: dict[int, app.topology.Atom] = {}
    for start in range(len(atoms)):
        if start in made:
            continue
        residue = topology.addResidue("ANY", chain)
        front = [start]
        while front:
            index = front.pop()
            if index not in made:
                element = app.Element.getByAtomicNumber(int(atoms.numbers[index]))
                made[index] = topology.addAtom(str(index), element, residue)
                front += inside[index]
    for first, second in bonds:
        topology.addBond(made[first], made[second])
    return topology, list(made)


def classical_charges(atoms: Atoms, field: app.ForceField) -> Array:
    topology, order = topology_of(atoms)
    system = field.createSystem(topology, nonbondedMethod=app.NoCutoff)
    force = next(f for f in system.getForces() if isinstance(f, openmm.NonbondedForce))
    charges = np.zeros(len(atoms))
    # Atoms of a Topology are in the order of their residues, in which they were added.
    for place, index in enumerate(order):
        charges[index] = force.getParticleParameters(place)[0]._value
    return charges


def latent_charges(atoms: Atoms, calculator: LESCalculator) -> tuple[Array, float]:
    """Charges as electrostatic embedding uses them, and what their sum was."""
    sign = calculator.artifact.metadata["charge_sign"]
    charges = sign * calculator.get_property("charges", atoms)
    return charges - charges.mean(), float(charges.sum())


def compare(got: Array, expected: Array) -> dict[str, float]:
    """Of the flattened arrays: RMS difference, slope of a line through the origin, correlation."""
    got, expected = got.ravel(), expected.ravel()
    difference = got - expected
    slope = float(got @ expected / (expected @ expected))
    return {
        "rmse": float(np.sqrt((difference**2).mean())),
        "slope": slope,
        "correlation": float(np.corrcoef(got, expected)[0, 1]),
    }


def of_peptides(structures: list[Atoms], calculators: dict[str, LESCalculator]) -> dict[str, Any]:
    field = app.ForceField("amber14-all.xml")
    charges: dict[str, list[Array]] = {"Amber ff14SB": []}
    sums: dict[str, list[float]] = {}
    for atoms in structures:
        charges["Amber ff14SB"].append(classical_charges(atoms, field))
        for name, calculator in calculators.items():
            found, total = latent_charges(atoms, calculator)
            charges.setdefault(name, []).append(found)
            sums.setdefault(name, []).append(total)
        charges.setdefault("MBIS, DFT", []).append(atoms.arrays["mbi_charges"])
    dft = np.array([np.ravel(atoms.get_dipole_moment()) for atoms in structures])
    mbis = np.concatenate(charges["MBIS, DFT"])
    table = {}
    for name, found in charges.items():
        dipoles = np.array(
            [q @ atoms.positions for q, atoms in zip(found, structures, strict=True)]
        )
        lengths = np.linalg.norm(dipoles, axis=1) * np.linalg.norm(dft, axis=1)
        table[name] = {
            "dipole": compare(dipoles / DEBYE, dft / DEBYE),
            "mean_dipole": float(np.linalg.norm(dipoles, axis=1).mean() / DEBYE),
            "mean_cosine": float(((dipoles * dft).sum(axis=1) / lengths).mean()),
            "charge": compare(np.concatenate(found), mbis),
        }
        if name in sums:
            total = np.array(sums[name])
            table[name]["sum"] = {
                "mean": float(total.mean()),
                "rms": float((total**2).mean() ** 0.5),
            }
    table["DFT"] = {"mean_dipole": float(np.linalg.norm(dft, axis=1).mean() / DEBYE)}
    return table


# ---------------------------------------------------------------- a peptide in water
def frames_in_water(number: int) -> Iterator[tuple[Atoms, Array, Array, Array]]:
    """Alanine dipeptide in TIP3P by the force field.

    Yields:
        The peptide, charges and positions [A] of all atoms of which it is the first, the box [A].
    """
    pdb = app.PDBFile(str(ROOT / "examples" / "alanine_dipeptide.pdb"))
    field = app.ForceField("amber14-all.xml", "amber14/tip3p.xml")
    modeller = app.Modeller(pdb.topology, pdb.positions)
    modeller.addSolvent(field, model="tip3p", boxSize=Vec3(2.4, 2.4, 2.4) * unit.nanometer)
    system = field.createSystem(
        modeller.topology,
        nonbondedMethod=app.PME,
        nonbondedCutoff=1.0 * unit.nanometer,
        constraints=app.HBonds,
    )
    force = next(f for f in system.getForces() if isinstance(f, openmm.NonbondedForce))
    count = system.getNumParticles()
    charges = np.array([force.getParticleParameters(i)[0]._value for i in range(count)])
    numbers = [atom.element.atomic_number for atom in pdb.topology.atoms()]  # the peptide's
    integrator = openmm.LangevinMiddleIntegrator(300, 1, 0.002)
    integrator.setRandomNumberSeed(1)
    simulation = app.Simulation(modeller.topology, system, integrator)
    simulation.context.setPositions(modeller.positions)
    simulation.minimizeEnergy()
    simulation.context.setVelocitiesToTemperature(300, 1)
    simulation.step(STEPS_BEFORE)
    for _ in range(number):
        simulation.step(STEPS_BETWEEN)
        state = simulation.context.getState(positions=True)
        positions = state.getPositions(asNumpy=True).value_in_unit(unit.angstrom)
        cell = state.getPeriodicBoxVectors(asNumpy=True).value_in_unit(unit.angstrom)
        yield Atoms(numbers, positions[: len(numbers)]), charges, positions, cell


def in_water(calculators: dict[str, LESCalculator], number: int) -> dict[str, Any]:
    """Coulomb energy of the peptide with the water [kJ/mol] and its dipole moment, by charges."""
    energies: dict[str, list[float]] = {}
    dipoles: dict[str, list[Array]] = {}
    for alone, charges, positions, cell in frames_in_water(number):
        size = len(alone)
        kinds = {"Amber ff14SB": charges[:size]}
        kinds |= {name: latent_charges(alone, c)[0] for name, c in calculators.items()}
        box = torch.tensor(cell)
        coupling = build_coupling("PME", cell=box, tolerance=1e-6, images=False)
        surroundings = torch.tensor(charges[size:]), torch.tensor(positions[size:])
        for name, q in kinds.items():
            inside = torch.tensor(q), torch.tensor(alone.positions)
            found = coupling(*inside, *surroundings, box)
            energies.setdefault(name, []).append(float(found.energy) * KJ_PER_MOL_PER_EV)
            dipoles.setdefault(name, []).append(q @ alone.positions / DEBYE)
    classical = np.array(dipoles["Amber ff14SB"])
    lengths = np.linalg.norm(classical, axis=1)
    table = {}
    for name, found in energies.items():
        dipole = np.array(dipoles[name])
        length = np.linalg.norm(dipole, axis=1)
        table[name] = {
            "energy": float(np.mean(found)),
            "of Amber": float(np.sum(found) / np.sum(energies["Amber ff14SB"])),
            "correlation": float(np.corrcoef(found, energies["Amber ff14SB"])[0, 1]),
            "mean_dipole": float(length.mean()),
            "mean_cosine": float(((dipole * classical).sum(axis=1) / length / lengths).mean()),
        }
    return table


def show(title: str, table: dict[str, dict[str, Any]]) -> None:
    print(f"\n{title}")
    for name, row in table.items():
        cells = []
        for key, value in row.items():
            parts = value.items() if isinstance(value, dict) else [("", value)]
            cells += [f"{key} {part}".strip() + f" {number:.3g}" for part, number in parts]
        print(f"  {name:14}", ", ".join(cells))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("structures", type=Path)
    parser.add_argument("models", nargs="+", metavar="NAME=MODEL.les.pt")
    parser.add_argument(
        "--frames", type=int, default=50, help="of the peptide in water, 2 ps apart"
    )
    default = Path(__file__).parent / "results" / "embedding_charges.json"
    parser.add_argument("--output", type=Path, default=default)
    arguments = parser.parse_args()
    calculators = {}
    for entry in arguments.models:
        name, _, path = entry.partition("=")
        calculators[name] = LESCalculator(path)
    structures = ase.io.read(arguments.structures, ":")
    results = {
        "environment": environment(torch.get_num_threads()),
        "structures": len(structures),
        "peptides": of_peptides(structures, calculators),
        "frames": arguments.frames,
        "in water": in_water(calculators, arguments.frames),
    }
    show(
        f"{len(structures)} isolated peptides; dipole moments [D] against DFT", results["peptides"]
    )
    show(f"alanine dipeptide in water, {arguments.frames} frames", results["in water"])
    arguments.output.write_text(json.dumps(results, indent=1) + "\n")
    print(f"\nwrote {arguments.output}")


if __name__ == "__main__":
    main()
