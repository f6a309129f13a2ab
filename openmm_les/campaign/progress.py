"""Progress of a campaign, as callbacks; without any, messages are logged."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from openmm_les.campaign.state import Entry, RunState, line, state_of

logger = logging.getLogger(__name__)

_PS_PER_FS, _PS_PER_NS, _SECONDS_PER_DAY = 1e-3, 1e3, 86400.0


@dataclass(frozen=True)
class CampaignProgress:
    """What all runs together have done."""

    text: str  #: How many runs are in which state
    steps: int  #: Done, by all runs
    total: int  #: Of all runs that have not failed
    ns_per_day: float  #: Simulated time of all runs by wall time, since this process began [ns/day]


class CampaignCallbacks:
    """Callbacks of a campaign; override those of interest."""

    def message(self, text: str) -> None:
        """Called with one line, such as how a run ended."""
        logger.info("%s", text)

    def progress(self, progress: CampaignProgress) -> None:
        """Called every few seconds, from another thread."""


class Survey:
    """Looks at the directories of all runs, again and again; what is finished is not read again."""

    def __init__(self, entries: Sequence[Entry]) -> None:
        self._entries = entries
        self._ended: dict[str, RunState] = {}
        self._started = time.monotonic()
        self._before = self._sums(self.states())

    def states(self) -> list[RunState]:
        """The present state of every run, in the order of the table."""
        states = []
        for entry in self._entries:
            state = self._ended.get(entry.name) or state_of(entry)
            if state.name == "finished":
                self._ended[entry.name] = state
            states.append(state)
        return states

    def progress(self) -> CampaignProgress:
        """What was done, and how fast since this survey was made."""
        states = self.states()
        steps, simulated = self._sums(states)
        seconds = max(time.monotonic() - self._started, 1e-3)
        total = sum(s.total if s.name != "failed" else s.steps for s in states)
        return CampaignProgress(
            text=line(states),
            steps=steps,
            total=total,
            ns_per_day=(simulated - self._before[1]) / _PS_PER_NS / seconds * _SECONDS_PER_DAY,
        )

    @staticmethod
    def _sums(states: Sequence[RunState]) -> tuple[int, float]:
        """Steps, and simulated time [ps]."""
        times = (state.steps * state.entry.time_step * _PS_PER_FS for state in states)
        return sum(state.steps for state in states), sum(times)


class Pulse:
    """Calls a function in a thread of its own at equal intervals, inside a ``with`` block."""

    def __init__(self, function: Callable[[], None], seconds: float) -> None:
        self._function, self._seconds = function, seconds
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)

    def __enter__(self) -> Pulse:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()

    def _beat(self) -> None:
        while not self._stop.wait(self._seconds):
            self._function()
