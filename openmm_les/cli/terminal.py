"""Paths and texts of every command."""

from __future__ import annotations

import logging
import shlex
from pathlib import Path
from typing import Any

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


class PrintableFormatter(logging.Formatter):
    """The same for log messages."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


class UserPath(click.ParamType):  # type: ignore[type-arg, unused-ignore]
    """A path; also with ``~`` where the shell does not expand it, as in ``--output=~/x``."""

    name = "path"

    def convert(self, value: Any, param: Any, ctx: Any) -> Path:
        return user_path(value) if str(value).startswith("~") else Path(value)
