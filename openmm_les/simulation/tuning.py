"""Chooses how the model of a run is computed, once; the run records it and never chooses again.

Another way to compute a model changes the last bits of its results, so that a run that continues
must use what it began with, whatever has been measured since.
"""

from __future__ import annotations

import logging

from openmm_les import catalog
from openmm_les.arrays import FloatArray
from openmm_les.artifact import Artifact
from openmm_les.errors import InputError, one_line
from openmm_les.evaluation.engines import decisions
from openmm_les.evaluation.engines.variant import Decision, Variant
from openmm_les.evaluation.system_model import SystemModel
from openmm_les.networks.kernels import obstacle, usual_kernels
from openmm_les.plugin.forces.present import models_in
from openmm_les.simulation import builder
from openmm_les.simulation.builder import State
from openmm_les.simulation.checkpoint import Checkpoint
from openmm_les.simulation.config import RunConfig
from openmm_les.simulation.hybrid import Hybrid, prepare_hybrid
from openmm_les.simulation.phase import Job
from openmm_les.simulation.structures.structure import Structure, read_structure
from openmm_les.units import ANGSTROM_PER_NM

logger = logging.getLogger(__name__)

#: Runs of fewer steps do not measure. A number of steps and not a time, so that whether a run
#: measures does not depend on how busy the machine is.
_STEPS_WORTH_MEASURING = 50_000


def recorded(checkpoint: Checkpoint) -> Variant | None:
    """How a run that continues computes its model; None for the usual way of its device.

    Raises:
        InputError: with kernels that are not installed any more.
    """
    if checkpoint.variant is None:
        # Of an older version: on a CPU it was torch code, whatever is installed now.
        config = RunConfig(**checkpoint.resolved)
        return Variant() if _is_open(config) and config.device == "cpu" else None
    variant = Variant.from_json(checkpoint.variant)
    if reason := obstacle(variant.kernels):
        raise InputError(
            f"checkpoint: a run continues with the kernels that it began with; {reason} in a new "
            "run"
        )
    return variant


def _is_open(config: RunConfig) -> bool:
    """Whether the settings leave open how the model is computed."""
    return config.engine == "auto" and config.backend == "pythonforce"


def choose(job: Job, state: State, steps: int) -> Variant | None:
    """How a new run of so many steps computes its model; None for the usual way of its device.

    On a CPU that depends on what is installed, and is recorded like everything else.

    Args:
        job: with a configuration of `resolve_config` and its capacity for neighbours.
        state: where the run begins.
        steps: of the run, and of what follows it.
    """
    if not _is_open(job.config):
        return None
    usual: Variant | None = None
    if job.config.device == "cpu":
        usual = Variant(kernels=usual_kernels(on_gpu=False))
    is_long = steps >= _STEPS_WORTH_MEASURING
    if not is_long and not any(decisions.folder().glob("*.json")):
        return usual
    model, positions, cell = _model(job.config, job.structure, job.artifact, state, job.hybrid)
    decision = model.decision
    if decision is None and is_long:
        job.callbacks.message("measuring how the model is computed fastest here")
        try:
            decision = model.tune(positions, cell)
        except Exception as error:  # a run that works goes on
            logger.warning("the model is computed in the usual way: %s", one_line(error))
        if job.stop:
            job.callbacks.message("stopped while measuring; continuing means starting again")
            job.stop.raise_deferred()
    if decision is None:
        return usual
    job.callbacks.message(f"engine='auto': {decision}")
    return decision.variant


def tune(config: RunConfig, *, again: bool = False) -> Decision:
    """Measure for the start structure of a run, and keep the decision where runs find it.

    Args:
        config: settings of the run; its directory is not touched.
        again: measure even if there is a decision.

    Raises:
        InputError: a structure or setting that cannot be used.
        SimulationError: the structure has no valid energy, or nothing could be measured.
    """
    if config.backend == "torchforce":
        raise InputError(
            "backend: expected auto or pythonforce, got torchforce, whose module is not chosen"
        )
    artifact = catalog.open_model(config.model)
    chosen = config.model_copy(update={"backend": "pythonforce"})
    chosen = builder.resolve_config(chosen)
    structure, hybrid = prepare_hybrid(chosen, read_structure(chosen.structure))
    state = State(structure.positions, None, structure.box)
    if chosen.max_neighbors is None:
        slots = builder.choose_max_neighbors(artifact, state, hybrid)
        chosen = chosen.model_copy(update={"max_neighbors": slots})
    model, positions, cell = _model(chosen, structure, artifact, state, hybrid)
    return model.tune(positions, cell, again=again)


def _model(
    config: RunConfig,
    structure: Structure,
    artifact: Artifact,
    state: State,
    hybrid: Hybrid | None,
) -> tuple[SystemModel, FloatArray, FloatArray | None]:
    """The model of the System of a run, by itself, with its positions and box [A]."""
    system = builder.create_system(config, structure, artifact, state.box, hybrid)
    found = models_in(system)[0]
    positions = ANGSTROM_PER_NM * state.positions[list(found.particles)]
    cell = None if state.box is None else ANGSTROM_PER_NM * state.box
    return found.compute.prepare(artifact, cell, positions), positions, cell
