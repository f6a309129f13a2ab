"""What becomes of every force of a System: kept, replaced by the model, or refused by name.

The terms of a force field inside the ML region are replaced, restraints are kept. Custom forces
serve for both, and nothing in a System says for which. It is told by these signs, the first that
applies to all terms inside the region:

1. the user says so (`keepForces`, `replaceForces`);
2. the force has the name under which OpenMM's readers of force fields add it;
3. its terms do not run along bonds: a restraint;
4. they describe what nothing else describes, as a force field must (a bond without a bond term or
   constraint, an improper torsion at a planar centre): the force field; otherwise a restraint.

Terms that point to both are an error that asks the user.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import openmm

from openmm_les.errors import InputError
from openmm_les.mlmm.region import MLRegion
from openmm_les.mlmm.terms import BONDED, CUSTOM, Terms, is_inside

logger = logging.getLogger(__name__)

NONBONDED = frozenset({"NonbondedForce", "CustomNonbondedForce"})

# Restraints, thermostats, barostats: no part of a force field.
_KEPT = frozenset(
    {
        "AndersenThermostat",
        "CMMotionRemover",
        "CustomCentroidBondForce",
        "CustomExternalForce",
        "CustomVolumeForce",
        "MonteCarloAnisotropicBarostat",
        "MonteCarloBarostat",
        "MonteCarloFlexibleBarostat",
        "MonteCarloMembraneBarostat",
        "OrientationRestraintForce",
        "PlumedForce",
        "PythonForce",
        "RGForce",
        "RMSDForce",
    }
)
_POLARISABLE = "polarisable force fields have no terms that could be removed atom by atom"
_IMPLICIT = "implicit solvent has no share of the ML region that could be removed"
_REASONS = {
    "DrudeForce": _POLARISABLE,
    "HippoNonbondedForce": _POLARISABLE,
    "ConstantPotentialForce": "its charges depend on those of the ML region",
    "GBSAOBCForce": _IMPLICIT,
    "CustomGBForce": _IMPLICIT,
    "LCPOForce": _IMPLICIT,
    "ATMForce": "it holds forces of its own; make the mixed System first",
    "TorchForce": "it cannot be copied; add it to the mixed System instead",
}
# Names given by openmm.app, whose forces are the force field's for certain.
_FORCE_FIELD_NAMES = frozenset(
    {
        "GROMOSAngleForce",
        "GROMOSBondForce",
        "HarmonicTorsionForce",
        "LennardJones14",
        "LennardJonesExceptions",
    }
)


@dataclass(frozen=True)
class Wishes:
    """Names of forces that the user decided about.

    Attributes:
        keep: custom forces that are restraints, and forces of unknown classes.
        replace: custom forces that belong to the force field.
    """

    keep: frozenset[str] = frozenset()
    replace: frozenset[str] = frozenset()

    def check(self, system: openmm.System) -> None:
        """Refuse names that no force has, or that stand on both lists.

        Raises:
            InputError: says which forces there are.
        """
        names = sorted({force.getName() for force in system.getForces()})
        unknown = sorted((self.keep | self.replace) - set(names))
        if unknown:
            raise InputError(
                f"keepForces and replaceForces: expected names of forces ({', '.join(names)}), got "
                f"{', '.join(unknown)}; force.setName gives a force a name"
            )
        both = sorted(self.keep & self.replace)
        if both:
            raise InputError(
                f"keepForces and replaceForces: expected a force in one of them, got {both[0]!r} "
                "in both"
            )


def refuse_unsuitable(system: openmm.System, wishes: Wishes) -> None:
    """Refuse forces of which the part inside the ML region cannot be told.

    Raises:
        InputError: names the force and the reason.
    """
    wishes.check(system)
    for force in system.getForces():
        kind, name = type(force).__name__, force.getName()
        if kind in NONBONDED and name in wishes.keep:
            raise InputError(
                f"keepForces: {name} is a nonbonded force, of which the part inside the ML region "
                "is always replaced"
            )
        if kind in BONDED | NONBONDED or kind in _KEPT or _is_plain_cv(force):
            continue
        reason = _REASONS.get(kind, "what it does inside the ML region is not known")
        if kind.startswith("Amoeba"):
            reason = _POLARISABLE
        if kind in _REASONS or name not in wishes.keep:
            label = name if name == kind else f"{kind} {name!r}"
            hint = "" if kind in _REASONS else f"; if it is to stay as it is: keepForces=[{name!r}]"
            raise InputError(f"system: {label} cannot be combined with ML/MM: {reason}{hint}")


def _is_plain_cv(force: openmm.Force) -> bool:
    """Whether a force is a bias on collective variables, not on an energy of the force field."""
    if not isinstance(force, openmm.CustomCVForce):
        return False
    variables = [force.getCollectiveVariable(i) for i in range(force.getNumCollectiveVariables())]
    kinds = {type(variable).__name__ for variable in variables}
    return kinds <= BONDED | _KEPT


class Described:
    """What the standard forces and constraints say inside a region.

    Args:
        system: the force field's System.
        forces: its bonded forces.
        region: the ML region.
    """

    def __init__(self, system: openmm.System, forces: Iterable[Terms], region: MLRegion) -> None:
        self._system = system
        self._region = region
        self._pairs: set[frozenset[int]] = set()
        self._angles: set[frozenset[int]] = set()
        self._axes: set[frozenset[int]] = set()
        self._centres: set[int] = set()
        self._fill(forces)

    def _fill(self, forces: Iterable[Terms]) -> None:
        system, graph = self._system, self._region.graph
        for i in range(system.getNumConstraints()):
            first, second, _ = system.getConstraintParameters(i)
            self._pairs.add(frozenset((first, second)))
        for terms in forces:
            if terms.kind in CUSTOM:
                continue
            for atoms in terms.atoms:
                if terms.kind == "HarmonicBondForce":
                    self._pairs.add(frozenset(atoms))
                elif terms.kind == "HarmonicAngleForce":
                    self._angles.add(frozenset(atoms))
                elif graph.is_chain(atoms[:4]):
                    self._axes.add(frozenset(atoms[1:3]))
                else:
                    centre = graph.centre_of(atoms)
                    self._centres |= set() if centre is None else {centre}

    @cached_property
    def _lennard_jones(self) -> set[frozenset[int]]:
        """Pairs whose Lennard-Jones energy stands in an exception."""
        found: set[frozenset[int]] = set()
        for force in self._system.getForces():
            if isinstance(force, openmm.NonbondedForce):
                for i in range(force.getNumExceptions()):
                    first, second, _, _, epsilon = force.getExceptionParameters(i)
                    if epsilon._value != 0.0:
                        found.add(frozenset((first, second)))
        return found

    def lacks(self, atoms: Sequence[int]) -> bool:
        """Whether a force field must say something about these atoms, and no standard force does.

        Args:
            atoms: particles of a term that runs along bonds.
        """
        graph = self._region.graph
        if len(atoms) == 3:
            return frozenset(atoms) not in self._angles
        if len(atoms) == 4:
            if graph.is_chain(atoms):
                return frozenset(atoms[1:3]) not in self._axes
            centre = graph.centre_of(atoms)
            is_planar = centre is not None and len(graph.neighbors[centre]) == 3
            return is_planar and centre not in self._centres
        separation = graph.separation(atoms[0], atoms[1], 3)
        if separation == 1:
            return frozenset(atoms) not in self._pairs
        # Urey-Bradley terms come on top of angles. Scaled 1-4 terms stand in exceptions, unless
        # a CustomNonbondedForce, which has none, computes the Lennard-Jones energy.
        if separation == 2:
            return False
        forces = self._system.getForces()
        elsewhere = any(isinstance(force, openmm.CustomNonbondedForce) for force in forces)
        return elsewhere and frozenset(atoms) not in self._lennard_jones


def terms_to_replace(
    terms: Terms, region: MLRegion, described: Described, wishes: Wishes
) -> list[bool]:
    """Decide for each term of a bonded force whether the model takes its place.

    Raises:
        InputError: the terms of a custom force inside the region are partly like those of a force
            field and partly like restraints.
    """
    name = terms.name
    places = [is_inside(terms.kind, atoms, region.graph, region.inside) for atoms in terms.atoms]
    inside = [place is True for place in places]
    if name in wishes.keep:
        return [False] * len(inside)
    if not any(inside) or terms.kind not in CUSTOM or name in wishes.replace:
        return inside
    chosen = [atoms for atoms, is_in in zip(terms.atoms, inside, strict=True) if is_in]
    loose = any(
        place is None and region.inside.issuperset(atoms)
        for place, atoms in zip(places, terms.atoms, strict=True)
    )
    is_force_field = name in _FORCE_FIELD_NAMES or _verdict(terms, chosen, loose, described)
    logger.info(
        "%s: %d terms inside the ML region are taken for %s",
        name,
        len(chosen),
        "the force field's and replaced" if is_force_field else "restraints and kept",
    )
    return inside if is_force_field else [False] * len(inside)


def _verdict(
    terms: Terms, chosen: Sequence[tuple[int, ...]], loose: bool, described: Described
) -> bool:
    """Whether terms along bonds are the force field's."""
    if loose:
        return False
    compound = terms.kind == "CustomCompoundBondForce"
    verdicts = set() if compound else {described.lacks(atoms) for atoms in chosen}
    if len(verdicts) == 1:
        return verdicts.pop()
    name = terms.name
    raise InputError(
        f"system: it cannot be told whether {name} belongs to the force field or restrains the ML "
        f"region, where it has {len(chosen)} terms along bonds; give it a name of its own "
        "(force.setName) and put this into replaceForces=[...] or keepForces=[...]"
    )


def names(argument: str, given: object) -> frozenset[str]:
    """A list of names of forces.

    Raises:
        InputError: something else was given.
    """
    is_list = isinstance(given, Iterable) and not isinstance(given, str)
    if not is_list or not all(isinstance(name, str) for name in given):  # type: ignore[attr-defined]
        raise InputError(f"{argument}: expected a list of names of forces, got {given!r}")
    return frozenset(given)  # type: ignore[call-overload,no-any-return]
