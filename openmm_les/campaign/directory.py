"""The directory of a campaign: its table of runs, and one directory for each run."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

from openmm_les import catalog
from openmm_les.artifact import Artifact
from openmm_les.campaign.plan import PlannedRun, table
from openmm_les.campaign.state import MARKER, RUNS, TABLE, read_table
from openmm_les.errors import InputError, LESError, OutputError
from openmm_les.files.locks import Timeout, exclusive_lock
from openmm_les.files.reading import Kind, boundary, read_file
from openmm_les.files.writing import write_atomically, writing
from openmm_les.names import shorten
from openmm_les.simulation.config import CONFIG
from openmm_les.simulation.fields import LARGEST_SEED
from openmm_les.simulation.output import RunDirectory
from openmm_les.simulation.runner import check_same_run
from openmm_les.simulation.shared_settings import without_flags

_LOCK = ".campaign.lock"
_FORMAT = 1
#: Files that are written at a time: most of the time goes into waiting for the disk.
_WRITERS = 16
_KIND = Kind(InputError, "output", "output: {file} is damaged: {reason}")


class CampaignDirectory:
    """Where a campaign is, on a file system that all its workers share."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes that execute this campaign out.

        What was refused before it became a campaign leaves no directory behind.
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
                    with contextlib.suppress(OSError):  # something of the user
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
        changed = [run for run in runs if not self._is_written(run)]
        sha256_of, model_of = cache(_sha256), cache(catalog.open_model)
        for run in changed:
            _check_begun(run, sha256_of, model_of)
        with writing(self.path):
            (self.path / RUNS).mkdir(parents=True, exist_ok=True)
        marker = {"format": _FORMAT, "seed": seed}
        write_atomically(self.path / MARKER, (json.dumps(marker) + "\n").encode())
        write_atomically(self.path / TABLE, table(runs).encode())
        with ThreadPoolExecutor(_WRITERS) as pool:
            list(pool.map(_write_settings, changed))
        return runs

    def _placed(self, run: PlannedRun) -> PlannedRun:
        output = self.path / RUNS / run.name
        config = run.config.model_copy(update={"output": output})
        return PlannedRun(run.name, run.varied, run.repeat, config)

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
        if gone := [entry.name for entry in others if _has_begun(entry.directory)]:
            raise InputError(
                f"output: {len(gone)} runs that have begun are not in the plan any more: "
                f"{shorten(gone)}; put their values back, or remove their directories from "
                f"{self.path / RUNS}"
            )

    def _is_written(self, run: PlannedRun) -> bool:
        """Whether the settings of a run are in its directory already."""
        try:
            text = (run.config.output / CONFIG).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            return False
        return text == RunDirectory(run.config.output).config_text(run.config)


def _write_settings(run: PlannedRun) -> None:
    with writing(run.config.output):
        run.config.output.mkdir(parents=True, exist_ok=True)
    RunDirectory(run.config.output).write_config(run.config)


def _has_begun(directory: Path) -> bool:
    try:
        return bool(RunDirectory(directory).existing())
    except LESError:  # something of the user
        return False


def _check_begun(
    run: PlannedRun, sha256_of: Callable[[Path], str], model_of: Callable[[str], Artifact]
) -> None:
    """Refuse other settings for a run that has a checkpoint, except for more steps."""
    config = run.config
    try:
        checkpoint = RunDirectory(config.output).checkpoint()
        if checkpoint is not None:
            check_same_run(config, sha256_of(config.structure), model_of(config.model), checkpoint)
    except InputError as error:
        text = without_flags(str(error), config.output)
        raise InputError(f"the run {run.name} has begun, and {text}") from None


def _sha256(path: Path) -> str:
    with boundary(path, Kind(InputError, "structure", "structure: {file}: {reason}")):
        return hashlib.sha256(read_file(path)).hexdigest()
