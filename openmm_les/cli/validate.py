"""``openmm-les validate``: a model against reference data."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click

from openmm_les.analysis.options import ReferenceOptions
from openmm_les.cli import flags
from openmm_les.cli.terminal import UserPath, echo
from openmm_les.evaluation.options import EvaluationOptions


@click.command("validate")
@click.argument("model")
@click.argument("data", type=UserPath())
@flags.output(help="Directory for frames.csv, statistics.json and, with matplotlib, parity.png.")
@flags.overwrite("Replace such files that exist.")
@flags.with_options(ReferenceOptions, "reference")
@flags.with_options(EvaluationOptions, only=("precision", "device"), precision="double")
@flags.as_json("Print the statistics as JSON.")
def command(
    model: str,
    data: Path,
    output: Path | None,
    overwrite: bool,
    reference: ReferenceOptions,
    options: EvaluationOptions,
    as_json: bool,
) -> None:
    """Compare a model with reference energies, forces, stress, dipoles and Born charges.

    MODEL is an artifact (*.les.pt) or the name of a model, DATA an extended XYZ file, or another
    that ASE reads. Models trained with charges, spins or other inputs take those of each structure.
    What the reference does not have is left out. Energies are compared as they are,
    and with one energy for each element fitted by least squares.
    """
    from openmm_les.analysis import report, validation
    from openmm_les.catalog import open_model
    from openmm_les.evaluation.device import find_device

    artifact = open_model(model)
    inputs = {"MODEL": artifact.path, "DATA": data}
    directory = None if output is None else report.prepare(output, overwrite, inputs)
    frames = validation.read_frames(
        data, keys=reference.keys, born_axes=reference.born_axes, limit=reference.limit
    )
    result = validation.validate(
        artifact,
        frames,
        precision=options.precision,
        device=find_device(options.device),
        progress=_bar if sys.stderr.isatty() else iter,
    )
    rows = result.statistics()
    if as_json:
        echo(json.dumps(report.as_dict(result), indent=2))
    else:
        echo(report.table(rows))
        echo(report.origin(result))
    if directory is not None:
        for path in report.write(result, directory):
            echo(f"wrote {path}", err=as_json)


def _bar(items: Iterable[int]) -> Iterable[Any]:
    with click.progressbar(list(items), label="structures", file=sys.stderr) as bar:
        yield from bar
