"""What a worker of Dask does with a task: one command of openmm-les in a process of its own.

Imports neither torch nor openmm, which only that process needs.
"""

from __future__ import annotations

import contextlib
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from openmm_les import __version__
from openmm_les.errors import ERROR_PREFIX, OutputError, one_line
from openmm_les.files.locks import Timeout, exclusive_lock
from openmm_les.files.writing import writing
from openmm_les.processes import children
from openmm_les.simulation.shared_settings import without_flags

#: File in the directory of a task with what its processes said.
MESSAGES = "messages.txt"
#: File in it that is locked while a task works there.
LOCK = ".task.lock"
#: File in it that says why its last attempt failed, until the next one begins.
FAILURE = "failure.json"
#: Time between looks at whether a task is still wanted [s].
_GLANCE = 0.5
#: Time to end in order, with a checkpoint [s].
_GRACE = 60.0
#: Exit statuses of a process that was asked to stop.
_STOPPED = (128 + signal.SIGINT, 128 + signal.SIGTERM)
COMMAND = "import sys; from openmm_les.cli import main; main(sys.argv[1:])"


@dataclass(frozen=True)
class Task:
    """One command of openmm-les that resumes where an earlier attempt was ended."""

    name: str
    command: tuple[str, ...]  #: Arguments of ``openmm-les``; paths are absolute, or in `directory`
    directory: Path  #: Where it works; one task at a time does so


@dataclass(frozen=True)
class Outcome:
    """How a task ended."""

    name: str
    error: str | None  #: One line; None if it was successful
    seconds: float  #: Wall time of the attempt that ended it [s]


class Crashed(Exception):
    """The process crashed, or was killed; another attempt may succeed."""


def version() -> str:
    """The version of openmm-les on a worker."""
    return __version__


def dask_setup(_: object) -> None:
    """Dask calls this in each worker on this machine, which ends with the process that began it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def attempt(task: Task, expected: str) -> Outcome:
    """Run the command of a task, or the rest of it, on a worker with the `expected` version.

    Raises:
        Crashed: the process crashed, or was killed.
        Reschedule: Dask shall execute the task again: this worker ends, or the process was asked to
            stop. It does not count as a failure.
    """
    started = time.monotonic()
    if expected != __version__:
        error = (
            f"expected a worker with openmm-les {expected}, got {__version__}; start the workers "
            "in the same environment"
        )
    else:
        try:
            with _alone(task.directory):
                with writing(task.directory / FAILURE):
                    (task.directory / FAILURE).unlink(missing_ok=True)
                error = _run(task)
        except OutputError as problem:
            error = one_line(problem)
    return Outcome(task.name, error or None, time.monotonic() - started)


def _run(task: Task) -> str:
    """Why the command failed; empty if it did not."""
    process = children.start_bound(COMMAND, *task.command, folder=task.directory)
    output, is_given_back = _wait(process)
    with contextlib.suppress(OSError), (task.directory / MESSAGES).open("a") as stream:
        stream.write(output)
    if is_given_back or process.returncode in _STOPPED:
        _give_back()
    if process.returncode < 0:
        raise Crashed(children.ending(process.returncode, output))
    return "" if process.returncode == 0 else without_flags(_last_message(output), task.directory)


def _wait(process: subprocess.Popen[str]) -> tuple[str, bool]:
    """What the process said until it ended, and whether it was ended since it was not wanted."""
    try:
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                return process.communicate(timeout=_GLANCE)[1], False
            if not _is_wanted():
                break
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            return process.communicate(timeout=_GRACE)[1], True
        process.kill()
        return process.communicate()[1], True
    except BaseException:  # it must not outlive the lock of its directory
        process.kill()
        process.communicate()
        raise


def _give_back() -> NoReturn:
    from distributed import Reschedule

    raise Reschedule


def _last_message(output: str) -> str:
    lines = [line.strip() for line in output.splitlines() if line.strip()] or ["no message"]
    errors = [line for line in lines if line.startswith(ERROR_PREFIX)]
    return one_line((errors or lines)[-1].removeprefix(ERROR_PREFIX), 1000)


@contextlib.contextmanager
def _alone(directory: Path) -> Iterator[None]:
    """Wait for an attempt on another worker that has not noticed yet that it was given up."""
    with contextlib.ExitStack() as held:
        while not _locked(directory, held):
            if not _is_wanted():
                _give_back()
        yield


def _locked(directory: Path, held: contextlib.ExitStack) -> bool:
    with writing(directory):
        try:
            held.enter_context(exclusive_lock(directory / LOCK, timeout=_GLANCE))
        except Timeout:  # is an OSError
            return False
    return True


def _is_wanted() -> bool:
    """Whether this worker shall go on with this task; true outside of a worker."""
    from distributed import Status, get_worker

    try:
        worker = get_worker()
    except ValueError:
        return True
    state = worker.state.tasks.get(worker.get_current_task())
    is_here = worker.status in (Status.running, Status.paused)  # paused ones take no new tasks
    return is_here and state is not None and state.state == "executing"
