"""Errors of this package: each names the argument, what was expected, what came, what to do."""

from __future__ import annotations

#: What the command line puts before an error.
ERROR_PREFIX = "openmm-les: error: "


def printable(text: str) -> str:
    """Text with control characters, which could steer a terminal, replaced as in ``\\u001b``."""
    return "".join(
        letter if letter.isprintable() or letter in "\n\t" else f"\\u{ord(letter):04x}"
        for letter in text
    )


def one_line(said: object, most: int = 400) -> str:
    """A text, or that or else the class of an exception, as one printable line for a message."""
    line = printable(" ".join(str(said).split()))
    if not line and isinstance(said, BaseException):
        line = type(said).__name__
    return line if len(line) <= most else line[:most] + "..."


class LESError(Exception):
    """Base class of all errors raised by openmm-les; their text never steers a terminal."""

    def __str__(self) -> str:
        return printable(super().__str__())


class InputError(LESError, ValueError):
    """An argument or a structure that cannot be used (wrong element, box too small, ...)."""


class ModelFileError(LESError, ValueError):
    """A file given to the exporter is not a readable LES model."""


class UnsupportedModelError(ModelFileError):
    """A readable model uses an option that openmm-les does not implement."""


class ArtifactError(LESError, ValueError):
    """An artifact (``*.les.pt``) is missing, corrupt, too new, or of another program."""


class OutputError(LESError, OSError):
    """A file that cannot be written: it exists, is an input, the disk is full, no permission."""


class DownloadError(LESError):
    """A published model cannot be downloaded, or is not what its authors published."""


class VerificationError(LESError):
    """The exported model does not reproduce the original one."""


class SimulationError(LESError, RuntimeError):
    """A running simulation met a state without a valid energy (NaN positions, overflow, ...)."""

    reason: str = ""  #: the message without the atoms it names; empty if it names none
    atoms: tuple[int, ...] = ()  #: indices of these atoms, among the atoms of the model
    has_remedy: bool = False  #: whether the message says what to do

    @classmethod
    def with_remedy(cls, message: str) -> SimulationError:
        """An error whose message says what to do."""
        error = cls(message)
        error.has_remedy = True
        return error
