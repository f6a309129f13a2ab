"""Start structures: read, and checked for what would make a simulation meaningless."""

from __future__ import annotations

import copy
import hashlib
import logging
import warnings
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from openmm import app, unit

from openmm_les.errors import InputError

logger = logging.getLogger(__name__)

FloatArray = NDArray[np.float64]

_PDB = (".pdb", ".ent")
_MMCIF = (".cif", ".mmcif", ".pdbx")
#: The box that the PDB format prescribes for structures without one has edges of 1 A.
_NO_BOX = 0.1001

#: How OpenMM's PDB reader tells that it has lost an atom, in a Python warning.
_LOST_ATOM = "duplicate atom"

#: Time step [fs] beyond which bonds to hydrogen, with periods of 9 fs, are badly integrated.
_LONG_STEP = 1.0

_HYDROGEN = (app.element.hydrogen, app.element.deuterium)
#: Residues that are never without hydrogen.
_WITH_HYDROGEN = frozenset(
    ("HOH", "WAT", "ACE", "NME", "ALA", "ARG", "ASN", "ASP", "CYS", "GLN", "GLU", "GLY", "HIS")
    + ("ILE", "LEU", "LYS", "MET", "PHE", "PRO", "SER", "THR", "TRP", "TYR", "VAL")
)


@dataclass(frozen=True)
class Structure:
    """What a structure file holds.

    Attributes:
        topology: atoms, bonds and box.
        positions: shape (n, 3) [nm].
        sha256: hash of the file.
    """

    topology: app.Topology
    positions: FloatArray
    sha256: str

    @property
    def box(self) -> FloatArray | None:
        """Box vectors in rows, shape (3, 3) [nm]; None where the structure is not periodic."""
        vectors = self.topology.getPeriodicBoxVectors()
        return None if vectors is None else np.array(vectors.value_in_unit(unit.nanometer))


def read(path: Path) -> Structure:
    """Read a PDB or mmCIF file; of several models the first.

    Raises:
        InputError: the file cannot be read, or its atoms are not all there.
    """
    kind = path.suffix.lower()
    if kind not in _PDB + _MMCIF:
        raise InputError(
            f"structure: expected a PDB or mmCIF file ({', '.join(_PDB + _MMCIF)}), got {path}"
        )
    try:
        content = path.read_bytes()
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            file = app.PDBFile(str(path)) if kind in _PDB else app.PDBxFile(str(path))
        positions = np.array(file.getPositions(asNumpy=True).value_in_unit(unit.nanometer))
    except OSError as error:
        raise InputError(f"structure: cannot read {path}: {error.strerror or error}") from None
    except Exception as error:  # the parsers raise whatever a broken line leads to
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"structure: {path} is not a valid {kind[1:]} file: {reason}") from error
    _check_names(path, told)
    topology = file.topology
    if topology.getNumAtoms() == 0:
        raise InputError(f"structure: expected atoms, got none in {path}")
    if not np.isfinite(positions).all():
        raise InputError(f"structure: {path} has coordinates that are not finite numbers")
    if file.getNumFrames() > 1:
        logger.warning("%s has %d models; the first is used", path, file.getNumFrames())
    lengths = topology.getUnitCellDimensions()
    if lengths is not None and max(lengths.value_in_unit(unit.nanometer)) <= _NO_BOX:
        logger.info("%s: a box with edges of 1 A stands for no box", path)
        topology.setPeriodicBoxVectors(None)
    _check_hydrogens(topology)
    return Structure(topology, positions, hashlib.sha256(content).hexdigest())


def with_box(topology: app.Topology, box: FloatArray | None) -> app.Topology:
    """The same topology in another box [nm]."""
    changed = copy.copy(topology)
    changed.setPeriodicBoxVectors(None if box is None else box * unit.nanometer)
    return changed


def real_atoms(atoms: Iterable[app.topology.Atom]) -> list[app.topology.Atom]:
    """Atoms without virtual sites, which have no element."""
    return [atom for atom in atoms if atom.element is not None]


def check_bonds(topology: app.Topology, ensemble: str) -> None:
    """Refuse molecules that a barostat would tear, and warn of those torn in the trajectory.

    OpenMM knows molecules by their bonds, and a PDB file gives those of ligands by CONECT records.
    Virtual sites go with their atoms.

    Raises:
        InputError: the ensemble is NPT, and molecules have atoms without bonds.
    """
    if topology.getPeriodicBoxVectors() is None:
        return
    bonded = {atom.index for bond in topology.bonds() for atom in bond}
    loose = []
    for residue in topology.residues():
        atoms = real_atoms(residue.atoms())
        if len(atoms) > 1 and any(atom.index not in bonded for atom in atoms):
            loose.append(residue)
    if not loose:
        return
    which = f"no bonds for all atoms of {_named(loose)}"
    remedy = "add CONECT records to the PDB file, or give an mmCIF file with bonds"
    if ensemble == "NPT":
        raise InputError(
            f"structure: expected the bonds of every molecule, since a barostat moves molecules as "
            f"a whole, got {which}; {remedy}"
        )
    logger.warning("%s: the trajectory will wrap their atoms one by one; %s", which, remedy)


def check_time_step(
    topology: app.Topology, time_step: float, constrained: Collection[int] = ()
) -> None:
    """Warn of steps [fs] that are too long for hydrogen atoms which no constraint holds."""
    free = (atom for atom in topology.atoms() if atom.index not in constrained)
    if time_step > _LONG_STEP and any(atom.element in _HYDROGEN for atom in free):
        logger.warning(
            "time_step: %g fs is long where bonds to hydrogen are free; 0.5 fs is safe", time_step
        )


def _check_names(path: Path, told: Iterable[warnings.WarningMessage]) -> None:
    """Refuse a file of which the reader lost atoms; pass its other warnings on."""
    for warning in told:
        if _LOST_ATOM in str(warning.message):
            raise InputError(
                f"structure: expected a name of its own for every atom of a residue in {path}; "
                "atoms of the same name would be lost: name them C1, C2, ..."
            )
    for warning in told:
        warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)


def _check_hydrogens(topology: app.Topology) -> None:
    """Refuse what experiment leaves out and a force field would notice: hydrogen atoms.

    Where OpenMM does not know the residue, carbon without hydrogen may be meant: a warning.
    """
    bare = [
        residue
        for residue in topology.residues()
        if residue.name in _WITH_HYDROGEN
        and not any(atom.element in _HYDROGEN for atom in residue.atoms())
    ]
    if bare:
        raise InputError(
            f"structure: expected all hydrogen atoms, got none in {_named(bare)}; add them, for "
            "example with PDBFixer or openmm.app.Modeller.addHydrogens"
        )
    doubtful = []
    for residue in topology.residues():
        elements = {atom.element for atom in residue.atoms()}
        if app.element.carbon in elements and elements.isdisjoint(_HYDROGEN):
            doubtful.append(residue)
    if doubtful:
        logger.warning(
            "%s: carbon without hydrogen; the structure must have all its hydrogen atoms",
            _named(doubtful),
        )


def _named(residues: Iterable[app.topology.Residue]) -> str:
    names = [f"{residue.name} {residue.id}" for residue in residues]
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"residue{'s' if len(names) > 1 else ''} " + ", ".join(names[:3]) + more
