"""What the standard forces of a force field say about a region: the measure for other forces."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import cached_property

import openmm

from openmm_les.plugin.mixed.region import MLRegion
from openmm_les.plugin.mixed.terms import CUSTOM, Terms


class Described:
    """What the standard forces and constraints say inside a region.

    Args:
        system: the force field's System.
        forces: its bonded forces.
        region: the ML region.
    """

    def __init__(self, system: openmm.System, forces: Iterable[Terms], region: MLRegion) -> None:
        self._system = system
        self._region = region
        self._pairs: set[frozenset[int]] = set()
        self._angles: set[frozenset[int]] = set()
        self._axes: set[frozenset[int]] = set()
        self._centres: set[int] = set()
        self._owners: dict[tuple[int, ...], set[Terms]] = defaultdict(set)
        self._fill(forces)

    def _fill(self, forces: Iterable[Terms]) -> None:
        system, graph = self._system, self._region.graph
        for i in range(system.getNumConstraints()):
            first, second, _ = system.getConstraintParameters(i)
            self._pairs.add(frozenset((first, second)))
        for terms in forces:
            if terms.kind in CUSTOM:
                continue
            for atoms in terms.atoms:
                if self._region.inside.isdisjoint(atoms):
                    continue
                self._owners[_key(atoms)].add(terms)
                if terms.kind == "HarmonicBondForce":
                    self._pairs.add(frozenset(atoms))
                elif terms.kind == "HarmonicAngleForce":
                    self._angles.add(frozenset(atoms))
                elif graph.is_chain(atoms[:4]):
                    self._axes.add(frozenset(atoms[1:3]))
                else:
                    centre = graph.centre_of(atoms)
                    self._centres |= set() if centre is None else {centre}

    @cached_property
    def _lennard_jones(self) -> set[frozenset[int]]:
        """Pairs whose Lennard-Jones energy stands in an exception."""
        found: set[frozenset[int]] = set()
        for force in self._system.getForces():
            if isinstance(force, openmm.NonbondedForce):
                for i in range(force.getNumExceptions()):
                    first, second, _, _, epsilon = force.getExceptionParameters(i)
                    if epsilon._value != 0.0:
                        found.add(frozenset((first, second)))
        return found

    def repeats(self, terms: Terms, chosen: Iterable[Sequence[int]]) -> bool:
        """Whether all of some terms of a standard force stand in another one of its class, too.

        A force field says everything once.
        """
        owners = (self._owners[_key(atoms)] for atoms in chosen)
        return all(any(o is not terms and o.kind == terms.kind for o in found) for found in owners)

    def lacks(self, atoms: Sequence[int]) -> bool:
        """Whether a force field must say something about these atoms, and no standard force does.

        Args:
            atoms: particles of a term that runs along bonds.
        """
        graph = self._region.graph
        if len(atoms) == 3:
            return frozenset(atoms) not in self._angles
        if len(atoms) == 4:
            if graph.is_chain(atoms):
                return frozenset(atoms[1:3]) not in self._axes
            centre = graph.centre_of(atoms)
            is_planar = centre is not None and len(graph.neighbors[centre]) == 3
            return is_planar and centre not in self._centres
        separation = graph.separation(atoms[0], atoms[1], 3)
        if separation == 1:
            return frozenset(atoms) not in self._pairs
        # Urey-Bradley terms come on top of angles. Scaled 1-4 terms stand in exceptions, unless
        # a CustomNonbondedForce, which has none, computes the Lennard-Jones energy.
        if separation == 2:
            return False
        forces = self._system.getForces()
        elsewhere = any(isinstance(force, openmm.CustomNonbondedForce) for force in forces)
        return elsewhere and frozenset(atoms) not in self._lennard_jones


def _key(atoms: Sequence[int]) -> tuple[int, ...]:
    """The same for a term that is written from its other end."""
    return min(tuple(atoms), tuple(reversed(atoms)))
