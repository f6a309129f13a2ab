"""Free energies of all ligands in the directory of a calculation."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from openmm_les.campaign.state import MARKER, Entry, read_table, state_of
from openmm_les.errors import InputError
from openmm_les.files.reading import Kind, boundary
from openmm_les.free_energy.estimate import Estimate, Window, along_lambda
from openmm_les.free_energy.settings import LEG, LIGAND
from openmm_les.free_energy.verdict import Verdict, judge
from openmm_les.names import LAMBDA
from openmm_les.simulation.config import load
from openmm_les.simulation.end_energies import FORCE_FIELD_ENERGY, MIXED_ENERGY
from openmm_les.simulation.output import INTERPOLATION
from openmm_les.simulation.summary import read_log

_KIND = Kind(InputError, "free energy", "free energy: {file} has no energies of a window: {reason}")


@dataclass(frozen=True)
class Leg:
    """The free energy of ML/MM minus that of the force field, in one surrounding of a ligand."""

    name: str
    windows: int
    finished: int  #: Windows that have all of their steps
    estimate: Estimate | None  #: None where windows lack samples
    verdict: Verdict


@dataclass(frozen=True)
class LigandResult:
    """The legs of one ligand, and the correction that they give."""

    name: str
    legs: tuple[Leg, ...]

    @property
    def correction(self) -> float:
        """The free energy of the first leg minus that of the second, or of the only leg [kJ/mol].

        nan where a leg lacks samples.
        """
        found = [math.nan if leg.estimate is None else leg.estimate.difference for leg in self.legs]
        return found[0] - sum(found[1:])

    @property
    def error(self) -> float:
        """The standard error of `correction` [kJ/mol]."""
        return math.hypot(*(leg.estimate.error for leg in self.legs if leg.estimate is not None))

    @property
    def verdict(self) -> str:
        """The worst verdict of the legs."""
        words = [leg.verdict.word for leg in self.legs]
        return next((word for word in words if word != "reliable"), "reliable")


def analyse(directory: str | os.PathLike[str]) -> list[LigandResult]:
    """Free energies from the windows in a directory, also while they run.

    Raises:
        InputError: the directory is not that of a free energy calculation, a file is damaged, or
            pymbar is not installed.
    """
    entries = read_windows(Path(directory))
    ligands: dict[str, dict[str, list[Entry]]] = {}
    for entry in entries:
        legs = ligands.setdefault(entry.varied[LIGAND], {})
        legs.setdefault(entry.varied[LEG], []).append(entry)
    return [
        LigandResult(name, tuple(_leg(leg, windows) for leg, windows in legs.items()))
        for name, legs in ligands.items()
    ]


def read_windows(directory: Path) -> list[Entry]:
    """The windows in a directory, in order of ligand, leg and lambda."""
    entries = read_table(directory) if (directory / MARKER).is_file() else []
    if not entries or {*entries[0].varied} != {LIGAND, LEG, LAMBDA}:
        raise InputError(
            "free energy: expected a directory that `openmm-les free-energy run` made, got "
            f"{directory}"
        )
    return entries


def _leg(name: str, entries: Sequence[Entry]) -> Leg:
    finished = sum(state_of(entry).name == "finished" for entry in entries)
    windows = [_window(entry) for entry in entries]
    lacking = [f"{window.value:g}" for window in windows if len(window.differences) < 2]
    if lacking:
        text = f"no samples yet at lambda {', '.join(lacking)}: run the same command again"
        return Leg(name, len(windows), finished, None, Verdict((text,), ()))
    estimate = along_lambda(windows, load(entries[0].directory).temperature)
    verdict = judge(estimate)
    if finished < len(windows):
        text = f"{finished} of {len(windows)} windows are finished: run the same command again"
        verdict = Verdict((text, *verdict.problems), verdict.new_values)
    return Leg(name, len(windows), finished, estimate, verdict)


def _window(entry: Entry) -> Window:
    value, path = float(entry.varied[LAMBDA]), entry.directory / INTERPOLATION
    with boundary(path, _KIND):
        is_growing = state_of(entry).name != "finished"
        if not path.exists() or not (columns := read_log(path, is_growing=is_growing)):
            return Window(value, np.zeros(0))
        ends = [np.array(columns[name]) for name in (MIXED_ENERGY, FORCE_FIELD_ENERGY)]
        return Window(value, ends[0] - ends[1])
