"""The tables of the page, from the JSON file."""

from pathlib import Path
from typing import Any

_TITLES = ("system", "quantity", "reference", "paper", "original code", "openmm-les", "unit")
_COMPARED = ("model of", "structures", "energy [eV/atom]", "force [eV/A]")


def write(page: Path, content: dict[str, Any]) -> None:
    """Replaces the tables in a page."""
    page.write_text(replaced(page.read_text(), content))


def replaced(text: str, content: dict[str, Any]) -> str:
    """The text of the page with tables of the content between its marks."""
    for name, table in (("quantities", quantities(content)), ("agreement", agreement(content))):
        start, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->"
        before, rest = text.split(start)
        text = before + start + table + end + rest.split(end)[1]
    return text


def quantities(content: dict[str, Any]) -> str:
    lines = []
    for system, rows in content["systems"].items():
        for row in rows:
            values = [_number(row[key]) for key in ("true", "paper", "original", "ours")]
            lines.append((system, row["quantity"], *values, row["unit"]))
    return _table(_TITLES, lines)


def agreement(content: dict[str, Any]) -> str:
    lines = []
    for entry in content["agreement"].values():
        if "refused" in entry:
            lines.append((entry["system"], f"refused: {entry['refused']}", "", ""))
        else:
            values = [f"{entry[key]:.0e}" for key in ("energy", "forces")]
            lines.append((entry["system"], str(entry["structures"]), *values))
    return _table(_COMPARED, lines)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}".replace("-", "\N{MINUS SIGN}")


def _table(titles: tuple[str, ...], lines: list[tuple[str, ...]]) -> str:
    rows = [titles, ("---",) * len(titles), *lines]
    return "".join("| " + " | ".join(row) + " |\n" for row in rows)
