"""``openmm-les inspect``: what an artifact holds."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click


@click.command("inspect")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print the metadata as JSON.")
def command(file: Path, as_json: bool) -> None:
    """Show the model, licence and verification of an exported FILE (*.les.pt)."""
    from openmm_les import artifact

    metadata = artifact.inspect(file)
    if as_json:
        click.echo(json.dumps(metadata, indent=2, sort_keys=True))
        return
    rows = [("file", str(file)), *_rows(metadata)]
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        # Continuation lines of long texts (licence, citation) stay in their column.
        click.echo(f"{name:<{width}}  " + value.replace("\n", "\n" + " " * (width + 2)))


def _rows(metadata: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Names and printable values, nested entries as ``les.sigma``."""
    for name, value in metadata.items():
        if isinstance(value, Mapping):
            yield from _rows(value, f"{prefix}{name}.")
        else:
            yield prefix + name.replace("_", " "), _text(name, value)


def _text(name: str, value: Any) -> str:
    if value is None or value == "":
        return "not stated"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.10g}"
    if name == "elements":
        from openmm.app import Element

        return " ".join(Element.getByAtomicNumber(number).symbol for number in value)
    if isinstance(value, list | tuple):
        return ", ".join(_text("", item) for item in value)
    return str(value)
