"""Bonds that the border of the ML region cuts, and the link atoms (hydrogen) that cap them."""

from __future__ import annotations

import copy
import logging
import math
from collections import Counter
from collections.abc import Collection, Iterable
from typing import Any, NamedTuple

import openmm
from openmm import app, unit

from openmm_les.errors import InputError
from openmm_les.names import shorten
from openmm_les.plugin.mixed.region import MLRegion
from openmm_les.units import ANGSTROM_PER_NM

logger = logging.getLogger(__name__)

# Single-bond covalent radii [nm]: P. Pyykkö and M. Atsumi, Chem. Eur. J. 15, 186 (2009), table 2.
_RADIUS = {1: 0.032, 6: 0.075, 7: 0.071, 8: 0.063, 14: 0.116, 15: 0.111, 16: 0.103, 34: 0.116}
# Bonds of a saturated atom; one with fewer neighbours may have a multiple bond.
_VALENCE = {6: 4, 7: 3, 8: 2, 14: 4, 15: 4, 16: 2, 34: 2}
_MULTIPLE = {"Double", "Triple", "Aromatic"}
# Larger rings, as through the disulphide bridge of a protein, have no strain to lose.
_LARGEST_RING = 8
_CARBON, _HYDROGEN = 6, 1


class Link(NamedTuple):
    """A cut bond, from L1 inside the ML region to M1 outside, and the distance of H from L1 [A]."""

    ml_atom: int
    mm_atom: int
    distance: float


def find_links(
    region: MLRegion,
    topology: app.Topology,
    distances: Iterable[tuple[int, int, Any]],
    known_elements: Collection[int],
) -> tuple[Link, ...]:
    """Find the cut bonds, and refuse those that a hydrogen atom cannot stand for.

    Link atoms without one of the `distances`, the option `linkAtomDistances`, are at the sum of
    covalent radii (C-H 0.107 nm).
    """
    given = _given_distances(distances)
    links = []
    for bond in topology.bonds():
        pair = bond.atom1.index, bond.atom2.index
        if (pair[0] in region.inside) == (pair[1] in region.inside):
            continue
        ml_atom, mm_atom = pair if pair[0] in region.inside else pair[::-1]
        _check_bond(region, bond, ml_atom, mm_atom)
        distance = given.pop(frozenset(pair), None) or _usual_distance(region, ml_atom, mm_atom)
        links.append(Link(ml_atom, mm_atom, distance * ANGSTROM_PER_NM))
    if given:
        pairs = shorten(" and ".join(map(str, sorted(pair))) for pair in given)
        raise InputError(
            f"linkAtomDistances: expected bonds between the ML region and the rest, got {pairs}"
        )
    counts = Counter(link.mm_atom for link in links)
    crowded = [region.name(atom) for atom, count in counts.items() if count > 1]
    if crowded:  # link atoms would be too close
        raise InputError(
            "atoms: expected at most one cut bond at an MM atom, got several at "
            f"{shorten(crowded)}; take this atom into the ML region, or leave one of "
            "its neighbours out"
        )
    if links and _HYDROGEN not in known_elements:
        raise InputError(
            "atoms: the border of the ML region cuts bonds, but the model has no hydrogen for link "
            "atoms; take whole molecules"
        )
    return tuple(links)


def _given_distances(distances: Iterable[tuple[int, int, Any]]) -> dict[frozenset[int], float]:
    """The `linkAtomDistances` of openmm-ml, by bond [nm]."""
    given: dict[frozenset[int], float] = {}
    try:
        for first, second, distance in distances:
            if unit.is_quantity(distance):
                distance = distance.value_in_unit(unit.nanometer)
            given[frozenset((int(first), int(second)))] = float(distance)
    except (TypeError, ValueError) as error:
        raise InputError(
            "linkAtomDistances: expected a list of (atom, atom, distance), such as "
            f"[(4, 8, 0.107 * nanometer)]: {error}"
        ) from None
    for distance in given.values():
        if not (math.isfinite(distance) and distance > 0.0):
            raise InputError(f"linkAtomDistances: expected distances above 0 nm, got {distance}")
    return given


def _check_bond(region: MLRegion, bond: app.topology.Bond, ml_atom: int, mm_atom: int) -> None:
    """Refuse a cut that a hydrogen atom cannot cap; warn of one that changes the chemistry."""
    elements = [region.topology_atoms[atom].element for atom in (ml_atom, mm_atom)]
    what = f"the bond from {region.name(ml_atom)} to {region.name(mm_atom)}"
    advice = "move the border of the ML region, at best to a single bond between carbon atoms"
    if _HYDROGEN in (element and element.atomic_number for element in elements):
        raise InputError(f"atoms: {what} cuts off a hydrogen atom; {advice}")
    around = region.graph.separation(ml_atom, mm_atom, _LARGEST_RING - 1, direct=False)
    if around is not None:
        raise InputError(f"atoms: {what} is part of a ring of {around + 1} atoms; {advice}")
    unsaturated = [_is_unsaturated(region, atom) for atom in (ml_atom, mm_atom)]
    terminal = any(
        len(region.graph.neighbors[atom]) == 1 and element.atomic_number != _CARBON
        for atom, element in zip((ml_atom, mm_atom), elements, strict=True)
        if element is not None
    )
    known = str(bond.type) if bond.type is not None else None
    is_multiple = known in _MULTIPLE or (bond.order or 1) > 1
    if is_multiple or (known is None and all(unsaturated) and terminal):
        raise InputError(f"atoms: {what} is a multiple bond; {advice}")
    if known is None and bond.order is None and all(unsaturated):
        logger.warning(
            "%s may be a multiple or conjugated bond, for which hydrogen is no cap", what
        )
    if any(element is None or element.atomic_number != _CARBON for element in elements):
        logger.warning("%s is polar: hydrogen is a poor cap for it; %s", what, advice)


def _is_unsaturated(region: MLRegion, atom: int) -> bool:
    element = region.topology_atoms[atom].element
    valence = _VALENCE.get(element.atomic_number, 0) if element is not None else 0
    return len(region.graph.neighbors[atom]) < valence


def _usual_distance(region: MLRegion, ml_atom: int, mm_atom: int) -> float:
    element = region.topology_atoms[ml_atom].element
    if element.atomic_number not in _RADIUS:
        raise InputError(
            f"linkAtomDistances: expected the distance of a link atom from {region.name(ml_atom)}, "
            f"since none is known for {element.symbol}; give linkAtomDistances="
            f"[({ml_atom}, {mm_atom}, distance)]"
        )
    return _RADIUS[element.atomic_number] + _RADIUS[_HYDROGEN]


def add_virtual_sites(
    system: openmm.System, topology: app.Topology, links: Iterable[Link]
) -> tuple[app.Topology, list[int]]:
    """Append link atoms to a System as particles: a virtual site for each cut bond.

    A site takes no part in nonbonded forces. Whatever its parameters, it might interact in a
    `CustomNonbondedForce`; there it is excluded from all others, and OpenMM requires the same
    exclusions in all forces.

    Returns:
        A topology with a chain of hydrogen atoms at the end, one in a residue, and their indices.
    """
    for force in system.getForces():
        if isinstance(force, openmm.CustomNonbondedForce) and force.getUseLongRangeCorrection():
            raise InputError(
                f"linkAtoms='virtual': the long-range correction of {force.getName()} would count "
                "link atoms as atoms; use linkAtoms='internal', or setUseLongRangeCorrection(False)"
            )
    extended = copy.deepcopy(topology)
    chain = extended.addChain()
    for number, link in enumerate(links):
        residue = extended.addResidue(f"V{number}", chain)
        extended.addAtom(residue.name, app.element.hydrogen, residue)
        _add_particle(system, link)
    return extended, list(range(topology.getNumAtoms(), extended.getNumAtoms()))


def _add_particle(system: openmm.System, link: Link) -> None:
    index = system.addParticle(0.0)
    axis_x, no_axis, distance = [-1.0, 1.0], [0.0, 0.0], link.distance / ANGSTROM_PER_NM
    site = openmm.LocalCoordinatesSite(
        [link.ml_atom, link.mm_atom], [1.0, 0.0], axis_x, no_axis, [distance, 0.0, 0.0]
    )
    system.setVirtualSite(index, site)
    forces = system.getForces()
    is_custom = any(isinstance(force, openmm.CustomNonbondedForce) for force in forces)
    others = range(index) if is_custom else ()
    for force in forces:
        if isinstance(force, openmm.CustomNonbondedForce):
            force.addParticle([0.0] * force.getNumPerParticleParameters())
            for other in others:
                force.addExclusion(other, index)
        elif isinstance(force, openmm.NonbondedForce):
            force.addParticle(0.0, 1.0, 0.0)
            for other in others:
                force.addException(other, index, 0.0, 1.0, 0.0)
