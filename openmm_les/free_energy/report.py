"""Tables and a page of free energies."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from openmm_les.analysis import pages
from openmm_les.analysis.plotting import Means, draw_matrix, draw_means
from openmm_les.files.writing import write_atomically
from openmm_les.free_energy.estimate import FRACTIONS, Estimate
from openmm_les.free_energy.results import Leg, LigandResult

RESULTS, WINDOWS, PAGE = "free-energies.csv", "windows.csv", "free-energies.html"
_COLUMNS = (
    *("lambda", "samples left out", "inefficiency", "independent samples"),
    *("MBAR [kJ/mol]", "error [kJ/mol]", "BAR [kJ/mol]", "TI [kJ/mol]", "overlap with next"),
)
#: How far a result can be trusted.
_TRUST = ("least overlap of neighbours", "verdict")
_EXPLAINED = (
    "A correction is the free energy of the model in the place of the force field in the first leg "
    "minus that in the second. That of a single leg holds a large constant, since a model and a "
    "force field count energies from zeros of their own; it cancels in the correction."
)


def write(results: Sequence[LigandResult], directory: Path) -> list[Path]:
    """Write a table of ligands, one of windows, and a page with both and pictures; the files."""
    contents = {
        directory / RESULTS: pages.csv_text(*_ligands(results)),
        directory / WINDOWS: pages.csv_text(
            ("ligand", "leg", *_COLUMNS),
            [
                (ligand.name, leg.name, *row)
                for ligand in results
                for leg in ligand.legs
                if leg.estimate is not None
                for row in _windows(leg.estimate)
            ],
        ),
        directory / PAGE: _page(results, directory),
    }
    for path, content in contents.items():
        write_atomically(path, content.encode())
    return list(contents)


def text(results: Sequence[LigandResult]) -> str:
    """The free energies of all ligands, and what is wrong with them, for the terminal."""
    lines = []
    for ligand in results:
        parts = [f"{leg.name} {_leg_value(leg)}" for leg in ligand.legs]
        name = f"{ligand.name}: {'; '.join(parts)}"
        if len(ligand.legs) > 1:
            name += f"; difference {_with_error(ligand.correction, ligand.error)}"
        if not math.isnan(ligand.least_overlap):
            name += f"; least overlap {ligand.least_overlap:.2g}"
        lines.append(f"{name} ({ligand.verdict})")
        for leg in ligand.legs:
            lines += [f"  {leg.name}: {problem}" for problem in leg.verdict.problems]
    return "\n".join(lines)


def _ligands(
    results: Sequence[LigandResult],
) -> tuple[Sequence[str], list[Sequence[pages.Cell]]]:
    """Head and rows of the table of ligands."""
    legs = [leg.name for leg in results[0].legs]
    columns = ["ligand"]
    for name in legs:
        columns += [f"{name} [kJ/mol]", f"{name} error [kJ/mol]"]
    if len(legs) > 1:
        columns += [_difference(legs), "error [kJ/mol]"]
    rows: list[Sequence[pages.Cell]] = []
    for ligand in results:
        row: list[pages.Cell] = [ligand.name]
        for leg in ligand.legs:
            found = leg.estimate
            row += [None, None] if found is None else [found.difference, found.error]
        if len(legs) > 1:
            known = math.isfinite(ligand.correction)
            row += [ligand.correction, ligand.error] if known else [None, None]
        rows.append([*row, *_trust(ligand)])
    return [*columns, *_TRUST], rows


def _short_table(results: Sequence[LigandResult]) -> pages.Table:
    """The table of ligands with values and errors together, for those who read it."""
    legs = [leg.name for leg in results[0].legs]
    columns = [f"{name} [kJ/mol]" for name in legs] + [_difference(legs)] * (len(legs) > 1)
    rows: list[Sequence[pages.Cell]] = []
    for ligand in results:
        values = [_leg_value(leg, "±", "") for leg in ligand.legs]
        values += [_with_error(ligand.correction, ligand.error, "±", "")] * (len(legs) > 1)
        rows.append([ligand.name, *values, *_trust(ligand)])
    return pages.Table(["ligand", *columns, *_TRUST], rows)


def _difference(legs: Sequence[str]) -> str:
    return f"{' - '.join(legs)} [kJ/mol]"


def _trust(ligand: LigandResult) -> tuple[pages.Cell, pages.Cell]:
    least = ligand.least_overlap
    return None if math.isnan(least) else round(least, 4), ligand.verdict


def _windows(estimate: Estimate) -> list[Sequence[pages.Cell]]:
    """Rows of the table of windows."""
    overlap = [*map(float, np.diag(estimate.overlap, 1)), None]
    columns = (estimate.values, estimate.energies, estimate.errors)
    others = (estimate.by_bar, estimate.by_integration)
    return [
        (
            *map(float, row[:1]),
            kept.start,
            kept.inefficiency,
            kept.count,
            *map(float, row[1:]),
            next_,
        )
        for kept, next_, *row in zip(estimate.kept, overlap, *columns, *others, strict=True)
    ]


def _page(results: Sequence[LigandResult], directory: Path) -> str:
    sections = [pages.Section("Results", [pages.Text(_EXPLAINED), _short_table(results)])]
    for ligand in results:
        sections += [_section(ligand.name, leg) for leg in ligand.legs]
    return pages.page(f"Free energies: {directory.absolute().name}", sections)


def _section(ligand: str, leg: Leg) -> pages.Section:
    problems = leg.verdict.problems or ("Reliable: windows overlap, and the result has converged.",)
    parts: list[pages.Text | pages.Table | pages.Picture] = [pages.Text(line) for line in problems]
    if (found := leg.estimate) is not None:
        parts.append(pages.Table(_COLUMNS, _windows(found)))
        names = [f"{value:g}" for value in found.values]
        overlap = draw_matrix(found.overlap, names, ".png", axis="lambda")
        parts.append(
            pages.Picture(overlap, "how likely samples of the window of a row are in each")
        )
        parts.append(pages.Picture(_convergence(found), "free energy from parts of the samples"))
    return pages.Section(f"{ligand}, {leg.name}", parts)


def _convergence(estimate: Estimate) -> bytes:
    curves = {
        name: Means(FRACTIONS, series.energies, series.errors)
        for name, series in (
            ("first samples", estimate.forward),
            ("last samples", estimate.backward),
        )
    }
    return draw_means(curves, ".png", x="part of the samples", y="free energy [kJ/mol]")


def _leg_value(leg: Leg, sign: str = "+-", unit: str = " kJ/mol") -> str:
    if leg.estimate is None:
        return "unknown"
    return _with_error(leg.estimate.difference, leg.estimate.error, sign, unit)


def _with_error(value: float, error: float, sign: str = "+-", unit: str = " kJ/mol") -> str:
    if math.isnan(value):
        return "unknown"
    if not math.isfinite(error):
        return f"about {value:.2f}{unit}"
    return f"{value:.2f} {sign} {error:.2f}{unit}"
