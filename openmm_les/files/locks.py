"""One process at a time, and one writer for each file."""

from __future__ import annotations

import contextlib
import os
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from openmm_les.errors import OutputError
from openmm_les.files.writing import writing

__all__ = ["Claim", "Timeout", "exclusive_lock"]


@contextlib.contextmanager
def exclusive_lock(file: Path, timeout: float = 0.0) -> Iterator[None]:
    """Keep other processes out, or raise `Timeout` [s]. The lock of a process ends with it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(file, timeout=timeout):
        yield


_claims: weakref.WeakValueDictionary[str, Claim] = weakref.WeakValueDictionary()
_guard = threading.Lock()


class Claim:
    """The right of a reporter to write a file, until it is released, taken over, or collected.

    A lock file beside the file keeps other processes out; it ends with the process.

    Args:
        simulation: has a list `reporters`.
        takes_over: whether a reporter of another simulation of this process loses its claim.
    """

    def __init__(self, path: Path, reporter: Any, simulation: Any, *, takes_over: bool) -> None:
        self._path = path.resolve()
        self._reporter, self._simulation = weakref.ref(reporter), weakref.ref(simulation)
        with _guard:
            former = _claims.get(str(self._path))
            if former is not None:
                if former._is_alive() and not (
                    takes_over and former._simulation() is not simulation
                ):
                    raise OutputError(
                        f"file: {path} is written by another reporter of this process; take that "
                        "out of simulation.reporters, or choose another file"
                    )
                former.release()
            if _is_open_for_writing(self._path):
                raise OutputError(
                    f"file: {path} is open in this process for something else to write, such as "
                    "another reporter; choose another file"
                )
            self._release = weakref.finalize(self, _release, self._lock(), os.getpid())
            _claims[str(self._path)] = self

    def _is_alive(self) -> bool:
        """Whether the reporter still belongs to its simulation."""
        reporter, simulation = self._reporter(), self._simulation()
        return simulation is not None and any(each is reporter for each in simulation.reporters)

    def _lock(self) -> FileLock:
        lock = FileLock(
            self._path.with_name(f".{self._path.name}.lock"), timeout=0, thread_local=False
        )
        with writing(self._path):
            try:
                lock.acquire()
            except Timeout:  # is an OSError
                raise OutputError(
                    f"file: {self._path} is written by another process; wait for it, or choose "
                    "another file"
                ) from None
        return lock

    def check(self) -> None:
        """Raise an `OutputError` if the claim was released or taken over."""
        with _guard:
            if _claims.get(str(self._path)) is not self:
                raise OutputError(
                    f"file: {self._path} was closed, or is continued by another reporter; "
                    "make a new LESReporter to go on"
                )

    def release(self) -> None:
        """Let others write. Further calls do nothing."""
        if _claims.get(str(self._path)) is self:
            del _claims[str(self._path)]
        self._release()


def _release(lock: FileLock, process: int) -> None:
    if os.getpid() == process:  # after a fork, the lock belongs to the parent
        Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()


def _is_open_for_writing(path: Path) -> bool:
    """Whether this process has the file open for writing."""
    try:
        wanted = path.stat()
        descriptors = os.listdir("/proc/self/fd")
    except OSError:  # no such file, or no such system
        return False
    for descriptor in descriptors:
        try:
            there = os.stat(f"/proc/self/fd/{descriptor}")
            information = Path(f"/proc/self/fdinfo/{descriptor}").read_text()
        except OSError:  # closed meanwhile
            continue
        if (there.st_dev, there.st_ino) != (wanted.st_dev, wanted.st_ino):
            continue
        flags = int(information.split("flags:")[1].split()[0], 8)
        if flags & os.O_ACCMODE != os.O_RDONLY:
            return True
    return False
