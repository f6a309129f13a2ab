"""Structures of 22 to 10 125 atoms: molecules, and water."""

from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import openmm
from ase import Atoms
from ewald_systems import water
from openmm import Vec3, app, unit

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared"
DATA = SHARED / "data"
#: Below this a structure is a molecule, otherwise water.
_SMALLEST_WATER = 100
_FRAME_ATOMS = 192


def structure(atoms: int) -> Atoms:
    """The structure whose size is nearest to `atoms`.

    Up to 30 atoms alanine dipeptide, up to 100 a dipeptide of the SPICE set (a pair of alanine
    dipeptides where that set is missing), both not periodic; then cubic boxes of water.
    """
    if atoms <= 30:
        return _peptide()
    if atoms <= _SMALLEST_WATER:
        return _dipeptide()
    edge = round((atoms / 3) ** (1 / 3))
    frame = DATA / "water_rpbe_d3_test.xyz"
    copies = edge // 4
    if 3 * edge**3 == _FRAME_ATOMS * copies**3 and frame.exists():
        return _bare(ase.io.read(frame, index=0)) * (copies, copies, copies)
    return _water(edge)


def _bare(atoms: Atoms) -> Atoms:
    """Without labels."""
    return Atoms(atoms.get_chemical_symbols(), atoms.positions, cell=atoms.cell, pbc=atoms.pbc)


def _peptide() -> Atoms:
    atoms = _bare(ase.io.read(ROOT / "examples" / "alanine_dipeptide.pdb"))
    atoms.set_pbc(False)
    return atoms


def _dipeptide() -> Atoms:
    path = DATA / "spice_dipeptides_val.xyz"
    if path.exists():
        return _bare(ase.io.read(path, index=0))
    first, second = _peptide(), _peptide()
    second.translate([0.0, 0.0, 8.0])
    return first + second


def _water(edge: int) -> Atoms:
    """`edge`**3 molecules: a lattice with random orientations, relaxed with TIP3P."""
    _, positions, cell = water((edge, edge, edge))
    atoms = Atoms("OHH" * edge**3, positions.numpy(), cell=cell.numpy(), pbc=True)
    topology = topology_of(atoms, residue="HOH", size=3)
    shortest = float(cell.diagonal().min())
    system = app.ForceField("tip3p.xml").createSystem(
        topology,
        nonbondedMethod=app.PME,
        nonbondedCutoff=min(9.0, 0.49 * shortest) * unit.angstrom,
        rigidWater=False,
    )
    platform = openmm.Platform.getPlatformByName("CPU")
    context = openmm.Context(system, openmm.VerletIntegrator(0.001), platform)
    context.setPositions(atoms.positions * 0.1)
    openmm.LocalEnergyMinimizer.minimize(context, maxIterations=50)
    atoms.positions = 10.0 * context.getState(positions=True).getPositions(asNumpy=True)._value
    return atoms


def topology_of(atoms: Atoms, residue: str = "MOL", size: int | None = None) -> app.Topology:
    """Topology with residues of `size` atoms (None: one residue).

    Only water gets bonds: a potential for all atoms needs none.
    """
    topology = app.Topology()
    chain = topology.addChain()
    symbols = atoms.get_chemical_symbols()
    size = size or len(symbols)
    for start in range(0, len(symbols), size):
        group = topology.addResidue(residue, chain)
        members = [
            topology.addAtom(_name(i, symbol), app.Element.getBySymbol(symbol), group)
            for i, symbol in enumerate(symbols[start : start + size])
        ]
        if residue == "HOH":
            for hydrogen in members[1:]:
                topology.addBond(members[0], hydrogen)
    if atoms.pbc.all():
        topology.setPeriodicBoxVectors([Vec3(*v) for v in atoms.cell.array] * unit.angstrom)
    return topology


def _name(i: int, symbol: str) -> str:
    return symbol if symbol == "O" else f"{symbol}{i}"


def save(atoms: Atoms, path: Path) -> None:
    """Every process of a comparison reads the same numbers, to the last bit."""
    np.savez(
        path,
        numbers=atoms.numbers,
        positions=atoms.positions,
        cell=atoms.cell.array,
        pbc=atoms.pbc,
    )


def load(path: Path) -> Atoms:
    with np.load(path) as arrays:
        entries: dict[str, Any] = dict(arrays)
    return Atoms(**entries)
