"""From a System of a force field to one with a model in part of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import openmm
from openmm import app

from openmm_les.errors import InputError
from openmm_les.plugin.forces import ForceOptions, Region, add_force, backends, install, present
from openmm_les.plugin.mixed import bonded, nonbonded
from openmm_les.plugin.mixed.decisions import refuse_unsuitable
from openmm_les.plugin.mixed.field import MMField, read_field
from openmm_les.plugin.mixed.interpolation import (
    LAMBDA,
    Sums,
    check_constraints,
    scaled,
    warn_of_missing_bonds,
)
from openmm_les.plugin.mixed.links import Link, find_links
from openmm_les.plugin.mixed.options import ElectrostaticOptions, MixedOptions
from openmm_les.plugin.mixed.region import MLRegion, follow_system
from openmm_les.plugin.mixed.sites import add_sites

if TYPE_CHECKING:
    from openmm_les.artifact import Artifact


@dataclass(frozen=True)
class MixedSystem:
    """What ``createMixedSystem`` returns.

    Attributes:
        system: the mixed System.
        topology: its topology; with virtual link atoms a new one.
        old_to_new: index in `topology` of each atom of the given one.
    """

    system: openmm.System
    topology: app.Topology
    old_to_new: list[int]


def create_mixed_system(
    artifact: Artifact,
    topology: app.Topology,
    system: openmm.System,
    atoms: Iterable[int],
    interpolate: bool,
    options: MixedOptions,
    force_options: ForceOptions,
    electrostatic: ElectrostaticOptions | None = None,
) -> MixedSystem:
    """Put a model in the place of a force field inside a region.

    Mechanical embedding: E = E_MM - E_MM(ML-ML) + E_ML. Electrostatic embedding, in addition: minus
    the Coulomb interactions of the MM charges of the region with all others, plus those of its
    latent charges. With lambda, all of these terms but E_MM are multiplied by it.

    Args:
        artifact: the model.
        topology: topology of `system`; stays as it is.
        system: System of a force field; stays as it is.
        atoms: the ML region; none that a model in `system` describes already.
        interpolate: whether the global parameter ``lambda_interpolate`` leads from the force field
            (0) to the mixed System (1).
        options: link atoms, and what becomes of single forces.
        force_options: how the model is computed.
        electrostatic: how MM charges act on the region; None for mechanical embedding.

    Raises:
        InputError: atoms, cut bonds or forces that cannot be used, each named.
    """
    region = MLRegion.from_topology(topology, system, atoms, artifact.elements)
    present.refuse_second_model(system, region.atoms, region.name)
    if electrostatic:
        _refuse_second_field(system)
    links = find_links(region, topology, options.linkAtomDistances, artifact.elements)
    refuse_unsuitable(system, options.wishes)
    field = read_field(system, region, links, electrostatic) if electrostatic else None
    mixed, removed = bonded.split(system, region, options.wishes)
    sites: list[int] = []
    if links and options.linkAtoms == "virtual":
        topology, sites = add_sites(mixed, topology, links)
    sums = Sums()
    if interpolate:
        check_constraints(system, removed, region)
        warn_of_missing_bonds(system, region)
        for force in removed:
            sums.add(f"1-{LAMBDA}", force, force.getForceGroup())
        if field:
            nonbonded.fade_charges(mixed, region.particles, field.taken, sums)
        else:
            nonbonded.fade(mixed, region.particles, sums)
    else:
        if field:
            nonbonded.remove_charges(mixed, region.particles, field.taken)
        nonbonded.remove(mixed, region.particles, sums)
    sums.add_to(mixed)

    if electrostatic and field:
        _add_embedded_model(
            mixed, artifact, region, field, links, force_options, electrostatic, interpolate
        )
    elif sites:
        plain = Region.from_topology(topology, mixed, list(region.atoms) + sites, artifact.elements)
        _add_model(mixed, artifact, follow_system(plain, mixed), force_options, (), interpolate)
    else:
        _add_model(mixed, artifact, region.plain, force_options, links, interpolate)
    return MixedSystem(mixed, topology, list(range(system.getNumParticles())))


def _refuse_second_field(system: openmm.System) -> None:
    """Refuse a second region among MM charges: neither would feel the latent charges of the other.

    Raises:
        InputError: there is one already.
    """
    charged = [model for model in present.models_in(system) if "charges" in model.compute.settings]
    if charged:
        raise InputError(
            "embedding='electrostatic': expected one region among MM charges, got a System that "
            f"has one already ({len(charged[0].atoms)} atoms of the force {charged[0].name!r}), "
            "with which this one would not interact; give the atoms of both in one call, or embed "
            "all but one of them mechanically"
        )


def _add_model(
    system: openmm.System,
    artifact: Artifact,
    region: Region,
    options: ForceOptions,
    links: Sequence[Link],
    interpolate: bool,
) -> None:
    """Add the force of the model, which computes `links` itself, times lambda."""
    if not links and not interpolate:
        add_force(system, artifact, region, options)
        return
    reason = "interpolate=True needs a PythonForce"
    if links:
        reason = "linkAtoms='internal' needs a PythonForce, linkAtoms='virtual' does not"
    backends.choose(
        options.backend, device=options.device, is_placeholder=False, needs_python=reason
    )
    from openmm_les.plugin.mixed import compute  # imports torch only when it is called

    force: openmm.Force = compute.build(artifact, region, options, links, interpolate)
    if interpolate:
        force = scaled(force, knows_slope=True)
    install(force, system, region, options.forceGroup)


def _add_embedded_model(
    system: openmm.System,
    artifact: Artifact,
    region: MLRegion,
    field: MMField,
    links: Sequence[Link],
    options: ForceOptions,
    electrostatic: ElectrostaticOptions,
    interpolate: bool,
) -> None:
    """Add the force of the model with its Coulomb interactions with all others."""
    backends.choose(
        options.backend,
        device=options.device,
        is_placeholder=False,
        needs_python="embedding='electrostatic' needs a PythonForce",
    )
    from openmm_les.plugin.mixed import embedded  # imports torch only when it is called

    number = system.getNumParticles()
    force: openmm.Force = embedded.build(
        artifact, region, field, links, options, electrostatic, interpolate, number
    )
    if interpolate:
        force = scaled(force, knows_slope=False)
    install(force, system, region.plain, options.forceGroup)
