"""Finds out which variant is fastest for a system: all candidates, tried in child processes.

Nothing that is tried can harm the process that asks. A candidate that gives other numbers than the
plain module is not used; after one that ends the child, or does not come to an end, another child
goes on with the rest. What torch has to compile comes last, with the time that is left.
"""

from __future__ import annotations

import json
import logging
import math
import os
import pickle
import queue
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import IO, Any

import numpy as np

from openmm_les.errors import InputError, SimulationError, one_line
from openmm_les.evaluation.engines import decisions
from openmm_les.evaluation.engines.trial import Structure, Task
from openmm_les.evaluation.engines.variant import NOT_FASTER, Decision, Trial
from openmm_les.processes.children import ending, start_bound

logger = logging.getLogger(__name__)

#: For everything together [s].
BUDGET_S = 30.0
#: Part of it that one candidate may take, and one whose code may have to be compiled first: Triton
#: takes 15 s for MACELES-OFF, once, since later processes find the code on the disk.
_SHARE, _SHARE_TO_COMPILE = 1 / 3, 2 / 3
#: Where so many evaluations do not fit into the budget, candidates cannot be compared within it.
_EVALUATIONS = 20
#: How long evaluations take before anything is tried [s], and the variable that changes it.
_AFTER_S, _VARIABLE = 10.0, "OPENMM_LES_TUNE_AFTER"
#: What is faster than the plain module by less than this is not worth a change.
_WORTH = 0.95
#: The second structure is the first one, larger by a factor and with displaced atoms [A].
_STRETCH, _DISPLACEMENT = 1.002, 0.01
#: What comes first when numbers differ, see `compare` in `packing`.
_WRONG = "gives other "
_CODE = "from openmm_les.evaluation.engines.trial import main; main()"

_attempted: set[Path] = set()


def is_first_attempt(system: Mapping[str, Any]) -> bool:
    """Whether this is the first call for such a system in this process; one attempt is enough."""
    path = decisions.path_of(system)
    is_first = path not in _attempted
    _attempted.add(path)
    return is_first


class Pace:
    """Says once when evaluations have taken so long that measuring pays.

    Single points and short scripts never pay for it. The environment variable
    ``OPENMM_LES_TUNE_AFTER`` is the time in seconds; with ``inf`` it never comes.

    Raises:
        InputError: the variable is not a number.
    """

    def __init__(self) -> None:
        given = os.environ.get(_VARIABLE, f"{_AFTER_S:g}")
        try:
            self._left = float(given)
        except ValueError:
            self._left = math.nan
        if math.isnan(self._left):
            raise InputError(f"{_VARIABLE}: expected a number of seconds or inf, got {given!r}")
        self._least: float | None = None
        self._is_over = self._has_said = False

    def is_time_to_tune(self, seconds: float) -> bool:
        """Count another evaluation, which took so many seconds."""
        if self._is_over:
            return False
        # The first one, which may compile code for longer than that, is not counted.
        self._left -= 0.0 if self._least is None else seconds
        self._least = min(seconds, self._least or seconds)
        if self._left > 0.0:
            return False
        if _EVALUATIONS * self._least <= BUDGET_S:
            self._is_over = True
        elif not self._has_said:
            self._has_said = True
            logger.info(
                "engine='auto': an evaluation takes %.2g s, too long to try others in %g s; "
                "'openmm-les tune' may take longer",
                self._least,
                BUDGET_S,
            )
        return self._is_over


def try_candidates(task: Task) -> list[Trial]:
    """Try every candidate of a task, whose `order` need not be given.

    Raises:
        SimulationError: the plain module, the first candidate, could not be measured.
    """
    unreached = f"not reached within {task.seconds:g} s"
    trials = [Trial(each, None, unreached) for each in task.candidates]
    end = time.monotonic() + task.seconds
    rest = list(range(len(trials)))
    while rest and (left := end - time.monotonic()) > 0:
        left_over = replace(task, order=rest, seconds=left)
        culprit = _Walk(left_over, task.seconds, trials).run()
        if culprit is None or culprit == 0:
            break
        # The best one goes with the rest, to be measured beside them.
        measured = [i for i, each in enumerate(trials) if _is_usable(each)]
        best = sorted(measured, key=lambda i: trials[i].seconds or 0.0)[:1]
        untried = [i for i in rest if trials[i].reason == unreached]
        rest = sorted({0, *best, *untried}) if untried else []
    for each in trials:
        if each.reason.startswith(_WRONG):
            logger.warning(
                "engine='auto': %s %s, and is not used; please report this, with the output of "
                "'openmm-les doctor --json'",
                each.variant.name,
                each.reason,
            )
    if trials[0].seconds is None:
        raise SimulationError(f"the plain module could not be measured: {trials[0].reason}")
    return trials


def decide(
    task: Task, system: Mapping[str, Any], *, again: bool = False, keep: bool = True
) -> Decision:
    """The decision for a system: an earlier one, or from trying candidates, which is kept.

    Args:
        system: what the decision holds for.
        again: try the candidates even if there is a decision.
        keep: whether the cache is read and written.

    Raises:
        SimulationError: see `try_candidates`.
    """
    if not keep:
        return _tried(task, system)
    with decisions.one_at_a_time(system, 2.0 * task.seconds):
        found = None if again else decisions.find(system)
        if found is None:
            found = _tried(task, system)
            decisions.keep(found)
        return found


def _tried(task: Task, system: Mapping[str, Any]) -> Decision:
    logger.info(
        "trying %d ways to compute the model, for at most %g s", len(task.candidates), task.seconds
    )
    trials = try_candidates(task)
    best = fastest(trials)
    made = datetime.now(timezone.utc).isoformat(timespec="seconds")
    said = tuple(
        replace(each, reason=NOT_FASTER) if _is_usable(each) and each is not best else each
        for each in trials
    )
    decision = Decision(best.variant, said, system, made)
    logger.info("engine='auto': %s", decision)
    return decision


def fastest(trials: Sequence[Trial]) -> Trial:
    """The trial of the variant to use: that of the plain module, unless another is clearly faster.

    The plain module is the first one.
    """
    plain, *others = trials
    assert plain.seconds is not None  # else `try_candidates` raises
    best = min(
        (each for each in others if _is_usable(each)),
        key=lambda each: each.seconds or 0.0,
        default=plain,
    )
    return best if best.seconds is not None and best.seconds < _WORTH * plain.seconds else plain


def two_structures(structure: Structure) -> list[Structure]:
    """A structure and another one near it, so that what ignores its input is noticed."""
    positions, cell, field = structure
    noise = np.random.default_rng(0).normal(0.0, _DISPLACEMENT, positions.shape)
    larger = None if cell is None else cell * _STRETCH
    return [structure, (positions * _STRETCH + noise, larger, field)]


def _is_usable(trial: Trial) -> bool:
    return trial.seconds is not None and not trial.reason


class _Walk:
    """One child process that walks through the candidates; fills `trials` as far as it comes.

    A candidate may take a share of the `budget` [s]; the plain module, the last one and those that
    come late may take all that is left.
    """

    def __init__(self, task: Task, budget: float, trials: list[Trial]) -> None:
        self._task, self._budget, self._trials = task, budget, trials
        self._unshared = {0, *(task.late or task.order[-1:])}
        self._begin = time.monotonic()

    def run(self) -> int | None:
        """The candidate that ended the child, or had to be ended; None if none did."""
        current: int | None = None
        # Files without a name, of which nothing is left however this process ends.
        with (
            tempfile.TemporaryFile() as given,
            tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as errors,
        ):
            given.write(pickle.dumps(self._task))
            given.seek(0)
            with self._child(given, errors) as (child, lines):
                since = time.monotonic()
                while True:
                    try:
                        said = lines.get(timeout=self._seconds_left(current, since))
                    except queue.Empty:
                        return self._give_up(current, time.monotonic() - since)
                    if said is None:
                        break
                    if "begin" in said:
                        current, since = said["begin"], time.monotonic()
                    elif "of" in said:
                        self._note(said)
                code = child.wait()
            errors.seek(0)
            reason = ending(code, errors.read())
        if code in (-signal.SIGINT, -signal.SIGTERM):  # Ctrl-C reaches the child, too
            raise SimulationError("interrupted")
        return self._drop(current, reason) if reason else None

    def _seconds_left(self, current: int | None, since: float) -> float:
        """How long to wait for the next line."""
        now = time.monotonic()
        left = self._begin + self._task.seconds - now
        if current is not None and current not in self._unshared:
            variant = self._task.candidates[current]
            is_made = variant.kernels == "torch" and variant.runner == "torchscript"
            share = _SHARE if is_made else _SHARE_TO_COMPILE
            left = min(left, since + share * self._budget - now)
        return max(left, 0.0)

    def _note(self, said: dict[str, Any]) -> None:
        trial = self._trials[said["of"]]
        if "seconds" in said:
            seconds = min(said["seconds"], trial.seconds or said["seconds"])
            threads = said.get("threads", trial.variant.threads)
            trial = replace(
                trial, variant=replace(trial.variant, threads=threads), seconds=seconds, reason=""
            )
        else:
            trial = replace(trial, reason=one_line(said["reason"], 200))
        self._trials[said["of"]] = trial

    def _give_up(self, current: int | None, taken: float) -> int | None:
        is_over = time.monotonic() - self._begin >= self._task.seconds
        if is_over and current is not None and self._trials[current].seconds is not None:
            return None  # it was measured before, and is not to blame
        had_the_rest = is_over and current in self._unshared - {0}
        left = f"the {taken:.3g} s left of {self._budget:g} s" if had_the_rest else f"{taken:.3g} s"
        return self._drop(current, f"did not finish in {left}")

    def _drop(self, culprit: int | None, reason: str) -> int | None:
        if culprit is None:
            raise SimulationError(f"the child process {reason}")
        self._trials[culprit] = replace(self._trials[culprit], reason=reason)
        return culprit

    @contextmanager
    def _child(
        self, given: IO[bytes], errors: IO[str]
    ) -> Iterator[tuple[subprocess.Popen[str], queue.SimpleQueue[dict[str, Any] | None]]]:
        """The process, and what it says, with None at its end; it is ended on the way out."""
        lines: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        # Its threads wait as those of this process do.
        child = start_bound(
            _CODE,
            folder="/",  # it has nothing to import, and nobody else can put anything there
            stdin=given,
            stdout=subprocess.PIPE,
            stderr=errors,
            env=dict(os.environ),
        )

        stdout = child.stdout
        assert stdout is not None

        def read() -> None:
            for line in stdout:
                # A library may print while it is imported, and a line may be cut.
                with suppress(ValueError, TypeError):
                    lines.put(dict(json.loads(line)))
            lines.put(None)

        reader = threading.Thread(target=read, daemon=True)
        reader.start()
        try:
            yield child, lines
        finally:
            child.kill()
            child.wait()
            reader.join()
            stdout.close()
