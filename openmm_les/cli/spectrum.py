"""``openmm-les spectrum``: infrared, Raman and power spectra of a simulation."""

from __future__ import annotations

import json
from pathlib import Path

import click

from openmm_les.analysis.options import SpectrumOptions
from openmm_les.cli import flags
from openmm_les.cli.terminal import UserPath, echo


@click.command("spectrum")
@click.argument("file", type=UserPath())
@flags.output(required=True, help="Table to write (CSV).")
@click.option("--plot", type=UserPath(), help="Picture to draw (png, pdf, svg).")
@flags.overwrite("Replace output files that exist.")
@flags.with_options(SpectrumOptions)
@flags.as_json("Print the figures as JSON.")
def command(
    file: Path,
    output: Path,
    plot: Path | None,
    overwrite: bool,
    options: SpectrumOptions,
    as_json: bool,
) -> None:
    """Compute infrared, Raman and power spectra from what LESReporter wrote.

    FILE is a CSV or HDF5 file with the current or the dipole (infrared absorption), the
    polarizability (Raman scattering) or velocities (density of vibrational states), at equal
    intervals of time.
    """
    from openmm_les.analysis import plotting, spectra
    from openmm_les.analysis.formats import read
    from openmm_les.errors import OutputError
    from openmm_les.files.writing import check_output, write_atomically

    output = check_output(output, overwrite, "spectrum.csv", inputs={"FILE": file})
    if plot is not None:
        plotting.check(plot)
        plot = check_output(plot, overwrite, "spectrum.png", inputs={"FILE": file})
        if plot.resolve() == output.resolve():
            raise OutputError(f"plot: {plot} is the table (--output) as well; give another name")
    spectrum = spectra.compute(read(file), options)
    picture = None if plot is None else plotting.draw_spectrum(spectrum, plot.suffix)
    write_atomically(output, spectrum.to_csv().encode())
    if plot is not None and picture is not None:
        write_atomically(plot, picture)
    if as_json:
        echo(json.dumps(spectrum.figures(), indent=2))
        return
    echo(spectrum.summary())
    echo(f"wrote {output}{'' if plot is None else f' and {plot}'}")
