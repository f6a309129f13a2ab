"""Names of atoms and residues in messages, as a structure file has them."""

from __future__ import annotations

from collections.abc import Iterable

from openmm import app

from openmm_les.plugin.forces.atoms import residue_name

_FEW = 3


def residue_names(residues: Iterable[app.topology.Residue]) -> str:
    """Some residues, such as ``residues ALA A:17, LIG A:18, HOH A:19 and 5 more``."""
    names = [residue_name(residue) for residue in residues]
    more = f" and {len(names) - _FEW} more" if len(names) > _FEW else ""
    return f"residue{'s' if len(names) > 1 else ''} " + ", ".join(names[:_FEW]) + more


def atom_name(atom: app.topology.Atom) -> str:
    """An atom by its number in the file, such as ``atom 4 (CA of ALA A:17)``."""
    return f"atom {atom.id} ({atom.name} of {residue_name(atom.residue)})"
