"""Collects the results of a campaign: a table, pictures of each quantity, a page with all of it."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from openmm_les.analysis import formats, pages
from openmm_les.analysis.means import (
    Statistics,
    inefficiency_of,
    quiet_pymbar,
    series_statistics,
    with_error,
)
from openmm_les.analysis.plotting import Means, draw_means
from openmm_les.analysis.series import QUANTITIES
from openmm_les.arrays import FloatArray
from openmm_les.campaign.state import RunState, line, read_table, state_of
from openmm_les.errors import InputError
from openmm_les.files.reading import Kind, boundary
from openmm_les.files.writing import write_atomically, writing
from openmm_les.names import shorten
from openmm_les.simulation.config import RunConfig
from openmm_les.simulation.fields import unit_of
from openmm_les.simulation.output import LOG, REPORT, RESPONSE, SUMMARY
from openmm_les.simulation.summary import COLUMNS, read_log
from openmm_les.units import KJ_PER_MOL_PER_EV

RESULTS, PAGE, PICTURES = "results.csv", "index.html", "pictures"
_DRIFT_OF = "total energy [kJ/mol]"
#: Quantities that only a barostat changes.
_OF_BOX = ("density [g/mL]", "volume [nm^3]")
#: Columns of the log by the name and unit of a quantity, those of the box first.
_COLUMNS = {name: COLUMNS[name] for name in (*_OF_BOX, *COLUMNS)}
_DIPOLE, _DRIFT = f"dipole [{QUANTITIES['dipole'].unit}]", "energy drift [meV/atom/ps]"
_MEV = 1000.0 / KJ_PER_MOL_PER_EV
#: Names along an axis; more are numbers.
_MOST_TICKS = 40
#: Characters of such a name.
_LONGEST_TICK = 40
_LOG_KIND = Kind(InputError, "log", "{file} is not the log of a run: {reason}")
_RESPONSE_KIND = Kind(InputError, "response", "{file} is not a table of numbers: {reason}")


@dataclass(frozen=True)
class Row:
    """The results of one run."""

    state: RunState
    values: dict[str, Statistics] = field(default_factory=dict)  #: By name and unit
    problems: list[str] = field(default_factory=list)  #: Why quantities were left out


@dataclass(frozen=True)
class Gathered:
    """What `gather` has done."""

    files: list[Path]
    problems: dict[str, str]  #: What is wrong with the files of runs, by name

    def line(self) -> str:
        """One line for the terminal; empty where nothing is wrong."""
        if not self.problems:
            return ""
        each = shorten((f"{name}: {text}" for name, text in self.problems.items()), "; ")
        return f"quantities of {len(self.problems)} runs, whose files are damaged, left out: {each}"


def gather(campaign: str | os.PathLike[str]) -> Gathered:
    """Write ``results.csv``, pictures and ``index.html`` into the directory of a campaign.

    Runs that are not finished count with what they have, those with a damaged file with the rest.

    Raises:
        InputError: it is no campaign, or pymbar or matplotlib are missing.
        OutputError: the files cannot be written.
    """
    directory = Path(campaign)
    with quiet_pymbar():  # so that a missing pymbar is not taken for damaged files
        rows = [_row(state) for state in map(state_of, read_table(directory))]
    names = [*_COLUMNS, _DIPOLE, _DRIFT]
    present = [name for name in names if any(name in row.values for row in rows)]
    pictures = {name: _picture(rows, name) for name in present}
    folder = directory / PICTURES
    if pictures:
        with writing(folder):
            folder.mkdir(exist_ok=True)
    contents = {directory / RESULTS: _csv(rows, present).encode()}
    for name, picture in pictures.items():
        contents[folder / f"{name.partition(' [')[0].replace(' ', '_')}.png"] = picture
    contents[directory / PAGE] = _page(directory, rows, pictures).encode()
    for path, content in contents.items():
        write_atomically(path, content)
    return Gathered(list(contents), _problems(rows))


def _problems(rows: Sequence[Row]) -> dict[str, str]:
    return {row.state.entry.name: "; ".join(row.problems) for row in rows if row.problems}


def _row(state: RunState) -> Row:
    row = Row(state)
    for file, kind, read in (
        (LOG, _LOG_KIND, _of_log),
        (RESPONSE, _RESPONSE_KIND, _of_response),
    ):
        path = state.entry.directory / file
        if path.exists():
            try:
                with boundary(path, kind):
                    read(row, path)
            except InputError as error:
                row.problems.append(str(error))
    return row


def _of_log(row: Row, path: Path) -> None:
    columns = read_log(path, is_growing=row.state.name != "finished")
    for name, column in _COLUMNS.items():
        series = columns.get(column, [])
        if not series or (name in _OF_BOX and len(set(series)) == 1):
            continue
        if np.isfinite(series).all():
            row.values[name] = series_statistics(series)
        else:
            row.problems.append(f"{path}: expected finite numbers in {column}, got NaN or infinity")
    if _DRIFT_OF in row.values and (drift := _drift(row.state, columns)) is not None:
        row.values[_DRIFT] = drift


def _of_response(row: Row, path: Path) -> None:
    """The length of the dipole, where it was written."""
    series = formats.CSVFile(path).read(is_growing=row.state.name != "finished")
    if "dipole" in series.values and len(series.time):
        row.values[_DIPOLE] = series_statistics(np.linalg.norm(series.get("dipole"), axis=1))


def _drift(state: RunState, columns: dict[str, list[float]]) -> Statistics | None:
    """Slope of the total energy of a finished run without a thermostat, and its error.

    The error takes into account that what deviates from the line is correlated.
    """
    try:
        summary = json.loads((state.entry.directory / SUMMARY).read_bytes())
        atoms, ensemble = int(summary["atoms"]), summary["config"]["ensemble"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    time = np.array(columns["Time (ps)"])
    if ensemble != "NVE" or len(time) < 2:
        return None
    energy = np.array(columns["Total Energy (kJ/mole)"]) * _MEV / atoms
    slope, offset = np.polyfit(time, energy, 1)
    residual = energy - slope * time - offset
    inefficiency, error = inefficiency_of(residual), math.nan
    if len(time) > 2:
        variance = float((residual**2).sum()) / (len(time) - 2)
        spread = float(((time - time.mean()) ** 2).sum())
        error = math.sqrt(inefficiency * variance / spread)
    return Statistics(float(slope), error, inefficiency, 0, len(time))


def _csv(rows: Sequence[Row], present: Sequence[str]) -> str:
    varied = list(rows[0].state.entry.varied)
    columns = ["run", *varied, "repeat", "state", "steps_done", "ns_per_day"]
    for name in present:
        bare, unit = name.split(" [")
        columns += [name, f"{bare} error [{unit}", f"{bare} inefficiency", f"{bare} start"]
    lines = []
    for row in rows:
        state, entry = row.state, row.state.entry
        cells: list[object] = [entry.name, *entry.varied.values(), entry.repeat]
        cells += [state.name, state.steps, state.ns_per_day]
        for name in present:
            s = row.values.get(name)
            cells += [None] * 4 if s is None else [s.mean, s.error, s.inefficiency, s.start]
        lines.append(cells)
    return pages.csv_text(columns, lines)


def _picture(rows: Sequence[Row], name: str) -> bytes:
    """Means of a quantity against the first varied number, or each run beside the other."""
    with_value = [row for row in rows if name in row.values]
    axis = _numeric_setting(with_value)
    curves: dict[str, tuple[list[float], list[float], list[float]]] = {}
    for index, row in enumerate(with_value):
        varied = dict(row.state.entry.varied)
        x = float(index) if axis is None else float(varied.pop(axis))
        label = "" if axis is None else _label(varied)
        mean = row.values[name]
        for values, value in zip(
            curves.setdefault(label, ([], [], [])), (x, mean.mean, mean.error), strict=True
        ):
            values.append(value)
    ticks = None
    if axis is None and len(with_value) <= _MOST_TICKS:
        ticks = [_tick(row.state.entry.name) for row in with_value]
    return draw_means(
        {label: Means(*values) for label, values in curves.items()},
        ".png",
        x="run" if axis is None else _with_unit(axis),
        y=name,
        ticks=ticks,
    )


def _tick(name: str) -> str:
    """The end of a name, which tells runs apart; a long one leaves no room for the picture."""
    return name if len(name) <= _LONGEST_TICK else f"...{name[3 - _LONGEST_TICK :]}"


def _with_unit(setting: str) -> str:
    unit = unit_of(RunConfig.model_fields[setting])
    return setting.replace("_", " ") + ("" if unit is None else f" [{unit}]")


def _numeric_setting(rows: Sequence[Row]) -> str | None:
    """The first varied setting with numbers, of which there are at least two."""
    for name in rows[0].state.entry.varied:
        try:
            numbers = {float(row.state.entry.varied[name]) for row in rows}
        except ValueError:
            continue
        if len(numbers) > 1:
            return name
    return None


def _page(directory: Path, rows: Sequence[Row], pictures: dict[str, bytes]) -> str:
    states = [row.state for row in rows]
    failed: list[Sequence[pages.Cell]] = [[s.entry.name, s.error] for s in states if s.error]
    parts: list[pages.Part] = [pages.Text(f"{line(states)}.")]
    if failed:
        parts.append(pages.Table(["failed run", "message"], failed))
    if problems := _problems(rows):
        parts.append(pages.Table(["run", "left out, since files are damaged"], [*problems.items()]))
    sections = [pages.Section("Runs", [*parts, _table(directory, rows, list(pictures))])]
    if any(row.state.entry.repeat > 1 for row in rows) and pictures:
        explained = "Means of the repetitions, with the standard error that follows from them."
        table = _averages(rows, list(pictures))
        sections.append(pages.Section("Averages", [pages.Text(explained), table]))
    if pictures:
        drawn = [pages.Picture(picture, name) for name, picture in pictures.items()]
        sections.append(pages.Section("Quantities", drawn))
    return pages.page(f"Campaign: {directory.absolute().name}", sections)


def _table(directory: Path, rows: Sequence[Row], present: Sequence[str]) -> pages.Table:
    lines: list[Sequence[pages.Cell]] = []
    for row in rows:
        state, report = row.state, row.state.entry.directory / REPORT
        name: pages.Cell = state.entry.name
        if report.exists():
            name = pages.Link(state.entry.name, report.relative_to(directory).as_posix())
        values = [_with_error(row.values.get(quantity)) for quantity in present]
        lines.append([name, state.name, state.steps, state.ns_per_day, *values])
    return pages.Table(["run", "state", "steps", "ns/day", *present], lines)


def _averages(rows: Sequence[Row], present: Sequence[str]) -> pages.Table:
    """Means over repetitions, whose spread gives the error."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(_label(row.state.entry.varied), []).append(row)
    lines: list[Sequence[pages.Cell]] = []
    for label, group in groups.items():
        with_values = [row for row in group if row.values]
        cells: list[pages.Cell] = [label, len(with_values)]
        for name in present:
            means = np.array([row.values[name].mean for row in with_values if name in row.values])
            cells.append(_average(means) + _of_fewer(len(means), len(with_values)))
        lines.append(cells)
    return pages.Table(["varied", "runs with results", *present], lines)


def _average(means: FloatArray) -> str:
    if not len(means):
        return ""
    error = float(means.std(ddof=1)) / math.sqrt(len(means)) if len(means) > 1 else math.nan
    return _with_error(Statistics(float(means.mean()), error, 1.0, 0, len(means)))


def _of_fewer(number: int, all_of_them: int) -> str:
    return f" (of {number})" if 0 < number < all_of_them else ""


def _label(varied: dict[str, str]) -> str:
    return ", ".join(f"{name} {value}" for name, value in varied.items())


def _with_error(value: Statistics | None) -> str:
    return "" if value is None else with_error(value.mean, value.error)
