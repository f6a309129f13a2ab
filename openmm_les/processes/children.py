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
_PRELUDE = """
import sys
sys.path[:] = {path!r}
import json, resource
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
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

    The code prints JSON objects, one a line, of which the last one counts; `json` is imported.
    """
    try:
        child = subprocess.run(
            [sys.executable, "-c", _PRELUDE.format(path=sys.path) + code, *arguments],
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
    if child.returncode < 0:
        number = -child.returncode
        known = {each.value: each.name for each in signal.Signals}
        return Outcome(data, f"crashes the process ({known.get(number, f'signal {number}')})")
    if child.returncode > 0:
        lines = child.stderr.strip().splitlines() or ["no message"]
        return Outcome(data, f"fails ({lines[-1].strip()})")
    return Outcome(data, "" if data else "ends without an answer")


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
