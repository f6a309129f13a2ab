"""Forces that a mixed System has with a factor, such as lambda or -1, through `CustomCVForce`."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence

import openmm

from openmm_les.errors import InputError
from openmm_les.names import LAMBDA, shorten
from openmm_les.plugin.mixed.region import MLRegion

logger = logging.getLogger(__name__)

NAME = "LES embedding"

_MODEL = f"select({LAMBDA}, {LAMBDA}*term0, sqrt({LAMBDA}))"
# Zero, with a derivative that is not a number.
_UNKNOWN_SLOPE = f"sqrt(max(0, {LAMBDA}-2))"


class Sums:
    """Forces with factors, each sum of them a `CustomCVForce`, which has a Context of its own.

    Bonded forces are collected by force group, rather than in one sum for all: multiple time
    stepping stays possible. Every `NonbondedForce` is alone: on a GPU the first one of a Context
    owns the charges there, and the Ewald sum of any other one would be that of these.
    """

    def __init__(self) -> None:
        self._sums: dict[tuple[int, int], list[tuple[str, openmm.Force]]] = {}

    def add(self, factor: str, force: openmm.Force, group: int) -> None:
        """Add a factor, in which `LAMBDA` may occur, times the energy of a force without System."""
        number = len(self._sums) + 1 if isinstance(force, openmm.NonbondedForce) else 0
        self._sums.setdefault((group, number), []).append((factor, force))

    def add_to(self, system: openmm.System) -> None:
        """Give the sums to a System."""
        for (group, _), terms in sorted(self._sums.items()):
            expression = " + ".join(f"({factor})*term{i}" for i, (factor, _) in enumerate(terms))
            total = _function_of([force for _, force in terms], expression)
            total.setForceGroup(group)
            total.setName(NAME)
            system.addForce(total)


def scaled(model: openmm.Force, *, knows_slope: bool) -> openmm.CustomCVForce:
    """Lambda times the energy of a model, without System, that is not computed where lambda is 0.

    There its part of the derivative by lambda is unknown, and reported as infinite. Without
    `knows_slope`, some other force has no derivative by lambda (OpenMM's NonbondedForce has none by
    charges), and the derivative is reported as NaN.
    """
    return _function_of([model], _MODEL if knows_slope else f"{_MODEL} + {_UNKNOWN_SLOPE}")


def _function_of(forces: Sequence[openmm.Force], expression: str) -> openmm.CustomCVForce:
    """A function of the energies of forces, ``term0`` and so on, with all of their parameters.

    It declares these itself, since defaults of forces inside it are invisible from outside:
    samplers that change defaults (openmmtools) would leave a parameter with two defaults.
    """
    total = openmm.CustomCVForce(expression)
    parameters = {LAMBDA: 1.0} if LAMBDA in expression else {}
    for i, force in enumerate(forces):
        force.setForceGroup(0)
        parameters |= _parameters(force)
        total.addCollectiveVariable(f"term{i}", force)
    for name, default in parameters.items():
        total.addGlobalParameter(name, default)
    if LAMBDA in parameters:
        total.addEnergyParameterDerivative(LAMBDA)
    return total


def _parameters(force: openmm.Force) -> dict[str, float]:
    if isinstance(force, openmm.PythonForce):
        return dict(force.getGlobalParameters())
    number = force.getNumGlobalParameters() if hasattr(force, "getNumGlobalParameters") else 0
    return {
        force.getGlobalParameterName(i): force.getGlobalParameterDefaultValue(i)
        for i in range(number)
    }


def check_constraints(
    system: openmm.System, removed: Sequence[openmm.Force], region: MLRegion
) -> None:
    """Refuse a force field that needs constraints inside the ML region.

    openmm-ml removes them, and where neither bonds nor angles (in `removed`, the bonded terms
    inside the region) hold the atoms, they would fly apart at small lambda.
    """
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
            f"region, got a constraint alone between {shorten(loose)}; make the System with "
            "constraints=None, or with flexibleConstraints=True"
        )


def warn_of_missing_bonds(system: openmm.System, region: MLRegion) -> None:
    """Warn of bonds that the model alone describes: at small lambda their atoms drift apart."""
    held = _bonds(system.getForces())
    loose = [bond for bond in region.plain.bonds if frozenset(bond) not in held]
    if loose:
        logger.warning(
            "interpolate: the force field has no bond term between %s; at small lambda nothing "
            "may hold these atoms together",
            shorten(" and ".join(map(region.name, bond)) for bond in loose),
        )


def _bonds(forces: Iterable[openmm.Force]) -> set[frozenset[int]]:
    """Pairs of particles that bond terms hold together."""
    held: set[frozenset[int]] = set()
    for force in forces:
        if isinstance(force, openmm.HarmonicBondForce | openmm.CustomBondForce):
            bonds = (force.getBondParameters(i) for i in range(force.getNumBonds()))
            held |= {frozenset(bond[:2]) for bond in bonds}
    return held
