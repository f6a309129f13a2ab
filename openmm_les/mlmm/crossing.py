"""Charges of the ML region in the force field, for an embedding that brings charges of its own.

Mechanical embedding needs nothing of this: there the force field's charges of the region stay.
"""

from __future__ import annotations

from collections import Counter

import openmm

from openmm_les.mlmm.region import MLRegion

# Bonds between atoms that do not interact.
_EXCLUDED = 2


def silence(force: openmm.NonbondedForce, region: MLRegion) -> None:
    """Take the charges of the region out of a force, in place; Lennard-Jones terms stay.

    Args:
        force: its exceptions state products of charges, which do not follow the particles': those
            that cross the border go, too, and so do offsets by global parameters.
        region: the ML atoms and their virtual sites.
    """
    particles = region.particles
    for index in particles:
        _, sigma, epsilon = force.getParticleParameters(index)
        force.setParticleParameters(index, 0.0, sigma, epsilon)
    for i in range(force.getNumExceptions()):
        first, second, _, sigma, epsilon = force.getExceptionParameters(i)
        if first in particles or second in particles:
            force.setExceptionParameters(i, first, second, 0.0, sigma, epsilon)
    for i in range(force.getNumParticleParameterOffsets()):
        parameter, index, _, sigma, epsilon = force.getParticleParameterOffset(i)
        if index in particles:
            force.setParticleParameterOffset(i, parameter, index, 0.0, sigma, epsilon)
    for i in range(force.getNumExceptionParameterOffsets()):
        parameter, index, _, sigma, epsilon = force.getExceptionParameterOffset(i)
        first, second, *_ = force.getExceptionParameters(index)
        if first in particles or second in particles:
            force.setExceptionParameterOffset(i, parameter, index, 0.0, sigma, epsilon)


def scaled_pairs(force: openmm.NonbondedForce, region: MLRegion) -> list[tuple[int, int, float]]:
    """Pairs across the border whose Coulomb interaction counts in part, or not at all.

    Args:
        force: with its charges, before `silence`.
        region: the ML atoms.

    Returns:
        Position of the ML atom in ``region.atoms``, index of the MM particle, and the factor: 0
        for neighbours by one or two bonds, the force field's factor for 1-4 neighbours.
    """
    place = {atom: i for i, atom in enumerate(region.atoms)}
    count = force.getNumParticles()
    charges = [force.getParticleParameters(i)[0]._value for i in range(count)]
    exceptions = [force.getExceptionParameters(i)[:3] for i in range(force.getNumExceptions())]
    usual = _usual_factor(charges, exceptions)
    pairs = []
    for first, second, product in exceptions:
        if first not in place:
            first, second = second, first
        if first not in place or second in region.particles:
            continue
        expected = charges[first] * charges[second]
        if region.graph.separation(first, second, _EXCLUDED) is not None:
            factor = 0.0
        elif expected == 0.0:  # an ML atom without a charge in the force field has one now
            factor = usual
        else:
            factor = product._value / expected
        pairs.append((place[first], second, factor))
    return pairs


def _usual_factor(
    charges: list[float], exceptions: list[tuple[int, int, openmm.unit.Quantity]]
) -> float:
    """The factor of most exceptions that are not exclusions."""
    factors = Counter(
        round(product._value / (charges[first] * charges[second]), 6)
        for first, second, product in exceptions
        if product._value != 0.0 and charges[first] * charges[second] != 0.0
    )
    return factors.most_common(1)[0][0] if factors else 1.0
