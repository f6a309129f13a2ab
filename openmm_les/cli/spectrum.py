"""``openmm-les spectrum``: infrared and power spectra of a simulation."""

from __future__ import annotations

import json
from pathlib import Path

import click

from openmm_les.cli.terminal import UserPath, echo


@click.command("spectrum")
@click.argument("file", type=UserPath())
@click.option("-o", "--output", required=True, type=UserPath(), help="Table to write (CSV).")
@click.option("--plot", type=UserPath(), help="Picture to draw (png, pdf, svg).")
@click.option("--overwrite", is_flag=True, help="Replace output files that exist.")
@click.option(
    "--from",
    "source",
    type=click.Choice(["auto", "current", "dipole"]),
    default="auto",
    show_default=True,
    help="What the infrared spectrum is made of; auto: the current where there is one.",
)
@click.option(
    "--window",
    type=click.Choice(["hann", "gaussian", "none"]),
    default="hann",
    show_default=True,
    help="Window on the autocorrelation.",
)
@click.option(
    "--resolution",
    type=float,
    metavar="CM-1",
    help="Full width at half maximum of a sharp line; default: 10, or what the length allows.",
)
@click.option("--max-lag", type=float, metavar="PS", help="Longest lag, instead of a resolution.")
@click.option(
    "--spacing",
    type=float,
    metavar="CM-1",
    help="Of rows, at the most, by zero padding; default: a fifth of the resolution.",
)
@click.option(
    "--max-wavenumber",
    type=float,
    metavar="CM-1",
    default=4500.0,
    show_default=True,
    help="End of the spectrum.",
)
@click.option(
    "--temperature",
    type=float,
    metavar="K",
    help="Temperature of the simulation; default: what FILE says, or 300 with a warning.",
)
@click.option(
    "--quantum-correction",
    type=click.Choice(["harmonic", "standard", "schofield", "none"]),
    default="harmonic",
    show_default=True,
    help="Factor of the infrared spectrum.",
)
@click.option(
    "--volume",
    type=float,
    metavar="NM3",
    help="Of the box, for the absorption coefficient; default: the mean in FILE, if it is there.",
)
@click.option("--start", type=float, metavar="PS", help="Leave out what is before this time.")
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
def command(
    file: Path,
    output: Path,
    plot: Path | None,
    overwrite: bool,
    source: str,
    window: str,
    resolution: float | None,
    max_lag: float | None,
    spacing: float | None,
    max_wavenumber: float,
    temperature: float | None,
    quantum_correction: str,
    volume: float | None,
    start: float | None,
    as_json: bool,
) -> None:
    """Compute infrared and power spectra from what LESReporter wrote.

    FILE is a CSV or HDF5 file with the current or the dipole (infrared absorption) or with
    velocities (density of vibrational states), at equal intervals of time.
    """
    from openmm_les.analysis import plotting, spectra
    from openmm_les.analysis.formats import read
    from openmm_les.errors import OutputError
    from openmm_les.files.writing import check_output, write_atomically

    options = spectra.SpectrumOptions(
        source=source,
        window=window,
        resolution=resolution,
        max_lag=max_lag,
        spacing=spacing,
        max_wavenumber=max_wavenumber,
        temperature=temperature,
        quantum_correction=quantum_correction,
        volume=volume,
        start=start,
    )
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
