"""What an LES model describes in an OpenMM System, for those who look at it from outside.

A PythonForce says it itself: which particles, which link atoms, which artifact. Of a TorchForce,
and of a model that takes no part in the simulation, the user says it.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from xml.etree import ElementTree

import numpy as np
import openmm
from openmm import app, unit

from openmm_les import catalog
from openmm_les.artifact import Artifact
from openmm_les.errors import InputError
from openmm_les.forces.pythonforce import LESCompute
from openmm_les.forces.region import Region, few, name_of
from openmm_les.mlmm import caps
from openmm_les.mlmm.images import Cluster, FloatArray


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
    found = [
        (force, compute)
        for force in system.getForces()
        if isinstance(force, openmm.PythonForce) and (compute := _compute(force)) is not None
    ]
    if len(found) != 1:
        raise InputError(
            f"model: expected one LES model in the System (as a PythonForce), got {len(found)}; "
            "say which one is meant with model=... (a name or path), and atoms=... for a part"
        )
    force, compute = found[0]
    settings = compute.settings
    artifact = compute.artifact()
    numbers = tuple(settings["numbers"])
    links = settings.get("links", [])
    if (
        "atoms" in settings
    ):  # among MM charges the region is one piece, and its links name particles
        atoms = settings["atoms"]
        place = {atom: i for i, atom in enumerate(atoms)}
        return Observed(
            artifact,
            numbers,
            (*atoms, *(other for _, other, _ in links)),
            periodic=False,
            links=tuple(
                (place[host], len(atoms) + k, distance)
                for k, (host, _, distance) in enumerate(links)
            ),
            cluster=Cluster(len(atoms), settings["bonds"]),
        )
    particles = tuple(force.getParticles()) or tuple(range(system.getNumParticles()))
    return Observed(
        artifact, numbers, particles, settings["periodic"], tuple(tuple(link) for link in links)
    )


def _compute(force: openmm.PythonForce) -> LESCompute | None:
    """What a force of this package calls; None for other forces."""
    try:
        xml = openmm.XmlSerializer.serialize(force)
    except openmm.OpenMMException:  # a function that does not pickle
        return None
    # OpenMM hands out the function in no other way. It unpickles it itself where it needs it.
    compute = pickle.loads(bytes.fromhex(ElementTree.fromstring(xml).attrib["function"]))
    return compute if isinstance(compute, LESCompute) else None


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
            f"{few(f'{name_of(a)} and {name_of(b)}' for a, b in cut)}; select whole molecules, or "
            "leave model and atoms out to take the region with its link atoms from the System"
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
            f"{few(map(str, sites))}), which OpenMM gives no velocities; make the System with "
            "linkAtoms='internal'"
        )
    return np.array([system.getParticleMass(i).value_in_unit(unit.dalton) for i in particles])
