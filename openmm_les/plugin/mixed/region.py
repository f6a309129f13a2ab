"""Which particles of a mixed System the model describes, and what belongs to them."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import openmm
from openmm import app

from openmm_les.errors import InputError
from openmm_les.plugin.forces.atoms import name_of, shorten
from openmm_les.plugin.forces.region import Region, cell_of
from openmm_les.plugin.mixed.graph import BondGraph

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class MLRegion:
    """The ML region of a mixed System.

    Attributes:
        atoms: particles that the model describes, in the order the user gave.
        sites: virtual sites on these atoms, such as the charge sites of TIP4P water. The model does
            not see them; their force-field terms belong to the region.
        topology_atoms: all atoms of the topology, by index.
        graph: bonds of the topology.
        plain: the same as a `Region` of the System, without link atoms.
    """

    atoms: tuple[int, ...]
    sites: tuple[int, ...]
    topology_atoms: tuple[app.topology.Atom, ...]
    graph: BondGraph
    plain: Region

    @cached_property
    def inside(self) -> frozenset[int]:
        """The atoms, for questions of membership."""
        return frozenset(self.atoms)

    @cached_property
    def particles(self) -> frozenset[int]:
        """Atoms and their virtual sites: what force-field terms are removed between."""
        return self.inside | frozenset(self.sites)

    def name(self, index: int) -> str:
        """An atom, for messages."""
        return name_of(self.topology_atoms[index])

    @classmethod
    def from_topology(
        cls,
        topology: app.Topology,
        system: openmm.System,
        atoms: Iterable[int],
        known_elements: Sequence[int],
    ) -> MLRegion:
        """Select and check atoms; virtual sites among them go with their parents.

        Raises:
            InputError: as `Region.from_topology`, or a virtual site between ML and MM atoms.
        """
        atoms = tuple(atoms)  # they are read twice
        num_particles = system.getNumParticles()
        parents = {
            index: _parents(system.getVirtualSite(index))
            for index in range(num_particles)
            if system.isVirtualSite(index)
        }
        real = [index for index in atoms if index not in parents]
        plain = Region.from_topology(topology, system, real, known_elements)
        everything = tuple(topology.atoms())
        inside = set(plain.particles)
        sites = tuple(index for index, on in parents.items() if inside.issuperset(on))
        chosen = {index for index in atoms if index in parents}
        torn = [
            index
            for index, on in parents.items()
            if index not in sites and (index in chosen or not inside.isdisjoint(on))
        ]
        if torn:
            raise InputError(
                "atoms: expected virtual sites on atoms that are all inside the ML region, or all "
                f"outside, got {shorten(name_of(everything[index]) for index in torn)}; take whole "
                "molecules"
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
