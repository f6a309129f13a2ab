"""Bonded terms of the force field inside the ML region, taken out of a System."""

from __future__ import annotations

from itertools import pairwise
from xml.etree import ElementTree

import openmm

from openmm_les.errors import InputError
from openmm_les.plugin.mixed.decisions import Wishes, terms_to_replace
from openmm_les.plugin.mixed.described import Described
from openmm_les.plugin.mixed.region import MLRegion
from openmm_les.plugin.mixed.terms import BONDED, Terms


def split(
    system: openmm.System, region: MLRegion, wishes: Wishes
) -> tuple[openmm.System, list[openmm.Force]]:
    """Copy a System without the terms that the model takes the place of.

    Args:
        system: the force field's System; stays as it is.
        region: the ML region.
        wishes: what the user decided about single forces.

    Returns:
        The copy, with all its forces in their order, and copies of the forces with the terms that
        it lacks.

    Raises:
        InputError: bonds are missing in the topology, or a force may be the force field's as well
            as a restraint.
    """
    root = ElementTree.fromstring(openmm.XmlSerializer.serialize(system))
    elements = root.iterfind("Forces/Force")
    forces = [Terms(element) for element in elements if element.get("type") in BONDED]
    _check_bonds(system, forces, region)
    others = [terms for terms in forces if terms.name not in wishes.keep]
    described = Described(system, others, region)
    removed = []
    for terms in forces:
        chosen = terms_to_replace(terms, region, described, wishes)
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
