"""What is added to a mixed System in fractions or with a minus sign, through a `CustomCVForce`."""

from __future__ import annotations

import logging
from collections.abc import Iterable

import openmm

from openmm_les.errors import InputError
from openmm_les.forces.region import few
from openmm_les.mlmm.region import MLRegion

logger = logging.getLogger(__name__)

LAMBDA = "lambda_interpolate"
"""Global parameter of interpolation: 0 is the force field, 1 the mixed System."""

NAME = "LES embedding"


class Sums:
    """Forces with factors, collected by force group.

    One `CustomCVForce` for each group, rather than one for all: multiple time stepping stays
    possible.
    """

    def __init__(self) -> None:
        self._variables: dict[int, list[tuple[str, openmm.Force]]] = {}

    def add(self, factor: str, force: openmm.Force, group: int) -> None:
        """Add `factor` times the energy of `force`.

        Args:
            factor: expression, in which `LAMBDA` may occur.
            force: belongs to no System.
            group: force group of the sum.
        """
        self._variables.setdefault(group, []).append((factor, force))

    def add_to(self, system: openmm.System) -> None:
        """Give the sums to a System."""
        for group, variables in sorted(self._variables.items()):
            terms = [f"({factor})*term{i}" for i, (factor, _) in enumerate(variables)]
            total = openmm.CustomCVForce(" + ".join(terms))
            if any(LAMBDA in term for term in terms):
                total.addGlobalParameter(LAMBDA, 1.0)
            for i, (_, force) in enumerate(variables):
                force.setForceGroup(0)
                total.addCollectiveVariable(f"term{i}", force)
            total.setForceGroup(group)
            total.setName(NAME)
            system.addForce(total)


def check_constraints(
    system: openmm.System, removed: Iterable[openmm.Force], region: MLRegion
) -> None:
    """Refuse a force field that needs constraints inside the ML region.

    openmm-ml removes them, and where nothing else holds the atoms, they would fly apart at small
    lambda.

    Args:
        system: the force field's System.
        removed: forces with the bonded terms inside the region.
        region: the ML region.

    Raises:
        InputError: a constraint stands in place of a bond or an angle.
    """
    removed = list(removed)
    held = _bonds(removed)
    for force in removed:
        if isinstance(force, openmm.HarmonicAngleForce | openmm.CustomAngleForce):
            angles = (force.getAngleParameters(i) for i in range(force.getNumAngles()))
            held |= {frozenset((first, last)) for first, _, last, *_ in angles}
    loose = []
    for i in range(system.getNumConstraints()):
        first, second, _ = system.getConstraintParameters(i)
        inside = first in region.inside and second in region.inside
        if inside and frozenset((first, second)) not in held:
            loose.append(f"{region.name(first)} and {region.name(second)}")
    if loose:
        raise InputError(
            "interpolate: expected bond and angle terms in place of every constraint inside the ML "
            f"region, got a constraint alone between {few(loose)}; make the System with "
            "constraints=None, or with flexibleConstraints=True"
        )


def warn_of_missing_bonds(system: openmm.System, region: MLRegion) -> None:
    """Warn where the force field has no term for a bond inside the ML region.

    Such a residue is good enough when the model alone describes it, but at small lambda its atoms
    drift apart.

    Args:
        system: the force field's System, without constraints that stand in place of bonds.
        region: the ML region.
    """
    held = _bonds(system.getForces())
    loose = [bond for bond in region.plain.bonds if frozenset(bond) not in held]
    if loose:
        logger.warning(
            "interpolate: the force field has no bond term between %s; at small lambda nothing "
            "may hold these atoms together",
            few(" and ".join(map(region.name, bond)) for bond in loose),
        )


def _bonds(forces: Iterable[openmm.Force]) -> set[frozenset[int]]:
    """Pairs of particles that bond terms hold together."""
    held: set[frozenset[int]] = set()
    for force in forces:
        if isinstance(force, openmm.HarmonicBondForce | openmm.CustomBondForce):
            bonds = (force.getBondParameters(i) for i in range(force.getNumBonds()))
            held |= {frozenset(bond[:2]) for bond in bonds}
    return held
