"""Summary of a finished run: averages, speed, files."""

from __future__ import annotations

import csv
import io
import json
import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import TypeAdapter, ValidationError

from openmm_les.analysis.means import decimals_of
from openmm_les.errors import InputError
from openmm_les.files.reading import Damage, Kind, boundary, read_file
from openmm_les.simulation.structures.selection import SelectedRegion
from openmm_les.units import KJ_PER_MOL_PER_EV

_NO_LOG = "output: {file} is not the log of a run: {reason}; start again with --overwrite"
_LOG = Kind(InputError, "output", _NO_LOG)
#: Columns of a log by the names that people read.
COLUMNS = {
    "potential energy [kJ/mol]": "Potential Energy (kJ/mole)",
    "kinetic energy [kJ/mol]": "Kinetic Energy (kJ/mole)",
    "total energy [kJ/mol]": "Total Energy (kJ/mole)",
    "temperature [K]": "Temperature (K)",
    "volume [nm^3]": "Box Volume (nm^3)",
    "density [g/mL]": "Density (g/mL)",
}
_MILLI = 1000.0
_PS_PER_NS = 1000.0
_SECONDS_PER_DAY = 86400.0


@dataclass(frozen=True)
class Mean:
    """Mean and standard deviation over the rows of the log, which is nan for a single row."""

    mean: float
    std: float | None


@dataclass(frozen=True)
class Summary:
    """Results of a run."""

    steps: int  #: Of production
    time_ps: float  #: Simulated time [ps]
    wall_seconds: float  #: Wall time of these steps, summed over all processes [s]
    ns_per_day: float  #: Simulated time by wall time [ns/day]
    atoms: int  #: Number of atoms, without virtual sites
    temperature: Mean  #: [K]
    potential_energy: Mean  #: [kJ/mol]
    density: Mean | None  #: [g/mL]; None unless the ensemble is NPT
    #: Slope of the total energy [meV/atom/ps]; None unless the ensemble is NVE
    energy_drift: float | None
    config: dict[str, Any]  #: All settings, with the choices made for this machine
    files: dict[str, str]  #: Paths of what was written, by name
    ml_region: SelectedRegion | None = None  #: None where the model describes all atoms

    def to_json(self) -> str:
        """Content of ``summary.json``."""
        return json.dumps(asdict(self), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes) -> Summary:
        """Read what `to_json` wrote."""
        return TypeAdapter(cls).validate_json(text)

    @classmethod
    def read(cls, path: Path) -> Summary | None:
        """Read a file; None if it is missing or damaged."""
        try:
            return cls.from_json(path.read_bytes())
        except (OSError, ValidationError):
            return None

    def table(self) -> str:
        """Text for the terminal."""
        config = self.config
        logged = self.steps // config["report_interval"]
        rows = [
            ("steps", f"{self.steps} of {config['time_step']:g} fs, {self.time_ps:g} ps"),
            ("wall time", f"{duration(self.wall_seconds)}, {self.ns_per_day:.3g} ns/day"),
            ("temperature", f"{_text(self.temperature)} K"),
            ("potential energy", f"{_text(self.potential_energy)} kJ/mol"),
        ]
        if self.ml_region is not None:
            rows.append(("ML region", self.ml_region.text()))
        if self.density is not None:
            rows.append(("density", f"{_text(self.density)} g/mL"))
        if self.energy_drift is not None:
            rows.append(("energy drift", f"{self.energy_drift:.4g} meV/atom/ps"))
        rows.append(("averages", f"over {logged} row{'s' if logged > 1 else ''} of log.csv"))
        rows += self.files.items()
        width = max(len(name) for name, _ in rows) + 2
        return "\n".join(f"{name:<{width}}{text}" for name, text in rows)


def summarise(
    log: Path,
    config: dict[str, Any],
    *,
    atoms: int,
    wall_seconds: float,
    files: dict[str, str],
    ml_region: SelectedRegion | None = None,
) -> Summary:
    """Summarise a run from the log of its production; see `Summary` for the arguments."""
    with boundary(log, _LOG):
        columns = read_log(log)
        time_ps = config["steps"] * config["time_step"] * 1e-3
        return Summary(
            steps=config["steps"],
            time_ps=time_ps,
            wall_seconds=wall_seconds,
            ns_per_day=speed(time_ps, wall_seconds),
            atoms=atoms,
            temperature=_mean(columns["Temperature (K)"]),
            potential_energy=_mean(columns["Potential Energy (kJ/mole)"]),
            density=_mean(columns["Density (g/mL)"]) if config["ensemble"] == "NPT" else None,
            energy_drift=energy_drift(columns, atoms) if config["ensemble"] == "NVE" else None,
            config=config,
            files=files,
            ml_region=ml_region,
        )


def energy_drift(columns: Mapping[str, list[float]], atoms: int) -> float | None:
    """Slope of the total energy [meV/atom/ps] in the columns of a log; None for a single row."""
    if len(columns["Time (ps)"]) < 2:
        return None
    slope = np.polyfit(columns["Time (ps)"], columns["Total Energy (kJ/mole)"], 1)[0]
    return float(slope) / KJ_PER_MOL_PER_EV * _MILLI / atoms


def read_log(path: Path, *, is_growing: bool = False) -> dict[str, list[float]]:
    """Columns of a file of OpenMM's StateDataReporter.

    The last row of one that grows may break, and it may have no header yet: then there are none.
    """
    text = read_file(path).decode()
    if is_growing:
        text = text[: text.rfind("\n") + 1]
        if not text:
            return {}
    header, *rows = csv.reader(io.StringIO(text))
    if any(len(row) != len(header) for row in rows):
        raise Damage(f"expected {len(header)} numbers in each row")
    names = [name.lstrip("#").strip('"') for name in header]
    return {name: [float(row[i]) for row in rows] for i, name in enumerate(names)}


def speed(time_ps: float, seconds: float) -> float:
    """Simulated time by wall time [ns/day]."""
    return time_ps / _PS_PER_NS / seconds * _SECONDS_PER_DAY if seconds > 0.0 else 0.0


def duration(seconds: float) -> str:
    """A duration as text, such as ``2 h 05 min``."""
    if seconds < 60.0:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def _mean(values: list[float]) -> Mean:
    spread = statistics.stdev(values) if len(values) > 1 else None
    return Mean(statistics.fmean(values), spread)


def _text(value: Mean) -> str:
    if not value.std:
        return f"{value.mean:.6g}"
    decimals = decimals_of(value.std)
    return f"{value.mean:.{decimals}f} +- {value.std:.{decimals}f}"
