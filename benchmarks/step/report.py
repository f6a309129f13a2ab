"""Table, fits and picture of a comparison of steps."""

from pathlib import Path
from typing import Any

import numpy as np

Document = dict[str, Any]
Measured = dict[str, Any]

#: Columns of the table: title, unit and width.
_COLUMNS = (
    ("ms/step", "", 8),
    ("quartiles", "", 13),
    ("CPU", "ms", 7),
    ("ms/eval", "", 8),
    ("ns/day", "at 1 fs", 7),
    ("kernels", "", 7),
    ("memory", "MB", 7),
    ("max |dF|", "eV/A", 8),
    ("drift", "meV/a/ps", 8),
)


def summary(times: list[float]) -> dict[str, float]:
    """Median, quartiles and smallest of a list of times, and how many there are."""
    low, median, high = np.percentile(times, [25, 50, 75])
    fastest, number_ = min(times), len(times)
    return {"median": median, "low": low, "high": high, "fastest": fastest, "number": number_}


def header() -> str:
    """Titles and units of the table."""
    titles = f"{'model':<12} {'device':<6} {'atoms':>6} {'row':<32}"
    lines = [titles, " " * len(titles)]
    for title, unit, width in _COLUMNS:
        lines = [f"{lines[0]} {title:>{width}}", f"{lines[1]} {unit:>{width}}"]
    return "\n".join(lines)


def line(row: Measured) -> str:
    """A line of the table."""
    text = f"{row['model']:<12} {row['device']:<6} {row['atoms']:>6} {row['row']:<32}"
    if "failed" in row:
        return f"{text} {row['failed']}"
    step, difference = row["ms_per_step"], row.get("force_difference")
    evaluation = row.get("ms_per_evaluation", {})
    cells = [
        number(step["median"]),
        f"{number(step['low'])}-{number(step['high'])}",
        number(row["cpu_ms_per_step"]["median"]),
        number(evaluation.get("median")),
        number(row["ns_per_day"]),
        number(row.get("kernels")),
        number(row.get("peak_mb")),
        "-" if difference is None else f"{difference:.0e}",
        number(row.get("dynamics", {}).get("drift_mev_per_atom_ps")),
    ]
    for cell, (_, _, width) in zip(cells, _COLUMNS, strict=True):
        text += f" {cell:>{width}}"
    return f"{text} ({row['incomplete']})" if "incomplete" in row else text


def number(value: float | None) -> str:
    """Three digits."""
    if value is None:
        return "-"
    if abs(value) >= 100:
        return f"{value:.0f}"
    return f"{value:.3g}"


def conclusions(document: Document) -> str:
    """What is printed below the table."""
    powers = [
        f"{series}: time grows with the power {exponent:.2f} of the atoms, 192 to 5184"
        for series, exponent in document["exponents"].items()
    ]
    parts = [
        breakdowns(document),
        compiling(document),
        speed_ups(document),
        "\n".join(powers),
    ]
    parts.append(f"took {document['minutes']:.1f} minutes")
    return "\n" + "\n\n".join(part for part in parts if part)


def breakdowns(document: Document) -> str:
    """Shares of a step of ours."""
    found = [row for row in document["rows"] if "breakdown" in row]
    if not found:
        return ""
    names = list(found[0]["breakdown"])
    lines = ["where a step of openmm-les goes [ms]"]
    lines.append(f"{'model':<12} {'device':<7} {'atoms':>6} " + "".join(f"{n:>11}" for n in names))
    for row in found:
        times = "".join(f"{number(row['breakdown'][name]):>11}" for name in names)
        lines.append(f"{row['model']:<12} {row['device']:<7} {row['atoms']:>6} {times}")
    return "\n".join(lines)


def compiling(document: Document) -> str:
    """How long it takes to build what is compiled, and to compile it at the first evaluation."""
    return "\n".join(
        f"{row['model']}, {row['device']}, {row['atoms']} atoms: {row['row']} is built in "
        f"{number(row['build_s'])} s and compiled in {number(row['compile_s'])} s"
        for row in document["rows"]
        if "compile_s" in row
    )


def speed_ups(document: Document) -> str:
    """How many times as fast the best of ours is as each peer."""
    lines = []
    for model, device, atoms in _cases(document):
        rows = _measured(document, model, device, atoms)
        ours = [row for row in rows if row["is_ours"]]
        peers = [row for row in rows if not row["is_ours"]]
        if not ours or not peers:
            continue
        best = min(ours, key=_median)
        ratios = ", ".join(f"{_median(row) / _median(best):.1f}x {row['row']}" for row in peers)
        lines.append(f"{model}, {device}, {atoms} atoms: {best['row']} is as fast as {ratios}")
    return "\n".join(lines)


def _cases(document: Document) -> list[tuple[str, str, int]]:
    keys = [(row["model"], row["device"], row["atoms"]) for row in document["rows"]]
    return list(dict.fromkeys(keys))


def _measured(document: Document, model: str, device: str, atoms: int) -> list[Measured]:
    return [
        row
        for row in document["rows"]
        if (row["model"], row["device"], row["atoms"]) == (model, device, atoms)
        and "failed" not in row
    ]


def _median(row: Measured) -> float:
    median: float = row["ms_per_step"]["median"]
    return median


def exponents(document: Document) -> dict[str, float]:
    """Power of the number of atoms with which a step's time grows, 192 to 5184 atoms of water."""
    found: dict[str, float] = {}
    for (model, device, name), points in _series(document).items():
        inside = [(atoms, time) for atoms, time in points if 192 <= atoms <= 5184]
        if len(inside) > 1 and inside[-1][0] >= 3000:
            atoms, times = np.log(np.array(inside)).T
            found[f"{model}, {device}, {name}"] = float(np.polyfit(atoms, times, 1)[0])
    return found


def _series(document: Document) -> dict[tuple[str, str, str], list[tuple[int, float]]]:
    """Median times by model, device and row."""
    series: dict[tuple[str, str, str], list[tuple[int, float]]] = {}
    for row in document["rows"]:
        if "failed" not in row:
            key = (row["model"], row["device"], row["row"])
            series.setdefault(key, []).append((row["atoms"], _median(row)))
    return {key: sorted(points) for key, points in series.items()}


def plot(document: Document, path: Path) -> None:
    """Time of a step against the number of atoms, with quartiles: a panel for each kind of model.

    Raises:
        ValueError: nothing was measured.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = [row for row in document["rows"] if "failed" not in row]
    if not rows:
        raise ValueError("no row was measured, so there is nothing to draw")
    panels = list(dict.fromkeys((_title(row), row["device"]) for row in rows))
    names = list(dict.fromkeys(row["row"] for row in rows))
    figure, axes = pyplot.subplots(
        1, len(panels), figsize=(5.5 * len(panels), 4.5), squeeze=False, sharex=True, sharey=True
    )
    for axis, (title, device) in zip(axes.flat, panels, strict=True):
        inside = [row for row in rows if (_title(row), row["device"]) == (title, device)]
        for model, name in dict.fromkeys((row["model"], row["row"]) for row in inside):
            points = [row for row in inside if (row["model"], row["row"]) == (model, name)]
            _draw(axis, sorted(points, key=lambda row: row["atoms"]), names.index(name))
        axis.set(title=f"{title}, {device}", xlabel="atoms", xscale="log", yscale="log")
        sizes = sorted({row["atoms"] for row in rows})
        axis.set_xticks(sizes, [str(size) for size in sizes], rotation=45)
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    axes[0, 0].set_ylabel("ms / step")
    # A row is drawn once for every model.
    found = [axis.get_legend_handles_labels() for axis in axes.flat]
    handles = {label: h for both in found for h, label in zip(*both, strict=True)}
    axes[0, 0].legend(handles.values(), handles.keys(), fontsize=7)
    environment = document["environment"]
    hardware = [f"{environment['cpu']}, {environment['threads']} threads", environment.get("gpu")]
    figure.suptitle("; ".join(filter(None, hardware)) + "; float32", fontsize=9)
    figure.tight_layout()
    figure.savefig(path, dpi=150)
    pyplot.close(figure)


def _title(row: Measured) -> str:
    if row["model"] == "maceles-off":
        return "MACELES-OFF architecture, random weights"
    return "small trained models"


def _draw(axis: Any, points: list[Measured], color: int) -> None:
    """One row of one model."""
    times = [row["ms_per_step"] for row in points]
    axis.errorbar(
        [row["atoms"] for row in points],
        [time["median"] for time in times],
        yerr=[
            [time["median"] - time["low"] for time in times],
            [time["high"] - time["median"] for time in times],
        ],
        marker="o",
        markersize=4,
        linestyle="-" if points[0]["is_ours"] else "--",
        color=f"C{color}",
        label=points[0]["row"],
    )
