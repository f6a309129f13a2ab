"""Nonbonded interactions of the ML region with itself, taken out of the forces of a System.

There are two ways to the energy without them, E - E(ML-ML):

- exclude the pairs inside the region. Under Ewald summation that leaves the energy of the region in
  the field of its own periodic images, which a force on the lattice alone then subtracts;
- keep the force and subtract one that is `restricted` to the region. The short-range terms of
  atoms that come close would cancel badly in single precision, but any fraction can be
  subtracted, which is what interpolation needs.

The dispersion correction, a property of the whole system, stays as it was.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Collection, Iterator
from itertools import combinations

import openmm

from openmm_les.mlmm.interpolation import LAMBDA, Sums

logger = logging.getLogger(__name__)

_EWALD = (
    openmm.NonbondedForce.Ewald,
    openmm.NonbondedForce.PME,
    openmm.NonbondedForce.LJPME,
)


def remove(system: openmm.System, particles: Collection[int], sums: Sums) -> None:
    """Exclude the pairs of the region and subtract its energy with its own images.

    Args:
        system: its forces change in place.
        particles: the region.
        sums: gets what is to be subtracted.
    """
    for force in _forces(system):
        exclude(force, particles)
        if sees_images(force):
            sums.add("-1", lattice(force, particles), _slow_group(force))


def fade(system: openmm.System, particles: Collection[int], sums: Sums) -> None:
    """Subtract lambda times the energy of the region, as `remove` does for lambda = 1."""
    for force in _forces(system):
        sums.add(f"-{LAMBDA}", restricted(force, particles), force.getForceGroup())


def _forces(system: openmm.System) -> Iterator[openmm.Force]:
    for force in system.getForces():
        if isinstance(force, openmm.NonbondedForce):
            if force.getNonbondedMethod() == openmm.NonbondedForce.LJPME:
                logger.info(
                    "LJPME: the dispersion between the ML region and its periodic images is "
                    "removed with its force field, and the model has none that far"
                )
            yield force
        elif isinstance(force, openmm.CustomNonbondedForce):
            yield force


def exclude(force: openmm.Force, particles: Collection[int]) -> None:
    """Exclude all pairs of particles, in place.

    Args:
        force: a `NonbondedForce` or a `CustomNonbondedForce`.
        particles: the region.
    """
    ordered = sorted(particles)
    if isinstance(force, openmm.CustomNonbondedForce):
        count = force.getNumExclusions()
        present = {frozenset(force.getExclusionParticles(i)) for i in range(count)}
        for first, second in combinations(ordered, 2):
            if frozenset((first, second)) not in present:
                force.addExclusion(first, second)
        return
    for first, second in combinations(ordered, 2):
        force.addException(first, second, 0.0, 1.0, 0.0, True)
    # A parameter offset would bring the interaction of an exception back.
    for i in range(force.getNumExceptionParameterOffsets()):
        parameter, index, *_ = force.getExceptionParameterOffset(i)
        first, second, *_ = force.getExceptionParameters(index)
        if first in particles and second in particles:
            force.setExceptionParameterOffset(i, parameter, index, 0.0, 0.0, 0.0)


def sees_images(force: openmm.Force) -> bool:
    """Whether particles interact with their own periodic images."""
    return isinstance(force, openmm.NonbondedForce) and force.getNonbondedMethod() in _EWALD


def lattice(force: openmm.NonbondedForce, particles: Collection[int]) -> openmm.NonbondedForce:
    """What is left of the region in a force with Ewald summation once its pairs are excluded.

    The parameters of the sum are those of `force`, so that both have the same error.
    """
    alone = restricted(force, particles)
    exclude(alone, particles)
    return alone


def restricted(force: openmm.Force, particles: Collection[int]) -> openmm.Force:
    """A copy of a force in which only `particles` interact, with each other.

    Exclusions are those of `force`, which some platforms demand of all forces of a Context.
    """
    alone = copy.deepcopy(force)
    if isinstance(alone, openmm.CustomNonbondedForce):
        _restrict_custom(alone, particles)
        return alone
    for index in range(alone.getNumParticles()):
        if index not in particles:
            alone.setParticleParameters(index, 0.0, 1.0, 0.0)
    for i in range(alone.getNumExceptions()):
        first, second, *_ = alone.getExceptionParameters(i)
        if not (first in particles and second in particles):
            alone.setExceptionParameters(i, first, second, 0.0, 1.0, 0.0)
    for i in range(alone.getNumParticleParameterOffsets()):
        parameter, index, *_ = alone.getParticleParameterOffset(i)
        if index not in particles:
            alone.setParticleParameterOffset(i, parameter, index, 0.0, 0.0, 0.0)
    for i in range(alone.getNumExceptionParameterOffsets()):
        parameter, index, *_ = alone.getExceptionParameterOffset(i)
        first, second, *_ = alone.getExceptionParameters(index)
        if not (first in particles and second in particles):
            alone.setExceptionParameterOffset(i, parameter, index, 0.0, 0.0, 0.0)
    alone.setUseDispersionCorrection(False)
    # Inside a CustomCVForce only the group of the force itself is computed.
    alone.setReciprocalSpaceForceGroup(-1)
    return alone


def _restrict_custom(force: openmm.CustomNonbondedForce, particles: Collection[int]) -> None:
    force.setUseLongRangeCorrection(False)
    count = force.getNumInteractionGroups()
    for i in range(count):
        first, second = force.getInteractionGroupParameters(i)
        inside = set(particles)
        force.setInteractionGroupParameters(i, inside & set(first), inside & set(second))
    if count == 0:
        force.addInteractionGroup(set(particles), set(particles))


def _slow_group(force: openmm.NonbondedForce) -> int:
    """Force group of the part in reciprocal space."""
    group: int = force.getReciprocalSpaceForceGroup()
    return force.getForceGroup() if group < 0 else group
