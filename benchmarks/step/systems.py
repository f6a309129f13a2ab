"""Structures of 22 to 10 125 atoms: molecules, and water."""

from pathlib import Path
from typing import Any

import ase.io
import numpy as np
from ase import Atoms
from openmm import Vec3, app, unit

from openmm_les.benchmark.water import water_box

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
    """`edge`**3 molecules at the density of the liquid."""
    topology, positions = water_box(edge)
    cell = topology.getPeriodicBoxVectors().value_in_unit(unit.angstrom)
    return Atoms("OHH" * edge**3, 10.0 * positions, cell=np.array(cell), pbc=True)


def topology_of(atoms: Atoms) -> app.Topology:
    """Topology with one residue and no bonds: a potential for all atoms needs none."""
    topology = app.Topology()
    residue = topology.addResidue("MOL", topology.addChain())
    for i, symbol in enumerate(atoms.get_chemical_symbols()):
        topology.addAtom(f"{symbol}{i}", app.Element.getBySymbol(symbol), residue)
    if atoms.pbc.all():
        topology.setPeriodicBoxVectors([Vec3(*v) for v in atoms.cell.array] * unit.angstrom)
    return topology


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
