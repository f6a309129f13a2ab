"""One phase of a run: its Simulation, its files, and its checkpoints.

A resumed run is bit-identical to an uninterrupted one: what a checkpoint lacks (state of the
barostat, buffers of the model) is a function of what it holds, and every run resets it to that at
each checkpoint.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import openmm
from openmm import unit

from openmm_les.arrays import FloatArray
from openmm_les.artifact import Artifact
from openmm_les.errors import InputError, OutputError, SimulationError
from openmm_les.evaluation.engines.variant import Variant
from openmm_les.plugin.guard import TemperatureGuard
from openmm_les.processes.interrupts import force_error
from openmm_les.processes.signals import StopRequest
from openmm_les.simulation import builder, output, summary
from openmm_les.simulation.builder import Phase, State, create_simulation, environment, reseed
from openmm_les.simulation.checkpoint import Checkpoint
from openmm_les.simulation.config import RunConfig
from openmm_les.simulation.hybrid import Hybrid
from openmm_les.simulation.messages import run_terms
from openmm_les.simulation.output import PhaseOutput, RunDirectory
from openmm_les.simulation.progress import Progress, RunCallbacks
from openmm_les.simulation.structures.structure import Structure

logger = logging.getLogger(__name__)

#: Steps between checks for signals; OpenMM itself returns to Python as often.
_BATCH = 10
#: Relative change of the volume at which the model gets new buffers, at a checkpoint. At 15 % it
#: would resize them by itself, between checkpoints, and a resumed run would differ.
_VOLUME_CHANGE = 0.10


@dataclass(frozen=True)
class Job:
    """What all phases of a run share."""

    requested: RunConfig  #: The configuration as given
    #: The configuration with the choices made for this machine, from `resolve_config`
    config: RunConfig
    structure: Structure
    artifact: Artifact
    directory: RunDirectory
    callbacks: RunCallbacks
    stop: StopRequest  #: Whether a signal asked to stop
    hybrid: Hybrid | None = None
    variant: Variant | None = None  #: How the model is computed; None: in the usual way
    warnings: list[str] = field(default_factory=list)  #: So far, by all processes; it grows
    is_part: bool = False  #: Whether a plan of several runs states its steps


class PhaseRun:
    """One phase in this process; a context manager that closes the files.

    It begins with a state, or continues from a checkpoint of the same phase.
    """

    def __init__(self, job: Job, phase: Phase, entry: State | Checkpoint) -> None:
        self._job = job
        self._phase = phase
        if isinstance(entry, Checkpoint):
            self._box = None if entry.box is None else np.array(entry.box)
            self._first_step, self._saved = entry.step, entry
            self._wall_before = entry.wall_seconds
            self._open(entry)
        else:
            self._box = entry.box
            self._first_step = 0
            self._wall_before = 0.0
            self._simulation = self._create(0)
            self._set_state(entry)
        self.wall_seconds = self._wall_before  #: of steps of this phase, by all processes [s]
        self._output = PhaseOutput(job.directory, job.config, phase, self._box is not None)
        self._simulation.reporters = [TemperatureGuard(_BATCH), *self._output.reporters]
        if isinstance(entry, State):
            self._checkpoint()

    def __enter__(self) -> PhaseRun:
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if isinstance(error, OutputError):  # leave no partial rows
            self._output.abandon()
            # As far as possible on a full disk; resuming does it again.
            with contextlib.suppress(OSError, InputError):
                self._job.directory.restore(self._saved)
        else:
            self._output.close()

    def advance(self) -> State:
        """Run to the end of the phase, with a checkpoint after every report."""
        interval = self._job.config.report_interval
        while (step := self._simulation.currentStep) < self._phase.steps:
            to_report = interval - step % interval
            started = time.perf_counter()
            with reported_with_step(f"after step {step} of {self._phase.name}", self._job):
                self._simulation.step(min(_BATCH, to_report))
            self.wall_seconds += time.perf_counter() - started
            if to_report <= _BATCH:
                self._checkpoint()
            self._report_progress()
            if self._job.stop:
                self._stop()
        state = self._simulation.context.getState(positions=True, velocities=True)
        return State(
            state.getPositions(asNumpy=True).value_in_unit(unit.nanometer),
            state.getVelocities(asNumpy=True).value_in_unit(unit.nanometer / unit.picosecond),
            self._current_box(),
        )

    def write_structure(self, name: str) -> None:
        """Write the current positions, with molecules wrapped as in the trajectory."""
        state = self._simulation.context.getState(
            positions=True, enforcePeriodicBox=self._box is not None
        )
        topology, positions = self._job.structure.topology, state.getPositions(asNumpy=True)
        self._job.directory.write_structure(name, topology, positions, self._current_box())

    def _create(self, step: int) -> openmm.app.Simulation:
        """A Simulation with the random numbers of this step and buffers for this box."""
        job, phase = self._job, self._phase
        inputs = (job.config, job.structure, job.artifact)
        seed = (phase.name, step)
        return create_simulation(*inputs, phase.ensemble, self._box, seed, job.hybrid, job.variant)

    def _open(self, checkpoint: Checkpoint) -> None:
        self._simulation = self._create(checkpoint.step)
        try:
            self._simulation.context.loadCheckpoint(checkpoint.context)
        except openmm.OpenMMException as error:
            written_with = ", ".join(f"{k} {v}" for k, v in checkpoint.environment.items())
            raise InputError(
                f"checkpoint: OpenMM cannot load {self._job.directory / output.CHECKPOINT} "
                f"({error}); it was written with {written_with}"
            ) from error

    def _set_state(self, state: State) -> None:
        builder.set_positions(self._simulation, state.positions)
        if state.velocities is None:
            builder.draw_velocities(self._job.config, self._simulation)
        else:
            velocities = state.velocities * unit.nanometer / unit.picosecond
            self._simulation.context.setVelocities(velocities)

    def _current_box(self) -> FloatArray | None:
        if self._box is None:
            return None
        vectors = self._simulation.context.getState().getPeriodicBoxVectors(asNumpy=True)
        return np.array(vectors.value_in_unit(unit.nanometer))

    def _checkpoint(self) -> None:
        """Save, and continue in the state of a run that resumes from here."""
        if not self._has_hidden_state:
            self._save()
            return
        if self._needs_buffers():
            logger.info("the volume has changed: new buffers for the model")
            self._box = self._current_box()
            reporters = self._simulation.reporters
            self._open(self._save())
            self._simulation.reporters = reporters
        else:
            reseed(self._job.config, self._simulation, self._phase.name, self._save().step)

    @property
    def _has_hidden_state(self) -> bool:
        """Whether the Context has state that its checkpoint lacks: see `reseed`."""
        return self._phase.ensemble == "NPT" or self._job.hybrid is not None

    def _needs_buffers(self) -> bool:
        now, before = self._current_box(), self._box
        if now is None or before is None:
            return False
        return bool(abs(np.linalg.det(now) / np.linalg.det(before) - 1.0) > _VOLUME_CHANGE)

    def _save(self) -> Checkpoint:
        job = self._job
        self._output.sync()
        checkpoint = Checkpoint(
            phase=self._phase.name,
            step=self._simulation.currentStep,
            context=self._simulation.context.createCheckpoint(),
            box=None if self._box is None else self._box.tolist(),
            requested=job.requested.model_dump(mode="json"),
            resolved=job.config.model_dump(mode="json"),
            structure_sha256=job.structure.sha256,
            model_sha256=job.artifact.sha256,
            force_field_sha256=None if job.hybrid is None else job.hybrid.sha256,
            environment=environment(),
            wall_seconds=self.wall_seconds,
            outputs=job.directory.file_states(),
            variant=None if job.variant is None else job.variant.to_json(),
            warnings=list(job.warnings),
        )
        checkpoint.write(job.directory / output.CHECKPOINT)
        self._saved = checkpoint
        return checkpoint

    def _report_progress(self) -> None:
        step = self._simulation.currentStep
        done_ps = (step - self._first_step) * self._job.config.time_step * 1e-3
        speed = summary.speed(done_ps, self.wall_seconds - self._wall_before)
        self._job.callbacks.progress(Progress(self._phase.name, step, self._phase.steps, speed))

    def _stop(self) -> None:
        step = self._simulation.currentStep
        # With hidden state, a run that resumed from here would differ.
        if not self._has_hidden_state and step != self._saved.step:
            self._save()
        self._job.callbacks.message(
            f"stopped after step {step} of {self._phase.name}; the checkpoint has step "
            f"{self._saved.step}"
        )
        self._job.stop.raise_deferred()


@contextlib.contextmanager
def reported_with_step(where: str, job: Job) -> Iterator[None]:
    """Turn what OpenMM and its reporters raise into an error that says when it happened."""
    try:
        yield
    except openmm.OpenMMException as error:
        cause = force_error()
        if cause is None or str(cause) not in str(error):
            raise _broken(where, job, error) from error
        raise _broken(where, job, cause) from error
    except SimulationError as error:
        raise _broken(where, job, error) from error
    except ValueError as error:  # raised by reporters
        if "NaN" in str(error) or "infinite" in str(error):
            raise _broken(where, job, error) from error
        raise


def _broken(where: str, job: Job, error: Exception) -> SimulationError:
    reason = run_terms(" ".join(str(error).split()), job.structure.topology)
    remedy = ""
    if not (isinstance(error, SimulationError) and error.has_remedy):
        remedy = "look at the start structure; a smaller time_step or more minimise_iterations may "
        remedy += "help; "
    return SimulationError(
        f"the simulation broke {where}: {reason} ({remedy}everything up to there is kept in "
        f"{job.directory.path})"
    )
