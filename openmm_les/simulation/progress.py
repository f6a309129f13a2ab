"""How a run tells what happens; the command line prints it, by default it is logged."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Progress:
    """Where a run stands.

    Attributes:
        phase: ``"equilibration"`` or ``"production"``.
        step: steps done in this phase.
        steps: steps of this phase.
        ns_per_day: speed of this process in this phase [ns/day].
    """

    phase: str
    step: int
    steps: int
    ns_per_day: float


class RunCallbacks:
    """Base class; override what is of interest."""

    def message(self, text: str) -> None:
        """Something worth a line, such as the step from which a run continues."""
        logger.info("%s", text)

    def progress(self, progress: Progress) -> None:
        """Some steps were done; called several times a second or less often."""


@contextlib.contextmanager
def warn_once() -> Iterator[None]:
    """Let every warning of this package pass once: a run makes the same System several times."""
    told: set[tuple[str, str]] = set()

    def is_new(record: logging.LogRecord) -> bool:
        line = (record.name, record.getMessage())
        is_known = record.levelno >= logging.WARNING and line in told
        told.add(line)
        return not is_known

    loggers = [
        logging.getLogger(name)
        for name in logging.root.manager.loggerDict
        if name.startswith("openmm_les")
    ]
    for each in loggers:
        each.addFilter(is_new)
    try:
        yield
    finally:
        for each in loggers:
            each.removeFilter(is_new)
