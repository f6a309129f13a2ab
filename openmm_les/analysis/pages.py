"""Results as CSV, and as pages: HTML files with tables and pictures that need no other file."""

from __future__ import annotations

import base64
import csv
import html
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from urllib.parse import quote

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
dl { display: grid; grid-template-columns: 12rem 1fr; gap: .25rem 1rem; margin: 1rem 0; }
dt { color: #666; }
dd { margin: 0; }
h1, dd, li, p { overflow-wrap: anywhere; }
pre { background: #f5f5f5; padding: .75rem; white-space: pre-wrap; overflow-wrap: anywhere;
      font-size: .8125rem; columns: 24rem; column-gap: 2rem; }
.notice { border-left: .35rem solid #2a7f3f; background: #f2f8f3; padding: .5rem .75rem; }
.warning { border-color: #b35900; background: #fdf5ec; }
footer, figcaption { color: #666; }
footer { margin-top: 3rem; }
@media (max-width: 40rem) {
  body { padding: 0 .75rem; margin: 0 auto; }
  dl { display: block; }
  dd { margin-bottom: .5rem; }
  h1 { font-size: 1.5rem; }
  table { font-size: .8125rem; }
  th, td { padding: .25rem .4rem; }
  td { white-space: normal; }
}
@media print {
  body { font-size: 10pt; max-width: none; margin: 0; padding: 0; }
  h1, h2 { break-after: avoid; }
  figure, tr { break-inside: avoid; }
  figure { max-width: 49%; }
  a { color: inherit; text-decoration: none; }
  pre { font-size: 8pt; columns: 2; }
}
"""


@dataclass(frozen=True)
class Link:
    """A text that leads to a file, whose path is relative to the page."""

    text: str
    path: str


Cell = str | int | float | Link | None


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

    content: bytes  #: PNG or SVG
    caption: str
    alternative: str = ""  #: Text in its place; empty for the caption


@dataclass(frozen=True)
class Facts:
    """Names with what belongs to them; those with None are left out."""

    rows: Sequence[tuple[str, Cell]]


@dataclass(frozen=True)
class Listing:
    """Lines of a file or of a shell, as they are."""

    text: str


@dataclass(frozen=True)
class Items:
    """A list of texts."""

    texts: Sequence[str]


@dataclass(frozen=True)
class Notice:
    """A paragraph to be seen first."""

    text: str
    is_warning: bool = False


Part = Text | Table | Picture | Facts | Listing | Items | Notice


@dataclass(frozen=True)
class Section:
    """What stands under one heading; an empty one has none."""

    title: str
    parts: Sequence[Part]


def csv_text(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table as CSV; None is an empty cell."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([columns, *rows])
    return text.getvalue()


def page(title: str, sections: Sequence[Section]) -> str:
    """The HTML of a page; every text is escaped, so none of it is markup."""
    body = [f"<h1>{html.escape(title)}</h1>"]
    for section in sections:
        if section.title:
            body.append(f"<h2>{html.escape(section.title)}</h2>")
        body += [_part(part) for part in section.parts]
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(body)
        + f"\n<footer>openmm-les {html.escape(__version__)}</footer>\n</body>\n</html>\n"
    )


def _part(part: Part) -> str:
    match part:
        case Text(text):
            return f"<p>{html.escape(text)}</p>"
        case Notice(text, is_warning):
            kind = "notice warning" if is_warning else "notice"
            return f'<p class="{kind}">{html.escape(text)}</p>'
        case Listing(text):
            return f"<pre>{html.escape(text)}</pre>"
        case Items(texts):
            return (
                "<ul>\n" + "\n".join(f"<li>{html.escape(each)}</li>" for each in texts) + "\n</ul>"
            )
        case Facts(rows):
            known = ((name, value) for name, value in rows if value is not None)
            lines = (
                f"<dt>{html.escape(name)}</dt><dd>{_inline(value)}</dd>" for name, value in known
            )
            return "<dl>\n" + "\n".join(lines) + "\n</dl>"
        case Picture():
            return _picture(part)
        case Table():
            return _table(part)


def _picture(picture: Picture) -> str:
    data = base64.b64encode(picture.content).decode()
    kind = "svg+xml" if picture.content.startswith(b"<?xml") else "png"
    caption = html.escape(picture.caption)
    alternative = html.escape(picture.alternative) or caption
    image = f'<img src="data:image/{kind};base64,{data}" alt="{alternative}">'
    return f"<figure>{image}<figcaption>{caption}</figcaption></figure>"


def _table(table: Table) -> str:
    cells = zip(*table.rows, strict=True) if table.rows else ((),) * len(table.columns)
    head = "".join(map(_head, table.columns, cells))
    rows = ("<tr>" + "".join(map(_cell, row)) + "</tr>" for row in table.rows)
    lines = "\n".join(rows)
    return f"<table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{lines}\n</tbody>\n</table>"


def _head(name: str, cells: Sequence[Cell]) -> str:
    kind = ' class="number"' if any(isinstance(cell, int | float) for cell in cells) else ""
    return f"<th{kind}>{html.escape(name)}</th>"


def _cell(value: Cell) -> str:
    kind = ' class="number"' if isinstance(value, int | float) else ""
    return f"<td{kind}>{_inline(value)}</td>"


def _inline(value: Cell) -> str:
    if isinstance(value, Link):
        # No path becomes the address of something else: quote turns ":" into "%3A".
        return f'<a href="{quote(value.path)}">{html.escape(value.text)}</a>'
    if isinstance(value, float):
        return f"{value:.5g}"
    return "" if value is None else html.escape(str(value))
