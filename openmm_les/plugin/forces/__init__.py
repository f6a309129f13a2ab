"""OpenMM forces that compute an LES model, whatever the backend."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import openmm

from openmm_les.names import shorten
from openmm_les.plugin.forces import backends, present
from openmm_les.plugin.forces.options import ForceOptions
from openmm_les.plugin.forces.present import FORCE_NAME
from openmm_les.plugin.forces.region import Region

if TYPE_CHECKING:
    from openmm_les.artifact import Artifact

__all__ = ["ForceOptions", "Region", "add_force", "install"]

logger = logging.getLogger(__name__)

MOLECULES_NAME = "LES molecules"


def add_force(
    system: openmm.System, artifact: Artifact, region: Region, options: ForceOptions
) -> openmm.Force:
    """Add the model to a System, and bonds of zero energy that keep its molecules together.

    Args:
        system: gets the new forces.
        artifact: the model.
        region: which particles it describes.
        options: how it is computed.

    Returns the LES force, which belongs to `system`.

    Raises:
        InputError: a backend was asked for that cannot work here, the box is too small, or a model
            in `system` describes some of the particles already.
    """
    present.refuse_second_model(system, region.particles)
    backend = backends.choose(
        options.backend,
        device=options.device,
        is_placeholder=region.is_placeholder,
        needs_python=_needs_python(options),
    )
    force = backends.build(backend, artifact, region, options)
    install(force, system, region, options.forceGroup)
    return force


def _needs_python(options: ForceOptions) -> str:
    """Why only a PythonForce can do what the options ask for; empty if others can."""
    from openmm_les.evaluation.engines.arithmetic import reduced_precision

    if options.engine == "compile":
        return "engine='compile' needs a PythonForce"
    if options.variant is not None:
        return "variant needs a PythonForce"
    if options.precision == "single" and (precision := reduced_precision()):
        return (
            f"torch is set to replace float32 by {precision} in matrix products, which changes the "
            "forces, and only a PythonForce can avoid that; call "
            "torch.set_float32_matmul_precision('highest')"
        )
    return ""


def install(force: openmm.Force, system: openmm.System, region: Region, force_group: int) -> None:
    """Give a System the force of a model, and what keeps the molecules of its region together."""
    if not region.periodic:
        logger.info(
            "the model is not periodic, since the topology (or the force field) has no box; box "
            "vectors that are set later in the System or a Context do not change that"
        )
    elif region.loose:
        logger.warning(
            "atoms of %s have no bonds: OpenMM treats each of them as a molecule, so that a "
            "barostat moves them and a trajectory wraps them one by one; add their bonds to the "
            "topology (CONECT records of a PDB file, Topology.addBond)",
            shorten(region.loose),
        )
    force.setName(FORCE_NAME)
    force.setForceGroup(force_group)
    system.addForce(force)
    # In a placeholder only real forces are collected, each as a variable of its own.
    if region.bonds and not region.is_placeholder:
        # Without energy: OpenMM keeps what they connect whole in wrapping and barostats.
        bonds = openmm.CustomBondForce("0")
        bonds.setName(MOLECULES_NAME)
        bonds.setForceGroup(force_group)
        for first, second in region.bonds:
            bonds.addBond(first, second, [])
        system.addForce(bonds)
