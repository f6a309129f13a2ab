"""``openmm-les export``: a trained model becomes an artifact."""

from __future__ import annotations

from pathlib import Path

import click
from openmm_les_export.options import ExportOptions

from openmm_les.cli import flags
from openmm_les.cli.terminal import UserPath, echo


@click.command("export")
@click.argument("model", type=UserPath())
@flags.output(required=True, help="File to write, by convention NAME.les.pt.")
@flags.with_options(ExportOptions)
def command(model: Path, output: Path, options: ExportOptions) -> None:
    """Turn a trained LES model into a file that OpenMM and ASE can run.

    MODEL is a file or directory as the training code of a family writes it, such as a MACE-LES
    `.model` file. Its weights are read without running code from it, and the result is compared
    with the original code where that is installed, or with the published equations of families
    whose code is not published as a package.
    """
    from openmm_les.files.writing import check_output

    check_output(
        output, options.overwrite, inputs={"MODEL": model}
    )  # before torch is even imported
    from openmm_les_export import export

    path = export(model, output, **vars(options))
    echo(f"wrote {path}")
    echo(f"what is in it:  openmm-les inspect {path}")
    echo(f"in OpenMM:      MLPotential('les', modelPath='{path}').createSystem(topology)")
