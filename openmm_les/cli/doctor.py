"""``openmm-les doctor``: what works in this installation."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING

import click

from openmm_les.cli import flags
from openmm_les.cli.terminal import echo

if TYPE_CHECKING:
    from openmm_les.doctor import Finding

_MARKS = {"ok": "ok", "warning": "--", "error": "!!"}


@click.command("doctor")
@flags.as_json("Print the findings as JSON.")
@click.pass_context
def command(context: click.Context, as_json: bool) -> None:
    """Examine this installation and print the commands that repair it.

    Tries every backend in a process of its own, so that a crash is reported. Exit status 1 if
    simulations cannot run, else 0, also with warnings (--).
    """
    from openmm_les import __version__, doctor

    findings = doctor.examine()
    status = doctor.worst(findings)
    if as_json:
        report = {
            "openmm_les": __version__,
            "status": status,
            "findings": [dataclasses.asdict(finding) for finding in findings],
        }
        echo(json.dumps(report, indent=2))
    else:
        _print(findings)
    context.exit(1 if status == "error" else 0)


def _print(findings: list[Finding]) -> None:
    width = max(len(finding.name) for finding in findings) + 2
    for finding in findings:
        echo(f"{_MARKS[finding.status]}  {finding.name:<{width}}{finding.text}")
        # Details of what works are for --json, except the cached files.
        shown = finding.status != "ok" or finding.name == "cached"
        for line in finding.details if shown else ():
            echo(" " * (4 + width) + line)
    # Errors first, and each command once.
    ordered = sorted(findings, key=lambda finding: finding.status != "error")
    commands = dict.fromkeys(finding.fix for finding in ordered if finding.fix)
    if commands:
        echo("\nto repair or add what is marked:")
        for fix in commands:
            echo(f"  {fix}")
