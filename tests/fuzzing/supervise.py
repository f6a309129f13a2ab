"""The parent of the children: which cases each gets, and what is told of one that died.

Children are forked from a process that has imported everything and computed nothing, so that a new
one costs milliseconds.
"""

from __future__ import annotations

import multiprocessing
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path

from fuzzing.cases import Missing, Seed, Target
from fuzzing.verdicts import Outcome
from fuzzing.worker import Limits, keep, serve

_FORK = multiprocessing.get_context("fork")
#: A kind whose children die so often is given up.
_MOST_DEATHS = 60


@dataclass
class Report:
    """What came of one kind.

    Attributes:
        kind: its name.
        outcomes: of the cases.
        seconds: processor time of the cases.
        skipped: why there are none, if there are none.
    """

    kind: str
    outcomes: list[Outcome] = field(default_factory=list)
    seconds: float = 0.0
    skipped: str = ""

    @property
    def faults(self) -> list[Outcome]:
        """Cases in which something happened that must not."""
        return [outcome for outcome in self.outcomes if outcome.is_fault]


class Supervisor:
    """One kind, and the child at work on it.

    Args:
        target: the kind.
        numbers: of the cases; None for all hostile files and `count` mutations.
        count: of mutations.
        folder: for seeds and the case at hand.
        failures: where files of faults are kept.
        random_seed: fixes all cases.
        limits: of one case.
    """

    def __init__(
        self,
        target: Target,
        folder: Path,
        failures: Path,
        *,
        count: int,
        random_seed: int = 0,
        numbers: Sequence[int] | None = None,
        limits: Limits | None = None,
    ) -> None:
        self.target, self.folder = target, folder / target.kind
        self.failures = failures / target.kind
        self.random_seed, self.limits = random_seed, limits or Limits()
        self.report = Report(target.kind)
        self._deaths = 0
        try:
            (self.folder / "seeds").mkdir(parents=True, exist_ok=True)
            self.seeds: Sequence[Seed] = target.seeds(self.folder / "seeds")
        except Missing as error:
            self.report.skipped, self.seeds = str(error), ()
        except Exception as error:
            what = f"no sound file: {type(error).__name__}: {error}"
            self.seeds = ()
            self._note(Outcome(0, "sound file", "exception", what))
        if not self.seeds:
            self._left = []
        elif numbers is None:
            self._left = list(range(len(target.hostile) + count))
        else:
            self._left = list(numbers)
        self._start()

    def _start(self) -> None:
        self._name = "sound file"
        self._since = time.monotonic()
        self.pipe: Connection | None = None
        if not self._left:
            return
        self.pipe, theirs = _FORK.Pipe(duplex=False)
        arguments = (theirs, self.target, self.seeds, list(self._left), self.folder, self.failures)
        self._process = _FORK.Process(
            target=serve, args=(*arguments, self.random_seed, self.limits), daemon=True
        )
        self._process.start()
        theirs.close()

    @property
    def is_done(self) -> bool:
        """Whether nothing is left to do."""
        return self.pipe is None

    def receive(self) -> None:
        """Take what the child sent, or notice that it died."""
        assert self.pipe is not None
        try:
            message = self.pipe.recv()
        except EOFError:
            self._bury("")
            return
        self._since = time.monotonic()
        if isinstance(message, str):
            self._name = message
            return
        self._left.pop(0)
        self._note(message)

    def check_clock(self) -> None:
        """End a child that has been silent for too long."""
        if self.pipe is not None and time.monotonic() - self._since > self.limits.wall:
            self._process.kill()
            self._bury(f"nothing for {self.limits.wall:g} s")

    def _bury(self, silent: str) -> None:
        """Tell why a child ended, and start another one for what it has left."""
        assert self.pipe is not None
        self.pipe.close()
        self._process.join()
        code = self._process.exitcode or 0
        if not self._left and code == 0:
            self.pipe = None
            return
        timed_out = silent or code == -signal.SIGXCPU
        verdict = "hang" if timed_out else "crash"
        how = silent or (signal.Signals(-code).name if code < 0 else f"exit status {code}")
        number = self._left[0]
        outcome = Outcome(number, self._name, verdict, f"{how} {self._last_words()}".strip())
        self._note(outcome)
        if (self.folder / "case").exists():
            keep(self.folder / "case", self.failures, outcome)
        self._deaths += 1
        if self._name == "sound file" or self._deaths > _MOST_DEATHS:
            left = f"{len(self._left) - 1} cases were not tried"
            self._note(Outcome(number, "given up", "crash", left))
            self._left = [number]
        self._left.pop(0)
        self._start()

    def _last_words(self) -> str:
        """Where the child was, from what faulthandler or Python wrote."""
        text = (self.folder / "output.txt").read_text(errors="replace")
        lines = [row.strip() for row in text.splitlines() if row.strip()]
        frames = [row for row in lines if row.startswith("File ")]
        ours = [row for row in frames if "openmm_les" in row]
        if "Traceback (most recent call last):" in lines:
            return lines[-1][:300]
        return (ours or frames or [""])[0]

    def _note(self, outcome: Outcome) -> None:
        self.report.outcomes.append(outcome)
        self.report.seconds += outcome.seconds


def supervise(waiting: Iterator[Supervisor], jobs: int) -> Iterator[Report]:
    """Reports as they are complete, with so many children at once."""
    active: list[Supervisor] = []
    exhausted = False
    while active or not exhausted:
        while len(active) < jobs and not exhausted:
            following = next(waiting, None)
            exhausted = following is None
            if following is not None:
                active.append(following)
        for pipe in wait([one.pipe for one in active if one.pipe is not None], timeout=1.0):
            next(one for one in active if one.pipe is pipe).receive()
        for one in [*active]:
            one.check_clock()
            if one.is_done:
                active.remove(one)
                yield one.report
