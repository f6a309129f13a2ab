"""Chooses the number of torch's threads for evaluations on a CPU by measuring.

An evaluation is hundreds of short operations, and after each of them all threads wait for the
slowest. More threads may be slower for small systems, and many times as slow when other programs
use the cores, since waiting threads spin. So the first evaluations are timed with several numbers
of threads, and the fastest is kept until evaluations become much slower. The setting of torch is
restored after each evaluation.
"""

from __future__ import annotations

import contextlib
import logging
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

import torch

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

#: Timings for each number of threads.
_TIMINGS = 3
#: A number of threads is dropped when it is this many times slower than the fastest.
_TOO_SLOW = 2.0
#: A number of threads is not tried if an evaluation might take longer [s].
_MAX_SECONDS = 20.0
#: Measure again after so many evaluations in a row that are so many times slower than before.
_IN_A_ROW, _SLOWER = 3, 5.0
#: Or so many times slower than fewer threads were: another program may have come to want the cores.
_LOST = 1.2

#: How many blocks of `unmeasured` there are now, in all threads: forces may run in any.
_unmeasured = 0
_guard = threading.Lock()


@contextlib.contextmanager
def unmeasured() -> Iterator[None]:
    """Use the number of threads that torch is set to, on which the last bits of results depend.

    It holds for the whole process until the last of several threads leaves its block.
    """
    global _unmeasured
    with _guard:
        _unmeasured += 1
    try:
        yield
    finally:
        with _guard:
            _unmeasured -= 1


def is_measuring() -> bool:
    """Whether anything may be chosen by how long it takes; not inside of `unmeasured`."""
    return not _unmeasured


class Threads:
    """The number of threads for an evaluation that is repeated; they matter on a CPU only."""

    def __init__(
        self, device: torch.device, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self._on_cpu = device.type == "cpu"
        self._clock = clock
        self._most = 0
        self._times: dict[int, list[float]] = {}
        self._chosen: int | None = None
        self._start: int | None = None
        self._slow_ones = 0
        self._is_first = True

    @property
    def chosen(self) -> int | None:
        """The number in use, once it is known; None where there is no choice."""
        return self._chosen

    def start_with(self, number: int | None) -> None:
        """Begin with a number that was fastest before; where nothing is measured, stay with it."""
        if number != self._start:
            self._start, self._most = number, 0

    def run(self, evaluate: Callable[[], Result]) -> Result:
        """Evaluate with the fastest number of threads, or the next one to be timed."""
        most = torch.get_num_threads()
        if most == 1 or not self._on_cpu:
            return evaluate()
        if not is_measuring():
            with _torch_threads(min(self._start or most, most), most):
                return evaluate()
        if most != self._most:  # changed by the user
            self._begin(most)
        number = self._chosen or (next(iter(self._times)) if self._is_first else self._next())
        begin = self._clock()
        with _torch_threads(number, most):
            result = evaluate()
        self._learn(number, self._clock() - begin)
        return result

    def _begin(self, most: int) -> None:
        """Start to measure, from all threads down to one by factors of four."""
        self._most = most
        numbers = {most, *(4**i for i in range(most.bit_length()) if 4**i < most)}
        order = [min(self._start or most, most), *sorted(numbers, reverse=True)]
        self._times = {number: [] for number in order}
        self._chosen = None

    def _candidates(self) -> list[int]:
        """Numbers of threads that may be the fastest."""
        timed = ((min(times), number) for number, times in self._times.items() if times)
        fastest, best = min(timed, default=(0.0, self._most))

        def may_be_fast(number: int, times: list[float]) -> bool:
            if times:
                return min(times) <= _TOO_SLOW * fastest
            return fastest * best / number <= _MAX_SECONDS

        return [number for number, times in self._times.items() if may_be_fast(number, times)]

    def _next(self) -> int:
        return min(self._candidates(), key=lambda number: len(self._times[number]))

    def _learn(self, number: int, seconds: float) -> None:
        if self._chosen is not None:
            self._watch(seconds)
        elif self._is_first:  # slower: memory is allocated, code is loaded
            self._is_first = False
        else:
            self._times[number].append(seconds)
            candidates = self._candidates()
            if all(len(self._times[n]) >= _TIMINGS for n in candidates):
                self._chosen = min(candidates, key=self._typical)
                self._slow_ones = 0
                tried = ", ".join(
                    f"{1e3 * self._typical(n):.3g} ms with {n}"
                    for n in self._times
                    if self._times[n]
                )
                logger.info("%d of %d threads: %s", self._chosen, self._most, tried)

    def _watch(self, seconds: float) -> None:
        assert self._chosen is not None
        typical = self._typical(self._chosen)
        fewer = [self._typical(n) for n, times in self._times.items() if n < self._chosen and times]
        limit = min([_SLOWER * typical, *(_LOST * time for time in fewer)])
        self._slow_ones = self._slow_ones + 1 if seconds > limit else 0
        if self._slow_ones == _IN_A_ROW:
            logger.info(
                "evaluations take %.3g ms instead of %.3g ms: choosing the number of threads again",
                1e3 * seconds,
                1e3 * typical,
            )
            self._begin(self._most)

    def _typical(self, number: int) -> float:
        return statistics.median(self._times[number])


@contextlib.contextmanager
def _torch_threads(number: int, before: int) -> Iterator[None]:
    """Set the number of threads of torch, which takes less than a microsecond."""
    if number == before:
        yield
        return
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
