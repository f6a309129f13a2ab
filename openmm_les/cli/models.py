"""``openmm-les models``: models by name, and where they are."""

from __future__ import annotations

import json

import click

from openmm_les.cli import flags
from openmm_les.cli.terminal import echo


@click.group("models")
def command() -> None:
    """List, download and find models that have a name."""


@command.command("list")
@flags.as_json("Print everything as JSON.")
def list_models(as_json: bool) -> None:
    """Show the models that MLPotential knows by name."""
    from dataclasses import asdict

    from openmm_les import catalog

    found = [(model, catalog.where(model.name)) for model in catalog.MODELS]
    if as_json:
        rows = [
            asdict(model) | {"url": model.url, "path": None if path is None else str(path)}
            for model, path in found
        ]
        echo(json.dumps(rows, indent=2))
        return
    for model, path in found:
        echo(" or ".join((model.name, *model.aliases)))
        echo(f"  {model.description}")
        echo(f"  licence   {model.licence}")
        echo(f"  citation  {model.citation}")
        echo(f"  source    {model.url or 'comes with openmm-les'}")
        echo(f"  exported  {'not yet' if path is None else path}")


@command.command("download")
@click.argument("name")
def download(name: str) -> None:
    """Download and export the model NAME, unless that is done already."""
    from openmm_les import catalog

    model = catalog.entry(name)
    if catalog.where(name) is None and model.url:
        echo(f"source:     {model.url}")
    path = catalog.artifact_path(name)
    echo(f"licence:    {model.licence}")
    echo(f"exported:   {path}")
    echo(f"in OpenMM:  MLPotential({name!r}).createSystem(topology)")


@command.command("where")
@click.argument("name")
def where(name: str) -> None:
    """Print the path of the exported model NAME in the cache."""
    from openmm_les import catalog
    from openmm_les.errors import InputError

    path = catalog.where(name)
    if path is None:
        raise InputError(
            f"{name} is not in the cache; get it with `openmm-les models download {name}`"
        )
    echo(str(path))
