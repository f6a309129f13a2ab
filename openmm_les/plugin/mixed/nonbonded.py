"""Takes the nonbonded interactions of the ML region with itself out of the forces of a System.

The energy without them, E - E(ML-ML), is obtained in one of two ways:

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
from collections.abc import Collection, Iterator, Mapping
from itertools import combinations

import openmm

from openmm_les.names import LAMBDA
from openmm_les.plugin.mixed.interpolation import Sums

logger = logging.getLogger(__name__)

_EWALD = (openmm.NonbondedForce.Ewald, openmm.NonbondedForce.PME, openmm.NonbondedForce.LJPME)


def remove(system: openmm.System, particles: Collection[int], sums: Sums) -> None:
    """Exclude the pairs of a region, and subtract its energy in the field of its own images."""
    for force in _forces(system):
        exclude(force, particles)
        if sees_images(force, particles):
            # With the parameters of the sum of `force`, so that both have the same error.
            alone = restricted(force, particles)
            exclude(alone, particles)
            slow_group = force.getReciprocalSpaceForceGroup()
            sums.add("-1", alone, force.getForceGroup() if slow_group < 0 else slow_group)


def fade(system: openmm.System, particles: Collection[int], sums: Sums) -> None:
    """Subtract lambda times the energy of the region, as `remove` does for lambda = 1."""
    for force in _forces(system):
        sums.add(f"-{LAMBDA}", restricted(force, particles), force.getForceGroup())


def remove_charges(
    system: openmm.System, atoms: Collection[int], taken: Mapping[int, float]
) -> None:
    """Remove the Coulomb interactions of a region with all others; `remove` removes the rest.

    MM atoms at cut bonds get the charges `taken` [e].
    """
    for force in system.getForces():
        if is_charged(force):
            _discharge_pairs(force, atoms)
            for atom, change in _changes(force, atoms, taken).items():
                charge, sigma, epsilon = force.getParticleParameters(atom)
                force.setParticleParameters(atom, charge._value + change, sigma, epsilon)


def fade_charges(
    system: openmm.System, atoms: Collection[int], taken: Mapping[int, float], sums: Sums
) -> None:
    """As `fade`, and subtract lambda times what `remove_charges` removes.

    The charges change in proportion to lambda, so that the energy of these changes among themselves
    goes with lambda squared; a further term makes it linear.
    """
    for force in _forces(system):
        group = force.getForceGroup()
        inside = restricted(force, atoms)
        if is_charged(force):
            changes = _changes(force, atoms, taken)
            alone = restricted(force, ())
            for atom, charge in changes.items():
                alone.setParticleParameters(atom, charge, 1.0, 0.0)
            sums.add(f"{LAMBDA}-{LAMBDA}^2", alone, group)
            for atom in atoms:
                inside.setParticleParameters(atom, 0.0, *inside.getParticleParameters(atom)[1:])
            _discharge_pairs(force, atoms, LAMBDA)
            for atom, change in changes.items():
                force.addParticleParameterOffset(LAMBDA, atom, change, 0.0, 0.0)
        sums.add(f"-{LAMBDA}", inside, group)


def is_charged(force: openmm.Force) -> bool:
    """Whether a force is a `NonbondedForce` with charges."""
    if not isinstance(force, openmm.NonbondedForce):
        return False
    number = force.getNumParticles()
    return any(force.getParticleParameters(i)[0]._value != 0.0 for i in range(number))


def charge_of(system: openmm.System, particles: Collection[int]) -> float:
    """What the MM charges of particles add up to [e]."""
    forces = [force for force in system.getForces() if isinstance(force, openmm.NonbondedForce)]
    charges = (force.getParticleParameters(i)[0]._value for force in forces for i in particles)
    return float(sum(charges))


def _changes(
    force: openmm.NonbondedForce, atoms: Collection[int], taken: Mapping[int, float]
) -> dict[int, float]:
    """Changes of charges [e]: the region loses its own, MM atoms at cut bonds get `taken`."""
    inside = {atom: -force.getParticleParameters(atom)[0]._value for atom in sorted(atoms)}
    return {atom: change for atom, change in (inside | dict(taken)).items() if change != 0.0}


def _discharge_pairs(
    force: openmm.NonbondedForce, atoms: Collection[int], parameter: str | None = None
) -> None:
    """Set the products of charges to 0 in exceptions across the border of a region.

    With a global `parameter` they are there where it is 0, and gone where it is 1.
    """
    if parameter is not None:
        force.addGlobalParameter(parameter, 1.0)
    for i in range(force.getNumExceptions()):
        first, second, product, sigma, epsilon = force.getExceptionParameters(i)
        if (first in atoms) == (second in atoms) or product._value == 0.0:
            continue
        if parameter is None:
            force.setExceptionParameters(i, first, second, 0.0, sigma, epsilon)
        else:
            force.addExceptionParameterOffset(parameter, i, -product._value, 0.0, 0.0)


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
    """Exclude all pairs of particles of a force, in place."""
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


def sees_images(force: openmm.Force, particles: Collection[int]) -> bool:
    """Whether particles interact with their own periodic images."""
    if not isinstance(force, openmm.NonbondedForce) or force.getNonbondedMethod() not in _EWALD:
        return False
    if force.getNonbondedMethod() == openmm.NonbondedForce.LJPME:
        return True
    charged = any(force.getParticleParameters(i)[0]._value != 0.0 for i in particles)
    return charged or force.getNumParticleParameterOffsets() > 0


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
