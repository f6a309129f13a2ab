"""The force field of an ML/MM run: a System, created from force field files or read from XML."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path

import numpy as np
import openmm
from openmm import app, unit

from openmm_les.errors import InputError, one_line
from openmm_les.simulation import xml_files
from openmm_les.simulation.config import RunConfig
from openmm_les.simulation.structures.structure import Structure, with_box

logger = logging.getLogger(__name__)

_PERIODIC = ("CutoffPeriodic", "Ewald", "PME", "LJPME")


def make_force_field(config: RunConfig, structure: Structure) -> tuple[Structure, openmm.System]:
    """The System of the force field, and the structure that belongs to it.

    The virtual sites of the structure are replaced by those of the force field, and its box is
    dropped if the force field is not periodic.
    """
    if config.system is not None:
        system = _read(config.system, structure)
    else:
        structure, system = _create(config, structure)
    if system.usesPeriodicBoundaryConditions():
        _check_box(config, structure, system)
    elif structure.box is not None:
        logger.info("the force field has no periodic images: the box of the structure is left out")
        structure = dataclasses.replace(structure, topology=with_box(structure.topology, None))
    return structure, system


def _create(config: RunConfig, structure: Structure) -> tuple[Structure, openmm.System]:
    names = config.force_field or ()
    method = config.nonbonded_method
    if method == "auto":
        method = "NoCutoff" if structure.box is None else "PME"
    if structure.box is None and method in _PERIODIC:
        raise InputError(
            f"nonbonded_method: {method} needs a periodic box; expected box vectors in the "
            "structure (CRYST1 of a PDB file), got none"
        )
    xml_files.refuse_scripts(names)
    try:
        field = app.ForceField(*names)
    except Exception as error:  # the parser raises many kinds
        raise InputError(
            f"force_field: cannot read {', '.join(names)}: {one_line(error)}; expected XML files, "
            "or names of those that come with OpenMM, such as amber14-all.xml and amber14/tip3p.xml"
        ) from None
    try:
        structure = _with_sites(structure, field)
        system = field.createSystem(
            structure.topology,
            nonbondedMethod=getattr(app, method),
            nonbondedCutoff=config.nonbonded_cutoff * unit.nanometer,
            constraints=None if config.constraints == "none" else getattr(app, config.constraints),
            rigidWater=config.constraints != "none",
            # At small lambda bonds and angles of the region hold it together.
            flexibleConstraints=config.lambda_interpolate is not None,
        )
    except Exception as error:  # ValueError or a plain Exception
        raise InputError(
            f"force_field: {', '.join(names)} cannot describe the structure: {one_line(error)}; a "
            "residue without a template, such as a ligand, needs a force field file of its own, or "
            "a System made elsewhere (system: FILE.xml); missing atoms and bonds have to be added "
            "to the structure"
        ) from None
    return structure, system


def _with_sites(structure: Structure, field: app.ForceField) -> Structure:
    """Replace virtual sites by those of the force field; real atoms keep their order."""
    modeller = app.Modeller(structure.topology, structure.positions * unit.nanometer)
    sites = [atom for atom in structure.topology.atoms() if atom.element is None]
    if sites:
        modeller.delete(sites)
    modeller.addExtraParticles(field)
    before, after = structure.topology.getNumAtoms(), modeller.topology.getNumAtoms()
    if not sites and before == after:
        return structure
    logger.info("virtual sites of the force field: %+d particles", after - before)
    positions = np.array(modeller.positions.value_in_unit(unit.nanometer))
    return dataclasses.replace(structure, topology=modeller.topology, positions=positions)


def _read(path: Path, structure: Structure) -> openmm.System:
    system = xml_files.read_system(path)
    expected, got = structure.topology.getNumAtoms(), system.getNumParticles()
    if got != expected:
        raise InputError(
            f"system: expected {expected} particles, one for each atom of the structure in its "
            f"order, got {got} in {path}; write the structure with the System, virtual sites too"
        )
    return system


def _check_box(config: RunConfig, structure: Structure, system: openmm.System) -> None:
    """Check the box before OpenMM does, so that messages name settings of the run."""
    if structure.box is None:
        raise InputError(
            f"structure: expected a box (CRYST1 of a PDB file) since {config.system} is periodic, "
            "got none"
        )
    name = "nonbonded_cutoff" if config.system is None else f"system: {config.system}"
    width = float(np.diag(structure.box).min())
    for force in system.getForces():
        if not hasattr(force, "getCutoffDistance") or not force.usesPeriodicBoundaryConditions():
            continue
        cutoff = force.getCutoffDistance().value_in_unit(unit.nanometer)
        if 2.0 * cutoff > width:
            raise InputError(
                f"{name}: expected a cutoff of at most half the width of the box ({width:g} nm), "
                f"got {cutoff:g} nm"
            )
