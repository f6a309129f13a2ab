"""Lets Ctrl-C inside of a force, or of a scripted module, reach the user as KeyboardInterrupt.

During a step, Python handles signals inside of the force, and OpenMM turns every exception there
into an OpenMMException with its text. So Ctrl-C waits until OpenMM returns, which in
`Simulation.step` is after ten steps at most. If OpenMM takes longer, as in a minimisation, or on a
second Ctrl-C, the force raises, and the KeyboardInterrupt replaces the OpenMMException.
"""

from __future__ import annotations

import contextlib
import copy
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import CodeType, FrameType
from typing import Any, TypeVar

from openmm_les.errors import SimulationError

#: Calls of the force that Ctrl-C waits for: `Simulation.step` returns to Python after ten steps.
_MAX_CALLS = 12

Called = TypeVar("Called", bound=Callable[..., Any])

#: Code of the functions that OpenMM calls.
_entries: set[CodeType] = set()


class _Deferred:
    """An exception that is raised when OpenMM returns."""

    def __init__(self) -> None:
        self.error: BaseException | None = None
        self.calls = 0  # of the force since then
        self._caller: FrameType | None = None
        self._profiler: Any = None

    def put(self, error: BaseException, caller: FrameType | None) -> None:
        """Raise `error` in the function that called OpenMM, before it goes on or returns."""
        if self.error is None:
            self.calls = 0
        self.error, self._caller = error, caller
        # Only a profiler runs between OpenMM and the code that called it.
        if sys.getprofile() != self._on_event:
            self._profiler = sys.getprofile()
            sys.setprofile(self._on_event)

    def _on_event(self, frame: FrameType, event: str, argument: object) -> None:
        # OpenMM also runs Python itself, and would crash if that raised.
        outer = self._caller
        while outer is not None and outer is not frame:
            outer = outer.f_back
        if outer is None:
            return
        sys.setprofile(self._profiler)
        error, self.error, self._caller = self.error, None, None
        if error is not None:
            raise error


_deferred = _Deferred()
_force_error: SimulationError | None = None


def called_by_openmm(function: Called) -> Called:
    """Register a function that OpenMM calls, inside of which Ctrl-C waits."""
    _entries.add(function.__code__)
    return function


def force_error() -> SimulationError | None:
    """The error of the last call of a force, of which OpenMM passes on the text alone; or None."""
    return _force_error


@contextlib.contextmanager
def handed_over() -> Iterator[None]:
    """Defer KeyboardInterrupt and SystemExit until OpenMM returns, and keep errors of the force.

    A SimulationError takes their place, to end the calculation.
    """
    global _force_error
    if threading.current_thread() is not threading.main_thread():  # gets no signals
        yield
        return
    # Another handler is left alone. Jupyter resets its own for each cell.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _handle)
    try:
        if _deferred.error is not None:
            _deferred.calls += 1
            if _deferred.calls > _MAX_CALLS:
                raise _deferred.error
        _force_error = None
        yield
    except SimulationError as error:
        _force_error = copy.copy(error)  # without traceback, which would keep the model alive
        raise
    except (KeyboardInterrupt, SystemExit) as error:
        _deferred.put(error, _caller(sys._getframe()))
        raise SimulationError("interrupted from the keyboard") from None


@contextlib.contextmanager
def stoppable() -> Iterator[None]:
    """Let what a signal raises in an operator in Python leave a module of TorchScript as it is.

    Python handles signals where its code runs, and TorchScript turns every exception there into a
    RuntimeError with its text.
    """
    try:
        yield
    except RuntimeError as error:
        raised = re.search(
            r"^RuntimeError: (KeyboardInterrupt|SystemExit): (\d*)", str(error), re.M
        )
        if raised is None:
            raise
        if raised[1] == "SystemExit":
            raise SystemExit(int(raised[2] or 0)) from None
        raise KeyboardInterrupt from None


def _handle(number: int, frame: FrameType | None) -> None:
    """Python's handler, except inside of a force."""
    caller = _caller(frame)
    if _deferred.error is None and caller is not None:
        _deferred.put(KeyboardInterrupt(), caller)
    else:
        signal.default_int_handler(number, frame)


def _caller(frame: FrameType | None) -> FrameType | None:
    """The frame that called OpenMM, if `frame` is inside of a force; else None."""
    caller = None
    while frame is not None:
        if frame.f_code in _entries:
            caller = frame.f_back
        frame = frame.f_back
    return caller
