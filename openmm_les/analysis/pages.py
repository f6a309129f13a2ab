"""Results as CSV, and as pages: HTML files with tables and pictures that need no other file."""

from __future__ import annotations

import base64
import csv
import html
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from openmm_les import __version__

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #222; max-width: 70rem; margin: 2rem auto;
       padding: 0 1rem; }
h1, h2 { font-weight: 600; line-height: 1.2; }
table { border-collapse: collapse; display: block; overflow-x: auto; margin: 1rem 0; }
th, td { padding: .25rem .75rem; border-bottom: 1px solid #ddd; text-align: left; }
td { white-space: nowrap; }
th { border-bottom-color: #888; vertical-align: bottom; }
.number { text-align: right; font-variant-numeric: tabular-nums; }
img { max-width: 100%; height: auto; }
figure { display: inline-block; vertical-align: top; max-width: min(100%, 33rem); margin: .5rem 0; }
@media (max-width: 40rem) { body { padding: 0 .25rem; margin: 0 auto; } }
footer, figcaption { color: #777; }
footer { margin-top: 3rem; }
"""

Cell = str | int | float | None


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str


@dataclass(frozen=True)
class Table:
    """A table; numbers have five digits unless they are texts, and None is an empty cell."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]


@dataclass(frozen=True)
class Picture:
    """A picture, with what it shows."""

    png: bytes
    caption: str


@dataclass(frozen=True)
class Section:
    """What stands under one heading."""

    title: str
    parts: Sequence[Text | Table | Picture]


def csv_text(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table as CSV; None is an empty cell."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([columns, *rows])
    return text.getvalue()


def page(title: str, sections: Sequence[Section]) -> str:
    """The HTML of a page; every text is escaped, so none of it is markup."""
    body = [f"<h1>{html.escape(title)}</h1>"]
    for section in sections:
        body.append(f"<h2>{html.escape(section.title)}</h2>")
        body += [_part(part) for part in section.parts]
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(body)
        + f"\n<footer>openmm-les {html.escape(__version__)}</footer>\n</body>\n</html>\n"
    )


def _part(part: Text | Table | Picture) -> str:
    if isinstance(part, Text):
        return f"<p>{html.escape(part.text)}</p>"
    if isinstance(part, Picture):
        data = base64.b64encode(part.png).decode()
        caption = html.escape(part.caption)
        image = f'<img src="data:image/png;base64,{data}" alt="{caption}">'
        return f"<figure>{image}<figcaption>{caption}</figcaption></figure>"
    cells = zip(*part.rows, strict=True) if part.rows else ((),) * len(part.columns)
    head = "".join(map(_head, part.columns, cells))
    rows = ("<tr>" + "".join(map(_cell, row)) + "</tr>" for row in part.rows)
    lines = "\n".join(rows)
    return f"<table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{lines}\n</tbody>\n</table>"


def _head(name: str, cells: Sequence[Cell]) -> str:
    kind = ' class="number"' if any(isinstance(cell, int | float) for cell in cells) else ""
    return f"<th{kind}>{html.escape(name)}</th>"


def _cell(value: Cell) -> str:
    if isinstance(value, str) or value is None:
        return f"<td>{html.escape(value or '')}</td>"
    text = f"{value:.5g}" if isinstance(value, float) else str(value)
    return f'<td class="number">{text}</td>'
