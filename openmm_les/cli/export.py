"""``openmm-les export``: a trained model becomes an artifact."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import click

from openmm_les.cli.terminal import UserPath, echo


@click.command("export")
@click.argument("model", type=UserPath())
@click.option(
    "-o",
    "--output",
    required=True,
    type=UserPath(),
    help="File to write, by convention NAME.les.pt.",
)
@click.option(
    "--dtype",
    type=click.Choice(["float32", "float64"]),
    help="Precision of the portable module in the file; default: that of the model.",
)
@click.option("--overwrite", is_flag=True, help="Replace the output file if it exists.")
@click.option("--licence", metavar="TEXT", help="Licence of the model, stored in the file.")
@click.option(
    "--atomic-energies",
    metavar="Z:E,...|FILE",
    help="CACE-LES: isolated-atom energies [eV] that its training subtracted, such as "
    "1:-13.6,8:-2041.8, or a JSON or YAML file.",
)
@click.option(
    "--head",
    metavar="NAME",
    help="MACE-LES: which head of a model that has several; an artifact holds one.",
)
@click.option(
    "--norm-factor",
    type=float,
    metavar="X",
    help="NequIP-LES: prefactor 1 / (2 epsilon_0) [eV A] of the training, 90.0474 with the les "
    "package before April 2026 and 90.4756 since.",
)
@click.option(
    "--self-interaction",
    type=click.Choice(["removed", "kept"]),
    help="NequIP-LES, CHGNet-LES: whether the training removed the self-interaction of charges, "
    "as the les package does by default since May 2025.",
)
@click.option(
    "--calibrate",
    type=UserPath(),
    metavar="FILE",
    help="NequIP-LES, CHGNet-LES: find what the two options before do not say from structures "
    "with the energies of the training (any format of ASE, such as extended XYZ).",
)
def command(
    model: Path,
    output: Path,
    dtype: str | None,
    overwrite: bool,
    licence: str | None,
    atomic_energies: str | None,
    head: str | None,
    norm_factor: float | None,
    self_interaction: Literal["removed", "kept"] | None,
    calibrate: Path | None,
) -> None:
    """Turn a trained LES model into a file that OpenMM and ASE can run.

    MODEL is a MACE-LES `.model`, CACE-LES `.pth` or NequIP-LES `.ckpt` file, or the directory of a
    CHGNet-LES model. Its weights are read without running code from it, and the result is compared
    with the original model (MACE-LES and NequIP-LES, wherever mace-torch or nequip is installed) or
    with the published equations (CACE-LES, CHGNet-LES).
    """
    from openmm_les.files.writing import check_output

    check_output(output, overwrite, inputs={"MODEL": model})  # before torch is even imported
    from openmm_les_export import export

    path = export(
        model,
        output,
        dtype=dtype,
        overwrite=overwrite,
        licence=licence,
        atomic_energies=atomic_energies,
        head=head,
        norm_factor=norm_factor,
        self_interaction=self_interaction,
        calibrate=calibrate,
    )
    echo(f"wrote {path}")
    echo(f"what is in it:  openmm-les inspect {path}")
    echo(f"in OpenMM:      MLPotential('les', modelPath='{path}').createSystem(topology)")
