"""Results of a run: means with their errors, what is expected of them, charges, pictures."""

from __future__ import annotations

import math
from collections import defaultdict

import numpy as np
from openmm import unit

from openmm_les.analysis.formats import CSVFile
from openmm_les.analysis.means import BLOCKS, block_error, decimals_of, with_error
from openmm_les.analysis.pages import Cell, Facts, Part, Picture, Table, Text
from openmm_les.analysis.plotting import Curve, draw_series
from openmm_les.arrays import FloatArray
from openmm_les.errors import one_line
from openmm_les.simulation import output
from openmm_les.simulation.report.record import TIME, Columns, Record
from openmm_les.simulation.structures.structure import real_atoms
from openmm_les.simulation.summary import COLUMNS, energy_drift

_TEMPERATURE, _DENSITY = "temperature [K]", "density [g/mL]"
_ENERGY, _TOTAL, _VOLUME = "potential energy [kJ/mol]", "total energy [kJ/mol]", "volume [nm^3]"
_GAS_CONSTANT: float = unit.MOLAR_GAS_CONSTANT_R.value_in_unit(
    unit.kilojoule_per_mole / unit.kelvin
)
#: Fewest rows of a picture.
_FEWEST_ROWS = 3
#: Rows of the response of which charges are averaged; the file may have millions.
_RESPONSE_ROWS = 200


def results(record: Record) -> list[Part]:
    """Tables and pictures of a run."""
    parts: list[Part] = []
    for make in (_means, _expected, _charges, _pictures):
        try:
            parts += make(record)
        except Exception as error:  # such as of a damaged file; the rest of the page is worth more
            parts.append(Text(f"Left out: {one_line(error)}"))
    return parts


def _means(record: Record) -> list[Part]:
    """Means with their errors, and of what they are."""
    if not record.production:
        return [Text("Production has no rows yet.")]
    number = len(record.production[TIME])
    text = f"Of {number} row{'s' * (number > 1)} of {output.LOG}, without equilibration."
    if number >= 2 * BLOCKS:
        length = record.picoseconds(record.config.report_interval) * (number // BLOCKS)
        text += (
            f" Errors are those of means of {BLOCKS} blocks of {length:.3g} ps; they are too small "
            "if a quantity is correlated for longer."
        )
    else:
        text += f" Errors of means need {2 * BLOCKS} rows."
    return [_table(record), Text(text)]


def _table(record: Record) -> Table:
    rows: list[list[Cell]] = []
    for name, column in COLUMNS.items():
        values = np.array(record.production.get(column, ()))
        if not values.size or (name == _VOLUME and not np.ptp(values)):
            continue
        if not np.ptp(values):  # such as the density in a fixed box
            rows.append([name, f"{values[0]:.6g}", None, None, None])
            continue
        spread = float(values.std(ddof=1))
        decimals = decimals_of(spread)
        ends = (f"{value:.{decimals}f}" for value in (values.min(), values.max()))
        rows.append([name, with_error(values.mean(), block_error(values)), f"{spread:.4g}", *ends])
    return Table(["quantity", "mean", "standard deviation", "smallest", "largest"], rows)


def _expected(record: Record) -> list[Part]:
    """What the ensemble lets expect."""
    config = record.config
    if not record.production:
        return []
    if config.ensemble == "NVE":
        atoms = len(real_atoms(record.job.structure.topology.atoms()))
        drift = energy_drift(record.production, atoms)
        if drift is None:
            return []
        return [Facts([("drift of total energy", f"{drift:.4g} meV/atom/ps")])]
    number = _degrees_of_freedom(record.production)
    if not number:
        return []
    expected = config.temperature * math.sqrt(2.0 / number)
    text = (
        f"expected: {config.temperature:g} K, with a standard deviation of {expected:.4g} K "
        f"(T sqrt(2/N) of the canonical ensemble, with N = {number} degrees of freedom)"
    )
    temperatures = np.array(record.production[COLUMNS[_TEMPERATURE]])
    if (error := block_error(temperatures)) > 0.0:
        away = (temperatures.mean() - config.temperature) / error
        text += f"; the mean is {abs(away):.1f} standard errors {'above' if away > 0 else 'below'}"
    return [Facts([("temperature", text)])]


def _degrees_of_freedom(columns: Columns) -> int:
    """From kinetic energy and temperature, which OpenMM has from it: E = N R T / 2."""
    energies, temperatures = (
        columns[COLUMNS[n]] for n in ("kinetic energy [kJ/mol]", _TEMPERATURE)
    )
    for energy, temperature in zip(energies, temperatures, strict=True):
        if 0.0 < temperature < math.inf:
            return round(2.0 * energy / (_GAS_CONSTANT * temperature))
    return 0


def _charges(record: Record) -> list[Part]:
    """Latent charges by element, where they were recorded."""
    path = record.job.directory / output.RESPONSE
    if "charges" not in (record.config.response or ()) or not path.exists():
        return []
    series = CSVFile(path).sample(_RESPONSE_ROWS)
    if not len(series.time):
        return []
    charges, hybrid = series.get("charges"), record.job.hybrid
    atoms = list(record.job.structure.topology.atoms())
    chosen = set(range(len(atoms)) if hybrid is None else hybrid.atoms)
    columns: dict[str, list[int]] = defaultdict(list)
    for column, index in enumerate(series.atoms):
        # The file has zeros for MM atoms that link atoms replace.
        if index in chosen:
            columns[atoms[index].element.symbol].append(column)
    rows: list[list[Cell]] = []
    for symbol in sorted(columns):
        values = charges[:, columns[symbol]]
        numbers = (values.mean(), values.min(), values.max())
        rows.append([symbol, len(columns[symbol]), *map(_decimals, numbers)])
    net = charges.sum(axis=1)
    sign = (
        "" if series.header.charge_sign == "physical" else "; the model does not state their sign"
    )
    text = f"Latent charges in {len(net)} rows of {output.RESPONSE}{sign}. Their sum is "
    mean, *ends = map(_decimals, (net.mean(), net.min(), net.max()))
    text += f"{mean} e" + ("." if {*ends} == {mean} else f", between {ends[0]} and {ends[1]} e.")
    names = ["element", "atoms", "mean charge [e]", "smallest", "largest"]
    return [Text(text), Table(names, rows)]


def _decimals(number: float) -> str:
    """Four decimals, without the sign of what rounds to zero."""
    return f"{round(float(number), 4) + 0.0:.4f}"


def _pictures(record: Record) -> list[Part]:
    rows = sum(len(columns.get(TIME, ())) for columns in (record.equilibration, record.production))
    if rows < _FEWEST_ROWS:
        return []
    names = [_ENERGY, _TEMPERATURE]
    names += {"NVE": [_TOTAL], "NPT": [_DENSITY]}.get(record.config.ensemble, [])
    return [_picture(record, name) for name in names]


def _picture(record: Record, name: str) -> Picture:
    """A quantity over time; that of equilibration, which is before production, is negative."""
    column, config = COLUMNS[name], record.config
    curves: dict[str, Curve] = {}
    for phase, columns in (
        ("equilibration", record.equilibration),
        ("production", record.production),
    ):
        is_before = phase == "equilibration"
        # The thermostat before hides how little the energy drifts.
        if columns and not (is_before and name == _TOTAL):
            start = -record.picoseconds(config.equilibration_steps) if is_before else 0.0
            time = start + np.array(columns[TIME])
            curves[phase] = Curve(time, np.array(columns[column]), is_pale=is_before)
    is_target = name == _TEMPERATURE and config.ensemble != "NVE"
    level = config.temperature if is_target else None
    content = draw_series(curves, ".svg", x="time [ps]", y=name, level=level)
    caption = f"{name.partition(' [')[0].capitalize()} over time"
    if "equilibration" in curves:
        caption += "; grey: equilibration"
    if level is not None:
        caption += f"; dashed: {level:g} K"
    courses = "; ".join(f"{phase} {_course(curve.values)}" for phase, curve in curves.items())
    return Picture(content, caption, f"{name} over time: {courses}")


def _course(values: FloatArray) -> str:
    """A series in words, for those who do not see it."""
    return (
        f"from {values[0]:.6g} to {values[-1]:.6g}, between {values.min():.6g} and "
        f"{values.max():.6g}"
    )
