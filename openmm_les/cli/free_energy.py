"""``openmm-les free-energy``: from the force field to ML/MM, in windows of lambda."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

import click

from openmm_les.cli import flags
from openmm_les.cli.campaign import callbacks_of_terminal
from openmm_les.cli.terminal import UserPath, echo, resumable


@click.group("free-energy")
def command() -> None:
    """Compute free energies of a model in the place of a force field."""


@command.command("run")
@click.argument("settings", type=UserPath())
@flags.output(required=True, help="Directory of the calculation, which all workers share.")
@click.option("--add-windows", is_flag=True, help="Add windows where neighbours do not overlap.")
@flags.workers
def run(
    settings: Path, output: Path, add_windows: bool, workers: int | None, scheduler: str | None
) -> None:
    """Run all windows of all ligands that are not finished, and analyse them.

    SETTINGS is a YAML file with the settings of `openmm-les run` below `base`, and below `ligands`
    those of each leg of each ligand. The same command continues a calculation that was stopped.
    Exit status 1: some windows failed.
    """
    from openmm_les.free_energy import report, workflow

    callbacks = callbacks_of_terminal()
    with resumable(), contextlib.closing(callbacks):
        found = workflow.run(
            settings,
            output,
            add_windows=add_windows,
            workers=workers,
            scheduler=scheduler,
            callbacks=callbacks,
        )
    echo(report.text(found.results))
    echo(found.windows.line(), err=True)
    for path in found.files:
        echo(f"wrote {path}", err=True)
    sys.exit(1 if found.windows.failures else 0)


@command.command("analyse")
@click.argument("directory", type=UserPath())
def analyse(directory: Path) -> None:
    """Compute free energies from the windows in a directory, also while they run.

    Prints them with what is wrong with them and which windows to add, and writes tables and a page
    with overlap matrices and convergence in time into DIRECTORY.
    """
    from openmm_les.free_energy import report, results

    found = results.analyse(directory)
    files = report.write(found, directory)
    echo(report.text(found))
    for path in files:
        echo(f"wrote {path}", err=True)
