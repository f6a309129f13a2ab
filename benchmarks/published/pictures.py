"""The pictures of the page."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

matplotlib.use("Agg")
from matplotlib import pyplot

DOTS_PER_INCH = 110


def draw(curves: dict[str, dict[str, Any]], folder: Path) -> None:
    """Writes ``papers-NAME.png`` for what is there."""
    pictures: dict[str, tuple[Callable[..., Any], list[str]]] = {
        "charges": (_charges, ["random charges"]),
        "dimers": (_dimers, ["charged-charged dimer", "charged-polar dimer"]),
        "gold": (_gold, ["Au2 on MgO"]),
        "dipoles": (_dipoles, ["dipeptides, CACE", "dipeptides, MACE"]),
    }
    with pyplot.style.context("default"):  # mace-torch sets another size of fonts
        for name, (picture, needed) in pictures.items():
            if all(system in curves for system in needed):
                panels = picture(*(curves[system] for system in needed))
                panels.savefig(folder / f"papers-{name}.png", dpi=DOTS_PER_INCH)
                pyplot.close(panels)


def _panels(columns: int, width: float = 4.0) -> tuple[Any, Any]:
    figure, axes = pyplot.subplots(
        1, columns, figsize=(width * columns, 3.4), squeeze=False, layout="constrained"
    )
    return figure, axes[0]


def _charges(curves: dict[str, Any]) -> Any:
    figure, (axis,) = _panels(1, 5.0)
    charges, true = np.array(curves["charges"]), np.array(curves["true"])
    bins = np.linspace(-1.2, 1.2, 121)
    for sign, label in ((1.0, "+1 e"), (-1.0, "\N{MINUS SIGN}1 e")):
        axis.hist(charges[true == sign], bins, label=f"true charge {label}")
        axis.axvline(sign, color="0.6", linewidth=0.8, zorder=0)
    axis.set(xlabel="latent charge [e]", ylabel="atoms", yscale="log")
    axis.legend()
    return figure


def _dimers(*pairs: dict[str, Any]) -> Any:
    figure, axes = _panels(len(pairs))
    titles = ("both charged", "charged and polar")
    for axis, curves, title in zip(axes, pairs, titles, strict=True):
        line = curves["line"]
        axis.plot(line["distance"], line["energy"], label="openmm-les")
        axis.plot(line["distance"], line["short_range"], "--", label="without latent charges")
        for part, marker, label in (
            ("train", "o", "DFT, trained on"),
            ("test", "s", "DFT, not trained on"),
        ):
            points = curves[part]
            axis.plot(
                points["distance"],
                points["label"],
                marker,
                color="black",
                fillstyle="none" if part == "test" else "full",
                markersize=4.0,
                label=label,
            )
        axis.set(title=title, xlabel="distance [A]", ylabel="energy [eV]")
    axes[0].legend(fontsize="small")
    return figure


def _gold(curves: dict[str, Any]) -> Any:
    figure, axes = _panels(2)
    for axis, slab in zip(axes, ("doped", "undoped"), strict=True):
        curve = curves[slab]
        axis.plot(curve["distance"], curve["energy"], label="openmm-les")
        for name, style, label in (
            ("published", ".", "published, LES"),
            ("published_short_range", "--", "published, short-range"),
        ):
            axis.plot(
                curve[name]["distance"], curve[name]["energy"], style, color="C1", label=label
            )
        axis.set(title=f"MgO, {slab}", xlabel="distance of Au and O [A]", ylabel="energy [eV]")
    axes[0].legend()
    return figure


def _dipoles(*models: dict[str, Any]) -> Any:
    from published.molecules import DEBYE

    figure, axes = _panels(len(models))
    for axis, curves, title in zip(axes, models, ("CACE-LES", "MACE-LES"), strict=True):
        reference, model = np.array(curves["reference"]) / DEBYE, np.array(curves["model"]) / DEBYE
        ends = [reference.min(), reference.max()]
        axis.plot(ends, ends, color="0.7", linewidth=1.0)
        axis.plot(reference, model, ".", markersize=4.0)
        axis.set(title=title, xlabel="component of the dipole by DFT [D]", ylabel="model [D]")
    return figure
