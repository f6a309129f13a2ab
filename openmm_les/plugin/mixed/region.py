"""The ML region of a mixed System: its particles, and the bonds of the topology around it."""

from __future__ import annotations

import dataclasses
import logging
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import openmm
from openmm import app

from openmm_les.errors import InputError
from openmm_les.names import shorten
from openmm_les.plugin.forces.atoms import name_of
from openmm_les.plugin.forces.region import Region, cell_of

logger = logging.getLogger(__name__)


class BondGraph:
    def __init__(self, num_atoms: int, bonds: Iterable[tuple[int, int]]) -> None:
        self.neighbors: list[set[int]] = [set() for _ in range(num_atoms)]
        for first, second in bonds:
            self.neighbors[first].add(second)
            self.neighbors[second].add(first)

    def is_chain(self, atoms: Sequence[int]) -> bool:
        return all(second in self.neighbors[first] for first, second in pairwise(atoms))

    def centre_of(self, atoms: Sequence[int]) -> int | None:
        """The atom to which all others are bonded (the centre of an improper torsion), if any."""
        for atom in atoms:
            if all(other in self.neighbors[atom] for other in atoms if other != atom):
                return atom
        return None

    def is_connected(self, atoms: Iterable[int]) -> bool:
        """Whether the atoms hang together by bonds among themselves."""
        left = set(atoms)
        reached = [left.pop()] if left else []
        while reached:
            found = self.neighbors[reached.pop()] & left
            left -= found
            reached.extend(found)
        return not left

    def separation(self, first: int, second: int, limit: int, *, direct: bool = True) -> int | None:
        """Number of bonds on the shortest way between two atoms; None if more than `limit`.

        Not `direct`: other than the bond of the two, so that it closes a ring with it.
        """
        distance, queue = {first: 0}, deque([first])
        while queue:
            atom = queue.popleft()
            if atom == second:
                return distance[atom]
            if distance[atom] == limit:
                continue
            for neighbor in self.neighbors[atom]:
                is_the_bond = atom == first and neighbor == second
                if neighbor not in distance and (direct or not is_the_bond):
                    distance[neighbor] = distance[atom] + 1
                    queue.append(neighbor)
        return None


@dataclass(frozen=True)
class MLRegion:
    """The ML region of a mixed System."""

    atoms: tuple[int, ...]
    #: Virtual sites on these atoms, such as the charge sites of TIP4P water. The model does not
    #: see them; their force-field terms belong to the region.
    sites: tuple[int, ...]
    topology_atoms: tuple[app.topology.Atom, ...]
    graph: BondGraph
    #: The same as a `Region` of the System, without link atoms.
    plain: Region

    @cached_property
    def inside(self) -> frozenset[int]:
        return frozenset(self.atoms)

    @cached_property
    def particles(self) -> frozenset[int]:
        """Atoms and their virtual sites: what force-field terms are removed between."""
        return self.inside | frozenset(self.sites)

    def name(self, index: int) -> str:
        return name_of(self.topology_atoms[index])

    @classmethod
    def from_topology(
        cls,
        topology: app.Topology,
        system: openmm.System,
        atoms: Iterable[int],
        known_elements: Sequence[int],
    ) -> MLRegion:
        """Select and check atoms; virtual sites among them go with their parents."""
        atoms = tuple(atoms)  # they are read twice
        parents = {
            index: _parents(system.getVirtualSite(index))
            for index in range(system.getNumParticles())
            if system.isVirtualSite(index)
        }
        real = [index for index in atoms if index not in parents]
        plain = Region.from_topology(topology, system, real, known_elements)
        everything = tuple(topology.atoms())
        inside = set(plain.particles)
        sites = tuple(index for index, on in parents.items() if inside.issuperset(on))
        chosen = {index for index in atoms if index in parents}
        split = [
            index
            for index, on in parents.items()
            if index not in sites and (index in chosen or not inside.isdisjoint(on))
        ]
        if split:
            raise InputError(
                "atoms: expected virtual sites on atoms that are all inside the ML region, or "
                f"all outside, got {shorten(name_of(everything[index]) for index in split)}; take "
                "whole molecules"
            )
        if plain.periodic and not system.usesPeriodicBoundaryConditions():
            logger.info(
                "the topology has a box, but the force field does not use it: neither does the "
                "model"
            )
        graph = BondGraph(
            len(everything), ((bond.atom1.index, bond.atom2.index) for bond in topology.bonds())
        )
        return cls(plain.particles, sites, everything, graph, follow_system(plain, system))


def follow_system(region: Region, system: openmm.System) -> Region:
    """The region with the box of the force field, or without one.

    A topology may have a box although the force field has no images (``NoCutoff``). A model that
    saw images then would add interactions which the force field lacks.
    """
    if not system.usesPeriodicBoundaryConditions():
        return dataclasses.replace(region, periodic=False, cell=None)
    cell = cell_of(system.getDefaultPeriodicBoxVectors())
    return dataclasses.replace(region, periodic=True, cell=cell)


def _parents(site: openmm.VirtualSite) -> tuple[int, ...]:
    return tuple(site.getParticle(i) for i in range(site.getNumParticles()))
