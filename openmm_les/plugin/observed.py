"""What an LES model describes in an OpenMM System, for those who look at it from outside.

A PythonForce says it itself: which particles, which link atoms, which artifact. Of a TorchForce,
and of a model that takes no part in the simulation, the user says it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import openmm
from openmm import app, unit

from openmm_les import catalog
from openmm_les.arrays import FloatArray
from openmm_les.artifact import Artifact
from openmm_les.errors import InputError
from openmm_les.plugin.forces.atoms import name_of, shorten
from openmm_les.plugin.forces.present import models_in
from openmm_les.plugin.forces.region import Region
from openmm_les.plugin.mixed import caps
from openmm_les.plugin.mixed.images import Cluster


@dataclass(frozen=True)
class Observed:
    """The atoms of a model in a System.

    Attributes:
        artifact: the model.
        numbers: atomic numbers of the atoms of the model: ML atoms, then link atoms.
        particles: of the System: ML atoms, then an MM atom for each link.
        periodic: whether the model sees periodic images of its atoms.
        links: for each link atom the places in `particles` of its ML and MM atom, and its distance
            from the first [A].
        cluster: puts the ML atoms in one piece; None leaves them as they are.
    """

    artifact: Artifact
    numbers: tuple[int, ...]
    particles: tuple[int, ...]
    periodic: bool
    links: tuple[tuple[int, int, float], ...] = ()
    cluster: Cluster | None = field(default=None, compare=False)

    def place(self, positions: FloatArray, cell: FloatArray | None) -> Placed:
        """Put the atoms of the model where they are.

        Args:
            positions: of `particles`, shape (len(particles), 3) [A].
            cell: box vectors in rows [A]; None where there is no box.
        """
        number = len(self.particles) - len(self.links)
        atoms = positions[:number]
        if self.cluster is not None:
            atoms = self.cluster.in_one_piece(atoms, cell)
        if not self.links:
            return Placed(atoms, None, self.links)
        hosts, others, distances = zip(*self.links, strict=True)
        placed = caps.place(atoms[list(hosts)], positions[list(others)], np.array(distances), cell)
        return Placed(np.concatenate([atoms, placed.positions]), placed, self.links)


@dataclass(frozen=True)
class Placed:
    """Atoms of the model in one structure.

    Attributes:
        positions: shape (n, 3) [A].
        caps: its link atoms, the last of them; None without.
        links: see `Observed`.
    """

    positions: FloatArray
    caps: caps.PlacedCaps | None
    links: tuple[tuple[int, int, float], ...]

    def charges(self, values: FloatArray) -> FloatArray:
        """Charges of the particles from those of the atoms; ML atoms get those of their links."""
        if self.caps is None:
            return values
        number = len(values) - len(self.links)
        found = np.concatenate([values[:number], np.zeros(len(self.links))])
        np.add.at(found, [host for host, _, _ in self.links], values[number:])
        return found

    def born_charges(self, values: FloatArray) -> FloatArray:
        """Derivatives by positions of the particles from those by positions of the atoms.

        Args:
            values: dP_a/dr_b, shape (n, 3, 3).
        """
        if self.caps is None:
            return values
        number = len(values) - len(self.links)
        found = np.concatenate([values[:number], np.zeros((len(self.links), 3, 3))])
        for axis in range(3):
            on_ml, on_mm = self.caps.spread(values[number:, axis])
            np.add.at(found[:, axis], [host for host, _, _ in self.links], on_ml)
            np.add.at(found[:, axis], [other for _, other, _ in self.links], on_mm)
        return found


def in_system(system: openmm.System) -> Observed:
    """The model that a PythonForce of this package brings into a System.

    Raises:
        InputError: there is none, or several.
    """
    found = models_in(system)
    if len(found) != 1:
        raise InputError(
            f"model: expected one LES model in the System (as a PythonForce), got {len(found)}; "
            "say which one is meant with model=... (a name or path), and atoms=... for a part"
        )
    model = found[0]
    settings = model.compute.settings
    artifact = model.compute.artifact()
    numbers = tuple(settings["numbers"])
    links = settings.get("links", [])
    if "atoms" not in settings:
        places = tuple(tuple(link) for link in links)
        return Observed(artifact, numbers, model.particles, settings["periodic"], places)
    # Among MM charges the region is one piece, and its links name particles.
    place = {atom: i for i, atom in enumerate(model.atoms)}
    return Observed(
        artifact,
        numbers,
        (*model.atoms, *(other for _, other, _ in links)),
        periodic=False,
        links=tuple(
            (place[host], len(place) + k, distance) for k, (host, _, distance) in enumerate(links)
        ),
        cluster=Cluster(len(place), settings["bonds"]),
    )


def in_topology(
    model: str | os.PathLike[str],
    topology: app.Topology,
    system: openmm.System,
    atoms: Iterable[int] | None,
) -> Observed:
    """A model for atoms that the user names.

    Args:
        model: name, or path of an artifact.
        topology: elements, bonds and box.
        system: of the simulation.
        atoms: indices; None for all.

    Raises:
        InputError: atoms that the model cannot describe, or a selection that cuts bonds.
        ArtifactError, DownloadError: the model cannot be had.
    """
    artifact = catalog.open_model(model)
    region = Region.from_topology(topology, system, atoms, artifact.elements)
    inside = set(region.particles)
    cut = [
        bond for bond in topology.bonds() if (bond[0].index in inside) != (bond[1].index in inside)
    ]
    if cut:
        raise InputError(
            "atoms: expected whole molecules, got a selection that cuts the bond between "
            f"{shorten(f'{name_of(a)} and {name_of(b)}' for a, b in cut)}; select whole molecules, "
            "or leave model and atoms out to take the region with its link atoms from the System"
        )
    return Observed(artifact, region.numbers, region.particles, region.periodic)


def masses(system: openmm.System, particles: Sequence[int]) -> FloatArray:
    """Masses [u] of particles that move by themselves, shape (n,).

    Raises:
        InputError: one of them is a virtual site, which has no velocity of its own.
    """
    sites = [particle for particle in particles if system.isVirtualSite(particle)]
    if sites:
        raise InputError(
            f"current and velocities: expected atoms, got virtual sites (particles "
            f"{shorten(map(str, sites))}), which OpenMM gives no velocities; make the System with "
            "linkAtoms='internal'"
        )
    return np.array([system.getParticleMass(i).value_in_unit(unit.dalton) for i in particles])
