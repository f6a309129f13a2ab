"""Numba's compiler with the options that all loops have."""

import logging
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numba
from numba.core import event as events

logger = logging.getLogger(__name__)

#: Sums may be taken in another order, for vector instructions; NaN and infinity stay what they are.
_REORDERED = {"contract", "nsz", "arcp", "reassoc"}
#: After so many seconds of compiling there is a message.
_PATIENCE = 2.0


def compiled(function: Callable[..., Any]) -> Any:
    """A function as machine code, made at its first call and kept on disk; it needs no GIL.

    Sums may be rounded in another way than written.
    """
    return _compiled(function, fastmath=_REORDERED)


def compiled_as_written(function: Callable[..., Any]) -> Any:
    """The same with every number rounded as written."""
    return _compiled(function)


def _compiled(function: Callable[..., Any], **options: Any) -> Any:
    options |= {"nogil": True, "error_model": "numpy"}
    try:
        made = numba.njit(function, cache=True, **options)
    except RuntimeError:  # no folder that can be written
        return numba.njit(function, **options)
    made._cache = _Cache(made._cache)
    return made


class Patience(events.Listener):  # type: ignore[misc, unused-ignore]
    """Says once that loops are being compiled, if that takes longer than one waits without a word.

    Numba compiles one function at a time, and while it does, those that this one calls. Only
    functions of the `package` are counted.
    """

    def __init__(self, package: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._package, self._clock = package, clock
        self._depth, self._since, self._spent, self._has_said = 0, 0.0, 0.0, False

    def on_start(self, event: Any) -> None:
        if not self._counts(event):
            return
        now = self._clock()
        if self._depth == 0:
            self._since = now
        self._depth += 1
        if not self._has_said and self._spent + now - self._since > _PATIENCE:
            self._has_said = True
            logger.warning(
                "compiling loops for this CPU, which takes 5 to 20 s if it is idle; later "
                "processes find them on the disk"
            )

    def on_end(self, event: Any) -> None:
        if not self._counts(event):
            return
        self._depth -= 1
        if self._depth == 0:
            self._spent += self._clock() - self._since

    def _counts(self, event: Any) -> bool:
        module: str = event.data["dispatcher"].py_func.__module__
        return module.partition(".")[0] == self._package


events.register("numba:compile", Patience("openmm_les"))  # type: ignore[no-untyped-call, unused-ignore]


class _Cache:
    """Numba's cache of a function, whose errors would otherwise end the computation."""

    def __init__(self, cache: Any) -> None:
        self._cache = cache

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cache, name)

    def load_overload(self, *arguments: Any) -> Any:
        """The machine code, or None; what cannot be read is thrown away."""
        try:
            return self._cache.load_overload(*arguments)
        except Exception as error:  # damaged pickles raise whatever they like
            self._note("read", error)
            with suppress(OSError):
                self._cache.flush()
            return None

    def save_overload(self, *arguments: Any) -> None:
        """Keep the machine code for other processes, if there is room for it."""
        try:
            self._cache.save_overload(*arguments)
        except OSError as error:
            self._note("written", error)

    def _note(self, what: str, error: Exception) -> None:
        logger.info(
            "compiled loops in %s cannot be %s (%s); they are compiled again",
            self._cache.cache_path,
            what,
            error,
        )
