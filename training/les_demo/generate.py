"""Structures and labels for the demonstration model: peptides and water, GFN2-xTB.

    python generate.py data.npz

Sampled with OpenMM and Amber14/TIP3P (no constraints) at 300 to 600 K: alanine dipeptide, other
capped amino acids, water clusters, and alanine dipeptide with a few waters around it; a tenth are
compressed, stretched or rattled copies. Labelled with GFN2-xTB through tblite (LGPL, used only
here). Everything in the file was made by this script.
"""

import argparse
from collections import Counter
from pathlib import Path

import numpy as np
import openmm
from ase import Atoms, units
from openmm import app, unit
from tblite.interface import Calculator

FORCE_FIELD = app.ForceField("amber14-all.xml", "amber14/tip3p.xml")
TEMPERATURES = (300.0, 450.0, 600.0)
#: Residue in the middle of ACE-X-NME, and frames to take at each temperature.
PEPTIDES = {"ALA": 500, "GLY": 120, "SER": 120, "ASN": 120, "VAL": 100, "THR": 100}
WATER_CLUSTERS = {2: 40, 3: 40, 4: 60, 6: 60, 8: 60}
#: Waters around alanine dipeptide.
SOLVATED = {1: 60, 3: 60, 6: 80}
#: Frames beyond this force are no part of anything one would simulate [eV/A].
LARGEST_FORCE = 15.0


def capped(residue: str) -> app.Modeller:
    """ACE-X-NME in an extended conformation, built from the alanine dipeptide of the examples."""
    pdb = app.PDBFile(str(Path(__file__).parents[2] / "examples" / "alanine_dipeptide.pdb"))
    modeller = app.Modeller(pdb.topology, pdb.positions)
    if residue == "ALA":
        return modeller
    # Backbone and caps stay, the side chain grows from Cbeta along ideal directions.
    keep_beta = residue != "GLY"
    middle = next(r for r in modeller.topology.residues() if r.name == "ALA")
    drop = [a for a in modeller.topology.atoms() if a.element.symbol == "H"]
    drop += [a for a in middle.atoms() if a.name == "CB" and not keep_beta]
    modeller.delete(drop)
    topology, positions = app.Topology(), []
    chain = topology.addChain()
    old = np.array(modeller.positions.value_in_unit(unit.nanometer))
    for source in modeller.topology.residues():
        name = residue if source.name == "ALA" else source.name
        target = topology.addResidue(name, chain)
        for atom in source.atoms():
            topology.addAtom(atom.name, atom.element, target)
            positions.append(old[atom.index])
        if source.name == "ALA":
            grown = side_chain(residue, {a.name: old[a.index] for a in source.atoms()})
            for name, (element, position) in grown.items():
                topology.addAtom(name, app.Element.getBySymbol(element), target)
                positions.append(position)
    topology.createStandardBonds()
    modeller = app.Modeller(topology, np.array(positions) * unit.nanometer)
    modeller.addHydrogens(FORCE_FIELD)
    return modeller


def side_chain(residue: str, atoms: dict[str, np.ndarray]) -> dict[str, tuple[str, np.ndarray]]:
    """Heavy atoms beyond Cbeta: name -> (element, position [nm])."""

    def place(a, b, c, bond, angle, torsion):
        angle, torsion = np.radians([angle, torsion])
        x = (c - b) / np.linalg.norm(c - b)
        normal = np.cross(b - a, x)
        normal /= np.linalg.norm(normal)
        other = np.cross(normal, x)
        direction = -np.cos(angle) * x + np.sin(angle) * (
            np.cos(torsion) * other + np.sin(torsion) * normal
        )
        return c + bond * direction

    if residue == "GLY":
        return {}
    n, ca, cb = atoms["N"], atoms["CA"], atoms["CB"]
    if residue == "SER":
        return {"OG": ("O", place(n, ca, cb, 0.143, 110, 60))}
    if residue == "THR":
        return {
            "OG1": ("O", place(n, ca, cb, 0.143, 110, 60)),
            "CG2": ("C", place(n, ca, cb, 0.153, 110, -60)),
        }
    if residue == "VAL":
        return {
            "CG1": ("C", place(n, ca, cb, 0.153, 110, 180)),
            "CG2": ("C", place(n, ca, cb, 0.153, 110, -60)),
        }
    cg = place(n, ca, cb, 0.152, 112, 180)  # ASN
    return {
        "CG": ("C", cg),
        "OD1": ("O", place(ca, cb, cg, 0.123, 121, 60)),
        "ND2": ("N", place(ca, cb, cg, 0.134, 117, -120)),
    }


def with_waters(solute: app.Modeller | None, count: int, generator) -> app.Modeller:
    """Waters at random places around a solute, or around the origin."""
    topology = app.Topology() if solute is None else solute.topology
    positions = np.zeros((0, 3))
    if solute is not None:
        positions = np.array(solute.positions.value_in_unit(unit.nanometer))
    modeller = app.Modeller(topology, positions * unit.nanometer)
    shape = np.array([[0, 0, 0], [0.09572, 0, 0], [-0.0239988, 0.0926627, 0]])
    radius = 0.25
    for _ in range(count):
        while True:
            radius += 0.002
            direction = generator.normal(size=3)
            centre = (positions.mean(0) if len(positions) else np.zeros(3)) + radius * (
                direction / np.linalg.norm(direction)
            )
            turn, _ = np.linalg.qr(generator.normal(size=(3, 3)))
            water = centre + shape @ turn
            if len(positions) == 0 or np.linalg.norm(positions - centre, axis=1).min() > 0.27:
                break
        single = app.Topology()
        residue = single.addResidue("HOH", single.addChain())
        handles = [
            single.addAtom(name, app.Element.getBySymbol(name[0]), residue)
            for name in ("O", "H1", "H2")
        ]
        single.addBond(handles[0], handles[1])
        single.addBond(handles[0], handles[2])
        modeller.add(single, water * unit.nanometer)
        positions = np.vstack([positions, water])
    return modeller


def sample(modeller: app.Modeller, temperature: float, frames: int, seed: int) -> list[Atoms]:
    """Frames of Langevin dynamics, 0.4 ps apart, held together by a weak wall."""
    system = FORCE_FIELD.createSystem(
        modeller.topology, nonbondedMethod=app.NoCutoff, constraints=None, rigidWater=False
    )
    wall = openmm.CustomExternalForce("500*max(0, r-1.0)^2; r=sqrt(x*x+y*y+z*z)")
    for i in range(system.getNumParticles()):
        wall.addParticle(i, [])
    system.addForce(wall)
    integrator = openmm.LangevinMiddleIntegrator(temperature, 5.0, 0.001)
    integrator.setRandomNumberSeed(seed)
    context = openmm.Context(system, integrator, openmm.Platform.getPlatformByName("Reference"))
    positions = np.array(modeller.positions.value_in_unit(unit.nanometer))
    context.setPositions(positions - positions.mean(0))
    openmm.LocalEnergyMinimizer.minimize(context, maxIterations=200)
    context.setVelocitiesToTemperature(temperature, seed)
    integrator.step(2000)
    numbers = [atom.element.atomic_number for atom in modeller.topology.atoms()]
    out = []
    for _ in range(frames):
        integrator.step(400)
        r = context.getState(positions=True).getPositions(asNumpy=True)._value * 10
        out.append(Atoms(numbers, r - r.mean(0)))
    return out


def disturbed(frames: list[Atoms], generator: np.random.Generator) -> list[Atoms]:
    """A tenth of the frames again: scaled by up to 4 % and rattled by 0.03 A."""
    out = []
    for atoms in frames[::10]:
        copy = atoms.copy()
        copy.positions *= generator.uniform(0.96, 1.04)
        copy.positions += generator.normal(scale=0.03, size=copy.positions.shape)
        out.append(copy)
    return out


def label(atoms: Atoms) -> tuple[float, np.ndarray]:
    """GFN2-xTB energy [eV] and forces [eV/A]."""
    calculator = Calculator("GFN2-xTB", atoms.numbers, atoms.positions / units.Bohr)
    calculator.set("verbosity", 0)
    result = calculator.singlepoint()
    energy = float(result.get("energy")) * units.Hartree
    return energy, -np.asarray(result.get("gradient")) * units.Hartree / units.Bohr


def structures(generator: np.random.Generator) -> dict[str, list[Atoms]]:
    groups: dict[str, list[Atoms]] = {}
    seed = 1
    jobs = [(f"ACE-{name}-NME", lambda name=name: capped(name), n) for name, n in PEPTIDES.items()]
    jobs += [
        (f"{n} waters", lambda n=n: with_waters(None, n, generator), frames)
        for n, frames in WATER_CLUSTERS.items()
    ]
    jobs += [
        (f"ACE-ALA-NME + {n} waters", lambda n=n: with_waters(capped("ALA"), n, generator), frames)
        for n, frames in SOLVATED.items()
    ]
    for name, build, frames in jobs:
        groups[name] = []
        for temperature in TEMPERATURES:
            # Clusters evaporate when hot.
            if "water" in name and temperature > 500:
                continue
            groups[name] += sample(build(), temperature, frames, seed)
            seed += 1
        groups[name] += disturbed(groups[name], generator)
        print(f"{name}: {len(groups[name])} structures", flush=True)
    return groups


def save(
    path: Path, rows: list[tuple], generator: np.random.Generator | None, **extra: np.ndarray
) -> None:
    """Write structures (group, atoms, energy, forces) and other arrays.

    The order is random, or that of the rows if there is no generator.
    """
    if generator is not None:
        rows = [rows[i] for i in generator.permutation(len(rows))]
    np.savez_compressed(
        path,
        group=np.array([group for group, _, _, _ in rows]),
        sizes=np.array([len(atoms) for _, atoms, _, _ in rows]).astype(np.int16),
        numbers=np.concatenate([atoms.numbers for _, atoms, _, _ in rows]).astype(np.int8),
        positions=np.concatenate([atoms.positions for _, atoms, _, _ in rows]).astype(np.float32),
        energy=np.array([energy for _, _, energy, _ in rows]),
        forces=np.concatenate([forces for _, _, _, forces in rows]).astype(np.float32),
        **extra,
    )
    print(Counter(group for group, _, _, _ in rows), f"{len(rows)} structures")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path)
    arguments = parser.parse_args()
    generator = np.random.default_rng(0)
    rows = []
    for group, frames in structures(generator).items():
        for atoms in frames:
            energy, forces = label(atoms)
            if np.isfinite(energy) and np.abs(forces).max() < LARGEST_FORCE:
                rows.append((group, atoms, energy, forces))
    save(arguments.output, rows, generator)


if __name__ == "__main__":
    main()
