"""Pieces of Python that run in child processes, since they may crash or never end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from typing import Any

from openmm_les.processes import openmp

# Children import what this process would: an editable checkout, no modules of the working folder.
# They ask the kernel for SIGKILL when the parent ends (PR_SET_PDEATHSIG), unless it has already.
_PRELUDE = """
import sys
sys.path[:] = {path!r}
import json, resource
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
import ctypes, os, signal
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
if os.getppid() != {parent}:
    raise SystemExit(1)
"""


@dataclass(frozen=True)
class Outcome:
    """How a child process ended."""

    #: The last JSON object that it printed; empty if it printed none
    data: dict[str, Any] = field(default_factory=dict)
    #: Why it did not finish, such as ``crashes the process (SIGSEGV)``; else empty
    failure: str = ""


def run_python(
    code: str, *arguments: str, seconds: float, folder: str | os.PathLike[str] | None = None
) -> Outcome:
    """Run Python in a child process, with the `sys.path` of this one; never raises.

    The code prints JSON objects, one a line, of which the last one counts; `json` is imported. The
    child never outlives the thread that waits for it.
    """
    try:
        child = subprocess.run(
            [sys.executable, "-c", _prelude() + code, *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=seconds,
            cwd=folder,
            check=False,
            env=openmp.child_environment(),
        )
    except subprocess.TimeoutExpired:
        return Outcome(failure=f"takes longer than {seconds:g} s")
    except (OSError, subprocess.SubprocessError) as error:
        return Outcome(failure=f"could not be tried ({error})")
    data = _last_object(child.stdout)
    if child.returncode != 0:
        return Outcome(data, ending(child.returncode, child.stderr))
    return Outcome(data, "" if data else "ends without an answer")


def start_bound(
    code: str, *arguments: str, folder: str | os.PathLike[str], **options: Any
) -> subprocess.Popen[str]:
    """Start Python in a child process that never outlives the thread that started it.

    It imports what this process would, has no input, and its errors are a pipe; `options` are
    others for `subprocess.Popen`.
    """
    options = {
        "stdin": subprocess.DEVNULL,
        "stdout": subprocess.DEVNULL,
        "stderr": subprocess.PIPE,
        "env": openmp.child_environment(),
        **options,
    }
    return subprocess.Popen(
        [sys.executable, "-c", _prelude() + code, *arguments],
        encoding="utf-8",
        errors="replace",
        cwd=folder,
        **options,
    )


def _prelude() -> str:
    return _PRELUDE.format(path=sys.path, parent=os.getpid())


def ending(returncode: int, errors: str) -> str:
    """How a process ended, such as ``crashes the process (SIGSEGV)``; empty for success."""
    if returncode < 0:
        known = {each.value: each.name for each in signal.Signals}
        return f"crashes the process ({known.get(-returncode, f'signal {-returncode}')})"
    if returncode > 0:
        lines = errors.strip().splitlines() or ["no message"]
        return f"fails ({lines[-1].strip()})"
    return ""


def _last_object(text: str) -> dict[str, Any]:
    """The last JSON object among the lines; libraries print lines of their own."""
    for line in reversed(text.splitlines()):
        if line.startswith("{"):
            try:
                data = json.loads(line)
            except ValueError:
                continue
            if isinstance(data, dict):
                return data
    return {}
