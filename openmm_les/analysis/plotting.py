"""Pictures of spectra and of comparisons; needs matplotlib (the extra ``analysis``)."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from openmm_les.analysis.spectra import Spectrum
from openmm_les.arrays import FloatArray
from openmm_les.errors import InputError
from openmm_les.files.writing import write_atomically
from openmm_les.versions import optional

_FORMATS = (".png", ".pdf", ".svg")
_DOTS_PER_INCH = 150
#: Points of a curve up to which it is drawn as lines, also in a vector format.
_MOST_POINTS = 5000
#: Most curves that a legend names.
_LONGEST_LEGEND = 12


@dataclass(frozen=True)
class Parity:
    """Values of one quantity for a parity plot."""

    title: str
    unit: str  #: Unit of both axes
    reference: FloatArray  #: Shape (n,)
    model: FloatArray  #: Shape (n,)


def check(path: Path | None) -> None:
    """Raise an InputError for an unknown format, or if matplotlib is not installed."""
    if path is None:
        return
    if path.suffix.lower() not in _FORMATS:
        raise InputError(f"plot: expected a name that ends in {', '.join(_FORMATS)}, got {path}")
    _pyplot()


def plot_spectrum(spectra: Mapping[str, Spectrum] | Spectrum, path: Path) -> None:
    """Plot infrared absorption, Raman scattering and density of vibrational states.

    The suffix decides the format.

    Several spectra have names for the legend. Raises an InputError for an unknown format or where
    matplotlib is not installed, and an OutputError if the file cannot be written.
    """
    check(path)
    write_atomically(path, draw_spectrum(spectra, path.suffix))


def draw_spectrum(spectra: Mapping[str, Spectrum] | Spectrum, suffix: str) -> bytes:
    """The picture of `plot_spectrum` as bytes, in the format of `suffix`."""
    named = {"": spectra} if isinstance(spectra, Spectrum) else spectra
    panels = {name: _panels(spectrum) for name, spectrum in named.items()}
    labels = list(dict.fromkeys(label for panel in panels.values() for label in panel))
    pyplot = _pyplot()
    figure, axes = pyplot.subplots(
        len(labels),
        1,
        figsize=(8.0, 1.0 + 2.6 * len(labels)),
        sharex=True,
        squeeze=False,
        layout="constrained",
    )
    for axis, label in zip(axes[:, 0], labels, strict=True):
        for name, panel in panels.items():
            for line, values in panel.get(label, {}).items():
                of_line = f"{name} {line}".strip()
                axis.plot(named[name].wavenumber, values, linewidth=1.0, label=of_line)
        axis.set_ylabel(label)
        axis.axhline(0.0, color="0.8", linewidth=0.5, zorder=0)
        if any(axis.get_legend_handles_labels()[1]):
            axis.legend()
    end = max(spectrum.wavenumber[-1] for spectrum in named.values())
    axes[-1, 0].set(xlabel="wavenumber [cm$^{-1}$]", xlim=(0.0, end))
    return _content(pyplot, figure, suffix)


def _panels(spectrum: Spectrum) -> dict[str, dict[str, FloatArray]]:
    """Lines by name, by the label of their axis."""
    found: dict[str, dict[str, FloatArray]] = {}
    if spectrum.absorption is not None:
        found[r"$n\,\alpha$ [cm$^{-1}$]"] = {"": spectrum.absorption}
    elif spectrum.infrared is not None:
        found["IR intensity [km/mol / cm$^{-1}$]"] = {"": spectrum.infrared}
    raman, label = spectrum.raman, r"Raman activity [$\mathrm{\AA}^4$/u / cm$^{-1}$]"
    if spectrum.scattering is not None:
        raman, label = spectrum.scattering, "Raman [$10^{-30}$ cm$^2$/sr / cm$^{-1}$]"
    if raman is not None:
        found[label] = {"VV": raman.polarized, "VH": raman.depolarized}
    if spectrum.power is not None:
        found["vibrational states / cm$^{-1}$"] = {"": spectrum.power}
    return found


def draw_parity(
    quantities: Sequence[Parity], suffix: str, reference: str = "reference", model: str = "model"
) -> bytes:
    """Plot values of the model against those of the reference, one panel for each quantity.

    Returns the content of a file whose name ends in `suffix`; `reference` and `model` are labels.
    """
    pyplot = _pyplot()
    columns = min(2, len(quantities))
    rows = -(-len(quantities) // columns)
    figure, axes = pyplot.subplots(
        rows, columns, figsize=(4.4 * columns, 4.2 * rows), squeeze=False, layout="constrained"
    )
    for axis in axes.flat[len(quantities) :]:
        axis.set_axis_off()
    for axis, parity in zip(axes.flat, quantities, strict=False):
        both = np.concatenate([parity.reference, parity.model])
        ends = [both.min(), both.max()]
        axis.plot(ends, ends, color="0.7", linewidth=1.0)
        axis.plot(parity.reference, parity.model, ".", markersize=2.5, rasterized=True)
        axis.set(
            title=parity.title,
            xlabel=f"{reference} [{parity.unit}]",
            ylabel=f"{model} [{parity.unit}]",
        )
        axis.locator_params(nbins=6)  # more labels of small numbers would overlap
    return _content(pyplot, figure, suffix)


@dataclass(frozen=True)
class Means:
    """Means with their errors, for one curve."""

    x: Sequence[float]  #: Shape (n,)
    mean: Sequence[float]  #: Shape (n,)
    error: Sequence[float]  #: Shape (n,), not finite where unknown


def draw_means(
    curves: Mapping[str, Means],
    suffix: str,
    *,
    x: str,
    y: str,
    ticks: Sequence[str] | None = None,
) -> bytes:
    """Plot means with error bars against numbers, or against names that `ticks` lists.

    Curves have names for the legend; returns the content of a file whose name ends in `suffix`, and
    `x` and `y` are labels of the axes.
    """
    pyplot = _pyplot()
    figure, axis = pyplot.subplots(figsize=(6.0, 3.8), layout="constrained")
    for name, curve in curves.items():
        errors = np.asarray(curve.error, dtype=np.float64)
        errors = np.where(np.isfinite(errors), errors, 0.0)
        axis.errorbar(curve.x, curve.mean, errors, fmt="o", markersize=4, capsize=3, label=name)
    axis.set(xlabel=x, ylabel=y)
    if ticks is not None:
        axis.set_xticks(range(len(ticks)), ticks, rotation=45, ha="right")
    if 1 < len(curves) <= _LONGEST_LEGEND:
        axis.legend()
    return _content(pyplot, figure, suffix)


@dataclass(frozen=True)
class Curve:
    """Values over time."""

    time: FloatArray  #: Shape (n,)
    values: FloatArray  #: Shape (n,)
    is_pale: bool = False  #: Whether it stays in the background


def draw_series(
    curves: Mapping[str, Curve], suffix: str, *, x: str, y: str, level: float | None = None
) -> bytes:
    """Plot series over time, with a line across at `level`.

    Curves have names for the legend, but for pale ones; returns the content of a file whose name
    ends in `suffix`, and `x` and `y` are labels of the axes.
    """
    optional("matplotlib", "analysis", "pictures need matplotlib")
    # Not pyplot, whose backend may be that of somebody's notebook.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.5, 2.8), layout="constrained")
    axis = figure.subplots()
    for name, curve in curves.items():
        axis.plot(
            curve.time,
            curve.values,
            linewidth=1.0,
            color="0.65" if curve.is_pale else None,
            label=None if curve.is_pale else name,
            rasterized=len(curve.time) > _MOST_POINTS,
        )
    if level is not None:
        axis.axhline(level, color="0.3", linewidth=1.0, linestyle="--")
    axis.set(xlabel=x, ylabel=y)
    axis.ticklabel_format(useOffset=False)
    if 1 < len(axis.get_legend_handles_labels()[1]) <= _LONGEST_LEGEND:
        axis.legend()
    return _saved(figure, suffix)


def draw_matrix(matrix: FloatArray, names: Sequence[str], suffix: str, *, axis: str) -> bytes:
    """Plot a square matrix of fractions, of which rows and columns have the same names.

    Returns the content of a file whose name ends in `suffix`; `axis` is the label of both axes.
    """
    pyplot = _pyplot()
    size = 2.0 + 0.45 * len(names)
    figure, axes = pyplot.subplots(figsize=(size, size), layout="constrained")
    axes.imshow(matrix, cmap="Blues", vmin=0.0, vmax=max(0.5, float(np.nanmax(matrix))))
    for (row, column), value in np.ndenumerate(matrix):
        color = "white" if value > 0.35 else "black"
        text = "" if np.isnan(value) else f"{value:.2f}".removeprefix("0")
        axes.text(column, row, text, ha="center", va="center", color=color, fontsize=8)
    axes.set_xticks(range(len(names)), names, rotation=90)
    axes.set_yticks(range(len(names)), names)
    axes.set(xlabel=axis, ylabel=axis)
    return _content(pyplot, figure, suffix)


def _content(pyplot: Any, figure: Any, suffix: str) -> bytes:
    content = _saved(figure, suffix)
    pyplot.close(figure)
    return content


def _saved(figure: Any, suffix: str) -> bytes:
    picture = io.BytesIO()
    figure.savefig(picture, dpi=_DOTS_PER_INCH, format=suffix[1:].lower())
    return picture.getvalue()


def _pyplot() -> Any:
    """Matplotlib's pyplot without a display."""
    message = "plot: pictures need matplotlib; leave --plot out, or install it"
    optional("matplotlib", "analysis", message).use("Agg")
    from matplotlib import pyplot

    return pyplot
