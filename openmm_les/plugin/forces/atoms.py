"""Atoms and residues of a topology: their names in messages, and which are bonded to nothing."""

from __future__ import annotations

from collections.abc import Iterable

from openmm import app

HYDROGEN = (app.element.hydrogen, app.element.deuterium)


def name_of(atom: app.topology.Atom) -> str:
    """An atom, for messages, by its index, such as ``atom 4 (CA of ALA A:17)``."""
    return f"atom {atom.index} ({atom.name} of {residue_name(atom.residue)})"


def residue_name(residue: app.topology.Residue) -> str:
    """A residue as one can select it, such as ``ALA A:17``."""
    chain = f"{residue.chain.id.strip()}:" if residue.chain.id.strip() else ""
    return f"{residue.name} {chain}{residue_number(residue)}"


def residue_number(residue: app.topology.Residue) -> str:
    """Number and insertion code, as in the file."""
    return f"{residue.id}{residue.insertionCode.strip()}"


def loose_residues(
    topology: app.Topology, atoms: Iterable[int] | None = None
) -> list[app.topology.Residue]:
    """Residues with atoms, of the given indices, that are bonded to nothing: molecules to OpenMM.

    Virtual sites go with others. A residue of one atom is an ion or of a solid, if not hydrogen.
    """
    bonded = {atom.index for bond in topology.bonds() for atom in bond}
    chosen = set(range(topology.getNumAtoms()) if atoms is None else atoms)
    found = []
    for residue in topology.residues():
        real = [atom for atom in residue.atoms() if atom.element is not None]
        suspects = real if len(real) > 1 else [a for a in real if a.element in HYDROGEN]
        if any(atom.index in chosen and atom.index not in bonded for atom in suspects):
            found.append(residue)
    return found
