"""Tries candidates in a child process, which may crash or never end; see `tuning`.

What torch has to compile may take all the time that there is, so it comes when all others have been
measured to the end.

The process prints one JSON object a line: ``{"begin": i}`` before it does anything with candidate
i, so that the parent knows which one it was, then ``{"of": i, ...}`` with what came out.
"""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from openmm_les.arrays import FloatArray
from openmm_les.errors import one_line
from openmm_les.evaluation.engines.packing import compare
from openmm_les.evaluation.engines.variant import Variant
from openmm_les.processes.forks import check_threads
from openmm_les.processes.threads import unmeasured

if TYPE_CHECKING:
    from openmm_les.evaluation.results import Evaluation
    from openmm_les.evaluation.system_model import SystemModel

Say = Callable[..., None]
Parts = dict[str, FloatArray]

#: Positions, cell or None, electric field or None.
Structure = tuple[FloatArray, "FloatArray | None", "FloatArray | None"]

#: A candidate that takes so many times as long as the fastest one is not measured again.
_TOO_SLOW = 1.5
#: Evaluations before any is timed, in which code is loaded: at least, and at most until the number
#: of threads has been chosen.
_WARM_UP = 3, 30
#: An evaluation is repeated for so many seconds, and at least so often.
_SECONDS, _LEAST = 0.1, 3
#: How often all are measured again, one after another: other programs use a CPU now and then.
_ROUNDS = 5


@dataclass(frozen=True)
class Task:
    """What a child needs; pickled."""

    make: Callable[..., SystemModel]  #: from artifact, numbers and options
    arguments: tuple[Any, ...]
    structures: Sequence[Structure]  #: two, so that what ignores its input is noticed
    candidates: Sequence[Variant]
    threads: int  #: that torch may use
    seconds: float  #: for everything
    order: Sequence[int] = ()  #: of the candidates to try; the first one, torch code, first

    @property
    def late(self) -> list[int]:
        """Those of `order` that have the time that the others leave."""
        return [i for i in self.order if self.candidates[i].runner == "compile"]

    def model(self, variant: Variant) -> SystemModel:
        *arguments, options = self.arguments
        return self.make(*arguments, replace(options, engine="auto", variant=variant))


def main() -> None:
    """Try the candidates of the pickled `Task` on standard input, and say what comes of each."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends it without a word
    end = time.monotonic()
    say = _channel()
    task: Task = pickle.load(sys.stdin.buffer)
    end += task.seconds
    torch.set_num_threads(task.threads)
    check_threads()
    walk(task, _Race(say), end)


def walk(task: Task, race: _Race, end: float) -> None:
    """Try and measure all candidates until a time of the monotonic clock [s]."""
    expected = _expected(task, race.say)
    early = [i for i in task.order if i not in task.late]
    for group in (early, task.late):
        if not group or time.monotonic() > end:
            return
        _try_each(task, group, expected, race)
        _measure_again(task, race, end)


def _measure_again(task: Task, race: _Race, end: float) -> None:
    """All that are in the race beside each other, a few times."""
    with unmeasured():
        for _ in range(_ROUNDS):
            for index, model in race.models.items():
                if time.monotonic() > end:
                    return
                race.say(begin=index)
                race.note(index, _least(model, task.structures[0]))
            race.drop_slow()


class _Race:
    """The candidates that give the right numbers, and are not much slower than others."""

    def __init__(self, say: Say) -> None:
        self.say = say
        self.models: dict[int, SystemModel] = {}
        self.threads: int | None = None  #: of all, once they have been chosen
        self._times: dict[int, float] = {}

    def enter(self, index: int, model: SystemModel, seconds: float) -> None:
        self.models[index] = model
        self.note(index, seconds, threads=model.variant.threads)
        if not _is_on_cpu(model):  # a GPU has little memory, and its times are steady
            self.drop_slow()
            torch.cuda.empty_cache()

    def note(self, index: int, seconds: float, **more: Any) -> None:
        self._times[index] = min(seconds, self._times.get(index, seconds))
        self.say(of=index, seconds=seconds, **more)

    def drop_slow(self) -> None:
        fastest = min(self._times.values(), default=0.0)
        for index in [i for i in self.models if self._times[i] > _TOO_SLOW * fastest]:
            del self.models[index]


def _expected(task: Task, say: Say) -> list[Parts]:
    """What the plain module gives, which is torch code, for every structure."""
    say(begin=task.order[0])
    plain = task.model(replace(task.candidates[0], graph=False))
    return [_parts(plain.evaluate(*each)) for each in task.structures]


def _try_each(task: Task, indices: Sequence[int], expected: Sequence[Parts], race: _Race) -> None:
    """Compare candidates with what is expected, and measure them."""
    for index in indices:
        race.say(begin=index)
        try:
            candidate = task.candidates[index]
            model = task.model(replace(candidate, threads=candidate.threads or race.threads))
            with unmeasured() if race.threads else contextlib.nullcontext():
                _compare(model, task.structures, expected)
                _warm_up(model, task.structures[0])
                seconds = _least(model, task.structures[0])
        except Exception as error:  # whatever a compiler may raise
            race.say(of=index, reason=one_line(error).removeprefix("it "))
            continue
        if race.threads is None and (threads := model.variant.threads):
            # Measured once, with the plain module, which itself has not been given a number.
            torch.set_num_threads(threads)
            race.threads = threads
        race.enter(index, model, seconds)


def _compare(
    model: SystemModel, structures: Sequence[Structure], expected: Sequence[Parts]
) -> None:
    """Raise an error unless a model gives what is expected in the way that it was made for."""
    for each in structures:  # makes buffers, compiles, records
        model.evaluate(*each)
    if reasons := model.dropped.values():
        raise RuntimeError("; ".join(reasons))
    for parts, structure in zip(expected, structures, strict=True):
        compare(parts, _parts(model.evaluate(*structure)))


def _warm_up(model: SystemModel, structure: Structure) -> None:
    few, most = _WARM_UP
    has_choice = _is_on_cpu(model) and torch.get_num_threads() > 1
    for done in range(most):
        if done >= few and not (has_choice and model.variant.threads is None):
            return
        model.evaluate(*structure)


def _is_on_cpu(model: SystemModel) -> bool:
    return str(model.options.device).startswith("cpu")


def _least(model: SystemModel, structure: Structure) -> float:
    """Least time of an evaluation [s]: on a GPU there, on a CPU processor time per thread."""
    threads = (model.variant.threads or torch.get_num_threads()) if _is_on_cpu(model) else 1

    def times() -> Iterator[float]:
        end, done = time.perf_counter() + _SECONDS, 0
        while done < _LEAST or time.perf_counter() < end:
            done += 1
            model.evaluate(*structure)
            yield model.seconds / threads

    return min(times())


def _parts(result: Evaluation) -> Parts:
    """All numbers of a result by name."""
    values = {
        "energy": result.energy,
        "forces": result.forces,
        "charges": result.charges,
        "virial": result.virial,
        "energy of the charges": result.les_energy,
        **(vars(result.moments) if result.moments is not None else {}),
    }
    return {name: np.asarray(value) for name, value in values.items() if value is not None}


def _channel() -> Say:
    """What prints a line for the parent; whatever libraries print goes to the errors."""
    stream = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    sys.stdout = sys.stderr

    def say(**values: Any) -> None:
        print(json.dumps(values), file=stream, flush=True)

    return say
