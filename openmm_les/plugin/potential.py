"""The potential that openmm-ml asks to add its forces to a System."""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Iterable
from types import FrameType
from typing import Any

import openmm
from openmm import app
from openmmml.mlpotential import MLPotential, MLPotentialImpl

from openmm_les import artifact as artifacts
from openmm_les import catalog
from openmm_les.errors import InputError
from openmm_les.plugin.forces import ForceOptions, Region, add_force
from openmm_les.plugin.mixed import create_mixed_system, embeddings, read_options

logger = logging.getLogger(__name__)

#: Licences that forbid some uses, in the words of the exporting user.
_RESTRICTIVE = re.compile(r"\bNC\b|non-?commercial|academic|\bASL\b", re.IGNORECASE)
_warned_licences: set[str] = set()


class LESPotentialImpl(MLPotentialImpl):  # type: ignore[misc]
    """An exported LES model as a potential of openmm-ml.

    Args:
        name: the name given to ``MLPotential``.
        modelPath: the artifact (``*.les.pt``), or the name of a model.

    Raises:
        ArtifactError: the file is missing, corrupt, too new, or not an openmm-les artifact.
    """

    def __init__(self, name: str, modelPath: str | os.PathLike[str]) -> None:
        self.name = name
        self.modelPath = catalog.find(modelPath)
        artifacts.inspect(self.modelPath)  # reject an invalid file early

    def addForces(
        self,
        topology: app.Topology,
        system: openmm.System,
        atoms: Iterable[int] | None,
        forceGroup: int,
        /,
        **args: Any,
    ) -> None:
        """Add the model to `system`; called by ``createSystem`` and ``createMixedSystem``.

        The region is periodic when `topology` has box vectors or `system` is periodic. Topology
        bonds inside the region become bonds of zero energy: OpenMM then keeps the molecules whole
        when it wraps positions and scales the box. A topology without bonds (a PDB file without
        CONECT records) makes every atom a molecule of its own.

        Args:
            topology: elements, bonds and box.
            system: gets the forces; may be empty (``interpolate=True``).
            atoms: indices of the atoms the model describes, kept in this order; None for all.
            forceGroup: openmm-ml's choice; a keyword argument ``forceGroup`` overrides it.
            **args: see `openmm_les.plugin.forces.ForceOptions`.

        Raises:
            InputError: unknown or invalid arguments, atoms the model cannot describe, a small box.
            ArtifactError: the model file cannot be read.
        """
        options = ForceOptions.from_arguments(forceGroup, args)
        artifact = artifacts.load(self.modelPath)
        _warn_of_licence(artifact)
        region = Region.from_topology(topology, system, atoms, artifact.elements)
        add_force(system, artifact, region, options)

    def createMixedSystem(
        self,
        topology: app.Topology,
        system: openmm.System,
        atoms: list[int],
        forceGroup: int,
        interpolate: bool,
        embedding: str,
        /,
        returnInfo: bool = False,
        **args: Any,
    ) -> openmm.System | dict[str, Any]:
        """Make a System with the model in part of it; called by ``createMixedSystem``.

        Args:
            topology: elements, bonds and names; stays as it is.
            system: System of a force field; stays as it is.
            atoms: indices of the atoms the model describes, kept in this order.
            forceGroup: force group of the model.
            interpolate: whether the global parameter ``lambda_interpolate`` leads from the force
                field (0) to the mixed System (1).
            embedding: one of `getSupportedEmbeddings`.
            returnInfo: return a dictionary with ``system``, ``topology`` and ``oldToNew``.
            **args: see `openmm_les.plugin.forces.ForceOptions`,
                `openmm_les.plugin.mixed.MixedOptions` and, for ``embedding='electrostatic'``,
                `openmm_les.plugin.mixed.ElectrostaticOptions`.

        Raises:
            InputError: unknown or invalid arguments; atoms, cut bonds or forces that cannot be
                used, each named.
            ArtifactError: the model file cannot be read.
        """
        _refuse_one_shot(atoms, sys._getframe(1))
        options, embedding_options, force_options = read_options(forceGroup, embedding, args)
        artifact = artifacts.load(self.modelPath)
        _warn_of_licence(artifact)
        mixed = create_mixed_system(
            artifact,
            topology,
            system,
            atoms,
            interpolate=interpolate,
            embedding=embedding,
            options=options,
            embedding_options=embedding_options,
            force_options=force_options,
        )
        if not returnInfo:
            return mixed.system
        # New particles come after those of the given topology.
        old_to_new = list(range(system.getNumParticles()))
        return {"system": mixed.system, "topology": mixed.topology, "oldToNew": old_to_new}

    def getMLLongRange(self) -> bool:
        """LES is long-ranged: in a periodic box the model sees its own images."""
        return True

    def getSupportedEmbeddings(self) -> list[str]:
        """Embeddings of our own; they take the place of openmm-ml's generic ones."""
        return embeddings.names()


def _refuse_one_shot(atoms: list[int], caller: FrameType) -> None:
    """Refuse `atoms` that cannot be read twice, such as a generator.

    openmm-ml reads them once for this package and once more to remove constraints from the region.
    A generator would then be empty and all constraints would stay. Only the frame of openmm-ml has
    what the user gave.
    """
    if caller.f_code is not MLPotential.createMixedSystem.__code__:
        return
    given = caller.f_locals.get("atoms", atoms)
    if len(list(given)) != len(atoms):
        raise InputError(
            f"atoms: expected a list of indices, got a {type(given).__name__}, which openmm-ml "
            "cannot read twice; write list(...) around it"
        )


def _warn_of_licence(artifact: artifacts.Artifact) -> None:
    """Warn, once in a process, that the licence of a model restricts its use."""
    licence = artifact.metadata.get("licence") or ""
    if _RESTRICTIVE.search(licence) and artifact.sha256 not in _warned_licences:
        _warned_licences.add(artifact.sha256)
        logger.warning("the licence of %s restricts its use: %s", artifact.path, licence)
