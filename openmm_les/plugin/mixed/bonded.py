"""The terms of bonded forces: their atoms, and copies of a force with some of its terms."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import cached_property
from xml.etree import ElementTree

import openmm

from openmm_les.plugin.mixed.region import BondGraph

# Classes whose terms are separated, and where these are in the XML of a force.
_ELEMENTS = {
    "HarmonicBondForce": "Bonds",
    "HarmonicAngleForce": "Angles",
    "PeriodicTorsionForce": "Torsions",
    "RBTorsionForce": "Torsions",
    "CMAPTorsionForce": "Torsions",
    "CustomBondForce": "Bonds",
    "CustomAngleForce": "Angles",
    "CustomTorsionForce": "Torsions",
    "CustomCompoundBondForce": "Bonds",
}

BONDED = frozenset(_ELEMENTS)
#: Classes that both force fields and restraints use.
CUSTOM = frozenset(name for name in BONDED if name.startswith("Custom"))


class Terms:
    """A bonded force as an element of a System's XML, where all classes look alike."""

    def __init__(self, element: ElementTree.Element) -> None:
        self._element = element
        self.kind = element.attrib["type"]
        self.name = element.attrib["name"]

    @cached_property
    def atoms(self) -> list[tuple[int, ...]]:
        """Particles of each term, in the order in which the force had them at first."""
        found = []
        for term in self._list(self._element):
            # p1, p2, ... or a1 to b4 of a CMAP torsion.
            names = [name for name in term.attrib if name[0] in "pab" and name[1:].isdigit()]
            names.sort(key=lambda name: (name[0], int(name[1:])))
            found.append(tuple(int(term.attrib[name]) for name in names))
        return found

    def take(self, chosen: Sequence[bool]) -> openmm.Force:
        """Take the chosen ones of `atoms` out, and return a force with these terms only."""
        taken = copy.deepcopy(self._element)
        for element, wanted in ((taken, True), (self._element, False)):
            terms = self._list(element)
            terms[:] = [term for term, is_in in zip(terms, chosen, strict=True) if is_in is wanted]
        return openmm.XmlSerializer.deserialize(ElementTree.tostring(taken, encoding="unicode"))

    def _list(self, element: ElementTree.Element) -> ElementTree.Element:
        terms = element.find(_ELEMENTS[self.kind])
        assert terms is not None  # OpenMM writes it even if it is empty
        return terms


def is_inside(
    kind: str, atoms: Sequence[int], graph: BondGraph, inside: frozenset[int]
) -> bool | None:
    """Whether the model replaces a term of a force of class `kind`, if it is the force field's.

    The model describes the ML atoms and a hydrogen atom in place of each MM neighbour: bonds inside
    the region, angles and impropers centred there, and torsions around a bond in there. The cut
    bond, and torsions around it, stay. None stands for a restraint, not along bonds.
    """
    if len(atoms) == 2:  # a bond or a 1-4 pair by its atoms, a 1-3 pair by the atom between
        first, second = atoms
        both = first in inside and second in inside
        if second in graph.neighbors[first]:
            return both
        if between := graph.neighbors[first] & graph.neighbors[second]:
            return not inside.isdisjoint(between)
        return None if both and graph.separation(first, second, 3) is None else both
    if kind == "CMAPTorsionForce":
        halves = [is_inside("", half, graph, inside) for half in (atoms[:4], atoms[4:])]
        return None if None in halves else all(halves)
    if kind == "CustomCompoundBondForce":
        return inside.issuperset(atoms) if graph.is_connected(atoms) else None
    if len(atoms) == 3:
        return atoms[1] in inside if graph.is_chain(atoms) else None
    if graph.is_chain(atoms):
        return inside.issuperset(atoms[1:3])
    centre = graph.centre_of(atoms)
    return None if centre is None else centre in inside
