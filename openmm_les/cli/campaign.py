"""``openmm-les campaign``: many runs side by side, what they have done, and their results."""

from __future__ import annotations

import contextlib
import json
import sys
import threading
from pathlib import Path
from typing import Any

import click

from openmm_les.campaign.progress import CampaignCallbacks, CampaignProgress
from openmm_les.cli import flags
from openmm_les.cli.terminal import UserPath, command_line, echo, resumable


@click.group("campaign")
def command() -> None:
    """Execute many runs side by side, on this machine or a cluster."""


@command.command("run")
@click.argument("plan", type=UserPath())
@flags.output(required=True, help="Directory of the campaign, which all workers share.")
@flags.workers
def run(plan: Path, output: Path, workers: int | None, scheduler: str | None) -> None:
    """Execute all runs of a plan that are not finished.

    PLAN is a YAML file with the settings of `openmm-les run` below `base`, and lists of values
    below `vary` or `zip`; with `command: repex` each run is a replica exchange. The same command
    continues a campaign that was stopped, and adds runs where lists have become longer. Exit status
    1: some runs failed.
    """
    from openmm_les.campaign import runner
    from openmm_les.campaign.plan import command_of
    from openmm_les.repex import workflow

    execute = workflow.run if command_of(plan) == "repex" else runner.run
    callbacks = callbacks_of_terminal()
    with resumable(), contextlib.closing(callbacks):
        result = execute(plan, output, workers=workers, scheduler=scheduler, callbacks=callbacks)
    echo(result.line())
    echo(f"collect the results with:  {command_line('campaign', 'gather', output)}", err=True)
    sys.exit(1 if result.failures else 0)


@command.command("status")
@click.argument("directory", type=UserPath())
@flags.as_json("Print the state of every run as JSON.")
def status(directory: Path, as_json: bool) -> None:
    """Print what the runs of a campaign have done.

    DIRECTORY is that of the campaign, on any machine that shares it, also while it is executed.
    """
    from openmm_les.campaign.state import line, read_table, state_of

    states = [state_of(entry) for entry in read_table(directory)]
    if as_json:
        names = ("steps", "total", "ns_per_day", "error")
        rows = [
            {"run": s.entry.name, "state": s.name} | {name: getattr(s, name) for name in names}
            for s in states
        ]
        echo(json.dumps(rows, indent=2))
        return
    width = max(len(state.entry.name) for state in states)
    for state in states:
        share = 100 * state.steps // state.total
        note = f"  {state.error}" if state.error else ""
        echo(f"{state.entry.name:<{width}}  {state.name:<8} {share:>3} %{note}")
    echo(line(states))


@command.command("gather")
@click.argument("directory", type=UserPath())
def gather(directory: Path) -> None:
    """Collect the results of a campaign: a table, pictures, and a page with all of it.

    DIRECTORY is that of the campaign. Means are those after equilibration, with errors that take
    the correlation of the samples into account. Runs that are not finished are marked. Exit status
    1: files of some runs are damaged, and what they hold was left out.
    """
    from openmm_les.campaign.gather import gather as collect

    gathered = collect(directory)
    for path in gathered.files:
        echo(f"wrote {path}")
    if gathered.problems:
        echo(gathered.line(), err=True)
        sys.exit(1)


def callbacks_of_terminal() -> Lines:
    """Progress as a bar on a terminal; else a line for each run that ends."""
    return Bar() if sys.stderr.isatty() else Lines()


class Lines(CampaignCallbacks):
    """Writes a line for each run that ends, for log files."""

    def message(self, text: str) -> None:
        echo(text, err=True)

    def close(self) -> None:
        """Finish the output."""


class Bar(Lines):
    """Draws one progress bar for all runs."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._guard = threading.Lock()

    def message(self, text: str) -> None:
        with self._guard:
            self._finish()
            super().message(text)

    def progress(self, progress: CampaignProgress) -> None:
        with self._guard:
            if self._bar is None:
                self._bar = click.progressbar(
                    length=progress.total,
                    item_show_func=lambda speed: "" if speed is None else f"{speed:.3g} ns/day",
                    show_eta=True,
                    file=sys.stderr,
                )
                self._bar.pos = progress.steps
            self._bar.label, self._bar.length = progress.text, progress.total
            self._bar.update(progress.steps - self._bar.pos, progress.ns_per_day)

    def close(self) -> None:
        with self._guard:
            self._finish()

    def _finish(self) -> None:
        if self._bar is not None:
            self._bar.render_finish()
            self._bar = None
