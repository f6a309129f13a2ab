"""Which atoms of a System an LES model describes, and its quantities by particles.

A PythonForce of this package says it; for other models the user says it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import openmm
import torch
from openmm import app, unit

from openmm_les import catalog
from openmm_les.arrays import FloatArray
from openmm_les.artifact import Artifact
from openmm_les.errors import InputError
from openmm_les.evaluation.options import EvaluationOptions
from openmm_les.names import shorten
from openmm_les.plugin.forces.atoms import name_of
from openmm_les.plugin.forces.present import models_in
from openmm_les.plugin.forces.region import Region
from openmm_les.plugin.mixed.geometry import Arrangement, RegionGeometry
from openmm_les.plugin.mixed.links import Link


@dataclass(frozen=True)
class Observed:
    """The atoms of a model in a System."""

    artifact: Artifact
    #: Of the atoms of the model: ML atoms, then link atoms.
    numbers: tuple[int, ...]
    #: Of the System: ML atoms, then an MM atom for each link.
    particles: tuple[int, ...]
    #: Whether the model sees periodic images of its atoms.
    periodic: bool
    #: From `particles` to the atoms of the model; None if these are the same.
    geometry: RegionGeometry | None = None
    #: Conditions of the model by name, see `openmm_les.networks.conditions`.
    conditions: Mapping[str, Any] = field(default_factory=dict)

    def arrange(self, positions: FloatArray, cell: FloatArray | None) -> Arranged:
        """Find the atoms of the model, from positions of `particles` [A] and the box [A]."""
        if self.geometry is None:
            return Arranged(positions)
        arrangement = self.geometry.arrange(positions, cell)
        return Arranged(arrangement.positions.numpy(), self.geometry, arrangement)


@dataclass(frozen=True)
class Arranged:
    """Atoms of the model in one structure, shape (n, 3) [A]."""

    positions: FloatArray
    geometry: RegionGeometry | None = None
    arrangement: Arrangement | None = None

    def of_particles(self, values: FloatArray) -> FloatArray:
        """Values of the particles from those of the atoms, shape (n, ...).

        ML atoms get those of their links.
        """
        if self.geometry is None:
            return values
        found = np.zeros((self.geometry.num_particles, *values.shape[1:]))
        found[: self.geometry.num_atoms] = values[: self.geometry.num_atoms]
        np.add.at(found, self.geometry.hosts.numpy(), values[self.geometry.num_atoms :])
        return found

    def born_charges(self, values: FloatArray) -> FloatArray:
        """Derivatives by positions of the particles from those by positions of the atoms.

        These are dP_a/dr_b, shape (n, 3, 3).
        """
        if self.geometry is None or self.arrangement is None:
            return values
        rows = [
            self.geometry.pull_back(torch.from_numpy(values[:, axis]), self.arrangement)
            for axis in range(3)
        ]
        return torch.stack(rows, dim=1).numpy()


def in_system(system: openmm.System) -> Observed:
    """The model that a PythonForce of this package brings into a System; the only one."""
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
    conditions = EvaluationOptions(**settings["options"]).conditions
    links = [Link(*link) for link in settings.get("links", ())]
    is_cluster = "atoms" in settings  # among MM charges, where links name particles of the System
    if not links and not is_cluster:
        return Observed(
            artifact, numbers, model.particles, settings["periodic"], conditions=conditions
        )
    atoms, particles = model.atoms, model.particles
    if is_cluster:
        particles = (*atoms, *(link.mm_atom for link in links))
        links = [
            Link(atoms.index(link.ml_atom), len(atoms) + i, link.distance)
            for i, link in enumerate(links)
        ]
    geometry = RegionGeometry(
        len(atoms) + len(links),
        range(len(atoms)),
        links,
        periodic=settings["periodic"],
        bonds=settings.get("bonds"),
    )
    periodic = settings["periodic"] and not is_cluster
    return Observed(artifact, numbers, particles, periodic, geometry, conditions)


def in_topology(
    model: str | os.PathLike[str],
    topology: app.Topology,
    system: openmm.System,
    atoms: Iterable[int] | None,
    conditions: Mapping[str, Any],
) -> Observed:
    """A model, given by name or path, for atoms by their indices in the topology; None for all."""
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
    return Observed(
        artifact, region.numbers, region.particles, region.periodic, conditions=conditions
    )


def masses(system: openmm.System, particles: Sequence[int]) -> FloatArray:
    """Masses [u] of particles that move by themselves, shape (n,)."""
    sites = [particle for particle in particles if system.isVirtualSite(particle)]
    if sites:
        raise InputError(
            f"current and velocities: expected atoms, got virtual sites (particles "
            f"{shorten(sites)}), which OpenMM gives no velocities; make the System with "
            "linkAtoms='internal'"
        )
    return np.array([system.getParticleMass(i).value_in_unit(unit.dalton) for i in particles])
