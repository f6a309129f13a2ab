"""What becomes of every force of a System: kept, replaced by the model, or refused by name.

The terms of a force field inside the ML region are replaced, restraints are kept. Standard bonded
forces are the force field's where they run along bonds; one that repeats another is an error.
Custom forces serve for both, and nothing in a System says for which. It is told by these signs, the
first that applies to all terms inside the region:

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

import openmm

from openmm_les.errors import InputError
from openmm_les.plugin.mixed.described import Described
from openmm_les.plugin.mixed.interpolation import NAME
from openmm_les.plugin.mixed.region import MLRegion
from openmm_les.plugin.mixed.terms import BONDED, CUSTOM, Terms, is_inside

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
    "TorchForce": "it cannot be copied; add it to the mixed System instead (if it is a model, "
    "start again from the System of the force field; several regions need backend='pythonforce')",
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
    """Whether a force is a bias on collective variables, not on an energy of the force field.

    What is scaled or subtracted for a model of other atoms is as good.
    """
    if not isinstance(force, openmm.CustomCVForce):
        return False
    if force.getName() == NAME:
        return True
    variables = [force.getCollectiveVariable(i) for i in range(force.getNumCollectiveVariables())]
    kinds = {type(variable).__name__ for variable in variables}
    return kinds <= BONDED | _KEPT


def terms_to_replace(
    terms: Terms, region: MLRegion, described: Described, wishes: Wishes
) -> list[bool]:
    """Decide for each term of a bonded force whether the model takes its place.

    Raises:
        InputError: nothing tells whether the terms inside the region are the force field's.
    """
    places = [is_inside(terms.kind, atoms, region.graph, region.inside) for atoms in terms.atoms]
    inside = [place is True for place in places]
    none = [False] * len(inside)
    if terms.name in wishes.keep:
        return none
    chosen = [atoms for atoms, is_in in zip(terms.atoms, inside, strict=True) if is_in]
    loose = sum(
        place is None and region.inside.issuperset(atoms)
        for place, atoms in zip(places, terms.atoms, strict=True)
    )
    if loose:
        logger.info(
            "%s: %d terms inside the ML region do not run along bonds and are kept",
            terms.name,
            loose,
        )
    if not chosen or terms.name in wishes.replace:
        return inside
    if terms.kind not in CUSTOM:
        if described.repeats(terms, chosen):
            raise _unclear(terms, chosen)
        return inside
    is_force_field = terms.name in _FORCE_FIELD_NAMES
    if not is_force_field and not loose:
        compound = terms.kind == "CustomCompoundBondForce"
        verdicts = set() if compound else {described.lacks(atoms) for atoms in chosen}
        if len(verdicts) != 1:
            raise _unclear(terms, chosen)
        is_force_field = verdicts.pop()
    logger.info(
        "%s: %d terms inside the ML region are taken for %s",
        terms.name,
        len(chosen),
        "the force field's and replaced" if is_force_field else "restraints and kept",
    )
    return inside if is_force_field else none


def _unclear(terms: Terms, chosen: Sequence[tuple[int, ...]]) -> InputError:
    return InputError(
        f"system: it cannot be told whether {terms.name} belongs to the force field or restrains "
        f"the ML region, where it has {len(chosen)} terms along bonds; give it a name of its own "
        "(force.setName) and put this into replaceForces=[...] or keepForces=[...]"
    )


def names(argument: str, given: object) -> frozenset[str]:
    """A list of names of forces.

    Raises:
        InputError: something else was given.
    """
    is_list = isinstance(given, Iterable) and not isinstance(given, str)
    listed = list(given) if is_list else [None]  # type: ignore[call-overload]
    found = [name for name in listed if isinstance(name, str)]
    if len(found) < len(listed):
        raise InputError(f"{argument}: expected a list of names of forces, got {given!r}")
    return frozenset(found)
