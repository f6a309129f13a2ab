"""Time, memory and accuracy of an MD step: openmm-les and its peers, same weights.

    python benchmarks/md_step.py [--quick] [--threads 2] [--sizes 22 192 ...] [--models ...]
                                 [--rows ...] [--device cpu] [--output FILE]
    python benchmarks/md_step.py --redraw benchmarks/results/md_step.json

Models: the architecture of MACELES-OFF with random weights, and published small models where the
checkout has them beside it (``les-demo`` elsewhere). Systems: molecules of 22 and 45 atoms, water
of 192 to 10 125. Peers are made of mace-torch with a stand-in for the `les` package (`peers`).

Every row runs in a process of its own with limits on memory and time; those of one model and
system are measured in turns, since machines are noisy. Prints a table and writes a JSON file and a
picture (``--quick`` only where ``--output`` says). A peer that a smaller system has stopped is not
tried with larger ones.
"""

import argparse
import contextlib
import json
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from environment import environment
from step import models, report, systems
from step.children import Child, Stopped
from step.models import Model
from step.rows import Case, Row, platform_for, rows

RESULTS = Path(__file__).resolve().parent / "results"
SIZES = (22, 45, 192, 1029, 3000, 5184, 10125)
#: Systems of each model, of those that it knows.
SIZES_OF = {
    models.OFF: (22, 45, 192, 1029, 3000, 10125),
    "water": (192, 1029, 3000, 5184, 10125),
    "dipeptide": (22, 45),
    "les-demo": SIZES,
}
QUICK_SIZES = (22, 192)
TURNS = 3
#: A step of ours is taken apart, and its kernels are counted, if it takes less than this [ms].
SLOWEST_TAKEN_APART = 8000.0
DRIFT_PICOSECONDS, LARGEST_DRIFT = 0.25, 200


def parsed_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="22 and 192 atoms, short")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--sizes", type=int, nargs="+", help="atoms; the nearest system is taken")
    parser.add_argument("--models", nargs="+", choices=models.names())
    parser.add_argument("--rows", nargs="+", help="beginnings of the names of rows")
    parser.add_argument("--device", nargs="+", help="cpu, and cuda where there is one")
    parser.add_argument("--seconds", type=float, default=2.0, help="of a turn")
    parser.add_argument("--memory", type=float, default=8.0, help="limit of a row on a CPU [GB]")
    parser.add_argument("--time", type=float, default=120.0, help="limit of a row [s]")
    parser.add_argument("--output", type=Path, help="JSON file; the picture lies beside it")
    parser.add_argument("--redraw", type=Path, help="draw the picture of a JSON file again")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.seconds, arguments.time = 0.5 * arguments.seconds, 0.5 * arguments.time
    return arguments


class Comparison:
    """All rows over all models and systems."""

    def __init__(self, arguments: argparse.Namespace, folder: Path) -> None:
        self._arguments, self._folder = arguments, folder
        self._rows = self._chosen_rows()
        self._stopped: set[tuple[str, str, str]] = set()
        self.measured: list[dict[str, Any]] = []

    def _chosen_rows(self) -> dict[str, Row]:
        wanted = self._arguments.rows
        found = rows()
        if wanted:
            found = {n: row for n, row in found.items() if n.startswith(tuple(wanted))}
        elif self._arguments.quick:
            found = {n: row for n, row in found.items() if row.is_quick}
        if not found:
            raise SystemExit(f"--rows: none begins so; there are {', '.join(rows())}")
        return found

    def run(self) -> None:
        for name in self._arguments.models or _default_models():
            model = models.prepare(name, self._folder)
            for size in self._sizes(name):
                atoms = systems.structure(size)
                if not models.describes(name, atoms.numbers):
                    continue
                path = self._folder / f"{len(atoms)}.npz"
                systems.save(atoms, path)
                for device in self._arguments.device or _devices():
                    self._compare(model, path, len(atoms), device)

    def _sizes(self, model: str) -> tuple[int, ...]:
        if self._arguments.sizes:
            return tuple(self._arguments.sizes)
        return tuple(s for s in SIZES_OF[model] if not self._arguments.quick or s in QUICK_SIZES)

    def _compare(self, model: Model, structure: Path, atoms: int, device: str) -> None:
        """The rows of one model and system, in turns."""
        results: dict[str, dict[str, Any]] = {}
        children: dict[str, Child] = {}
        with contextlib.ExitStack() as stack:
            for name, row in self._rows.items():
                if device == "cpu" and atoms > row.largest and not self._arguments.rows:
                    continue
                results[name] = {
                    "model": model.name,
                    "atoms": atoms,
                    "device": device,
                    "row": name,
                    "is_ours": row.is_ours,
                    "note": row.note,
                }
                if row.missing:
                    results[name]["failed"] = f"not tried: {row.missing} is not installed"
                    continue
                if (model.name, device, name) in self._stopped:
                    results[name]["failed"] = "not tried: stopped with a smaller system"
                    continue
                case = Case(
                    row=name,
                    artifact=str(model.artifact),
                    peer=str(model.peer),
                    structure=str(structure),
                    device=device,
                    threads=self._arguments.threads,
                )
                child = Child(case, 1024 * self._arguments.memory, self._arguments.time)
                stack.callback(child.close)
                children[name] = child
                self._guarded(children, results, name, self._prepare)
            samples: dict[str, list[float]] = {name: [] for name in children}
            for _ in range(1 if self._arguments.quick else TURNS):
                for name in list(children):
                    self._guarded(children, results, name, self._turn, samples[name])
            for name in list(children):
                self._guarded(children, results, name, self._finish, samples[name])
        self._compare_forces(results)
        for result in results.values():
            self.measured.append(result)
            print(report.line(result), flush=True)

    def _guarded(
        self,
        children: dict[str, Child],
        results: dict[str, dict[str, Any]],
        name: str,
        action: Any,
        *arguments: Any,
    ) -> None:
        """Do something with a child; one that stops is out."""
        try:
            action(children[name], results[name], *arguments)
        except Stopped as reason:
            result = results[name]
            result["failed"] = str(reason)
            self._stopped.add((result["model"], result["device"], name))
            children.pop(name).close()

    def _forces_file(self, name: str) -> Path:
        return self._folder / f"forces {name}.npy"

    def _prepare(self, child: Child, result: dict[str, Any]) -> None:
        result |= child.ask("prepare", str(self._forces_file(child.case.row)))
        result |= child.ask("warm_up")

    def _turn(self, child: Child, result: dict[str, Any], samples: list[float]) -> None:
        samples += child.ask("turn", self._arguments.seconds)

    def _finish(self, child: Child, result: dict[str, Any], samples: list[float]) -> None:
        """Everything but the time of a step; memory first, before anything else takes some."""
        result["peak_mb"] = child.ask("memory")
        seconds = self._arguments.seconds
        result["ms_per_evaluation"] = report.summary(child.ask("evaluations", 0.5 * seconds))
        step = report.summary(samples)
        is_fast = step["median"] < SLOWEST_TAKEN_APART
        if is_fast and "compiled" not in child.case.row:
            result["kernels"] = child.ask("kernels")
        row, case = self._rows[child.case.row], child.case
        if row.is_ours and "pythonforce" in case.row:
            if is_fast and "compiled" not in case.row:
                result["breakdown"] = child.ask("breakdown", seconds)
            if self._may_drift(result):
                result["drift"] = child.ask("drift", DRIFT_PICOSECONDS)
        result["ns_per_day"] = 86400e3 / step["median"] * 1e-6
        result["ms_per_step"] = step

    def _may_drift(self, result: dict[str, Any]) -> bool:
        """Whether dynamics of a trained model is short enough to be run for its energy."""
        is_trained = result["model"] in models.TRAINED
        return is_trained and result["atoms"] <= LARGEST_DRIFT and not self._arguments.quick

    def _compare_forces(self, results: dict[str, dict[str, Any]]) -> None:
        """Largest difference from mace-torch, or where it has stopped from the first row."""
        done = [n for n, result in results.items() if "ms_per_step" in result]
        done = [name for name in done if self._rows[name].is_whole]
        if not done:
            return
        reference = "mace-torch" if "mace-torch" in done else done[0]
        expected = np.load(self._forces_file(reference))
        for name in done:
            if name != reference:
                difference = np.abs(np.load(self._forces_file(name)) - expected).max()
                results[name]["force_difference"] = float(difference)
                results[name]["force_reference"] = reference


def _default_models() -> list[str]:
    """Without the published models, the one that comes with the package."""
    found = models.names()
    return [n for n in found if n != "les-demo"] if "water" in found else found


def _devices() -> list[str]:
    return ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure everything, and return what is written."""
    begin = time.monotonic()
    print(report.header())
    with tempfile.TemporaryDirectory() as folder:
        comparison = Comparison(arguments, Path(folder))
        comparison.run()
    document: dict[str, Any] = {
        "environment": environment(arguments.threads),
        "platforms": {d: platform_for(d).getName() for d in arguments.device or _devices()},
        "limits": {"memory_gb": arguments.memory, "seconds": arguments.time},
        "rows": comparison.measured,
    }
    document["exponents"] = report.exponents(document)
    document["minutes"] = (time.monotonic() - begin) / 60
    return document


def main() -> None:
    arguments = parsed_arguments()
    warnings.simplefilter("ignore")
    if arguments.redraw:
        document = json.loads(arguments.redraw.read_text())
        report.plot(document, arguments.redraw.with_suffix(".png"))
        return
    torch.set_num_threads(arguments.threads)
    document = run(arguments)
    for text in (report.breakdowns(document), report.speed_ups(document)):
        if text:
            print(f"\n{text}")
    for series, exponent in document["exponents"].items():
        print(f"{series}: time grows with the power {exponent:.2f} of the atoms, 192 to 5184")
    print(f"took {document['minutes']:.1f} minutes")
    output = arguments.output or (None if arguments.quick else RESULTS / "md_step.json")
    if output:
        output.write_text(json.dumps(document, indent=1) + "\n")
        report.plot(document, output.with_suffix(".png"))
        print(f"wrote {output} and {output.with_suffix('.png')}")


if __name__ == "__main__":
    main()
