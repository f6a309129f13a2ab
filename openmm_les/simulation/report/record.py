"""What a report is made of: the job, how it ended, and what its files say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from openmm_les import catalog
from openmm_les.simulation import output
from openmm_les.simulation.checkpoint import Checkpoint
from openmm_les.simulation.config import RunConfig
from openmm_les.simulation.phase import Job
from openmm_les.simulation.summary import read_log

TIME = "Time (ps)"
_PS_PER_FS = 1e-3

Columns = Mapping[str, list[float]]


@dataclass(frozen=True)
class Record:
    """A run that has ended."""

    job: Job
    problem: BaseException | None  #: What ended it; None where it is finished
    config: RunConfig  #: With the choices for this machine
    checkpoint: Checkpoint | None
    #: Columns of the logs; empty without rows
    production: Columns
    equilibration: Columns

    @classmethod
    def read(cls, job: Job, problem: BaseException | None) -> Record:
        """The record of a job that a `problem` has ended."""
        checkpoint = job.directory.checkpoint()
        chosen = {} if checkpoint is None else checkpoint.chosen
        logs = []
        for name in (output.LOG, output.EQUILIBRATION_LOG):
            path = job.directory / name
            columns = read_log(path, is_growing=True) if path.exists() else {}
            logs.append(columns if columns.get(TIME) else {})
        return cls(job, problem, job.config.model_copy(update=chosen), checkpoint, *logs)

    @property
    def is_stopped(self) -> bool:
        """Whether it was asked to stop."""
        return isinstance(self.problem, KeyboardInterrupt | SystemExit)

    @property
    def entry(self) -> catalog.Entry | None:
        """What the catalogue says of the model, if that has a name."""
        name = self.config.model
        return catalog.entry(name) if name in catalog.names() else None

    def picoseconds(self, steps: int) -> float:
        """The time of so many steps [ps]."""
        return steps * self.config.time_step * _PS_PER_FS
