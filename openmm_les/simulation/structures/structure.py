"""Start structures, read and checked."""

from __future__ import annotations

import copy
import hashlib
import logging
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from openmm import app, unit

from openmm_les.arrays import FloatArray
from openmm_les.errors import InputError
from openmm_les.names import shorten
from openmm_les.plugin.forces.atoms import HYDROGEN, loose_residues
from openmm_les.simulation.structures import hydrogens
from openmm_les.simulation.structures.distances import distances, nearest_pair
from openmm_les.simulation.structures.file import read_structure_file
from openmm_les.simulation.structures.names import atom_name, residue_names

logger = logging.getLogger(__name__)

#: The box that the PDB format prescribes for structures without one has edges of 1 A.
_NO_BOX = 0.1001
#: Time step [fs] beyond which bonds to hydrogen, with periods of 9 fs, are badly integrated.
_LONG_STEP = 1.0
#: Names of virtual sites: those of water models, and lone pairs.
_SITE = re.compile(r"(M|EP|E|LP|V)\w{0,2}")
#: Largest coordinate [nm].
_MAX_COORDINATE = 1e5
#: Smallest distance of two atoms [nm], and smallest volume of an atom [nm^3].
_MIN_DISTANCE = 0.05
_MIN_VOLUME = 0.002
#: Longest bond [nm], and longest bond of hydrogen: 0.1 nm, or 0.19 if it is in Bohr.
_MAX_BOND = 0.35
_MAX_HYDROGEN_BOND = 0.16


@dataclass(frozen=True)
class Structure:
    """Content of a structure file."""

    topology: app.Topology  #: Atoms, bonds and box
    positions: FloatArray  #: Shape (n, 3) [nm]
    sha256: str  #: Hash of the file

    @property
    def box(self) -> FloatArray | None:
        """Box vectors in rows, shape (3, 3) [nm]; None where the structure is not periodic."""
        vectors = self.topology.getPeriodicBoxVectors()
        return None if vectors is None else np.array(vectors.value_in_unit(unit.nanometer))


def read_structure(path: Path) -> Structure:
    """Read a PDB or mmCIF file; of several models the first."""
    file, content = read_structure_file(path)
    topology = file.topology
    positions = np.array(file.getPositions(asNumpy=True).value_in_unit(unit.nanometer))
    if not (np.abs(positions) < _MAX_COORDINATE).all():
        raise InputError(
            f"structure: {path} has coordinates that are not finite numbers, or beyond "
            f"{10 * _MAX_COORDINATE:g} A"
        )
    if file.getNumFrames() > 1:
        logger.warning("%s has %d models; the first is used", path, file.getNumFrames())
    lengths = topology.getUnitCellDimensions()
    if lengths is not None and max(lengths.value_in_unit(unit.nanometer)) <= _NO_BOX:
        logger.info("%s: a box with edges of 1 A stands for no box", path)
        topology.setPeriodicBoxVectors(None)
    found = Structure(topology, positions, hashlib.sha256(content).hexdigest())
    _check_elements(path, topology)
    _check_box(path, found)
    _check_distances(path, found)
    hydrogens.check(path, topology, positions, found.box)
    return found


def with_box(topology: app.Topology, box: FloatArray | None) -> app.Topology:
    """The same topology in another box [nm]."""
    changed = copy.copy(topology)
    changed.setPeriodicBoxVectors(None if box is None else box * unit.nanometer)
    return changed


def real_atoms(atoms: Iterable[app.topology.Atom]) -> list[app.topology.Atom]:
    """Atoms without virtual sites, which are those without an element."""
    return [atom for atom in atoms if atom.element is not None]


def check_bonds(topology: app.Topology, ensemble: str) -> None:
    """Refuse NPT for molecules without bonds, such as ligands without CONECT records."""
    if topology.getPeriodicBoxVectors() is None or ensemble != "NPT":
        return
    if loose := loose_residues(topology):
        raise InputError(
            "structure: expected the bonds of every molecule, since a barostat moves molecules as "
            f"a whole, got no bonds for all atoms of {residue_names(loose)}; add CONECT records to "
            "the PDB file, or give an mmCIF file with bonds"
        )


def check_time_step(
    topology: app.Topology, time_step: float, constrained: Collection[int] = ()
) -> None:
    """Warn of a time step [fs] that is too long for unconstrained bonds of hydrogen."""
    free = (atom for atom in topology.atoms() if atom.index not in constrained)
    if time_step > _LONG_STEP and any(atom.element in HYDROGEN for atom in free):
        logger.warning(
            "time_step: %g fs is long where bonds to hydrogen are free; 0.5 fs is safe", time_step
        )


def _check_elements(path: Path, topology: app.Topology) -> None:
    """Refuse atoms without an element, which would be taken for virtual sites."""
    unknown = []
    for residue in topology.residues():
        has_atoms = any(atom.element is not None for atom in residue.atoms())
        for atom in residue.atoms():
            if atom.element is None and not (has_atoms and _SITE.fullmatch(atom.name)):
                unknown.append(atom)
    if unknown:
        names = shorten(map(atom_name, unknown))
        raise InputError(
            f"structure: expected the element of every atom in {path} (columns 77 and 78 of a PDB "
            f"file, _atom_site.type_symbol of mmCIF), got none for {names}"
        )


def _check_box(path: Path, structure: Structure) -> None:
    """Refuse a box without a volume, or in another unit."""
    if structure.box is None:
        return
    volume = float(np.linalg.det(structure.box))
    if not np.isfinite(volume) or volume <= 0.0:
        edges = ", ".join(f"{length:g}" for length in 10.0 * np.diag(structure.box))
        raise InputError(
            f"structure: expected box vectors with a volume in {path}, got edges along x, y and z "
            f"of {edges} A"
        )
    number = len(real_atoms(structure.topology.atoms()))
    if volume < _MIN_VOLUME * number:
        raise InputError(
            f"structure: expected a box with room for {number} atoms in {path}, got "
            f"{1e3 * volume:.4g} A^3, {1e3 * volume / number:.2g} A^3 for each (diamond has 5.7); "
            "lengths in PDB and mmCIF files are in A, not in nm"
        )


def _check_distances(path: Path, structure: Structure) -> None:
    """Refuse atoms at the same place, also of images, and other units; warn of long bonds."""
    atoms = list(structure.topology.atoms())
    real = [atom.index for atom in real_atoms(atoms)]
    if pair := nearest_pair(structure.positions[real], structure.box, _MIN_DISTANCE):
        one, other = (atoms[real[index]] for index in pair[:2])
        raise InputError(
            f"structure: {atom_name(one)} and {atom_name(other)} are {10 * pair[2]:.2g} A apart in "
            f"{path}, images in the box included: two atoms at the same place, a wrong box, or "
            "lengths that are not in A"
        )
    bonds = [(a.index, b.index) for a, b in structure.topology.bonds()]
    lengths = distances(structure.positions, structure.box, bonds)
    hydrogen = [any(atoms[index].element in HYDROGEN for index in bond) for bond in bonds]
    if any(hydrogen) and (usual := float(np.median(lengths[hydrogen]))) > _MAX_HYDROGEN_BOND:
        raise InputError(
            f"structure: expected bonds to hydrogen of about 1 A in {path}, got {10 * usual:.3g} A "
            "as their median; lengths are in A, not in Bohr or nm"
        )
    if len(bonds) and lengths.max() > _MAX_BOND:
        one, other = (atoms[index] for index in bonds[int(lengths.argmax())])
        logger.warning(
            f"{path}: the bond between {atom_name(one)} and {atom_name(other)} is "
            f"{10 * lengths.max():.3g} A long; lengths are in A"
        )
