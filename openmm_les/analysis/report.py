"""What `openmm-les validate` prints and writes."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Sequence
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from openmm_les.analysis.plotting import Parity, plot_parity
from openmm_les.analysis.validation import Statistics, Validation
from openmm_les.errors import InputError
from openmm_les.files import write_atomically

logger = logging.getLogger(__name__)

FRAMES, STATISTICS, PICTURE = "frames.csv", "statistics.json", "parity.png"
_PANELS = (
    ("energy_shifted", "energy", "meV/atom", 1e3),
    ("forces", "force component", "eV/A", 1.0),
    ("dipole", "dipole component", "e A", 1.0),
    ("born_charges", "Born charge component", "e", 1.0),
)


def prepare(directory: Path, overwrite: bool) -> Path:
    """Make the directory, and refuse one that has such files, before any work is done.

    Raises:
        InputError: it cannot be made, or would lose files.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"output: cannot make the directory {directory}: {error.strerror or error}"
        ) from None
    there = [name for name in (FRAMES, STATISTICS, PICTURE) if (directory / name).exists()]
    if there and not overwrite:
        raise InputError(
            f"output: {directory} has {', '.join(there)} already; choose another directory or pass "
            "--overwrite"
        )
    return directory


def table(rows: Sequence[Statistics]) -> str:
    """The statistics for people."""
    head = ("", "RMSE", "MAE", "bias", "unit", "R2", "slope", "values")
    body = [
        (
            row.quantity,
            f"{row.rmse:.4g}",
            f"{row.mae:.4g}",
            f"{row.bias:.3g}",
            row.unit,
            _fraction(row.r2),
            _fraction(row.slope),
            str(row.number),
        )
        for row in rows
    ]
    widths = [max(len(line[k]) for line in (head, *body)) for k in range(len(head))]
    lines = []
    for line in (head, *body):
        first, *others = (
            word.ljust(width) if k in (0, 4) else word.rjust(width)
            for k, (word, width) in enumerate(zip(line, widths, strict=True))
        )
        lines.append("  ".join((first, *others)).rstrip())
    return "\n".join(lines)


def as_dict(result: Validation) -> dict[str, Any]:
    """The statistics for machines; None for what is not defined."""
    rows = [
        {key: None if value != value else value for key, value in asdict(row).items()}
        for row in result.statistics()
    ]
    return {"structures": len(result.frames), "statistics": rows}


def write(result: Validation, directory: Path) -> list[Path]:
    """Write table, statistics and, where matplotlib is installed, the picture.

    Returns:
        The files.
    """
    write_atomically(directory / FRAMES, result.to_csv().encode())
    text = json.dumps(as_dict(result), indent=2) + "\n"
    write_atomically(directory / STATISTICS, text.encode())
    written = [directory / FRAMES, directory / STATISTICS]
    if find_spec("matplotlib") is None:
        logger.warning(
            "no parity.png: pictures need matplotlib: pip install 'openmm-les[analysis]'"
        )
        return written
    plot_parity(parities(result), directory / PICTURE)
    return [*written, directory / PICTURE]


def parities(result: Validation) -> list[Parity]:
    """One panel for each quantity that there is; energies about their mean, shifted by element."""
    panels = []
    for name, title, unit, scale in _PANELS:
        reference, model = result.pairs(name) if result.has(name) else (None, None)
        if reference is None or model is None:
            continue
        middle = reference.mean() if name.startswith("energy") else 0.0
        if name.startswith("energy"):
            title = "energy about its mean, shifted by element"
        panels.append(Parity(title, unit, scale * (reference - middle), scale * (model - middle)))
    return panels


def _fraction(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.4f}"
