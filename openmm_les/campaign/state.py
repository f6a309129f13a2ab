"""What the runs of a campaign have done, read from their directories at any time.

Imports neither torch nor openmm.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from openmm_les.campaign.plan import MEASURES
from openmm_les.campaign.worker import FAILURE, LOCK
from openmm_les.errors import InputError
from openmm_les.files.locks import Timeout, exclusive_lock
from openmm_les.files.reading import Damage, Kind, boundary, read_file
from openmm_les.files.writing import write_atomically
from openmm_les.simulation.config import CAMPAIGN

#: Files and directories of a campaign; the first marks a directory as one.
MARKER, TABLE, RUNS = CAMPAIGN, "runs.csv", "runs"
#: Files of a run; `openmm_les.simulation.output`, which names them, needs OpenMM.
_SUMMARY, _LOG, _EQUILIBRATION = "summary.json", "log.csv", "equilibration.csv"
#: Files of an exchange, named in `openmm_les.repex.exchange`.
_EXCHANGES, _START = Path("replicas", "log.csv"), Path("start", "log.csv")
#: Bytes at the end of a log that hold its last row.
_LAST_ROWS = 4096
_DAMAGED = (
    "campaign: {file} is damaged ({reason}); remove it: what made the campaign writes it again"
)
_KIND = Kind(InputError, "campaign", _DAMAGED)

StateName = Literal["waiting", "running", "stopped", "failed", "finished"]


@dataclass(frozen=True)
class Entry:
    """One row of the table of runs."""

    name: str
    varied: dict[str, str]
    repeat: int
    equilibration_steps: int
    steps: int
    time_step: float  #: [fs]
    seed: int
    directory: Path


@dataclass(frozen=True)
class RunState:
    """What one run has done."""

    entry: Entry
    name: StateName
    steps: int  #: Done, of equilibration and production
    ns_per_day: float | None  #: Of a finished run
    error: str = ""  #: Why it failed

    @property
    def total(self) -> int:
        """Steps of equilibration and production."""
        return self.entry.equilibration_steps + self.entry.steps


def read_table(campaign: Path) -> list[Entry]:
    """The runs of the campaign in a directory; InputError where there is none."""
    path = campaign / TABLE
    if not (campaign / MARKER).is_file():
        raise InputError(
            f"campaign: expected the directory of a campaign, with {MARKER} and {TABLE}, got "
            f"{campaign}; `openmm-les campaign run` makes one"
        )
    with boundary(path, _KIND):
        rows = list(csv.DictReader(io.StringIO(read_file(path).decode())))
        if not rows:
            raise Damage("it has no runs")
        return [_entry(campaign, row) for row in rows]


def _entry(campaign: Path, row: dict[str, str]) -> Entry:
    names = list(row)
    varied = {name: row[name] for name in names[1 : names.index("repeat")]}
    directory = campaign / RUNS / row["run"]
    equilibration_steps, steps, time_step, seed = (row[name] for name in MEASURES)
    return Entry(
        name=row["run"],
        varied=varied,
        repeat=int(row["repeat"]),
        equilibration_steps=int(float(equilibration_steps)),
        steps=int(float(steps)),
        time_step=float(time_step),
        seed=int(seed),
        directory=directory,
    )


def state_of(entry: Entry) -> RunState:
    """What the files of a run say."""
    directory = entry.directory
    done, speed = _finished(directory / _SUMMARY)
    if done >= entry.steps:
        return RunState(entry, "finished", entry.equilibration_steps + entry.steps, speed)
    produced = _last_step(directory / _LOG) or _last_step(directory / _EXCHANGES, column=1)
    equilibrated = _last_step(directory / _EQUILIBRATION) or _last_step(directory / _START)
    steps = produced + (entry.equilibration_steps if produced else equilibrated)
    if _is_locked(directory / LOCK):
        return RunState(entry, "running", steps, None)
    if error := read_failure(directory):
        return RunState(entry, "failed", steps, None, error)
    return RunState(entry, "stopped" if steps else "waiting", steps, None)


def write_failure(directory: Path, error: str) -> None:
    """Record why a run failed."""
    write_atomically(directory / FAILURE, (json.dumps({"error": error}) + "\n").encode())


def read_failure(directory: Path) -> str:
    """Why a run failed; empty if it did not."""
    try:
        return str(json.loads((directory / FAILURE).read_text())["error"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def line(states: Sequence[RunState]) -> str:
    """How many runs are in which state, such as ``12 of 24 runs finished, 2 running``."""
    counts = Counter(state.name for state in states)
    parts = [f"{counts['finished']} of {len(states)} runs finished"]
    others: tuple[StateName, ...] = ("running", "stopped", "waiting", "failed")
    return ", ".join(parts + [f"{counts[name]} {name}" for name in others if counts[name]])


def _finished(path: Path) -> tuple[int, float]:
    """Steps and speed of a finished run; no steps for another."""
    try:
        found = json.loads(path.read_bytes())
        return int(found["steps"]), float(found["ns_per_day"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0, 0.0


def _last_step(path: Path, column: int = 0) -> int:
    """Step of the last complete row of a log; 0 without any."""
    try:
        with path.open("rb") as stream:
            size = stream.seek(0, io.SEEK_END)
            stream.seek(max(0, size - _LAST_ROWS))
            lines = stream.read().split(b"\n")[:-1]
        return int(lines[-1].split(b",")[column])
    except (OSError, ValueError, IndexError):
        return 0


def _is_locked(path: Path) -> bool:
    if not path.exists():
        return False
    with contextlib.suppress(OSError):
        try:
            with exclusive_lock(path):
                return False
        except Timeout:  # is an OSError
            return True
    return False
