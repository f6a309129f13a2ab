"""Executes a campaign: every run of its plan that is not finished yet."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from openmm_les.campaign.directory import CampaignDirectory
from openmm_les.campaign.engine import Outcome, Task, connect, execute
from openmm_les.campaign.plan import PlannedRun, planned_runs, read_plan
from openmm_les.campaign.progress import CampaignCallbacks, Pulse, Survey
from openmm_les.campaign.state import (
    Entry,
    RunState,
    line,
    read_table,
    state_of,
    write_failure,
)
from openmm_les.campaign.work import Work
from openmm_les.errors import OutputError

if TYPE_CHECKING:
    from distributed import Client

#: Time between reports of progress [s].
_INTERVAL = 5.0


@dataclass(frozen=True)
class Result:
    """How a campaign ended."""

    states: list[RunState]  #: In the order of the table
    failures: dict[str, str]  #: Why runs failed, by name

    def line(self) -> str:
        """One line for the terminal."""
        text = line(self.states)
        if not self.failures:
            return text
        name, error = next(iter(self.failures.items()))
        return f"{text}; the first one that failed is {name}: {error}"


def run(
    plan: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    client: Client | None = None,
    workers: int | None = None,
    scheduler: str | None = None,
    callbacks: CampaignCallbacks | None = None,
) -> Result:
    """Execute all runs of a plan that are not finished, each from where it was ended.

    Args:
        plan: YAML file, as `read_plan` reads it.
        output: directory of the campaign, on a file system that all workers share.
        client: of a Dask cluster of one's own, in place of `workers` or `scheduler`, which are
            those of `connect`. Where a scheduler has no workers yet, runs wait for them.
        callbacks: learns what happens; by default it is logged.

    Returns:
        How all runs ended; one that fails does not stop the others.

    Raises:
        InputError: the plan is not valid, or differs from what has begun.
        OutputError: the directory cannot be written, or is not that of a campaign.
        SimulationError: the connection to the scheduler was lost.
    """
    file = Path(plan)
    planned = read_plan(file)
    return run_planned(
        lambda seed: planned_runs(planned, seed, file),
        output,
        seed=planned.seed,
        client=client,
        workers=workers,
        scheduler=scheduler,
        callbacks=callbacks,
    )


def run_planned(
    plan: Callable[[int], Sequence[PlannedRun]],
    output: str | os.PathLike[str],
    *,
    seed: int | None = None,
    work: Work | None = None,
    client: Client | None = None,
    workers: int | None = None,
    scheduler: str | None = None,
    callbacks: CampaignCallbacks | None = None,
) -> Result:
    """Execute the runs that `plan` gives for a seed; see `run`.

    `work` says what each of them is; one of `openmm-les run` if it is left out.
    """
    callbacks = callbacks or CampaignCallbacks()
    directory = CampaignDirectory(Path(output), work)
    with directory.locked():
        directory.prepare_runs(plan, seed)
        entries = read_table(directory.path)
        waiting = [entry for entry in entries if state_of(entry).name != "finished"]
        done = len(entries) - len(waiting)
        callbacks.message(f"{len(entries)} runs in {directory.path}, {done} of them finished")
        failures: dict[str, str] = {}
        if waiting:
            with _connected(client, workers, scheduler) as connected:
                failures = _execute(connected, directory.work, entries, waiting, callbacks)
        return Result([state_of(entry) for entry in entries], failures)


@contextlib.contextmanager
def _connected(
    client: Client | None, workers: int | None, scheduler: str | None
) -> Iterator[Client]:
    if client is not None:
        yield client
        return
    with connect(workers, scheduler) as own:
        yield own


def _execute(
    client: Client,
    work: Work,
    entries: list[Entry],
    waiting: list[Entry],
    callbacks: CampaignCallbacks,
) -> dict[str, str]:
    """Execute the runs that are waiting; returns why some failed."""
    failures: dict[str, str] = {}
    folders = {entry.name: entry for entry in waiting}
    survey = Survey(entries)
    tasks = [Task(each.name, work.command(each.directory), each.directory) for each in waiting]
    with (
        Pulse(lambda: callbacks.progress(survey.progress()), _INTERVAL),
        contextlib.closing(execute(client, tasks, say=callbacks.message)) as outcomes,
    ):
        for number, outcome in enumerate(outcomes, len(entries) - len(waiting) + 1):
            entry = folders[outcome.name]
            if outcome.error is not None:
                failures[outcome.name] = outcome.error
                _record(entry, outcome.error)
            callbacks.message(f"[{number}/{len(entries)}] {_ended(entry, outcome)}")
    return failures


def _record(entry: Entry, error: str) -> None:
    try:
        write_failure(entry.directory, error)
    except OutputError as problem:
        raise OutputError(
            f"{problem}; make room: the same command continues every run where it was ended"
        ) from problem


def _ended(entry: Entry, outcome: Outcome) -> str:
    if outcome.error is not None:
        return f"{outcome.name} failed: {outcome.error}"
    speed = state_of(entry).ns_per_day
    return f"{outcome.name} finished{'' if speed is None else f', {speed:.3g} ns/day'}"
