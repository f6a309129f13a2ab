"""Keeps the help texts in cli.md: `python docs/reference/cli_help.py` writes the current ones."""

from __future__ import annotations

import re
from pathlib import Path

import click
from click.testing import CliRunner

from openmm_les.cli import cli

PAGE = Path(__file__).with_name("cli.md")
_BLOCK = re.compile(r"(?P<before>```text\n)Usage: openmm-les.*?(?P<after>```\n)", re.DOTALL)


def commands(group: click.Group = cli, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Every command, those of groups below their group; the first is the empty path."""
    found = [path]
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        below = (*path, name)
        found += commands(command, below) if isinstance(command, click.Group) else [below]
    return found


def help_text(path: tuple[str, ...]) -> str:
    """What ``openmm-les PATH --help`` prints on a terminal of 80 columns."""
    arguments = [*path, "--help"]
    result = CliRunner().invoke(cli, arguments, prog_name="openmm-les", terminal_width=80)
    if result.exit_code != 0:
        raise RuntimeError(f"openmm-les {' '.join(arguments)}: {result.output}")
    return result.output


def updated(text: str) -> str:
    """The page with today's help texts; commands without a section get one at the end."""
    for path in commands():
        heading = "## " + " ".join(("openmm-les", *path)) + "\n"
        if heading not in text:
            text = f"{text.rstrip()}\n\n{heading}\n```text\nUsage: openmm-les\n```\n"
        before, after = text.split(heading, 1)
        section, *others = re.split(r"(?=^## )", after, maxsplit=1, flags=re.MULTILINE)
        section, number = _BLOCK.subn(
            lambda match, path=path: match["before"] + help_text(path) + match["after"], section
        )
        if number != 1:
            raise ValueError(f"{PAGE.name}: expected one help text below {heading!r}, got {number}")
        text = before + heading + section + "".join(others)
    return text


if __name__ == "__main__":
    PAGE.write_text(updated(PAGE.read_text()))
    print(f"wrote {PAGE}")
