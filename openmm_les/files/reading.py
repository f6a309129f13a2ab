"""Reads files that may be damaged or hostile; whatever is wrong becomes an error of one line.

Imports nothing heavy: `openmm_les.artifact` works without torch.
"""

from __future__ import annotations

import json
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openmm_les.errors import LESError, one_line, printable

#: Offsets in a zip archive have 32 bits.
_LARGEST_FILE = 2**32 - 1
#: A JSON text takes up to 20 times its size in memory.
_LARGEST_JSON = 8 * 2**20
#: Characters of a reason that a message shows.
_LONGEST_REASON = 200


class Damage(ValueError):
    """What is wrong with a file; `boundary` adds the name of the file."""


@dataclass(frozen=True)
class Kind:
    """How messages describe a kind of file."""

    error: type[LESError]
    argument: str
    damaged: str  #: message for damaged content, with the fields ``file`` and ``reason``


@contextmanager
def boundary(file: str | Path, kind: Kind) -> Iterator[None]:
    """Turns any error caused by the content of a file into a `LESError` that names the file.

    Damaged files can raise anything, from KeyError to RecursionError and MemoryError, so all code
    that looks at their content belongs inside.
    """
    try:
        yield
    except kind.error as error:
        text = " ".join(str(error).split())
        if printable(Path(file).name) not in text:
            text = f"{kind.argument}: {file}: {text.removeprefix(f'{kind.argument}: ')}"
        if text == str(error):
            raise
        raise type(error)(text) from error
    except (LESError, ImportError):  # about other arguments, or a package that is not installed
        raise
    except OSError as error:
        reason = error.strerror or _reason(error)
        raise kind.error(f"{kind.argument}: cannot read {file}: {reason}") from error
    except Exception as error:
        raise kind.error(kind.damaged.format(file=file, reason=_reason(error))) from error


def _reason(error: Exception) -> str:
    """One line, never empty."""
    text = one_line(str(error).strip().split("\n", 1)[0], _LONGEST_REASON)
    if isinstance(error, Damage):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def read_file(file: Path) -> bytes:
    """The content of a regular file (a pipe might never end) that a model can have."""
    status = file.stat()
    if not stat.S_ISREG(status.st_mode):
        raise Damage("it is not a regular file")
    size = status.st_size
    if size > _LARGEST_FILE:
        raise Damage(f"expected at most {_LARGEST_FILE} bytes, got {size}")
    return file.read_bytes()


def parse_json(content: bytes | memoryview) -> Any:
    """Parses JSON that is no longer than a description of a model, and whose integers are short."""
    if len(content) > _LARGEST_JSON:
        raise Damage(f"expected at most {_LARGEST_JSON} bytes of JSON, got {len(content)}")
    try:
        return json.loads(bytes(content), parse_int=_short_integer)
    except ValueError as error:  # also bytes that are not text
        raise Damage(f"it is not JSON: {error}") from error


def _short_integer(digits: str) -> int:
    if len(digits) > 20:
        raise Damage(f"an integer of {len(digits)} digits")
    return int(digits)
