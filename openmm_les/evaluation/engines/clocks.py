"""How long an evaluation takes: processor time on a CPU, events in the stream of a GPU."""

from __future__ import annotations

import time
from typing import Protocol

import torch


class Clock(Protocol):
    """Measures one evaluation after another."""

    def begin(self) -> None:
        """An evaluation begins; on a GPU, in the stream of the clock."""

    def end(self) -> None:
        """Its last piece of work has been given to the device; returns when that is done."""

    @property
    def seconds(self) -> float:
        """Between the last `begin` and the last `end` [s]."""


class ProcessorClock:
    """Processor time of all threads of this process, so that what other programs take is left out.

    Threads that wait for each other by spinning count as working.
    """

    def __init__(self) -> None:
        self._begin = self._end = 0.0

    def begin(self) -> None:
        self._begin = time.process_time()

    def end(self) -> None:
        self._end = time.process_time()

    @property
    def seconds(self) -> float:
        return self._end - self._begin


class DeviceClock:
    """Time on a GPU from the first piece of work of an evaluation to the last one.

    It includes the gaps in which the GPU waits for the host to launch something, and nothing of
    what the host does before and afterwards.
    """

    def __init__(self, stream: torch.cuda.Stream) -> None:
        self._stream = stream
        self._begin, self._end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call, unused-ignore]

    def begin(self) -> None:
        self._begin.record(self._stream)  # type: ignore[no-untyped-call, unused-ignore]

    def end(self) -> None:
        self._end.record(self._stream)  # type: ignore[no-untyped-call, unused-ignore]
        # Waiting for the stream itself is an error while another thread prepares a recording.
        self._end.synchronize()  # type: ignore[no-untyped-call, unused-ignore]

    @property
    def seconds(self) -> float:
        milliseconds: float = self._begin.elapsed_time(self._end)  # type: ignore[no-untyped-call, unused-ignore]
        return 1e-3 * milliseconds
