"""``openmm-les repex``: replica exchange of temperatures or lambda."""

from __future__ import annotations

import contextlib
from pathlib import Path

import click

from openmm_les.cli import flags
from openmm_les.cli.run import callbacks_of_terminal
from openmm_les.cli.terminal import UserPath, echo, resumable


@click.group("repex")
def command() -> None:
    """Exchange replicas between temperatures, or values of lambda."""


@command.command("run")
@click.argument("settings", type=UserPath())
@flags.output(required=True, help="Directory for everything that is written.")
def run(settings: Path, output: Path) -> None:
    """Minimise, equilibrate, exchange replicas, and say how well they mix.

    SETTINGS is a YAML file with the settings of `openmm-les run` below `base`, and a list of
    `temperatures` or `lambdas`. The same command continues an exchange that was stopped, bit by
    bit, and extends one whose `steps` have grown.
    """
    from openmm_les.repex import exchange

    callbacks = callbacks_of_terminal()
    with resumable(), contextlib.closing(callbacks):
        exchange.run(settings, output, callbacks=callbacks)
    _report(output)


@command.command("analyse")
@click.argument("directory", type=UserPath())
def analyse(directory: Path) -> None:
    """Print how well replicas mix, and write a table and a page into DIRECTORY."""
    _report(directory)


def _report(directory: Path) -> None:
    from openmm_les.repex import analysis, report

    text, files = report.write(analysis.read(directory), directory)
    echo(text)
    for path in files:
        echo(f"wrote {path}", err=True)
