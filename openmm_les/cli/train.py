"""``openmm-les train``: mace-torch's trainer for MACE-LES models, without the les package."""

from __future__ import annotations

import click

from openmm_les.cli.terminal import echo


@click.command("train", context_settings={"ignore_unknown_options": True})
@click.option(
    "--net-charge-weight",
    type=click.FloatRange(min=0.0),
    default=0.0,
    metavar="W",
    help="Add W times the mean square of net charges, less the total charges in the data "
    "(--total_charge_key, 0 without), to the loss [1/e^2].",
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def command(net_charge_weight: float, arguments: tuple[str, ...]) -> None:
    """Train a MACE-LES model with mace-torch, which must be installed.

    ARGUMENTS, after `--`, are those of `mace_run_train`, where `--model MACELES` is the default.
    The LES energy is that of this package, under the MIT licence, unless the les package is
    installed. The result is a file that `openmm-les export` reads.
    """
    from openmm_les.catalog import licence_of
    from openmm_les.learning.trainer import Training

    training = Training(arguments, net_charge_weight=net_charge_weight)
    if training.is_ours:
        _say("LES energy of openmm-les (MIT)")
    else:
        _say("LES energy of the les package that is installed")
    start = training.options.foundation_model
    if start is not None:
        taken = training.take_constants()
        licence = licence_of(start) or "unknown to openmm-les: ask its authors"
        _say(f"starts from {start}, whose licence holds for what is trained from it: {licence}")
        if taken:
            listed = ", ".join(f"{name} {value}" for name, value in taken.items())
            _say(f"takes from it what --les_arguments does not name: {listed}")
    training.run()


def _say(text: str) -> None:
    echo(f"openmm-les train: {text}", err=True)
