"""MM charges that act on an electrostatically embedded ML region, read from a System."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import openmm

from openmm_les.arrays import FloatArray
from openmm_les.electrostatics.embedding.build import CUTOFF_METHODS, METHODS
from openmm_les.errors import InputError
from openmm_les.names import shorten
from openmm_les.plugin.mixed.boundary_charges import BondCharge, redistribute
from openmm_les.plugin.mixed.nonbonded import is_charged
from openmm_les.units import ANGSTROM_PER_NM

if TYPE_CHECKING:
    from openmm_les.plugin.mixed.embeddings.electrostatic import ElectrostaticOptions
    from openmm_les.plugin.mixed.links import Link
    from openmm_les.plugin.mixed.region import MLRegion

logger = logging.getLogger(__name__)

_CHARGE_LIKE = re.compile(r"(q|charge|chg)_?\d*", re.IGNORECASE)
# Charges of force fields add up to integers but for the first [e]. Where a bond is cut, less than
# the second is left, unless an ion is taken for something neutral.
_NO_CHARGE, _LARGE_CHARGE = 0.01, 0.5
# Neighbours over one and two bonds do not interact in any force field.
_EXCLUDED = 2


@dataclass(frozen=True)
class MMField:
    """The surroundings of an ML region."""

    #: Of all particles, 0 for the ML atoms, shape (n,) [e].
    charges: FloatArray
    on_bonds: tuple[BondCharge, ...]
    #: Of the Lennard-Jones sphere that each particle is in, 0 for none, shape (n,) [A]; all are 0
    #: without damping.
    radii: FloatArray
    #: By ML atom and MM particle, of pairs that interact in part or not at all.
    factors: dict[tuple[int, int], float]
    method: str
    #: Of the reaction field [A], as `dielectric`.
    cutoff: float
    dielectric: float
    #: Charge of the ML region [e].
    total: int
    #: By MM atom at a cut bond, its share of the difference between MM charge and `total` of the
    #: region [e]; part of `charges`.
    taken: dict[int, float]


def read_field(
    system: openmm.System, region: MLRegion, links: Sequence[Link], options: ElectrostaticOptions
) -> MMField:
    """Read the charges around a region from the System of the force field, if they can be used."""
    if region.sites:
        raise InputError(
            "embedding='electrostatic': expected an ML region without virtual sites, got "
            f"{shorten(map(region.name, region.sites))}, whose charges the model does not replace; "
            "leave these molecules to the force field, or use embedding='mechanical'"
        )
    force = _charged_force(system)
    method = METHODS[force.getNonbondedMethod()]
    cutoff = force.getCutoffDistance()._value
    _check_offsets(force)
    if force.usesPeriodicBoundaryConditions():
        _check_box(system, cutoff)
    if method in CUTOFF_METHODS:
        logger.warning(
            "embedding='electrostatic' with %s: a reaction field ends the interaction with the ML "
            "region at the cutoff, and the region does not meet its own images; PME has neither",
            method,
        )
    number = force.getNumParticles()
    charges = np.array([force.getParticleParameters(i)[0]._value for i in range(number)])
    inner = sorted(region.inside)
    classical = float(charges[inner].sum())
    total = options.total_charge(classical)

    around, hosts = charges.copy(), [link.mm_atom for link in links]
    around[inner] = 0.0
    taken = {}
    if options.boundaryCharges in ("shift", "rcd"):
        # With the charge of the region, that of all is the force field's.
        taken = {host: (classical - total) / len(hosts) for host in hosts}
        around[hosts] += [taken[host] for host in hosts]
    around, on_bonds = redistribute(
        around, hosts, region.graph.neighbors, region.inside, options.boundaryCharges
    )
    field = MMField(
        charges=around,
        on_bonds=on_bonds,
        radii=_radii(system, force, region) if options.mmDamping == "lj" else np.zeros(number),
        factors=_factors(force, charges, region),
        method=method,
        cutoff=cutoff * ANGSTROM_PER_NM,
        dielectric=force.getReactionFieldDielectric(),
        total=total,
        taken=taken,
    )
    _warn_of_charge(charges, classical, field, len(hosts), options.boundaryCharges)
    return field


def _warn_of_charge(
    charges: FloatArray, classical: float, field: MMField, num_hosts: int, scheme: str
) -> None:
    """Warn if the total charge changes, or if the MM atom at a cut bond gets a large charge."""
    before = float(charges.sum())
    on_bonds = sum(charge.charge for charge in field.on_bonds)
    after = float(field.charges.sum()) + on_bonds + field.total
    if abs(after - before) > _NO_CHARGE:
        logger.warning(
            "embedding='electrostatic': the whole system had a charge of %+.3f e and now has %+.3f "
            "e: the ML region has charge=%d in place of the %+.3f e of its MM charges, and %s",
            before,
            after,
            field.total,
            classical,
            f"boundaryCharges={scheme!r} leaves the rest out, which 'rcd' does not"
            if num_hosts
            else "no bond is cut whose MM atom could take the rest; the nearest integer is best",
        )
    elif abs(classical - field.total) > _LARGE_CHARGE * num_hosts > 0:
        logger.warning(
            "embedding='electrostatic': the ML region has charge=%d in place of the %+.3f e of its "
            "MM charges, and the MM atom at each cut bond takes %+.3f e so that the whole system "
            "keeps its %+.3f e; that is much for one place: is the charge right?",
            field.total,
            classical,
            (classical - field.total) / num_hosts,
            after,
        )


def _charged_force(system: openmm.System) -> openmm.NonbondedForce:
    """The one force that holds the charges of a System."""
    charged = []
    for force in system.getForces():
        if isinstance(force, openmm.NonbondedForce):
            charged += [force] if is_charged(force) else []
        elif isinstance(force, openmm.CustomNonbondedForce):
            number = force.getNumPerParticleParameters()
            names = [force.getPerParticleParameterName(i) for i in range(number)]
            if any(_CHARGE_LIKE.fullmatch(name) for name in names):
                raise InputError(
                    f"embedding='electrostatic': {force.getName()} has charges in a custom "
                    "expression, from which the ML region cannot be taken; expected all charges in "
                    "one NonbondedForce"
                )
    if len(charged) != 1:
        found = shorten(force.getName() for force in charged) if charged else "none"
        raise InputError(
            f"embedding='electrostatic': expected one NonbondedForce with charges, got {found}"
        )
    return charged[0]


def _check_offsets(force: openmm.NonbondedForce) -> None:
    particles = (
        force.getParticleParameterOffset(i) for i in range(force.getNumParticleParameterOffsets())
    )
    exceptions = (
        force.getExceptionParameterOffset(i) for i in range(force.getNumExceptionParameterOffsets())
    )
    varying = {name for name, _, charge, *_ in (*particles, *exceptions) if charge != 0.0}
    if varying:
        raise InputError(
            "embedding='electrostatic': expected charges that do not vary, got offsets of charges "
            f"that follow the global parameter {shorten(sorted(varying))} in {force.getName()}; "
            "use embedding='mechanical'"
        )


def _check_box(system: openmm.System, cutoff: float) -> None:
    vectors = [vector._value for vector in system.getDefaultPeriodicBoxVectors()]
    smallest = min(vectors[i][i] for i in range(3))
    if smallest < 2.0 * cutoff:
        raise InputError(
            f"embedding='electrostatic': expected a box at least twice the cutoff of {cutoff:g} nm "
            f"wide, got {smallest:g} nm; use a larger box, or a smaller cutoff"
        )


def _radii(system: openmm.System, force: openmm.NonbondedForce, region: MLRegion) -> FloatArray:
    """Half the distance of the Lennard-Jones minimum [A].

    Particles without such parameters, like the hydrogens of TIP3P, are inside the sphere of an atom
    that they are bonded to, or that a virtual site is placed by.
    """
    own = np.zeros(force.getNumParticles())
    for i in range(len(own)):
        _, sigma, epsilon = force.getParticleParameters(i)
        if epsilon._value != 0.0:
            own[i] = 0.5 * 2.0 ** (1.0 / 6.0) * sigma._value * ANGSTROM_PER_NM
    radii: FloatArray = own.copy()
    for i in np.flatnonzero(own == 0.0).tolist():
        around = region.graph.neighbors[i]
        if system.isVirtualSite(i):
            site = system.getVirtualSite(i)
            around = {site.getParticle(j) for j in range(site.getNumParticles())}
        radii[i] = max((own[j] for j in around), default=0.0)
    return radii


def _factors(
    force: openmm.NonbondedForce, charges: FloatArray, region: MLRegion
) -> dict[tuple[int, int], float]:
    """How strongly the pairs of the exceptions interact that cross the border of the region."""
    factors: dict[tuple[int, int], float] = {}
    unknown = []
    ratios = []
    for i in range(force.getNumExceptions()):
        first, second, product, *_ = force.getExceptionParameters(i)
        both = charges[first] * charges[second]
        if both != 0.0 and product._value != 0.0:
            ratios.append(product._value / both)
        if (first in region.inside) == (second in region.inside):
            continue
        pair = (first, second) if first in region.inside else (second, first)
        if both != 0.0:
            factors[pair] = product._value / both
        elif region.graph.separation(*pair, _EXCLUDED) is not None:
            factors[pair] = 0.0
        else:  # of charges that are zero the force field does not say
            unknown.append(pair)
    usual = float(np.median(ratios)) if ratios else 1.0
    factors.update((pair, usual) for pair in unknown)
    return factors
