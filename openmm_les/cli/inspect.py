"""``openmm-les inspect``: what an artifact holds."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from openmm_les.cli import flags
from openmm_les.cli.terminal import UserPath, echo
from openmm_les.networks.conditions import conditions_of
from openmm_les.networks.moments import moments_of
from openmm_les.networks.registry import charge_channels

_PLAIN = ("source", "dtype", "charge_sign", "licence", "citation", "verification", "versions")


@click.command("inspect")
@click.argument("file", type=UserPath())
@flags.as_json("Print everything as JSON.")
@click.option(
    "--verify",
    is_flag=True,
    help="Run the script in FILE, which torch.jit.load would run, in a child process that can open "
    "no file, and compare it with the weights.",
)
def command(file: Path, as_json: bool, verify: bool) -> None:
    """Show the model, licence and verification of an exported FILE (*.les.pt).

    FILE may be the name of a model. Nothing in it is run, except with --verify.
    """
    from openmm_les.catalog import open_model

    opened = open_model(file)
    metadata = opened.metadata | {"sha256": opened.sha256}
    if verify:
        from openmm_les_export.verification.script_check import check_script

        metadata["script"] = check_script(opened)
    if as_json:
        echo(json.dumps(metadata, indent=2))
        return
    rows = [("file", str(opened.path)), ("sha256", opened.sha256), *_rows(metadata)]
    width = max(len(name) for name, _ in rows) + 2
    for name, text in rows:
        first, *others = text.splitlines()
        echo(f"{name:<{width}}{first}")
        for line in others:
            echo(" " * width + line)


def _rows(metadata: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    from openmm.app import Element

    les = metadata["les"]
    kept = "removed" if les["remove_self_interaction"] else "kept"
    symbols = (Element.getByAtomicNumber(number).symbol for number in metadata["elements"])
    yield "model", metadata["family"]
    yield "elements", " ".join(symbols)
    yield "cutoff", f"{metadata['cutoff']:g} A"
    yield (
        "electrostatics",
        f"sigma {les['sigma']:g} A, dl {les['dl']:g} A, prefactor {les['prefactor']:g} eV A, "
        f"self-interaction {kept}{_sum(les)}",
    )
    if (channels := charge_channels(metadata["hyper"])) > 1:
        yield "charges", f"{channels} for each atom, whose energies add up"
    if moments := moments_of(metadata["hyper"]):
        yield "moments", str(moments)
    if conditions := conditions_of(metadata["hyper"]):
        yield "conditions", _text({each.name: str(each) for each in conditions})
    yield "parameters", _text(_by_origin(metadata.get("provenance", {})))
    for name in _PLAIN:
        yield name.replace("_", " "), _text(metadata.get(name))
    yield "format", str(metadata["format_version"])
    if "script" in metadata:
        number = metadata["script"]["structures"]
        yield "script", f"gives what the weights give, on {number} structures"


def _sum(les: Mapping[str, Any]) -> str:
    """What bounds the sum, and what it was trained for, where the model states it."""
    n_max, is_periodic = les.get("n_max"), les.get("is_periodic")
    bound = "" if n_max is None else f", n_max {n_max} (whole up to {(n_max + 1) * les['dl']:g} A)"
    if is_periodic is None:
        return bound
    return f"{bound}, trained on {'periodic' if is_periodic else 'open'} systems"


def _by_origin(provenance: Mapping[str, str]) -> dict[str, str]:
    """Parameters of each origin, from the origin of each parameter."""
    origins: dict[str, list[str]] = {}
    for name, origin in provenance.items():
        origins.setdefault(origin, []).append(name)
    return {origin: ", ".join(names) for origin, names in origins.items()}


def _text(value: Any) -> str:
    """A value for people; mappings become indented lines, the innermost ones a single line."""
    if value is None or value in ("", {}, []):
        return "not stated"
    if not isinstance(value, Mapping):
        return _inline(value)
    width = max(len(str(name)) for name in value) + 2
    lines: list[str] = []
    for name, entry in value.items():
        nested = isinstance(entry, Mapping) and any(isinstance(v, Mapping) for v in entry.values())
        first, *others = (_text(entry) if nested else _inline(entry)).splitlines() or [""]
        lines.append(f"{name:<{width}}{first}")
        lines += [" " * width + line for line in others]
    return "\n".join(lines)


def _inline(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_inline(entry)}" for name, entry in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(_inline(entry) for entry in value)
    return str(value)
