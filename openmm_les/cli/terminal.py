"""Paths and texts of every command."""

from __future__ import annotations

import contextlib
import logging
import shlex
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import click

from openmm_les.errors import printable
from openmm_les.files.writing import user_path


def echo(text: str, *, err: bool = False, nl: bool = True) -> None:
    """Print text that may come from a file, with control characters made visible."""
    click.echo(printable(text), err=err, nl=nl)


def command_line(*words: object) -> str:
    """A command of openmm-les as one types it."""
    return shlex.join(["openmm-les", *map(str, words)])


def say_how_to_continue(*words: object) -> None:
    """Print the command that continues what was stopped."""
    echo(f"continue with:  {command_line(*words)}", err=True)


@contextlib.contextmanager
def resumable() -> Iterator[None]:
    """End a command in order on Ctrl-C and SIGTERM, and print it: given again, it continues."""

    def end(number: int, frame: FrameType | None) -> NoReturn:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    except (KeyboardInterrupt, SystemExit) as stop:
        say_how_to_continue(*click.get_current_context().find_root().obj)
        sys.exit(stop.code if isinstance(stop, SystemExit) else 128 + signal.SIGINT)
    finally:
        signal.signal(signal.SIGTERM, before)


class PrintableFormatter(logging.Formatter):
    """The same for log messages."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


class UserPath(click.ParamType):  # type: ignore[type-arg, unused-ignore]
    """A path; also with ``~`` where the shell does not expand it, as in ``--output=~/x``."""

    name = "path"

    def convert(self, value: Any, param: Any, ctx: Any) -> Path:
        return user_path(value) if str(value).startswith("~") else Path(value)
