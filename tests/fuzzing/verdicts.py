"""What may come out of a case."""

from __future__ import annotations

from dataclasses import dataclass

#: Refused by an error of ours; accepted with the same numbers; accepted with others where nothing
#: in the file could tell.
GOOD = ("refused", "same", "other")
#: What must not happen.
FAULTS = {
    "crash": "the process died",
    "hang": "the limit of processor time or of wall time was reached",
    "memory": "more memory was asked for than a multiple of the file's size",
    "exception": "an error that is not one of ours",
    "message": "an error of ours that is not one printable line with the file's name",
    "changed": "accepted, although it does not say what it said",
    "ran": "code from the file was run",
}


@dataclass(frozen=True)
class Outcome:
    """The verdict of one case.

    Attributes:
        number: of the case.
        name: of its mutation or hostile file.
        verdict: one of `GOOD` or `FAULTS`.
        detail: message, place or numbers.
        seconds: processor time.
        peak: memory at the most beyond that before [bytes].
        size: of all files of the case [bytes].
    """

    number: int
    name: str
    verdict: str
    detail: str = ""
    seconds: float = 0.0
    peak: int = 0
    size: int = 0

    @property
    def is_fault(self) -> bool:
        """Whether this must not happen."""
        return self.verdict in FAULTS
