"""Files of others, read whole and once; whatever is wrong with one becomes one line of ours.

Imports nothing heavy: `openmm_les.artifact` does without torch.
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

#: Positions in a zip archive have 32 bits; no model comes near.
_LARGEST_FILE = 2**32 - 1
#: A JSON text takes up to 20 times its size in memory.
_LARGEST_JSON = 8 * 2**20
#: Letters that a message shows of what is wrong.
_LONGEST_REASON = 200


class Damage(ValueError):
    """What is wrong with a file, before `boundary` says with which."""


@dataclass(frozen=True)
class Kind:
    """How a kind of file is talked about in messages.

    Attributes:
        error: class of errors about such a file.
        argument: by which people give it.
        damaged: the message about such a file whose content makes no sense, with places for
            ``file`` and ``reason``.
    """

    error: type[LESError]
    argument: str
    damaged: str


@contextmanager
def boundary(file: str | Path, kind: Kind) -> Iterator[None]:
    """The one place where damage of a file becomes an error of ours, with the file's name.

    Hostile and damaged files raise anything, from KeyError to RecursionError and MemoryError, in
    whatever looks at their content: all of that belongs inside.

    Args:
        file: path or name of the file.
        kind: what it is supposed to be.

    Raises:
        LESError: of the class that `kind` says; our own errors pass, and get the name if they lack
            it.
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
    except (LESError, ImportError):  # what somebody gave beside the file, or has not installed
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
    """The content of a regular file.

    Raises:
        Damage: it is no file (a pipe would never end), or too large for any model.
        OSError: it cannot be read.
    """
    status = file.stat()
    if not stat.S_ISREG(status.st_mode):
        raise Damage("it is no regular file")
    size = status.st_size
    if size > _LARGEST_FILE:
        raise Damage(f"{size} bytes, more than the {_LARGEST_FILE} that a model may have")
    return file.read_bytes()


def parse_json(content: bytes | memoryview) -> Any:
    """What a JSON text says, with short numbers.

    Raises:
        Damage: it is no JSON, or longer than any description of a model.
        RecursionError: too deeply nested.
    """
    if len(content) > _LARGEST_JSON:
        raise Damage(f"{len(content)} bytes of JSON, expected at most {_LARGEST_JSON}")
    try:
        return json.loads(bytes(content), parse_int=_short_integer)
    except ValueError as error:  # also of bytes that are no text
        raise Damage(f"it is not JSON: {error}") from error


def _short_integer(digits: str) -> int:
    if len(digits) > 20:
        raise Damage(f"an integer of {len(digits)} digits")
    return int(digits)
