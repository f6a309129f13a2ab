"""Replica exchange with OpenMM's own sampler, in one Context, with checkpoints."""

from __future__ import annotations

import contextlib
import json
import os
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import openmm
from openmm import app, unit

from openmm_les import catalog
from openmm_les.errors import InputError, OutputError, SimulationError
from openmm_les.files.writing import write_atomically, writing
from openmm_les.processes.signals import defer_signals
from openmm_les.processes.threads import unmeasured
from openmm_les.repex.checkpoint import ExchangeCheckpoint, Metadata
from openmm_les.repex.settings import (
    TEMPERATURE,
    States,
    read_settings,
    start_of,
    states_of,
)
from openmm_les.simulation import output as outputs
from openmm_les.simulation import runner, tuning
from openmm_les.simulation.builder import create_simulation, reseed
from openmm_les.simulation.checkpoint import Checkpoint, FileState
from openmm_les.simulation.config import CONFIG, RunConfig
from openmm_les.simulation.hybrid import prepare_hybrid
from openmm_les.simulation.output import RunDirectory
from openmm_les.simulation.phase import Job, reported_with_step
from openmm_les.simulation.progress import Progress, RunCallbacks, warn_once
from openmm_les.simulation.shared_settings import without_flags
from openmm_les.simulation.structures.structure import read_structure
from openmm_les.simulation.summary import Summary, speed

#: The run that relaxes the structure, what OpenMM's reporter writes, the last checkpoint.
START, REPLICAS, CHECKPOINT = "start", "replicas", "checkpoint.zip"
LOG, ENERGIES = "log.csv", "energy.csv"
_PHASE = "exchange"


@dataclass(frozen=True)
class _Exchange:
    """What an exchange needs in this process."""

    job: Job
    directory: Path
    parameter: str
    values: tuple[float, ...]
    iterations: int
    settings: dict[str, Any]  #: What may not change when it continues


def run(
    settings: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    callbacks: RunCallbacks | None = None,
) -> Path:
    """Minimise, equilibrate and exchange replicas, from where an earlier process ended.

    The first Ctrl-C or SIGTERM stops it after the steps of a replica and raises what Python would
    have; the iteration is then done again.

    Args:
        settings: YAML file, as `read_settings` reads it.
        output: directory for everything that is written.
        callbacks: learns what happens; by default it is logged.

    Returns:
        The directory with what OpenMM's `ReplicaExchangeReporter` writes.

    Raises:
        InputError: settings or files that cannot be used, or changed since the exchange began.
        OutputError: a file that cannot be written.
        SimulationError: the simulation broke; what it had is kept.
    """
    file, directory = Path(settings), Path(output).absolute()
    try:
        return _run(file, directory, callbacks or RunCallbacks())
    except (InputError, OutputError) as error:  # of the run from which replicas begin, too
        raise type(error)(without_flags(str(error), directory)) from error


def _run(file: Path, directory: Path, callbacks: RunCallbacks) -> Path:
    chosen = read_settings(file)
    first, *_ = states = states_of(chosen, file, directory / START)
    start, fixed = start_of(states), _fixed(chosen, first)
    _refuse_alien(directory)
    owned = RunDirectory(directory)
    refuse_changed(chosen, states, directory)
    is_new = Summary.read(directory / START / outputs.SUMMARY) is None
    runner.run(
        start,
        resume=True,
        callbacks=_Equilibration(callbacks) if is_new else None,
        more_steps=first.steps * len(chosen.values),
    )
    with defer_signals() as stop, owned.locked(), warn_once(), unmeasured():
        began = Checkpoint.read(directory / START / outputs.CHECKPOINT)
        resolved = RunConfig(**began.resolved)
        structure, hybrid = prepare_hybrid(resolved, read_structure(resolved.structure))
        artifact = catalog.open_model(resolved.model)
        variant = tuning.recorded(began)
        job = Job(start, resolved, structure, artifact, owned, callbacks, stop, hybrid, variant)
        number = first.steps // first.report_interval
        values = chosen.values
        exchange = _Exchange(job, directory, chosen.parameter, values, number, fixed)
        _sample(exchange, began, states)
        _summarise(exchange)
    return directory / REPLICAS


def _sample(exchange: _Exchange, began: Checkpoint, states: Sequence[RunConfig]) -> None:
    """Make all iterations that are left."""
    job, last = exchange.job, ExchangeCheckpoint.read(exchange.directory / CHECKPOINT)
    done = 0 if last is None else last.metadata.iteration
    if done >= exchange.iterations:
        job.callbacks.message(f"this exchange is finished: {done} iterations are done")
        return
    box = None if began.box is None else np.array(began.box)
    seed = (_PHASE, done)
    simulation = create_simulation(
        job.config,
        job.structure,
        job.artifact,
        states[0].ensemble,
        box,
        seed,
        job.hybrid,
        job.variant,
    )
    sampler, reporter = _sampler(exchange, simulation, began, last)
    sampler.reporters.append(reporter)
    if last is not None:
        job.callbacks.message(f"continuing after iteration {done} of {exchange.iterations}")
    before = wall = 0.0 if last is None else last.metadata.wall_seconds
    for iteration in range(done + 1, exchange.iterations + 1):
        started = time.perf_counter()
        where = f"after iteration {iteration - 1}"
        with reported_with_step(where, job), writing(exchange.directory / REPLICAS):
            sampler.simulate(1)
        wall += time.perf_counter() - started
        _save(exchange, sampler, wall)
        reseed(job.config, simulation, _PHASE, iteration, keep_state=False)
        steps = (iteration - done) * job.config.report_interval * len(exchange.values)
        rate = speed(steps * job.config.time_step * 1e-3, wall - before)
        job.callbacks.progress(Progress(_PHASE, iteration, exchange.iterations, rate))


def _summarise(exchange: _Exchange) -> None:
    """Write how many steps each replica has made, and how fast."""
    config, last = exchange.job.config, ExchangeCheckpoint.read(exchange.directory / CHECKPOINT)
    if last is not None:
        steps = last.metadata.iteration * config.report_interval
        picoseconds = len(exchange.values) * steps * config.time_step * 1e-3
        summary = {"steps": steps, "ns_per_day": speed(picoseconds, last.metadata.wall_seconds)}
        text = json.dumps(summary) + "\n"
        write_atomically(exchange.directory / outputs.SUMMARY, text.encode())


class _Sampler(app.ReplicaExchangeSampler):  # type: ignore[misc]
    """Exchanges by random numbers that depend on seed and iteration alone, and ends on a signal."""

    job: Job

    def simulateReplica(self, index: int, steps: int | None = None) -> None:
        if self.job.stop:  # what this iteration has done is done again
            self.job.callbacks.message(f"stopped after iteration {self.currentIteration}")
            self.job.stop.raise_deferred()
        super().simulateReplica(index, steps)

    def exchangeReplicas(self) -> None:
        before = random.getstate()
        random.seed(f"{self.job.config.seed}/{_PHASE}/{self.currentIteration}")
        try:
            super().exchangeReplicas()
        except OverflowError:
            raise SimulationError.with_remedy(
                "the energies of two replicas in each other's states differ too much; put more "
                "states in between, or equilibrate longer"
            ) from None
        finally:
            random.setstate(before)


def _sampler(
    exchange: _Exchange,
    simulation: app.Simulation,
    began: Checkpoint,
    last: ExchangeCheckpoint | None,
) -> tuple[app.ReplicaExchangeSampler, app.ReplicaExchangeReporter]:
    """The sampler in the state of its last checkpoint, or at its start, and its reporter."""
    simulation.context.loadCheckpoint(began.context)
    simulation.currentStep = 0
    simulation.context.setTime(0.0)
    scale = unit.kelvin if exchange.parameter == TEMPERATURE else 1
    states = [{exchange.parameter: value * scale} for value in exchange.values]
    sampler = _Sampler(states, simulation, exchange.job.config.report_interval)
    sampler.job = exchange.job
    done = 0 if last is None else last.metadata.iteration
    reseed(exchange.job.config, simulation, _PHASE, done, keep_state=False)
    folder = exchange.directory / REPLICAS
    if last is None:
        _clear(folder)
    else:
        for name, state in last.metadata.outputs.items():
            state.restore(folder / name)
        for index, replica in enumerate(last.replicas):  # where the reporter expects them
            (folder / f"checkpoint_{index}.xml").write_bytes(replica)
    options = {"trajectoryPerState": True, "energy": True, "resume": last is not None}
    reporter = app.ReplicaExchangeReporter(str(folder), 1, sampler, **options)
    if last is not None:  # the reporter knows the states before the last exchange
        sampler.replicaStateIndex = list(last.metadata.states)
    return sampler, reporter


def _save(exchange: _Exchange, sampler: app.ReplicaExchangeSampler, wall: float) -> None:
    folder = exchange.directory / REPLICAS
    growing = [LOG, ENERGIES, *(f"state_{i}.xtc" for i in range(len(exchange.values)))]
    for name in growing:
        with (folder / name).open("rb") as stream:
            os.fsync(stream.fileno())
    metadata = Metadata(
        iteration=sampler.currentIteration,
        states=list(sampler.replicaStateIndex),
        wall_seconds=wall,
        outputs={name: FileState.of(folder / name) for name in growing},
        settings=exchange.settings,
    )
    serialize = openmm.XmlSerializer.serialize
    replicas = tuple(serialize(state).encode() for state in sampler.replicaConformation)
    ExchangeCheckpoint(metadata, replicas).write(exchange.directory / CHECKPOINT)


class _Equilibration(RunCallbacks):
    """Calls the steps of the run from which replicas begin what they are here."""

    def __init__(self, callbacks: RunCallbacks) -> None:
        self._callbacks = callbacks

    def message(self, text: str) -> None:
        self._callbacks.message(text.replace(" of production", " of equilibration"))

    def progress(self, progress: Progress) -> None:
        self._callbacks.progress(replace(progress, phase="equilibration"))


def _fixed(settings: States, first: RunConfig) -> dict[str, Any]:
    """What may not change, and is no setting of the run from which replicas begin."""
    return {settings.parameter: list(settings.values), "report_interval": first.report_interval}


def refuse_changed(settings: States, states: Sequence[RunConfig], directory: Path) -> None:
    """Refuse other states for an exchange that has begun, and fewer steps (InputError).

    Other settings are left to the run from which replicas begin.
    """
    first, start = states[0], start_of(states)
    given = _fixed(settings, first) | {"equilibration_steps": start.steps}
    before: dict[str, Any] = {}
    if (last := ExchangeCheckpoint.read(directory / CHECKPOINT)) is not None:
        before = last.metadata.settings
    if (began := RunDirectory(directory / START).checkpoint()) is not None:
        before = before | {"equilibration_steps": began.requested["steps"]}
    changed = [
        f"{name}: this exchange was started with {value}, got {given.get(name)}"
        for name, value in before.items()
        if given.get(name) != value
    ]
    if changed:
        raise InputError(
            f"{'; '.join(changed)}; only steps may change: put it back, or choose another output "
            "directory"
        )
    done = 0 if last is None else last.metadata.iteration * start.report_interval
    if first.steps < done:
        raise InputError(
            f"steps: expected at least the {done} that this exchange has done, got {first.steps}"
        )


def _refuse_alien(directory: Path) -> None:
    """Refuse a directory that has files by our names which no exchange wrote."""
    names = (START, REPLICAS, CHECKPOINT, outputs.SUMMARY)
    found = [name for name in names if os.path.lexists(directory / name)]
    if found and not (directory / START / CONFIG).is_file():
        raise OutputError(
            f"output: {directory} has {', '.join(found)}, which no exchange wrote there; choose a "
            "directory of its own"
        )


def _clear(folder: Path) -> None:
    """Remove what an exchange wrote that was ended before its first checkpoint."""
    if folder.is_dir():
        for path in folder.iterdir():
            if path.name in (LOG, ENERGIES) or path.suffix in (".xtc", ".xml"):
                with contextlib.suppress(FileNotFoundError):
                    path.unlink()
