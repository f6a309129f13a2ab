"""``openmm-les validate``: a model against reference data."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click

from openmm_les.cli.terminal import UserPath, echo


@click.command("validate")
@click.argument("model")
@click.argument("data", type=UserPath())
@click.option(
    "-o",
    "--output",
    type=UserPath(),
    help="Directory for frames.csv, statistics.json and, with matplotlib, parity.png.",
)
@click.option("--overwrite", is_flag=True, help="Replace such files that exist.")
@click.option("--limit", type=int, metavar="N", help="Take the first N structures.")
@click.option("--energy-key", metavar="NAME", help="Of the energy [eV] in DATA.")
@click.option("--forces-key", metavar="NAME", help="Of the forces [eV/A].")
@click.option("--stress-key", metavar="NAME", help="Of the stress [eV/A^3].")
@click.option("--dipole-key", metavar="NAME", help="Of the dipole [e A].")
@click.option("--born-key", metavar="NAME", help="Of the Born effective charges [e].")
@click.option(
    "--born-axes",
    type=click.Choice(["Pr", "rP"]),
    default="Pr",
    show_default=True,
    help="Their order: polarization before displacement, or after it, as in SPICE.",
)
@click.option(
    "--precision",
    type=click.Choice(["single", "double"]),
    default="double",
    show_default=True,
    help="Precision of the model.",
)
@click.option("--device", default="cpu", show_default=True, help="Torch device, such as cuda:0.")
@click.option("--json", "as_json", is_flag=True, help="Print the statistics as JSON.")
def command(
    model: str,
    data: Path,
    output: Path | None,
    overwrite: bool,
    limit: int | None,
    energy_key: str | None,
    forces_key: str | None,
    stress_key: str | None,
    dipole_key: str | None,
    born_key: str | None,
    born_axes: str,
    precision: str,
    device: str,
    as_json: bool,
) -> None:
    """Compare a model with reference energies, forces, stress, dipoles and Born charges.

    MODEL is an artifact (*.les.pt) or the name of a model, DATA an extended XYZ file, or another
    that ASE reads. What the reference does not have is left out. Energies are compared as they are,
    and with one energy for each element fitted by least squares.
    """
    from openmm_les.analysis import report, validation
    from openmm_les.catalog import open_model
    from openmm_les.evaluation.device import find_device

    artifact = open_model(model)
    inputs = {"MODEL": artifact.path, "DATA": data}
    directory = None if output is None else report.prepare(output, overwrite, inputs)
    keys = {
        "energy": energy_key,
        "forces": forces_key,
        "stress": stress_key,
        "dipole": dipole_key,
        "born_charges": born_key,
    }
    frames = validation.read_frames(
        data,
        keys={name: key for name, key in keys.items() if key is not None},
        born_axes=born_axes,
        limit=limit,
    )
    result = validation.validate(
        artifact,
        frames,
        precision=precision,
        device=find_device(device),
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
