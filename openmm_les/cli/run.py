"""``openmm-les run``: a simulation from a structure file, or the rest of one."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Any

import click

from openmm_les.cli import flags
from openmm_les.cli.terminal import UserPath, echo, say_how_to_continue
from openmm_les.simulation import config as configs
from openmm_les.simulation.progress import Progress, RunCallbacks

_PARTS = 10


@click.command("run")
@click.argument("config", required=False, type=UserPath())
@flags.with_settings(configs.RunConfig)
@click.option("--resume", is_flag=True, help="Continue from the last checkpoint, or start.")
@flags.overwrite("Replace a run in the output directory.")
@click.option("--print-config", is_flag=True, help="Print the configuration as YAML and stop.")
@flags.as_json("Print the final figures as JSON.")
def command(
    config: Path | None,
    resume: bool,
    overwrite: bool,
    print_config: bool,
    as_json: bool,
    **fields: str | None,
) -> None:
    """Minimise, equilibrate and simulate a structure with an LES model.

    CONFIG is a YAML file (--print-config shows one); flags override it. Everything is written into
    one directory, with a checkpoint at every report: with --resume the same command starts a run,
    continues a killed one bit by bit, and leaves a finished one alone.
    """
    given = flags.given(fields)
    if print_config:
        echo(configs.draft(config, given), nl=False)
        return
    settings = configs.load(config, given)

    from openmm_les import simulation as md

    callbacks = callbacks_of_terminal()
    try:
        result = md.run(settings, resume=resume, overwrite=overwrite, callbacks=callbacks)
    except (KeyboardInterrupt, SystemExit) as stop:
        _print_how_to_resume(settings)
        sys.exit(stop.code if isinstance(stop, SystemExit) else 128 + signal.SIGINT)
    finally:
        callbacks.close()
    echo(result.to_json() if as_json else result.table() + "\n", nl=False)


def _print_how_to_resume(settings: configs.RunConfig) -> None:
    file = settings.output / "config.yaml"
    if file.exists():
        path = file.relative_to(Path.cwd()) if file.is_relative_to(Path.cwd()) else file
        say_how_to_continue("run", path, "--resume")


def callbacks_of_terminal() -> _Lines:
    """Progress as a bar on a terminal, else as lines."""
    return _TerminalBar() if sys.stderr.isatty() else _Lines()


class _Lines(RunCallbacks):
    """Writes a line for every tenth of a phase, for log files."""

    def __init__(self) -> None:
        self._last = ("", 0)

    def message(self, text: str) -> None:
        echo(text, err=True)

    def progress(self, progress: Progress) -> None:
        part = _PARTS * progress.step // progress.steps
        if self._last[0] != progress.phase:  # a resumed run begins in the middle
            self._last = (progress.phase, part if progress.step < progress.steps else 0)
        if part > self._last[1]:
            self._last = (progress.phase, part)
            echo(
                f"{progress.phase} {100 * part // _PARTS} %: step {progress.step} of "
                f"{progress.steps}, {progress.ns_per_day:.3g} ns/day",
                err=True,
            )

    def close(self) -> None:
        """Finish the output."""


class _TerminalBar(_Lines):
    """Draws a progress bar for each phase."""

    def __init__(self) -> None:
        super().__init__()
        self._bar: Any = None
        self._phase = ""

    def message(self, text: str) -> None:
        self.close()
        super().message(text)

    def progress(self, progress: Progress) -> None:
        if self._bar is None or progress.phase != self._phase:
            self.close()
            self._phase = progress.phase
            self._bar = click.progressbar(
                length=progress.steps,
                label=progress.phase,
                item_show_func=lambda item: "" if item is None else f"{item:.3g} ns/day",
                file=sys.stderr,
            )
        self._bar.update(progress.step - self._bar.pos, progress.ns_per_day)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.render_finish()
            self._bar = None
