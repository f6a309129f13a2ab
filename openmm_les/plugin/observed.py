"""Which atoms of a System an LES model describes, and its quantities by particles.

A PythonForce of this package says it; for other models the user says it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import openmm
import torch
from openmm import app, unit

from openmm_les import catalog
from openmm_les.arrays import FloatArray
from openmm_les.artifact import Artifact
from openmm_les.errors import InputError
from openmm_les.plugin.forces.atoms import name_of, shorten
from openmm_les.plugin.forces.present import models_in
from openmm_les.plugin.forces.region import Region
from openmm_les.plugin.mixed.geometry import Arrangement, RegionGeometry
from openmm_les.plugin.mixed.links import Link


@dataclass(frozen=True)
class Observed:
    """The atoms of a model in a System."""

    artifact: Artifact
    numbers: tuple[int, ...]  #: Atomic numbers of the atoms of the model: ML atoms, then link atoms
    particles: tuple[int, ...]  #: Of the System: ML atoms, then an MM atom for each link
    periodic: bool  #: Whether the model sees periodic images of its atoms
    #: From `particles` to the atoms of the model; None if these are the same
    geometry: RegionGeometry | None = None

    def arrange(self, positions: FloatArray, cell: FloatArray | None) -> Arranged:
<<<<<<< HEAD
        """Find the atoms of the model at positions of `particles` [A], in a box or None."""
=======
        """Find the atoms of the model, from positions of `particles` [A] and the box [A]."""
>>>>>>> diet5
        if self.geometry is None:
            return Arranged(positions)
        arrangement = self.geometry.arrange(positions, cell)
        return Arranged(arrangement.positions.numpy(), self.geometry, arrangement)


@dataclass(frozen=True)
class Arranged:
    """Atoms of the model in one structure."""

    positions: FloatArray  #: Shape (n, 3) [A]
    geometry: RegionGeometry | None = None
    arrangement: Arrangement | None = None  #: What it returned

    def charges(self, values: FloatArray) -> FloatArray:
        """Charges of the particles from those of the atoms; ML atoms get those of their links."""
        if self.geometry is None:
            return values
        found = np.zeros(self.geometry.num_particles)
        found[: self.geometry.num_atoms] = values[: self.geometry.num_atoms]
        np.add.at(found, self.geometry.hosts.numpy(), values[self.geometry.num_atoms :])
        return found

    def born_charges(self, values: FloatArray) -> FloatArray:
        """dP_a/dr_b for positions of the particles from those of the atoms, shape (n, 3, 3)."""
        if self.geometry is None or self.arrangement is None:
            return values
        geometry, arrangement = self.geometry, self.arrangement
        rows = torch.from_numpy(values).unbind(dim=1)
        return torch.stack([geometry.pull_back(row, arrangement) for row in rows], dim=1).numpy()


def in_system(system: openmm.System) -> Observed:
    """The one model that a PythonForce of this package brings into a System."""
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
    links = [Link(*link) for link in settings.get("links", ())]
    is_cluster = "atoms" in settings  # among MM charges, where links name particles of the System
    if not links and not is_cluster:
        return Observed(artifact, numbers, model.particles, settings["periodic"])
    atoms, particles = model.atoms, model.particles
    if is_cluster:
<<<<<<< HEAD
        ends = tuple(link.mm_atom for link in links)
        links = [
            Link(atoms.index(link.ml_atom), end, link.distance)
            for end, link in enumerate(links, len(atoms))
=======
        particles = (*atoms, *(link.mm_atom for link in links))
        links = [
            Link(atoms.index(link.ml_atom), len(atoms) + i, link.distance)
            for i, link in enumerate(links)
>>>>>>> diet5
        ]
    number, is_periodic = len(atoms) + len(links), settings["periodic"]
    geometry = RegionGeometry(
        number, range(len(atoms)), links, periodic=is_periodic, bonds=settings.get("bonds")
    )
<<<<<<< HEAD
    particles = (*atoms, *ends) if is_cluster else model.particles
    return Observed(artifact, numbers, particles, is_periodic and not is_cluster, geometry)
=======
    return Observed(artifact, numbers, particles, settings["periodic"] and not is_cluster, geometry)
>>>>>>> diet5


def in_topology(
    model: str | os.PathLike[str],
    topology: app.Topology,
    system: openmm.System,
    atoms: Iterable[int] | None,
) -> Observed:
    """A model, by name or path, for atoms that the user names; None for all."""
    artifact = catalog.open_model(model)
    region = Region.from_topology(topology, system, atoms, artifact.elements)
    inside = set(region.particles)
    cut = [
        f"{name_of(one)} and {name_of(other)}"
        for one, other in topology.bonds()
        if (one.index in inside) != (other.index in inside)
    ]
    if cut:
        raise InputError(
            "atoms: expected whole molecules, got a selection that cuts the bond between "
            f"{shorten(cut)}; select whole molecules, or leave model and atoms out to take the "
            "region with its link atoms from the System"
        )
    return Observed(artifact, region.numbers, region.particles, region.periodic)


def masses(system: openmm.System, particles: Sequence[int]) -> FloatArray:
    """Masses [u] of particles that have velocities of their own, shape (n,)."""
    sites = [particle for particle in particles if system.isVirtualSite(particle)]
    if sites:
        raise InputError(
            f"current and velocities: expected atoms, got virtual sites (particles "
            f"{shorten(map(str, sites))}), which OpenMM gives no velocities; make the System with "
            "linkAtoms='internal'"
        )
    return np.array([system.getParticleMass(i).value_in_unit(unit.dalton) for i in particles])
