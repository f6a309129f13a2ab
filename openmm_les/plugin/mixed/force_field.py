"""Which forces of a System, and which of their terms, a model in part of it replaces.

The terms of a force field inside the ML region are replaced, restraints are kept. Standard bonded
forces are the force field's where they run along bonds; one that repeats another is an error.
Custom forces serve for both, and nothing in a System says for which. It is decided by the first of
these signs that applies to all terms inside the region:

1. the user says so (`keepForces`, `replaceForces`);
2. the force has the name under which OpenMM's readers of force fields add it;
3. its terms do not run along bonds: a restraint;
4. they describe what nothing else describes, as a force field must (a bond without a bond term or
   constraint, an improper torsion at a planar centre): the force field; otherwise a restraint.

Terms that point to both are an error that asks the user.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING
from xml.etree import ElementTree

import openmm

from openmm_les.errors import InputError
from openmm_les.plugin.mixed.bonded import BONDED, CUSTOM, Terms, is_inside
from openmm_les.plugin.mixed.interpolation import NAME
from openmm_les.plugin.mixed.region import MLRegion

if TYPE_CHECKING:
    from openmm_les.plugin.mixed.options import MixedOptions

logger = logging.getLogger(__name__)

_NONBONDED = {"NonbondedForce", "CustomNonbondedForce"}
_RESTRAINTS = {"CustomCentroidBondForce", "CustomExternalForce", "CustomVolumeForce"}
_RESTRAINTS |= {"OrientationRestraintForce", "PlumedForce", "PythonForce", "RGForce", "RMSDForce"}
_BAROSTATS = {f"MonteCarlo{kind}Barostat" for kind in ("", "Anisotropic", "Flexible", "Membrane")}
_KEPT = _RESTRAINTS | _BAROSTATS | {"AndersenThermostat", "CMMotionRemover"}
_POLARISABLE = "polarizable force fields have no terms that could be removed atom by atom"
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
_FORCE_FIELD_NAMES = {"GROMOSAngleForce", "GROMOSBondForce", "HarmonicTorsionForce"}
_FORCE_FIELD_NAMES |= {"LennardJones14", "LennardJonesExceptions"}


def refuse_unsuitable(system: openmm.System, options: MixedOptions) -> None:
    """Refuse forces whose part inside the ML region cannot be separated, and unknown names."""
    keep, replace = set(options.keepForces), set(options.replaceForces)
    names = sorted({force.getName() for force in system.getForces()})
    unknown = sorted((keep | replace) - set(names))
    if unknown:
        raise InputError(
            f"keepForces and replaceForces: expected names of forces ({', '.join(names)}), got "
            f"{', '.join(unknown)}; force.setName gives a force a name"
        )
    if both := sorted(keep & replace):
        raise InputError(
            f"keepForces and replaceForces: expected a force in one of them, got {both[0]!r} "
            "in both"
        )
    for force in system.getForces():
        kind, name = type(force).__name__, force.getName()
        if kind in _NONBONDED and name in keep:
            raise InputError(
                f"keepForces: {name} is a nonbonded force, of which the part inside the ML region "
                "is always replaced"
            )
        if kind in BONDED | _NONBONDED | _KEPT or _is_plain_cv(force):
            continue
        reason = _REASONS.get(kind, "what it does inside the ML region is not known")
        if kind.startswith("Amoeba"):
            reason = _POLARISABLE
        if kind in _REASONS or name not in keep:
            label = name if name == kind else f"{kind} {name!r}"
            hint = "" if kind in _REASONS else f"; if it is to stay as it is: keepForces=[{name!r}]"
            raise InputError(f"system: {label} cannot be combined with ML/MM: {reason}{hint}")


def _is_plain_cv(force: openmm.Force) -> bool:
    """Whether a force is a bias on collective variables that are no energies of a force field.

    What an earlier mixed System scaled or subtracted for a model of other atoms counts as one.
    """
    if not isinstance(force, openmm.CustomCVForce):
        return False
    if force.getName() == NAME:
        return True
    variables = [force.getCollectiveVariable(i) for i in range(force.getNumCollectiveVariables())]
    kinds = {type(variable).__name__ for variable in variables}
    return kinds <= BONDED | _KEPT


def split_bonded(
    system: openmm.System, region: MLRegion, options: MixedOptions
) -> tuple[openmm.System, list[openmm.Force]]:
    """Copy a System without the bonded terms that the model replaces.

    Returns the copy, and for each force that lacks some a force with these terms.
    """
    root = ElementTree.fromstring(openmm.XmlSerializer.serialize(system))
    elements = root.iterfind("Forces/Force")
    forces = [Terms(element) for element in elements if element.get("type") in BONDED]
    _check_bonds(system, forces, region)
    others = [terms for terms in forces if terms.name not in options.keepForces]
    force_field = ForceFieldTerms(system, others, region)
    removed = []
    for terms in forces:
        chosen = _terms_to_replace(terms, region, force_field, options)
        if any(chosen):
            removed.append(terms.take(chosen))
    mixed = openmm.XmlSerializer.deserialize(ElementTree.tostring(root, encoding="unicode"))
    return mixed, removed


def _check_bonds(system: openmm.System, forces: list[Terms], region: MLRegion) -> None:
    """Refuse a topology without the bonds of the force field, such as that of a bare PDB file.

    Terms along bonds that the topology lacks would be taken for restraints, and cut bonds would not
    be found. A restraint joins atoms that otherwise interact; atoms that the force field binds do
    not.
    """
    pairs = {
        frozenset(pair)
        for terms in forces
        if terms.kind in ("HarmonicBondForce", "HarmonicAngleForce")
        for atoms in terms.atoms
        if not region.inside.isdisjoint(atoms)
        for pair in pairwise(atoms)
    }
    apart = {pair for pair in pairs if region.graph.separation(min(pair), max(pair), 3) is None}
    if not apart:
        return
    for force in system.getForces():
        if not isinstance(force, openmm.NonbondedForce):
            continue
        for i in range(force.getNumExceptions()):
            first, second, product, _, epsilon = force.getExceptionParameters(i)
            excluded = product._value == 0.0 and epsilon._value == 0.0
            if excluded and frozenset((first, second)) in apart:
                raise InputError(
                    "topology: expected the bonds of the ML region, got none between "
                    f"{region.name(first)} and {region.name(second)}, which the force field binds; "
                    "use the topology from which the System was made, or give the file its bonds "
                    "(CONECT records)"
                )


def _terms_to_replace(
    terms: Terms, region: MLRegion, force_field: ForceFieldTerms, options: MixedOptions
) -> list[bool]:
    """Decide for each term of a bonded force whether the model replaces it; see the module."""
    along_bonds = [is_inside(terms.kind, each, region.graph, region.inside) for each in terms.atoms]
    inside = [is_in is True for is_in in along_bonds]
    none = [False] * len(inside)
    if terms.name in options.keepForces:
        return none
    chosen = [atoms for atoms, is_in in zip(terms.atoms, inside, strict=True) if is_in]
    restraints = sum(
        is_in is None and region.inside.issuperset(atoms)
        for is_in, atoms in zip(along_bonds, terms.atoms, strict=True)
    )
    if restraints:
        logger.info(
            "%s: %d terms inside the ML region do not run along bonds and are kept",
            terms.name,
            restraints,
        )
    if not chosen or terms.name in options.replaceForces:
        return inside
    if terms.kind not in CUSTOM:
        if force_field.has_duplicates(terms, chosen):
            raise _ambiguous(terms, chosen)
        return inside
    is_force_field = terms.name in _FORCE_FIELD_NAMES
    if not is_force_field and not restraints:
        compound = terms.kind == "CustomCompoundBondForce"
        verdicts = set() if compound else {force_field.needs_term(atoms) for atoms in chosen}
        if len(verdicts) != 1:
            raise _ambiguous(terms, chosen)
        is_force_field = verdicts.pop()
    logger.info(
        "%s: %d terms inside the ML region are taken for %s",
        terms.name,
        len(chosen),
        "the force field's and replaced" if is_force_field else "restraints and kept",
    )
    return inside if is_force_field else none


def _ambiguous(terms: Terms, chosen: Sequence[tuple[int, ...]]) -> InputError:
    return InputError(
        f"system: it cannot be told whether {terms.name} belongs to the force field or restrains "
        f"the ML region, where it has {len(chosen)} terms along bonds; give it a name of its own "
        "(force.setName) and put this into replaceForces=[...] or keepForces=[...]"
    )


class ForceFieldTerms:
    """What the standard forces and constraints of a System describe inside a region."""

    def __init__(self, system: openmm.System, forces: Iterable[Terms], region: MLRegion) -> None:
        self._system = system
        self._region = region
        self._described: set[tuple[str, frozenset[int | None]]] = set()
        self._owners: dict[tuple[int, ...], set[Terms]] = defaultdict(set)
        for i in range(system.getNumConstraints()):
            first, second, _ = system.getConstraintParameters(i)
            self._described.add(self._subject((first, second)))
        for terms in forces:
            if terms.kind in CUSTOM:
                continue
            for atoms in terms.atoms:
                if not region.inside.isdisjoint(atoms):
                    self._owners[_direction_free(atoms)].add(terms)
                    self._described.add(self._subject(atoms))

    def _subject(self, atoms: Sequence[int]) -> tuple[str, frozenset[int | None]]:
        """What a term describes: a bond or an angle, the axis or the centre of a torsion."""
        if len(atoms) < 4:
            return "atoms", frozenset(atoms)
        if self._region.graph.is_chain(atoms[:4]):
            return "axis", frozenset(atoms[1:3])
        return "centre", frozenset({self._region.graph.centre_of(atoms)})

    @cached_property
    def _lennard_jones(self) -> set[frozenset[int]]:
        """Pairs whose Lennard-Jones energy is in an exception."""
        found: set[frozenset[int]] = set()
        for force in self._system.getForces():
            if isinstance(force, openmm.NonbondedForce):
                for i in range(force.getNumExceptions()):
                    first, second, _, _, epsilon = force.getExceptionParameters(i)
                    if epsilon._value != 0.0:
                        found.add(frozenset((first, second)))
        return found

    def has_duplicates(self, terms: Terms, chosen: Iterable[tuple[int, ...]]) -> bool:
        """Whether another force of the same class has all of some terms of a standard force."""
        owners = (self._owners[_direction_free(atoms)] for atoms in chosen)
        return all(any(o is not terms and o.kind == terms.kind for o in found) for found in owners)

    def needs_term(self, atoms: Sequence[int]) -> bool:
        """Whether a force field needs a term for bonded atoms, and no standard force has it."""
        graph = self._region.graph
        is_described = self._subject(atoms) in self._described
        if len(atoms) == 4 and not graph.is_chain(atoms):
            centre = graph.centre_of(atoms)
            is_planar = centre is not None and len(graph.neighbors[centre]) == 3
            return is_planar and not is_described
        separation = graph.separation(atoms[0], atoms[1], 3)
        if len(atoms) > 2 or separation == 1:
            return not is_described
        # Urey-Bradley terms come on top of angles. Scaled 1-4 terms are in exceptions, unless a
        # CustomNonbondedForce, which has none, computes the Lennard-Jones energy.
        if separation == 2:
            return False
        forces = self._system.getForces()
        elsewhere = any(isinstance(force, openmm.CustomNonbondedForce) for force in forces)
        return elsewhere and frozenset(atoms) not in self._lennard_jones


def _direction_free(atoms: tuple[int, ...]) -> tuple[int, ...]:
    """The same for a term that is written from its other end."""
    return min(atoms, atoms[::-1])
