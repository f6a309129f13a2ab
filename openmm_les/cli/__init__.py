"""The command ``openmm-les``. Commands import what they need when they run."""

from __future__ import annotations

import importlib
import io
import logging
import sys
import traceback
from collections.abc import Sequence
from typing import NoReturn

import click

from openmm_les._version import __version__
from openmm_les.cli.terminal import PrintableFormatter, echo
from openmm_les.errors import ERROR_PREFIX, LESError, SimulationError
from openmm_les.processes.openmp import wait_passively

COMMANDS = (
    "benchmark",
    "campaign",
    "doctor",
    "export",
    "free-energy",
    "inspect",
    "models",
    "repex",
    "run",
    "spectrum",
    "train",
    "tune",
    "validate",
)

USER_ERROR = 2
FAILURE = 1


class _Commands(click.Group):
    """Imports a command from the module of its name."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(
            f"openmm_les.cli.{cmd_name.replace('-', '_')}"
        ).command
        return command


@click.command(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="openmm-les")
@click.option("--debug", is_flag=True, help="Show log messages, and tracebacks of errors.")
def cli(debug: bool) -> None:
    """LES machine-learning potentials in OpenMM."""
    handler = logging.StreamHandler()
    handler.setFormatter(PrintableFormatter("openmm-les: %(levelname)s: %(message)s"))
    logging.basicConfig(level=logging.DEBUG if debug else logging.WARNING, handlers=[handler])


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit: 0 done, 2 an error that the user can correct, 1 any other."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    wait_passively()
    try:
        # Commands print `obj` for those who continue them.
        status = cli.main(given, prog_name="openmm-les", standalone_mode=False, obj=given)
    except click.ClickException as error:
        text = io.StringIO()
        error.show(text)
        echo(text.getvalue(), err=True, nl=False)
        status = error.exit_code
    except click.Abort:
        status = _report("interrupted", FAILURE)
    except LESError as error:
        status = FAILURE if isinstance(error, SimulationError) else USER_ERROR
        status = _report(" ".join(str(error).split()), status, debug="--debug" in given)
    except Exception as error:
        status = _report(f"{type(error).__name__}: {error}", FAILURE, debug="--debug" in given)
        if "--debug" not in given:
            echo("`openmm-les --debug ...` shows where it happened", err=True)
    sys.exit(status if isinstance(status, int) else 0)


def _report(message: str, status: int, *, debug: bool = False) -> int:
    if debug:
        echo(traceback.format_exc(), err=True, nl=False)
    echo(f"{ERROR_PREFIX}{message}", err=True)
    return status
