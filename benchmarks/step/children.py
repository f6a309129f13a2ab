"""Processes that measure, seen from the one that leads."""

import contextlib
import json
import os
import select
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from step.steps import Case

_WORKER = Path(__file__).with_name("worker.py")
_OUT_OF_MEMORY = ("allocate memory", "out of memory", "bad_alloc", "MemoryError")
#: For the imports, which share the machine with those of other rows [s].
_IMPORT_SECONDS = 300.0


class Stopped(Exception):
    """A process that cannot go on; the text says why."""


class Child:
    """One row of one case in a process of its own.

    Args:
        case: what to measure.
        memory_mb: how much memory it may take above its imports, on a CPU [MB].
        seconds: how long it may work.
    """

    def __init__(self, case: Case, memory_mb: float, seconds: float) -> None:
        self.case = case
        self._memory_mb, self._seconds = memory_mb, seconds
        self._left = seconds
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - see `close`
        settings = {"case": case.as_json(), "memory_mb": memory_mb}
        paths = [str(_WORKER.parents[1]), os.environ.get("PYTHONPATH", "")]
        self._process = subprocess.Popen(
            [sys.executable, str(_WORKER), json.dumps(settings)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env=os.environ
            | {
                "PYTHONPATH": os.pathsep.join(path for path in paths if path),
                "OMP_NUM_THREADS": str(case.threads),
            },
        )

    def wait_until_ready(self) -> None:
        """Wait for its imports, which do not count as work.

        Raises:
            Stopped: they failed.
        """
        self._answer(_IMPORT_SECONDS, f"imports took over {_IMPORT_SECONDS:g} s")

    def ask(self, name: str, *arguments: Any, apart: float | None = None) -> Any:
        """Have a method of `worker.Worker` run.

        Args:
            apart: how long this one may take [s], apart from the time of the row.

        Raises:
            Stopped: the process ended, or its time did.
        """
        begin = time.monotonic()
        stdin = self._process.stdin
        assert stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has ended; why, is told below
            stdin.write(json.dumps([name, *arguments]) + "\n")
            stdin.flush()
        if apart is not None:
            return self._answer(apart, f"{name} took over {apart:.3g} s")
        answer = self._answer(max(self._left, 0.0), f"over {self._seconds:.3g} s")
        self._left -= time.monotonic() - begin
        return answer

    def _answer(self, seconds: float, otherwise: str) -> Any:
        stdout = self._process.stdout
        assert stdout is not None
        ready, _, _ = select.select([stdout], [], [], seconds)
        if not ready:
            raise Stopped(otherwise)
        line = stdout.readline()
        if not line:
            self._process.wait()
            raise Stopped(self._reason())
        return json.loads(line)

    def _reason(self) -> str:
        """What the process said last."""
        self._errors.seek(0)
        text = self._errors.read()
        if any(sign in text for sign in _OUT_OF_MEMORY):
            on_gpu = self.case.device.startswith("cuda")
            return "out of GPU memory" if on_gpu else f"over {self._memory_mb / 1024:.3g} GB"
        lines = [line for line in text.splitlines() if line.strip()]
        return lines[-1][:200] if lines else f"ended with status {self._process.returncode}"

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._errors):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()
