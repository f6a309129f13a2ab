"""The directory of a campaign: its table of runs, and one directory for each run."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from openmm_les.campaign.plan import PlannedRun, table
from openmm_les.campaign.state import MARKER, RUNS, TABLE, read_table
from openmm_les.campaign.work import Runs, Work
from openmm_les.errors import InputError, OutputError
from openmm_les.files.locks import Timeout, exclusive_lock
from openmm_les.files.reading import Kind, boundary, read_file
from openmm_les.files.writing import write_atomically, writing
from openmm_les.names import shorten
from openmm_les.simulation.fields import LARGEST_SEED

_LOCK = ".campaign.lock"
_FORMAT = 1
#: Files that are written at a time: most of the time goes into waiting for the disk.
_WRITERS = 16
_KIND = Kind(InputError, "output", "output: {file} is damaged: {reason}")


class CampaignDirectory:
    """Where a campaign is, on a file system that all its workers share."""

    def __init__(self, path: Path, work: Work | None = None) -> None:
        self.path = path.absolute()
        self.work = work or Runs()

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes that execute this campaign out.

        A plan that is refused before there is a campaign leaves no directory behind.
        """
        made = [path for path in (self.path, *self.path.parents) if not path.exists()]
        lock = self.path / _LOCK
        with contextlib.ExitStack() as held:
            with writing(self.path):
                try:
                    held.enter_context(exclusive_lock(lock))
                except Timeout:  # is an OSError
                    raise InputError(
                        f"output: the campaign in {self.path} is executed by another process; "
                        "wait for it, or choose another directory"
                    ) from None
            try:
                yield
            finally:
                if made and not (self.path / MARKER).exists():
                    with contextlib.suppress(OSError):  # something of the user is there
                        lock.unlink()
                        for path in made:
                            path.rmdir()

    def prepare_runs(
        self, plan: Callable[[int], Sequence[PlannedRun]], seed: int | None
    ) -> list[PlannedRun]:
        """Write the table of runs and the settings of each, which is all that a run needs.

        Nothing is written before all runs are found valid, and those that have begun unchanged; an
        InputError otherwise.

        Args:
            plan: gives the runs for a seed.
            seed: None for that with which this campaign began, or a new one.
        """
        self._refuse_alien()
        seed = seed or self._seed() or 1 + secrets.randbelow(LARGEST_SEED)
        runs = [self._placed(run) for run in plan(seed)]
        self._refuse_missing(runs)
        changed = [run for run in runs if not self.work.is_written(run)]
        for run in changed:
            self.work.check_begun(run)
        with writing(self.path):
            (self.path / RUNS).mkdir(parents=True, exist_ok=True)
        marker = {"format": _FORMAT, "seed": seed}
        write_atomically(self.path / MARKER, (json.dumps(marker) + "\n").encode())
        write_atomically(self.path / TABLE, table(runs).encode())
        with ThreadPoolExecutor(_WRITERS) as pool:
            list(pool.map(self.work.write, changed))
        return runs

    def _placed(self, run: PlannedRun) -> PlannedRun:
        output = self.path / RUNS / run.name
        return replace(run, config=run.config.model_copy(update={"output": output}))

    def _refuse_alien(self) -> None:
        if (self.path / MARKER).exists():
            return
        if found := [name for name in (TABLE, RUNS) if os.path.lexists(self.path / name)]:
            raise OutputError(
                f"output: {self.path} has {', '.join(found)}, which no campaign wrote there; "
                "choose a directory of its own"
            )

    def _seed(self) -> int | None:
        """The seed with which this campaign began."""
        path = self.path / MARKER
        if not path.exists():
            return None
        with boundary(path, _KIND):
            return int(json.loads(read_file(path))["seed"])

    def _refuse_missing(self, runs: Sequence[PlannedRun]) -> None:
        """A run that has begun must still be in the plan."""
        names = {run.name for run in runs}
        known = read_table(self.path) if (self.path / TABLE).exists() else []
        others = (entry for entry in known if entry.name not in names)
        if gone := [entry.name for entry in others if self.work.has_begun(entry.directory)]:
            raise InputError(
                f"output: runs that have begun are not in the plan any more: {shorten(gone)}; put "
                f"their values back, or remove their directories from {self.path / RUNS}"
            )
