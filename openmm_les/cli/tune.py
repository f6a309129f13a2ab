"""``openmm-les tune``: measures how a model is computed fastest on this machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from openmm_les.cli import flags
from openmm_les.cli.terminal import UserPath, echo
from openmm_les.simulation import config as configs

if TYPE_CHECKING:
    from openmm_les.evaluation.engines.variant import Decision

#: Settings of a run that the speed of its model depends on; the rest stands in a file.
_SETTINGS = (
    *("model", "device", "precision", "cuda_graphs", "max_neighbors", "charge", "spin"),
    *("features", "ewald", "ewald_tolerance", "les_cutoff"),
)
_FILES = (".yaml", ".yml")


@click.command("tune")
@click.argument("system", required=False, type=UserPath())
@flags.with_settings(configs.RunConfig, only=_SETTINGS)
@click.option("--again", is_flag=True, help="Measure even if a choice was kept.")
@click.option("--forget", is_flag=True, help="Remove all choices that were kept, and stop.")
@flags.as_json("Print the choice as JSON.")
def command(
    system: Path | None, again: bool, forget: bool, as_json: bool, **fields: str | None
) -> None:
    """Measure how a model is computed fastest on this machine, and keep the choice.

    SYSTEM is a structure (PDB or mmCIF), or the settings of a run (a YAML file, or its directory);
    flags override them. Simulations of about as many atoms with this model use the choice, with
    engine='auto'. Every candidate is first compared with the plain module, in a child process.
    """
    from openmm_les.evaluation.engines import decisions

    if forget:
        number = decisions.forget()
        echo(f"removed {number} choice{'s' * (number != 1)} from {decisions.folder()}")
        return
    if system is None:
        raise click.UsageError("SYSTEM: expected a structure or settings of a run, got nothing")
    given = flags.given(fields)
    if system.suffix.lower() in _FILES or system.is_dir():
        settings = configs.load(system, given)
    else:
        settings = configs.load(None, given | {"structure": str(system)})

    from openmm_les.simulation import tuning

    decision = tuning.tune(settings, again=again)
    if as_json:
        echo(json.dumps(decision.to_json(), indent=2))
        return
    echo(_table(decision))
    is_kept = decisions.find(decision.system) is not None
    echo(f"{'kept' if is_kept else 'could not be kept'} in {decisions.folder()}", err=True)


def _table(decision: Decision) -> str:
    """Every candidate with its time, or why it was dropped; the chosen one first."""
    width = max(len(each.variant.name) for each in decision.trials)
    lines = []
    for each in decision.ranked:
        time = "" if each.seconds is None else f"{1e3 * each.seconds:.4g} ms"
        note = "chosen" if each.variant == decision.variant else each.reason
        lines.append(f"{each.variant.name:<{width}}  {time:>10}  {note}".rstrip())
    return "\n".join(lines)
