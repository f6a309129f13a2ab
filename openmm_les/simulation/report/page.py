"""The page itself: how the run ended, its parts in order, its files, and how to go on."""

from __future__ import annotations

import contextlib
import logging
import shlex
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from openmm_les.analysis.pages import (
    Cell,
    Facts,
    Items,
    Link,
    Listing,
    Notice,
    Part,
    Section,
    Table,
    Text,
    page,
)
from openmm_les.errors import OutputError, one_line
from openmm_les.evaluation.engines.variant import Variant
from openmm_les.files.writing import write_atomically
from openmm_les.simulation import output
from openmm_les.simulation.phase import Job
from openmm_les.simulation.report import background
from openmm_les.simulation.report.record import Record
from openmm_les.simulation.report.results import results
from openmm_les.simulation.summary import duration, speed

logger = logging.getLogger(__name__)

_MILLI = 1e-3
#: Most characters of a message.
_LONGEST = 2000
_KIBI = 1024.0
_ONCE_REMOVED = "as soon as the reason is removed; other settings need a new run"


@contextlib.contextmanager
def written_on_failure(job: Job) -> Iterator[None]:
    """Write the report if the block raises."""
    try:
        yield
    except BaseException as error:
        write(job, error)
        raise


def write(job: Job, problem: BaseException | None = None) -> bool:
    """Write the report of a run that a `problem` has ended; whether it was written.

    It is not written if the settings leave it out. A failure is a warning, since no result depends
    on it, unless the problem says it already.
    """
    if job.requested.report == "off":
        return False
    path = job.directory / output.REPORT
    try:
        write_atomically(path, _page(Record.read(job, problem)).encode())
    except Exception as error:
        level = logging.INFO if isinstance(problem, OutputError) else logging.WARNING
        logger.log(level, "%s was not written: %s", path, one_line(error))
        return False
    return True


def _page(record: Record) -> str:
    config = record.config
    sections = [
        Section("", [_end(record)]),
        Section("Results", results(record)),
        Section("Warnings", [_warnings(record)]),
        Section("System", [background.system(record)]),
        Section("Model", [background.model(record)]),
        Section("Speed", [_speed(record)]),
        Section("Files", [_files(record)]),
        Section("How to continue", _continuation(record)),
        Section("Settings", background.settings(record)),
        Section("Versions and machine", [background.machine(record)]),
        Section("What to cite", [background.citations(record)]),
    ]
    return page(f"{config.structure.name} with {Path(config.model).name}", sections)


def _end(record: Record) -> Notice:
    """How the run ended, and when."""
    config, found = record.config, record.checkpoint
    # The page of a finished run may be made long after its last checkpoint.
    last = record.job.directory / output.CHECKPOINT
    end = last.stat().st_mtime if record.problem is None else time.time()
    local = datetime.fromtimestamp(end).astimezone()
    when = f"on {local:%Y-%m-%d at %H:%M} {local.tzname()}"
    if record.problem is None:
        length = record.picoseconds(config.steps)
        return Notice(f"Finished {when}: {config.steps} steps of production, {length:g} ps.")
    done = "before the first step"
    if found is not None:
        steps = config.steps if found.phase == "production" else config.equilibration_steps
        done = f"the last checkpoint has step {found.step} of {steps} of {found.phase}"
    if record.is_stopped:
        return Notice(f"Stopped on request {when}; {done}.", is_warning=True)
    message = one_line(record.problem, _LONGEST)
    return Notice(f"Failed {when}; {done}. Message: {message}", is_warning=True)


def _warnings(record: Record) -> Part:
    if not record.job.warnings:
        return Text("None.")
    return Items([one_line(text, _LONGEST) for text in record.job.warnings])


def _speed(record: Record) -> Part:
    config, found = record.config, record.checkpoint
    if found is None or not found.step or not found.wall_seconds:
        return Text("No step was made.")
    seconds = found.wall_seconds
    rate = speed(record.picoseconds(found.step), seconds)
    variant = None if found.variant is None else Variant.from_json(found.variant).name
    return Facts(
        [
            ("speed", f"{rate:.3g} ns/day, {seconds / found.step / _MILLI:.3g} ms for each step"),
            ("measured over", f"{found.step} steps of {found.phase} in {duration(seconds)}"),
            ("device of the model", config.device),
            ("variant of the model", variant),
            ("OpenMM", f"platform {config.platform}, backend {config.backend}"),
        ]
    )


def _files(record: Record) -> Table:
    rows: list[list[Cell]] = []
    for name, content in output.CONTENTS.items():
        path = record.job.directory / name
        if name == output.REPORT:
            rows.append([name, None, content])
        elif path.exists():
            rows.append([Link(name, name), _size(path.stat().st_size), content])
    return Table(["file", "size", "content"], rows)


def _size(number: int) -> str:
    if number < _KIBI:
        return f"{number} bytes"
    size, units = number / _KIBI, ["KiB", "MiB", "GiB"]
    while size >= _KIBI and len(units) > 1:
        size /= _KIBI
        units.pop(0)
    return f"{size:.1f} {units[0]}"


def _continuation(record: Record) -> list[Part]:
    if record.job.is_part:
        text = "This run belongs to a campaign or an exchange, whose plan states its settings. "
        if record.problem is None:
            return [Text(f"{text}For more steps change that, and give the same command again.")]
        text += "Give the same command again to continue the run"
        return [Text(f"{text}." if record.is_stopped else f"{text}, {_ONCE_REMOVED}.")]
    command = f"openmm-les run {shlex.quote(str(record.job.directory.path))} --resume"
    if record.problem is None:
        more = f"{command} --steps {2 * record.config.steps}"
        return [Text("With more steps, here twice as many in all:"), Listing(more)]
    if record.checkpoint is None:
        return [Text("From the beginning, since there is no checkpoint yet:"), Listing(command)]
    text = "From the last checkpoint:"
    if not record.is_stopped:
        text = f"From the last checkpoint, {_ONCE_REMOVED}:"
    return [Text(text), Listing(command)]
