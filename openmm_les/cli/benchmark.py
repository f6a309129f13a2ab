"""``openmm-les benchmark``: how fast a model runs on this machine."""

from __future__ import annotations

import json
from pathlib import Path

import click

from openmm_les.cli import flags
from openmm_les.cli.terminal import UserPath, echo
from openmm_les.evaluation.options import EvaluationOptions


@click.command("benchmark")
@click.option("--model", default="les-demo", show_default=True, help="Model name or *.les.pt file.")
@click.option("--structure", type=UserPath(), help="PDB or mmCIF file.  [default: water]")
@click.option(
    "--atoms",
    type=click.IntRange(min=3),
    multiple=True,
    help="About so many atoms of water; may be given several times.  [45, 192, 1029; on a GPU "
    "10125, too]",
)
@click.option(
    "--seconds",
    type=click.FloatRange(min=0.1),
    default=5.0,
    show_default=True,
    help="How long to time each row.",
)
@flags.with_options(EvaluationOptions, only=("precision", "device"), device=None)
@click.option("--report", type=UserPath(), help="JSON file to write, for the developers.")
@flags.overwrite("Replace that file if it exists.")
@click.pass_context
def command(
    context: click.Context,
    model: str,
    structure: Path | None,
    atoms: tuple[int, ...],
    seconds: float,
    options: EvaluationOptions,
    report: Path | None,
    overwrite: bool,
) -> None:
    """Measure how long MD steps take on this machine.

    Prints the time of a step with a time step of 0.5 fs as ns/day, and the memory, with and without
    the choices of engine='auto', and through a TorchForce where that works. Every row is measured
    in a process of its own. The report has versions, hardware, the table and what was chosen; it
    has no paths, and no names of users or hosts. Exit status 1 if nothing could be measured.
    """
    from openmm_les.benchmark import report as reports
    from openmm_les.files.writing import check_output, write_atomically

    if structure is not None and atoms:
        raise click.UsageError("--structure and --atoms: expected one of them, got both")
    file = None
    if report is not None:
        inputs = {"--model": model, "--structure": structure}
        file = check_output(report, overwrite, "report.json", inputs=inputs)
    echo(reports.HEADER)
    document = reports.measure(
        model,
        structure,
        atoms,
        device=options.device,
        precision=options.precision,
        seconds=seconds,
        each=lambda row: echo(row.line()),
    )
    if file is not None:
        write_atomically(file, (json.dumps(document, indent=1) + "\n").encode())
        echo(f"wrote {file}", err=True)
    if all("failed" in row["found"] for row in document["rows"]):
        context.exit(1)
