"""Progress of a run, as callbacks; without any, messages are logged."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Progress:
    """Progress of a phase."""

    phase: str
    step: int
    steps: int
    ns_per_day: float  #: Speed of this process in this phase [ns/day]


class RunCallbacks:
    """Callbacks of a run; override those of interest."""

    def message(self, text: str) -> None:
        """Called with one line, such as the step from which a run continues."""
        logger.info("%s", text)

    def progress(self, progress: Progress) -> None:
        """Called after every few steps, several times a second at most."""


@contextlib.contextmanager
def warn_once() -> Iterator[list[str]]:
    """Log each warning of this package once, since a run creates the same System several times.

    Returns the warnings so far, a list that grows.
    """
    seen: set[tuple[str, str]] = set()
    warnings: list[str] = []

    def is_new(record: logging.LogRecord) -> bool:
        line = (record.name, record.getMessage())
        is_warning = record.levelno >= logging.WARNING
        if is_warning and line in seen:
            return False
        if is_warning and line[1] not in warnings:  # a run that continues has those before
            warnings.append(line[1])
        seen.add(line)
        return True

    names = [name for name in logging.root.manager.loggerDict if name.startswith("openmm_les")]
    loggers = [logging.getLogger(name) for name in names]
    for each in loggers:
        each.addFilter(is_new)
    try:
        yield warnings
    finally:
        for each in loggers:
            each.removeFilter(is_new)
