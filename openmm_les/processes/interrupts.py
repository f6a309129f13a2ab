"""Ctrl-C while OpenMM calls a force, which reaches the user as KeyboardInterrupt.

Python answers a signal between two of its instructions. Inside of a step those are the force's, and
what is raised there comes out as an OpenMMException that holds the text alone, if any. So Ctrl-C
waits until OpenMM has returned, which in `Simulation.step` is ten steps later at most. Where OpenMM
goes on for longer, as in a minimisation, or is asked a second time, the force gives up; the
OpenMMException is then replaced by the KeyboardInterrupt on its way.
"""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import CodeType, FrameType
from typing import Any, TypeVar

from openmm_les.errors import SimulationError

#: Calls of forces for which Ctrl-C waits: `Simulation.step` returns to Python after ten steps.
_PATIENCE = 12

Called = TypeVar("Called", bound=Callable[..., Any])

#: What OpenMM calls.
_entries: set[CodeType] = set()


class _Waiting:
    """What is raised as soon as OpenMM has returned.

    Attributes:
        error: the exception; None while there is none.
        calls: calls of forces since it came.
    """

    def __init__(self) -> None:
        self.error: BaseException | None = None
        self.calls = 0
        self._caller: FrameType | None = None
        self._profiler: Any = None

    def put(self, error: BaseException, caller: FrameType | None) -> None:
        """Raise `error` in the function that called OpenMM, before it goes on or returns."""
        if self.error is None:
            self.calls = 0
        self.error, self._caller = error, caller
        # There is no other way into the code between OpenMM and the user.
        if sys.getprofile() != self._on_event:
            self._profiler = sys.getprofile()
            sys.setprofile(self._on_event)

    def _on_event(self, frame: FrameType, event: str, argument: object) -> None:
        # OpenMM itself runs Python too, as for the text of an error, and dies of what is raised.
        outer = self._caller
        while outer is not None and outer is not frame:
            outer = outer.f_back
        if outer is None:
            return
        sys.setprofile(self._profiler)
        error, self.error, self._caller = self.error, None, None
        if error is not None:
            raise error


_waiting = _Waiting()


def called_by_openmm(function: Called) -> Called:
    """Mark a function that OpenMM calls, inside of which Ctrl-C waits."""
    _entries.add(function.__code__)
    return function


@contextlib.contextmanager
def handed_over() -> Iterator[None]:
    """Let what ends Python, rather than a calculation, reach the user from inside of a force.

    Raises:
        SimulationError: ends OpenMM's calculation, where that has to end.
    """
    if threading.current_thread() is not threading.main_thread():  # gets no signals
        yield
        return
    # Where there is another handler, it is someone's choice. Jupyter sets it anew for each cell.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _handle)
    try:
        if _waiting.error is not None:
            _waiting.calls += 1
            if _waiting.calls > _PATIENCE:
                raise _waiting.error
        yield
    except (KeyboardInterrupt, SystemExit) as error:
        _waiting.put(error, _caller(sys._getframe()))
        raise SimulationError("interrupted from the keyboard") from None


def _handle(number: int, frame: FrameType | None) -> None:
    """Python's own handler, except inside of a force."""
    caller = _caller(frame)
    if _waiting.error is None and caller is not None:
        _waiting.put(KeyboardInterrupt(), caller)
    else:
        signal.default_int_handler(number, frame)


def _caller(frame: FrameType | None) -> FrameType | None:
    """What called the OpenMM that called the force that a frame belongs to; None outside of any."""
    caller = None
    while frame is not None:
        if frame.f_code in _entries:
            caller = frame.f_back
        frame = frame.f_back
    return caller
