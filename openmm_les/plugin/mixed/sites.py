"""Link atoms as particles: virtual sites at the end of a System and of its topology."""

from __future__ import annotations

import copy
from collections.abc import Iterable

import openmm
from openmm import app

from openmm_les.errors import InputError
from openmm_les.plugin.mixed.links import Link


def add_sites(
    system: openmm.System, topology: app.Topology, links: Iterable[Link]
) -> tuple[app.Topology, list[int]]:
    """Append a virtual site for each cut bond.

    A site takes no part in nonbonded forces. In a `CustomNonbondedForce` no parameters mean no
    interaction for certain, so that it is excluded from all others there; OpenMM wants the same
    exclusions in all forces.

    Args:
        system: gets the particles.
        topology: stays as it is.
        links: the cut bonds.

    Returns:
        A topology with a chain of hydrogen atoms at the end, one in a residue, and their indices.

    Raises:
        InputError: a custom force has a long-range correction, which averages over all particles.
    """
    for force in system.getForces():
        if isinstance(force, openmm.CustomNonbondedForce) and force.getUseLongRangeCorrection():
            raise InputError(
                f"linkAtoms='virtual': the long-range correction of {force.getName()} would count "
                "link atoms as atoms; use linkAtoms='internal', or setUseLongRangeCorrection(False)"
            )
    extended = copy.deepcopy(topology)
    chain = extended.addChain()
    indices = []
    for number, link in enumerate(links):
        name = f"V{number}"
        residue = extended.addResidue(name, chain)
        extended.addAtom(name, app.element.hydrogen, residue)
        indices.append(_add_particle(system, link))
    return extended, indices


def _add_particle(system: openmm.System, link: Link) -> int:
    index: int = system.addParticle(0.0)
    axis_x, no_axis = [-1.0, 1.0], [0.0, 0.0]
    site = openmm.LocalCoordinatesSite(
        [link.ml_atom, link.mm_atom], [1.0, 0.0], axis_x, no_axis, [link.distance, 0.0, 0.0]
    )
    system.setVirtualSite(index, site)
    forces = system.getForces()
    custom = [force for force in forces if isinstance(force, openmm.CustomNonbondedForce)]
    standard = [force for force in forces if isinstance(force, openmm.NonbondedForce)]
    for force in custom:
        force.addParticle([0.0] * force.getNumPerParticleParameters())
    for force in standard:
        force.addParticle(0.0, 1.0, 0.0)
    if custom:
        for other in range(index):
            for force in custom:
                force.addExclusion(other, index)
            for force in standard:
                force.addException(other, index, 0.0, 1.0, 0.0)
    return index
