"""Text, a table and a page of a replica exchange."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from openmm_les.analysis import pages
from openmm_les.analysis.plotting import draw_matrix
from openmm_les.files.writing import write_atomically
from openmm_les.repex import analysis
from openmm_les.repex.analysis import Exchanges, Mixing
from openmm_les.simulation.config import RunConfig
from openmm_les.simulation.fields import unit_of

TABLE, PAGE = "states.csv", "exchange.html"
_COLUMNS = ("potential energy [kJ/mol]", "error [kJ/mol]", "accepted with next")
_OF_LAMBDA = ("free energy [kJ/mol]", "its error [kJ/mol]")


def write(exchanges: Exchanges, directory: Path) -> tuple[str, list[Path]]:
    """Write a table of states and a page with pictures; returns a text for the terminal, and them.

    Raises:
        InputError: pymbar or matplotlib are not installed.
    """
    mixing = analysis.mixing(exchanges)
    columns, rows = _table(exchanges, mixing)
    lines = _lines(exchanges, mixing)
    contents = {
        directory / TABLE: pages.csv_text(columns, rows),
        directory / PAGE: _page(exchanges, mixing, directory, columns, rows, lines),
    }
    for path, content in contents.items():
        write_atomically(path, content.encode())
    shown = [tuple(map(_text, row)) for row in (columns, *rows)]
    widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
    table = ("  ".join(f"{c:>{w}}" for c, w in zip(row, widths, strict=True)) for row in shown)
    return "\n".join([*table, *lines]), list(contents)


def _table(
    exchanges: Exchanges, mixing: Mixing
) -> tuple[Sequence[str], list[Sequence[pages.Cell]]]:
    accepted: list[pages.Cell] = [*map(float, np.diag(mixing.acceptance, 1)), None]
    energies = analysis.energies_of_states(exchanges)
    free = analysis.free_energies(exchanges)
    rows: list[Sequence[pages.Cell]] = []
    for k, value in enumerate(exchanges.values):
        row: list[pages.Cell] = [value, energies[k].mean, energies[k].error, accepted[k]]
        if free is not None:
            row += [float(free.energies[k]), float(free.errors[k])]
        rows.append(row)
    more = () if free is None else _OF_LAMBDA
    return (_label(exchanges), *_COLUMNS, *more), rows


def _label(exchanges: Exchanges) -> str:
    """What differs between states, with its unit."""
    unit = unit_of(RunConfig.model_fields[exchanges.parameter])
    return exchanges.parameter + ("" if unit is None else f" [{unit}]")


def _lines(exchanges: Exchanges, mixing: Mixing) -> list[str]:
    iterations, number = exchanges.states.shape
    trips = int(mixing.round_trips.sum())
    time = iterations * exchanges.picoseconds
    text = f"{number} replicas, {iterations} iterations, {time:g} ps each, {trips} round trips"
    if trips:
        text += f" (one of a replica takes {number * time / trips:.3g} ps)"
    return [text, *mixing.problems]


def _page(
    exchanges: Exchanges,
    mixing: Mixing,
    directory: Path,
    columns: Sequence[str],
    rows: Sequence[Sequence[pages.Cell]],
    lines: Sequence[str],
) -> str:
    names = [f"{value:g}" for value in exchanges.values]
    label = _label(exchanges)
    pictures = (
        (mixing.acceptance, "acceptance: mean probability to accept an exchange of two states"),
        (mixing.transitions, "transitions: from the state of a row to that of a column"),
    )
    trips: list[Sequence[pages.Cell]] = [*enumerate(mixing.round_trips.tolist())]
    sections = [
        pages.Section("States", [*map(pages.Text, lines), pages.Table(columns, rows)]),
        pages.Section(
            "Acceptance and transitions",
            [
                pages.Picture(draw_matrix(m, names, ".png", axis=label), text)
                for m, text in pictures
            ],
        ),
        pages.Section("Round trips", [pages.Table(("replica", "round trips"), trips)]),
    ]
    return pages.page(f"Replica exchange: {directory.absolute().name}", sections)


def _text(cell: pages.Cell) -> str:
    if isinstance(cell, float):
        return "" if math.isnan(cell) else f"{cell:.5g}"
    return "" if cell is None else str(cell)
