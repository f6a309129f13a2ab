"""What each run of a campaign is: a resumable command of openmm-les with its settings in a file."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path
from typing import Protocol

from openmm_les import catalog
from openmm_les.artifact import Artifact
from openmm_les.campaign.plan import PlannedRun
from openmm_les.errors import InputError, LESError
from openmm_les.files.reading import Kind, boundary, read_file
from openmm_les.files.writing import writing
from openmm_les.simulation.config import CONFIG, RunConfig
from openmm_les.simulation.output import RunDirectory
from openmm_les.simulation.runner import check_same_run
from openmm_les.simulation.shared_settings import without_flags

_STRUCTURE = Kind(InputError, "structure", "structure: {file}: {reason}")


class Work(Protocol):
    """How the directory of a run gets its settings, and which command executes them there."""

    def command(self, directory: Path) -> tuple[str, ...]:
        """Arguments of ``openmm-les`` that begin the run in a directory, or continue it."""
        ...

    def has_begun(self, directory: Path) -> bool:
        """Whether there is something in a directory that a run has computed."""
        ...

    def is_written(self, run: PlannedRun) -> bool:
        """Whether the settings of a run are in its directory already."""
        ...

    def check_begun(self, run: PlannedRun) -> None:
        """Refuse other settings for a run that has begun, except for more steps (InputError)."""
        ...

    def write(self, run: PlannedRun) -> None:
        """Write the settings of a run into its directory."""
        ...


class Runs:
    """Each run is one of `openmm-les run`."""

    def __init__(self) -> None:
        self._same = SameInputs()

    def command(self, directory: Path) -> tuple[str, ...]:
        return ("run", str(directory), "--resume")

    def has_begun(self, directory: Path) -> bool:
        try:
            return bool(RunDirectory(directory).existing())
        except LESError:  # something of the user
            return False

    def is_written(self, run: PlannedRun) -> bool:
        text = RunDirectory(run.config.output).config_text(run.config)
        return holds(run.config.output / CONFIG, text)

    def check_begun(self, run: PlannedRun) -> None:
        try:
            self._same.check(run.config)
        except InputError as error:
            text = without_flags(str(error), run.config.output)
            raise InputError(f"the run {run.name} has begun, and {text}") from None

    def write(self, run: PlannedRun) -> None:
        with writing(run.config.output):
            run.config.output.mkdir(parents=True, exist_ok=True)
        RunDirectory(run.config.output).write_config(run.config)


class SameInputs:
    """Compares runs with their checkpoints; every file that runs share is read once."""

    def __init__(self) -> None:
        self._sha256_of, self._model_of = cache(_sha256), cache(_model)

    def check(self, config: RunConfig) -> None:
        """Refuse settings that are not those of the checkpoint in `config.output`, if any."""
        checkpoint = RunDirectory(config.output).checkpoint()
        if checkpoint is not None:
            sha256, model = self._sha256_of(config.structure), self._model_of(config.model)
            check_same_run(config, sha256, model, checkpoint)


def holds(file: Path, text: str) -> bool:
    """Whether a file has this text."""
    try:
        return file.read_text(encoding="utf-8") == text
    except (OSError, UnicodeDecodeError):
        return False


def _model(name: str) -> Artifact:
    return catalog.open_model(name)


def _sha256(path: Path) -> str:
    with boundary(path, _STRUCTURE):
        return hashlib.sha256(read_file(path)).hexdigest()
