"""One phase of a run: its Simulation, its files, and its checkpoints.

A resumed run gives the same bits as one that was never interrupted because both take the same path:
whatever a checkpoint does not hold (state of the barostat, buffers of the model) is a function of
what it does hold, and is set to that at every checkpoint in every run.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType

import numpy as np
import openmm
from openmm import unit

from openmm_les.arrays import FloatArray
from openmm_les.artifact import Artifact
from openmm_les.errors import InputError, OutputError, SimulationError
from openmm_les.plugin.guard import TemperatureGuard
from openmm_les.processes.signals import StopRequest
from openmm_les.simulation import output, summary
from openmm_les.simulation.builder import (
    Phase,
    State,
    create_simulation,
    draw_velocities,
    environment,
    reseed,
    set_positions,
)
from openmm_les.simulation.checkpoint import Checkpoint
from openmm_les.simulation.config import RunConfig
from openmm_les.simulation.hybrid import Hybrid
from openmm_les.simulation.messages import run_terms
from openmm_les.simulation.output import PhaseOutput, RunDirectory
from openmm_les.simulation.progress import Progress, RunCallbacks
from openmm_les.simulation.structures.structure import Structure

logger = logging.getLogger(__name__)

#: Steps between two looks at the signals; OpenMM itself returns to Python as often.
_BATCH = 10
#: Change of the volume at which the model gets new buffers. At 15 % it makes them by itself, in the
#: middle of an interval, where a resumed run would not know of them.
_NEW_BUFFERS = 0.10
#: Pieces of messages that have a remedy of their own.
_OWN_REMEDY = ("the latent charges of the ML region", "take a smaller time step")


@dataclass(frozen=True)
class Job:
    """What all phases of a run share.

    Attributes:
        requested: the configuration as given.
        config: with the choices made for this machine, from `resolve_config`.
        structure: the start structure, with the virtual sites of the force field.
        artifact: the model.
        directory: where everything goes.
        callbacks: learns what happens.
        stop: whether to end.
        hybrid: region of the model and force field; None where the model describes everything.
    """

    requested: RunConfig
    config: RunConfig
    structure: Structure
    artifact: Artifact
    directory: RunDirectory
    callbacks: RunCallbacks
    stop: StopRequest
    hybrid: Hybrid | None = None


class PhaseRun:
    """This process's work on one phase; a context manager that closes the files.

    Args:
        job: what all phases share.
        phase: what to do.
        entry: where to begin, or the checkpoint of this phase from which to continue.

    Attributes:
        wall_seconds: time spent in the steps of this phase, by all processes [s].
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
        self.wall_seconds = self._wall_before
        self._output = PhaseOutput(job.directory, job.config, phase, self._box is not None)
        self._simulation.reporters = [TemperatureGuard(_BATCH), *self._output.reporters]
        if isinstance(entry, State):
            self._checkpoint()

    def __enter__(self) -> PhaseRun:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if isinstance(error, OutputError):  # half a row helps nobody
            self._output.abandon()
            self._job.directory.take_back(self._saved)
        else:
            self._output.close()

    def advance(self) -> State:
        """Run to the end of the phase, with a checkpoint after every report.

        Raises:
            SimulationError: the simulation blew up.
            KeyboardInterrupt, SystemExit: a signal asked to stop.
        """
        interval = self._job.config.report_interval
        while (step := self._simulation.currentStep) < self._phase.steps:
            to_report = interval - step % interval
            started = time.perf_counter()
            with blow_ups(f"after step {step} of {self._phase.name}", self._job):
                self._simulation.step(min(_BATCH, to_report))
            self.wall_seconds += time.perf_counter() - started
            if to_report <= _BATCH:
                self._checkpoint()
            self._tell_progress()
            if self._job.stop:
                self._end_in_order()
        state = self._simulation.context.getState(positions=True, velocities=True)
        return State(
            state.getPositions(asNumpy=True).value_in_unit(unit.nanometer),
            state.getVelocities(asNumpy=True).value_in_unit(unit.nanometer / unit.picosecond),
            self._present_box(),
        )

    def write_structure(self, name: str) -> None:
        """Write the present positions, molecules wrapped into the box as in the trajectory."""
        state = self._simulation.context.getState(
            positions=True, enforcePeriodicBox=self._box is not None
        )
        topology, positions = self._job.structure.topology, state.getPositions(asNumpy=True)
        self._job.directory.write_structure(name, topology, positions, self._present_box())

    def _create(self, step: int) -> openmm.app.Simulation:
        """A Simulation whose random numbers and buffers are those of this step."""
        job = self._job
        return create_simulation(
            job.config,
            job.structure,
            job.artifact,
            self._phase.ensemble,
            self._box,
            (self._phase.name, step),
            job.hybrid,
        )

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
        set_positions(self._simulation, state.positions)
        if state.velocities is None:
            draw_velocities(self._job.config, self._simulation)
        else:
            self._simulation.context.setVelocities(
                state.velocities * unit.nanometer / unit.picosecond
            )

    def _present_box(self) -> FloatArray | None:
        if self._box is None:
            return None
        vectors = self._simulation.context.getState().getPeriodicBoxVectors(asNumpy=True)
        return np.array(vectors.value_in_unit(unit.nanometer))

    def _checkpoint(self) -> None:
        """Save, and go on as a run that continues from here would."""
        if not self._has_memory:
            self._save()
            return
        if self._needs_buffers():
            logger.info("the volume has changed: new buffers for the model")
            self._box = self._present_box()
            reporters = self._simulation.reporters
            self._open(self._save())
            self._simulation.reporters = reporters
        else:
            step = self._save().step
            reseed(self._job.config, self._simulation, self._phase.name, step)

    @property
    def _has_memory(self) -> bool:
        """Whether the Context holds more than a checkpoint of it: see `reseed`."""
        return self._phase.ensemble == "NPT" or self._job.hybrid is not None

    def _needs_buffers(self) -> bool:
        now, before = self._present_box(), self._box
        if now is None or before is None:
            return False
        return bool(abs(np.linalg.det(now) / np.linalg.det(before) - 1.0) > _NEW_BUFFERS)

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
        )
        checkpoint.write(job.directory / output.CHECKPOINT)
        self._saved = checkpoint
        return checkpoint

    def _tell_progress(self) -> None:
        step = self._simulation.currentStep
        done_ps = (step - self._first_step) * self._job.config.time_step * 1e-3
        speed = summary.speed(done_ps, self.wall_seconds - self._wall_before)
        self._job.callbacks.progress(Progress(self._phase.name, step, self._phase.steps, speed))

    def _end_in_order(self) -> None:
        step = self._simulation.currentStep
        # With a memory a run that continued from here would take another path.
        if not self._has_memory and step != self._saved.step:
            self._save()
        self._job.callbacks.message(
            f"stopped after step {step} of {self._phase.name}; the checkpoint has step "
            f"{self._saved.step}"
        )
        self._job.stop.raise_deferred()


@contextlib.contextmanager
def blow_ups(where: str, job: Job) -> Iterator[None]:
    """Turn what OpenMM and its reporters raise for a broken simulation into one clear error."""
    try:
        yield
    except (openmm.OpenMMException, SimulationError) as error:
        raise _broken(where, job, str(error)) from error
    except ValueError as error:  # of reporters, by which they mean just that
        if "NaN" in str(error) or "infinite" in str(error):
            raise _broken(where, job, str(error)) from error
        raise


def _broken(where: str, job: Job, reason: str) -> SimulationError:
    reason = run_terms(" ".join(reason.split()), job.structure.topology)
    remedy = ""
    if not any(piece in reason for piece in _OWN_REMEDY):
        remedy = "look at the start structure; a smaller time_step or more minimise_iterations may "
        remedy += "help; "
    return SimulationError(
        f"the simulation broke {where}: {reason} ({remedy}everything up to there is kept in "
        f"{job.directory.path})"
    )
