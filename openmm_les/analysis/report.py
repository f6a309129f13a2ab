"""Output of `openmm-les validate`: table, statistics, picture."""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from openmm_les.analysis.plotting import Parity, draw_parity
from openmm_les.analysis.reference_data import UNITS
from openmm_les.analysis.validation import Statistics, Validation
from openmm_les.errors import OutputError
from openmm_les.files.writing import refuse_inputs, write_atomically, writing

logger = logging.getLogger(__name__)

FRAMES, STATISTICS, PICTURE = "frames.csv", "statistics.json", "parity.png"
_PANELS = (
    ("energy_shifted", "energy", "meV/atom", 1e3),
    ("forces", "force component", "eV/A", 1.0),
    ("stress", "stress component", "eV/A^3", 1.0),
    ("dipole", "dipole component", "e A", 1.0),
    ("born_charges", "Born charge component", "e", 1.0),
)


def prepare(directory: Path, overwrite: bool, inputs: Mapping[str, Path]) -> Path:
    """Create the output directory; refuse one with such files, or with an input (by argument)."""
    directory = Path(os.path.expanduser(directory))
    for output in (directory, *(directory / name for name in (FRAMES, STATISTICS, PICTURE))):
        refuse_inputs(output, inputs)
    with writing(directory):
        directory.mkdir(parents=True, exist_ok=True)
    if not os.access(directory, os.W_OK):
        raise OutputError(f"output: no permission to write in {directory}")
    existing = [name for name in (FRAMES, STATISTICS, PICTURE) if (directory / name).exists()]
    if existing and not overwrite:
        raise OutputError(
            f"output: {directory} has {', '.join(existing)} already; choose another directory or "
            "pass --overwrite"
        )
    return directory


def table(rows: Sequence[Statistics]) -> str:
    """The statistics as text."""
    head = ("", "RMSE", "MAE", "bias", "unit", "R2", "slope", "values")
    body = []
    for row in rows:
        numbers = (f"{row.rmse:.4g}", f"{row.mae:.4g}", f"{row.bias:.3g}")
        fractions = (_fraction(row.r2), _fraction(row.slope))
        body.append((row.quantity, *numbers, row.unit, *fractions, str(row.number)))
    widths = [max(map(len, column)) for column in zip(head, *body, strict=True)]
    align = "<>>><>>>"
    cells = (
        [f"{word:{side}{width}}" for word, side, width in zip(line, align, widths, strict=True)]
        for line in (head, *body)
    )
    return "\n".join("  ".join(line).rstrip() for line in cells)


def as_dict(result: Validation) -> dict[str, Any]:
    """The statistics as a dictionary for JSON; NaN becomes None."""
    rows = [
        {key: None if value != value else value for key, value in asdict(row).items()}
        for row in result.statistics()
    ]
    return {
        "model": dict(result.model),
        "data": result.files,
        "structures": len(result.frames),
        "atoms": sum(len(frame.numbers) for frame in result.frames),
        "keys": result.keys,
        "not compared": result.not_compared,
        "statistics": rows,
    }


def origin(result: Validation) -> str:
    """Model and data of a validation as text."""
    about = as_dict(result)
    keys = "; ".join(f"{name} ({UNITS[name]}): {', '.join(k)}" for name, k in result.keys.items())
    lines = {
        "model": f"{about['model'].get('path')}, sha256 {about['model'].get('sha256', '')[:12]}",
        "data": ", ".join(about["data"]),
        "keys": keys,
        "not compared": ", ".join(about["not compared"]),
    }
    size = f"{about['structures']} structures, {about['atoms']} atoms"
    return "\n".join([size, *(f"{name:<14}{text}" for name, text in lines.items() if text)])


def write(result: Validation, directory: Path) -> list[Path]:
    """Write table, statistics and, if matplotlib is installed, the picture; return their paths."""
    contents = {
        FRAMES: result.to_csv().encode(),
        STATISTICS: (json.dumps(as_dict(result), indent=2) + "\n").encode(),
    }
    if find_spec("matplotlib") is None:
        logger.warning("no parity.png: matplotlib is missing: pip install 'openmm-les[analysis]'")
    else:
        contents[PICTURE] = draw_parity(parities(result), Path(PICTURE).suffix)
    try:
        for name, content in contents.items():
            write_atomically(directory / name, content)
    except OutputError:
        for name in contents:  # do not mix two reports
            (directory / name).unlink(missing_ok=True)
        raise
    return [directory / name for name in contents]


def parities(result: Validation) -> list[Parity]:
    """One panel for each quantity; energies about their mean, shifted by element."""
    panels = []
    for name, title, unit, scale in _PANELS:
        if not result.has(name):
            continue
        reference, model = result.pairs(name)
        middle = reference.mean() if name.startswith("energy") else 0.0
        if name.startswith("energy"):
            title = "energy about its mean, shifted by element"
        panels.append(Parity(title, unit, scale * (reference - middle), scale * (model - middle)))
    return panels


def _fraction(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.4f}"
