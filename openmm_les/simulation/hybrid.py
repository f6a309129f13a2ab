"""ML/MM runs: the ML region, the System of the force field, and the mixed System."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import openmm
from openmm import app
from openmmml import MLPotential

from openmm_les.artifact import Artifact
from openmm_les.simulation.config import RunConfig
from openmm_les.simulation.force_field import make_force_field
from openmm_les.simulation.structures import selection
from openmm_les.simulation.structures.selection import SelectedRegion
from openmm_les.simulation.structures.structure import Structure, real_atoms

#: Force group of the model, so that its energy can be asked for.
_MODEL_GROUP = 1


@dataclass(frozen=True)
class Hybrid:
    """An ML region, and the force field of all atoms."""

    atoms: tuple[int, ...]
    ends: tuple[int, ...]  #: MM atoms of cut bonds, which link atoms replace
    system: openmm.System  #: Of the force field
    sha256: str
    selected: SelectedRegion


def prepare_hybrid(config: RunConfig, structure: Structure) -> tuple[Structure, Hybrid | None]:
    """Select the ML region, if the run has one, and create the System of the force field.

    The structure gets the virtual sites of the force field.
    """
    if config.ml_region is None:
        return structure, None
    chosen = selection.select(
        # A force field interpolates all atoms, as of a ligand in vacuum, too.
        structure.topology,
        config.ml_region,
        may_be_all=config.lambda_interpolate is not None,
    )
    selected = selection.describe(structure.topology, chosen)
    complete, system = make_force_field(config, structure)
    # Virtual sites come and go; the real atoms keep their order.
    before, after = (real_atoms(each.topology.atoms()) for each in (structure, complete))
    place = {old.index: new.index for old, new in zip(before, after, strict=True)}
    atoms = tuple(place[index] for index in chosen)
    cut = selection.cut_bonds(complete.topology, set(atoms))
    ends = tuple(sorted({mm.index for _, mm in cut}))
    content = hashlib.sha256(openmm.XmlSerializer.serialize(system).encode()).hexdigest()
    return complete, Hybrid(atoms, ends, system, content, selected)


def create_mixed_system(
    config: RunConfig,
    hybrid: Hybrid,
    topology: app.Topology,
    artifact: Artifact,
    options: Mapping[str, Any],
) -> openmm.System:
    """The mixed System in the box of the topology; `options` as for ``createSystem``."""
    system = openmm.XmlSerializer.clone(hybrid.system)
    box = topology.getPeriodicBoxVectors()
    if box is not None:  # the PME grid of the force field depends on it
        system.setDefaultPeriodicBoxVectors(*box)
    embedding: dict[str, Any] = {"embedding": config.embedding, "forceGroup": _MODEL_GROUP}
    embedding["interpolate"] = config.lambda_interpolate is not None
    if config.embedding == "electrostatic":
        embedding |= {
            "allowNetCharge": config.charge is not None,
            "chargeTolerance": config.charge_tolerance,
            "polarization": config.polarization,
            "conserveInducedCharge": config.conserve_induced_charge == "on",
            "mmDamping": config.mm_damping,
        }
    return MLPotential("les", modelPath=artifact.path).createMixedSystem(
        topology, system, list(hybrid.atoms), **embedding, **options
    )
