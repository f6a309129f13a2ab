"""How many of torch's threads an evaluation on a CPU uses: chosen by measuring, and watched.

An evaluation is hundreds of short operations, and after each of them all threads wait for the
slowest. More threads may be slower for small systems, and where other programs want the cores too
they are many times as slow: a waiting thread spins on the core that the awaited one needs. So the
first evaluations are timed with several numbers of threads, and the fastest is kept until
evaluations become much slower. What torch was set to is restored after each.
"""

from __future__ import annotations

import contextlib
import logging
import statistics
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

import torch

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

#: How often each number of threads is timed.
_TURNS = 3
#: A number of threads this many times slower than the fastest is not timed again.
_HOPELESS = 2.0
#: Nor is one tried that might take longer than this for one evaluation [s].
_PATIENCE = 20.0
#: When so many evaluations in a row take this many times what they took, all is measured again.
_IN_A_ROW, _SLOW = 3, 5.0

_measuring = True


@contextlib.contextmanager
def unmeasured() -> Iterator[None]:
    """Use the threads that torch has: with another number the last bits of results may differ."""
    global _measuring
    before, _measuring = _measuring, False
    try:
        yield
    finally:
        _measuring = before


class Threads:
    """The threads of one evaluation, which is made again and again.

    Args:
        device: where it is made; only on a CPU there is a choice.
        clock: tells the time [s].
    """

    def __init__(
        self, device: torch.device, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self._on_cpu = device.type == "cpu"
        self._clock = clock
        self._most = 0
        self._times: dict[int, list[float]] = {}
        self._chosen: int | None = None
        self._slow_ones = 0
        self._is_first = True

    def run(self, evaluate: Callable[[], Result]) -> Result:
        """Evaluate, with the number of threads that is fastest, or is to be timed next."""
        most = torch.get_num_threads()
        if most == 1 or not self._on_cpu or not _measuring:
            return evaluate()
        if most != self._most:  # the user has changed it
            self._begin(most)
        number = self._chosen or (most if self._is_first else self._next())
        begin = self._clock()
        with _torch_threads(number, most):
            result = evaluate()
        self._learn(number, self._clock() - begin)
        return result

    def _begin(self, most: int) -> None:
        """Forget what was measured; from all threads to one, each time to a quarter."""
        self._most = most
        numbers = {most, *(4**i for i in range(most.bit_length()) if 4**i < most)}
        self._times = {number: [] for number in sorted(numbers, reverse=True)}
        self._chosen = None

    def _hopeful(self) -> list[int]:
        """The numbers of threads of which one may turn out to be the fastest."""
        fastest, best = min(
            ((min(times), number) for number, times in self._times.items() if times),
            default=(0.0, self._most),
        )
        return [
            number
            for number, times in self._times.items()
            if (
                min(times) <= _HOPELESS * fastest if times else fastest * best / number <= _PATIENCE
            )
        ]

    def _next(self) -> int:
        return min(self._hopeful(), key=lambda number: len(self._times[number]))

    def _learn(self, number: int, seconds: float) -> None:
        if self._chosen is not None:
            self._watch(seconds)
        elif self._is_first:  # in which memory is allocated and code loaded
            self._is_first = False
        else:
            self._times[number].append(seconds)
            hopeful = self._hopeful()
            if all(len(self._times[n]) >= _TURNS for n in hopeful):
                self._chosen = min(hopeful, key=self._typical)
                self._slow_ones = 0
                logger.info("%d of %d threads: %s", self._chosen, self._most, self._measurements())

    def _watch(self, seconds: float) -> None:
        assert self._chosen is not None
        typical = self._typical(self._chosen)
        self._slow_ones = self._slow_ones + 1 if seconds > _SLOW * typical else 0
        if self._slow_ones == _IN_A_ROW:
            logger.info(
                "evaluations take %.3g ms instead of %.3g ms: choosing the number of threads again",
                1e3 * seconds,
                1e3 * typical,
            )
            self._begin(self._most)

    def _typical(self, number: int) -> float:
        return statistics.median(self._times[number])

    def _measurements(self) -> str:
        tried = {number: times for number, times in self._times.items() if times}
        return ", ".join(
            f"{1e3 * statistics.median(times):.3g} ms with {number}"
            for number, times in tried.items()
        )


@contextlib.contextmanager
def _torch_threads(number: int, before: int) -> Iterator[None]:
    """Torch with so many threads; changing them takes less than a microsecond."""
    if number == before:
        yield
        return
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
