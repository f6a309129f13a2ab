"""From a System of a force field to one with a model in part of it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

import openmm
from openmm import app

from openmm_les.names import LAMBDA
from openmm_les.plugin.forces import ForceOptions, present
from openmm_les.plugin.mixed import embeddings, interpolation
from openmm_les.plugin.mixed.embeddings import EmbeddingOptions, MixedRequest
from openmm_les.plugin.mixed.force_field import refuse_unsuitable, split_bonded
from openmm_les.plugin.mixed.interpolation import Sums
from openmm_les.plugin.mixed.links import add_virtual_sites, find_links
from openmm_les.plugin.mixed.options import MixedOptions
from openmm_les.plugin.mixed.region import MLRegion

if TYPE_CHECKING:
    from openmm_les.artifact import Artifact


class MixedSystem(NamedTuple):
    """What ``createMixedSystem`` returns."""

    system: openmm.System
    #: A new one with virtual link atoms.
    topology: app.Topology


def create_mixed_system(
    artifact: Artifact,
    topology: app.Topology,
    system: openmm.System,
    atoms: Iterable[int],
    *,
    interpolate: bool,
    embedding: str,
    options: MixedOptions,
    embedding_options: EmbeddingOptions | None,
    force_options: ForceOptions,
) -> MixedSystem:
    """Replace a force field by a model inside a region.

    With lambda, all that an embedding changes in the energy of the force field is multiplied by it.

    Args:
        artifact: the model.
        topology: topology of `system`; stays as it is.
        system: System of a force field; stays as it is.
        atoms: the ML region; none that a model in `system` describes already.
        interpolate: whether the global parameter ``lambda_interpolate`` leads from the force field
            (0) to the mixed System (1).
        embedding: one of `embeddings.names`.
        options: link atoms, and what becomes of single forces.
        embedding_options: those of the embedding, if it has any.
        force_options: how the model is computed.

    Raises:
        InputError: atoms, cut bonds or forces that cannot be used, each named.
    """
    region = MLRegion.from_topology(topology, system, atoms, artifact.elements)
    present.refuse_second_model(system, region.atoms, region.name)
    links = find_links(region, topology, options.linkAtomDistances, artifact.elements)
    refuse_unsuitable(system, options)
    request = MixedRequest(artifact, system, region, links, force_options, interpolate)
    embedded = embeddings.load(embedding)(request, embedding_options)
    mixed, removed = split_bonded(system, region, options)
    link_atoms: list[int] = []
    if links and options.linkAtoms == "virtual":
        topology, link_atoms = add_virtual_sites(mixed, topology, links)
    sums = Sums()
    if interpolate:
        interpolation.check_constraints(system, removed, region)
        interpolation.warn_of_missing_bonds(system, region)
        for force in removed:
            sums.add(f"1-{LAMBDA}", force, force.getForceGroup())
    embedded.change_nonbonded(mixed, sums)
    sums.add_to(mixed)
    embedded.add_model(mixed, topology, link_atoms)
    return MixedSystem(mixed, topology)
