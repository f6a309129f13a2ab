"""The rows of one model and system after another, measured in turns."""

import contextlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from step import report, systems
from step.children import Child, Stopped
from step.models import TRAINED, Model
from step.rows import REFERENCES, OurRow, Row
from step.steps import Case

#: Steps that take longer are neither taken apart nor counted in kernels [ms].
SLOWEST_TAKEN_APART = 8000.0
#: Forces that differ by so much are not those of the model [eV/A].
WRONG_FORCES = 0.02
#: Constant-energy dynamics of trained models: how long [s], and with how many atoms at most.
DRIFT_SECONDS, LARGEST_DRIFT = 15.0, 200


@dataclass(frozen=True)
class Limits:
    """How much is measured, and when a row is given up.

    Attributes:
        turns: how often the rows of a system take turns.
        seconds: length of a turn.
        memory_gb: memory of a row beyond its imports, on a CPU.
        row_seconds: working time of a row, without compiling, and of its dynamics besides.
        compile_seconds: time to build and compile a row that is compiled.
        with_drift: run constant-energy dynamics of ours.
        with_large: try rows also with systems for which they are not meant.
    """

    turns: int
    seconds: float
    memory_gb: float
    row_seconds: float
    compile_seconds: float
    with_drift: bool
    with_large: bool


@dataclass
class Entry:
    """A row while it is measured: its process, times of steps [ms] and what is known of it."""

    row: Row
    child: Child
    forces: Path
    wall: list[float]
    cpu: list[float]
    result: dict[str, Any]


class Comparison:
    """Measures rows for models and systems.

    Args:
        rows: what to compare, by name.
        limits: how much, and when to give up.
        threads: of each row.
        folder: for files that the processes share.
    """

    def __init__(self, rows: dict[str, Row], limits: Limits, threads: int, folder: Path) -> None:
        self._rows, self._limits = rows, limits
        self._threads, self._folder = threads, folder
        self._stopped: set[tuple[str, str, str]] = set()

    def measure(self, model: Model, atoms: Any, device: str) -> Iterable[dict[str, Any]]:
        """Results of all rows for a model and a structure."""
        structure = self._folder / "structure.npz"
        systems.save(atoms, structure)
        results: list[dict[str, Any]] = []
        with contextlib.ExitStack() as stack:
            entries = []
            for name, row in self._rows.items():
                if device == "cpu" and len(atoms) > row.largest and not self._limits.with_large:
                    continue
                result = {"model": model.name, "atoms": len(atoms), "device": device, "row": name}
                results.append(result | {"is_ours": isinstance(row, OurRow), "note": row.note})
                if row.is_missing:
                    results[-1]["failed"] = f"not tried: {row.package} is not installed"
                elif (model.name, device, name) in self._stopped:
                    results[-1]["failed"] = "not tried: stopped with a smaller system"
                else:
                    case = Case(
                        row=name,
                        artifact=str(model.artifact),
                        peer=str(model.peer),
                        structure=str(structure),
                        device=device,
                        threads=self._threads,
                    )
                    entries.append(self._start(case, row, results[-1]))
                    stack.callback(entries[-1].child.close)
            # All import at the same time; nothing is timed meanwhile.
            for entry in entries:
                self._do(entry, lambda entry: entry.child.wait_until_ready())
            for entry in entries:
                self._do(entry, self._prepare)
            for _ in range(self._limits.turns):
                for entry in entries:
                    self._do(entry, self._turn)
            for entry in entries:
                self._do(entry, self._finish)
            _compare_forces([entry for entry in entries if "failed" not in entry.result])
        return results

    def _start(self, case: Case, row: Row, result: dict[str, Any]) -> Entry:
        memory = 1024 * self._limits.memory_gb
        child = Child(case, memory, self._limits.row_seconds)
        return Entry(row, child, self._folder / f"forces {case.row}.npy", [], [], result)

    def _do(self, entry: Entry, action: Callable[[Entry], None]) -> None:
        """One action, unless the row has stopped; what was measured before that stays."""
        result = entry.result
        if "failed" in result or "incomplete" in result:
            return
        try:
            action(entry)
        except Stopped as reason:
            entry.child.close()
            if "ms_per_step" in result:
                result["incomplete"] = str(reason)
                return
            result["failed"] = str(reason)
            self._stopped.add((result["model"], result["device"], result["row"]))

    def _prepare(self, entry: Entry) -> None:
        apart = self._limits.compile_seconds if entry.row.is_compiled else None
        entry.result |= entry.child.ask("prepare", str(entry.forces), apart=apart)
        entry.result |= entry.child.ask("warm_up", entry.row.warm_up)

    def _turn(self, entry: Entry) -> None:
        times = entry.child.ask("turn", self._limits.seconds)
        entry.wall += times["wall"]
        entry.cpu += times["cpu"]
        step = report.summary(entry.wall)
        entry.result |= {
            "ms_per_step": step,
            "cpu_ms_per_step": report.summary(entry.cpu),
            "ns_per_day": 86400e3 / step["median"] * 1e-6,
        }

    def _finish(self, entry: Entry) -> None:
        """Everything but the time of a step; memory first, before anything else takes some."""
        row, child, result = entry.row, entry.child, entry.result
        seconds, step = self._limits.seconds, result["ms_per_step"]["median"]
        result["peak_mb"] = child.ask("memory")
        result["ms_per_evaluation"] = report.summary(child.ask("evaluations", 0.5 * seconds))
        if row.is_compiled:
            later = 1e-3 * result["ms_per_evaluation"]["median"]
            result["compile_s"] = max(result["first_s"] - later, 0.0)
        if step < SLOWEST_TAKEN_APART:
            # On a CPU, compiled kernels pass no place where they could be counted.
            if not (row.is_compiled and result["device"] == "cpu"):
                result["kernels"] = child.ask("kernels")
            if isinstance(row, OurRow) and row.is_taken_apart:
                result["breakdown"] = child.ask("breakdown", seconds)
        may_move = result["model"] in TRAINED and result["atoms"] <= LARGEST_DRIFT
        if isinstance(row, OurRow) and row.has_dynamics and may_move and self._limits.with_drift:
            # Some 1500 steps at least, whatever a step takes.
            apart = self._limits.row_seconds
            result["dynamics"] = child.ask("drift", DRIFT_SECONDS, apart=apart)


def _compare_forces(entries: list[Entry]) -> None:
    """Largest difference from mace-torch, or where it has stopped from the first row [eV/A]."""
    forces = {e.result["row"]: np.load(e.forces) for e in entries if e.row.is_whole}
    reference = next((name for name in (*REFERENCES, *forces) if name in forces), "")
    for entry in entries:
        name = entry.result["row"]
        if name in forces and name != reference:
            difference = np.abs(forces[name] - forces[reference]).max()
            entry.result |= {"force_difference": float(difference), "force_reference": reference}
            if not difference <= WRONG_FORCES:
                entry.result["failed"] = f"gives other forces than {reference}, by {difference:.0e}"
