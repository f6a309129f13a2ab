"""Runs all windows, analyses them, and adds windows where neighbours do not overlap."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from openmm_les.campaign.progress import CampaignCallbacks
from openmm_les.campaign.runner import Result, run_planned
from openmm_les.campaign.state import MARKER, RUNS, TABLE
from openmm_les.free_energy import report
from openmm_les.free_energy.results import LigandResult, analyse, read_windows
from openmm_les.free_energy.settings import WINDOW, Where, planned_windows, read_settings

if TYPE_CHECKING:
    from distributed import Client

#: Most times that windows are added, each time after all others are finished.
_MOST_ROUNDS = 3


@dataclass(frozen=True)
class FreeEnergies:
    """What `run` has computed."""

    windows: Result  #: How the windows ended
    results: list[LigandResult]
    files: list[Path]


def run(
    settings: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    add_windows: bool = False,
    client: Client | None = None,
    workers: int | None = None,
    scheduler: str | None = None,
    callbacks: CampaignCallbacks | None = None,
) -> FreeEnergies:
    """Run all windows that are not finished, each from where it was ended, and analyse them.

    Args:
        settings: YAML file, as `read_settings` reads it.
        output: directory of the calculation, on a file system that all workers share. Windows that
            were added to it once stay.
        add_windows: whether windows are added between neighbours that overlap too little, until
            they do, three times at most.
        client, workers, scheduler: as for `openmm_les.campaign.runner.run`.
        callbacks: learns what happens; by default it is logged.

    Raises:
        InputError, OutputError, SimulationError: as `openmm_les.campaign.runner.run` does.
    """
    callbacks = callbacks or CampaignCallbacks()
    file, directory = Path(settings), Path(output)
    chosen = read_settings(file)
    added = _windows_in(directory)
    for left in reversed(range(_MOST_ROUNDS + 1)):
        plan = planned_windows(chosen, file, lambda where: added.get(where, ()))
        windows = run_planned(
            plan,
            directory,
            seed=chosen.seed,
            client=client,
            workers=workers,
            scheduler=scheduler,
            callbacks=callbacks,
        )
        results = analyse(directory)
        new = _new_windows(results)
        if not (add_windows and left and new) or windows.failures:
            break
        for (ligand, leg), values in new.items():
            callbacks.message(f"{ligand}, {leg}: adding lambda {', '.join(map(str, values))}")
            added[ligand, leg] = (*added.get((ligand, leg), ()), *values)
    return FreeEnergies(windows, results, report.write(results, directory))


def _windows_in(directory: Path) -> dict[Where, Sequence[float]]:
    """Lambda of the windows whose runs have a directory; the table may have been lost.

    Raises:
        InputError: it is the directory of another campaign.
    """
    if (directory / MARKER).exists() and (directory / TABLE).exists():
        read_windows(directory)
    found: dict[Where, Sequence[float]] = {}
    for path in (directory / RUNS).glob(f"*/*/{WINDOW}*"):
        *_, ligand, leg, name = path.parts
        with contextlib.suppress(ValueError):  # something of the user
            value = float(name.removeprefix(WINDOW))
            found[ligand, leg] = (*found.get((ligand, leg), ()), value)
    return found


def _new_windows(results: Sequence[LigandResult]) -> dict[Where, tuple[float, ...]]:
    return {
        (ligand.name, leg.name): leg.verdict.new_values
        for ligand in results
        for leg in ligand.legs
        if leg.verdict.new_values
    }
