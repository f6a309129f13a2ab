"""Free energies of all ligands in the directory of a calculation."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from openmm_les.campaign.state import MARKER, Entry, RunState, read_table, state_of
from openmm_les.errors import InputError
from openmm_les.files.reading import Damage, Kind, boundary
from openmm_les.free_energy.estimate import SMALL_NUMBER, Estimate, Window, along_lambda
from openmm_les.free_energy.settings import LEG, LIGAND
from openmm_les.free_energy.verdict import LEAST_SAMPLES, Verdict, judge
from openmm_les.names import LAMBDA, shorten
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
    estimate: Estimate | None  #: None where windows lack samples, or are damaged
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
    def least_overlap(self) -> float:
        """The smallest overlap of neighbours in any leg; nan where none is known."""
        found = [leg.estimate.least_overlap for leg in self.legs if leg.estimate is not None]
        return min(found, default=math.nan)

    @property
    def verdict(self) -> str:
        """The worst verdict of the legs."""
        words = [leg.verdict.word for leg in self.legs]
        return next((word for word in words if word != "reliable"), "reliable")


def analyse(directory: str | os.PathLike[str]) -> list[LigandResult]:
    """Free energies from the windows in a directory, also while they run.

    A leg with a damaged file has no estimate; its verdict says which.

    Raises:
        InputError: the directory is not that of a free energy calculation, or pymbar is not
            installed.
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
    states = [state_of(entry) for entry in entries]
    finished = sum(state.name == "finished" for state in states)

    def unknown(*problems: str) -> Leg:
        return Leg(name, len(entries), finished, None, Verdict(problems, ()))

    try:
        windows = [_window(state) for state in states]
        temperature = load(entries[0].directory).temperature
    except InputError as error:  # the other legs count
        return unknown(str(error))
    if lacking := [pair for pair in zip(states, windows, strict=True) if _is_short(pair[1])]:
        return unknown(*_why_short(lacking))
    estimate = along_lambda(windows, temperature)
    verdict = judge(estimate)
    if finished < len(windows):
        text = f"{finished} of {len(windows)} windows are finished: run the same command again"
        verdict = Verdict((text, *verdict.problems), verdict.new_values)
    return Leg(name, len(windows), finished, estimate, verdict)


def _is_short(window: Window) -> bool:
    return len(window.differences) < SMALL_NUMBER


def _why_short(lacking: Sequence[tuple[RunState, Window]]) -> list[str]:
    """What is to do about windows that lack samples: those that have ended get no more."""
    problems = []
    if ended := [window for state, window in lacking if state.name == "finished"]:
        got = ", ".join(f"{len(each.differences)} at lambda {each.value:g}" for each in ended)
        problems.append(
            f"expected at least {SMALL_NUMBER} samples of each window, got {got} after all steps: "
            f"raise steps to at least {LEAST_SAMPLES} times report_interval"
        )
    others = [(state, window) for state, window in lacking if state.name != "finished"]
    if failed := [f"{window.value:g}: {state.error}" for state, window in others if state.error]:
        problems.append(f"windows have failed at lambda {shorten(failed, '; ')}")
    if begun := [f"{window.value:g}" for state, window in others if not state.error]:
        problems.append(
            f"too few samples yet at lambda {', '.join(begun)}: run the same command again"
        )
    return problems


def _window(state: RunState) -> Window:
    value, path = float(state.entry.varied[LAMBDA]), state.entry.directory / INTERPOLATION
    with boundary(path, _KIND):
        is_growing = state.name != "finished"
        if not path.exists() or not (columns := read_log(path, is_growing=is_growing)):
            return Window(value, np.zeros(0))
        ends = [np.array(columns[name]) for name in (MIXED_ENERGY, FORCE_FIELD_ENERGY)]
        differences = ends[0] - ends[1]
        if not np.isfinite(differences).all():
            raise Damage("expected finite energies, got NaN or infinity")
        return Window(value, differences)
