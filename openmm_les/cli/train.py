"""``openmm-les train``: mace-torch's trainer for MACE-LES models, without the les package."""

from __future__ import annotations

import logging
import runpy
import sys
from importlib.util import find_spec

import click

from openmm_les.cli.terminal import echo
from openmm_les.errors import InputError

_TRAINER = "mace.cli.run_train"


@click.command("train", context_settings={"ignore_unknown_options": True})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def command(arguments: tuple[str, ...]) -> None:
    """Train a MACE-LES model with mace-torch, which must be installed.

    ARGUMENTS, after `--`, are those of `mace_run_train`; `--model MACELES` is added where they name
    no model. The LES energy is that of this package, under the MIT licence, unless the les package
    is installed. The result is a file that `openmm-les export` reads.
    """
    if find_spec("mace") is None:
        raise InputError(
            "train: expected mace-torch, which is not installed: `pip install 'openmm-les[mace]'`"
        )
    from openmm_les.learning.stand_in import register

    if register():
        echo("openmm-les train: LES energy of openmm-les (MIT)", err=True)
    else:
        echo("openmm-les train: LES energy of the les package that is installed", err=True)
    start = _value_of("--foundation_model", arguments)
    if start is not None:
        echo(
            f"openmm-les train: starts from {start}; its licence holds for what is trained from it",
            err=True,
        )
    if _value_of("--model", arguments) is None:
        arguments = ("--model=MACELES", *arguments)
    logging.getLogger().handlers.clear()  # the trainer brings its own
    before = sys.argv
    sys.argv = [_TRAINER, *arguments]
    try:
        runpy.run_module(_TRAINER, run_name="__main__", alter_sys=False)
    finally:
        sys.argv = before


def _value_of(option: str, arguments: tuple[str, ...]) -> str | None:
    """The value of an option, written with a blank or an equals sign; the last one counts."""
    found = None
    for word, following in zip(arguments, (*arguments[1:], ""), strict=True):
        if word == option:
            found = following
        elif word.startswith(f"{option}="):
            found = word.partition("=")[2]
    return found
