"""Command line: ``python -m fuzzing``."""

from __future__ import annotations

import os

# One thread for each child, set before numpy and torch start theirs.
os.environ.update(
    dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
)

import argparse
import dataclasses
import importlib
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from fuzzing.cases import Hostile, Seed, Target
from fuzzing.supervise import Report, Supervisor, supervise
from fuzzing.verdicts import FAULTS, GOOD
from fuzzing.worker import Limits, load_case

_SHOWN = 12


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser("fuzzing", description=__doc__)
    parser.add_argument("--kind", action="append", help="kind of files; default: all")
    parser.add_argument("--count", type=int, default=500, help="mutations of each kind")
    parser.add_argument("--hostile", type=int, help="hostile files of each kind; default: all")
    parser.add_argument("--case", type=int, action="append", help="number of a case, with --kind")
    parser.add_argument("--seed", type=int, default=0, help="fixes all mutations")
    parser.add_argument("--jobs", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--cpu", type=int, default=Limits.cpu, help="processor time of a case [s]")
    parser.add_argument("--wall", type=float, default=Limits.wall, help="time of a case [s]")
    parser.add_argument("--failures", type=Path, default=Path("build/fuzz"), help="folder")
    parser.add_argument("--replay", type=Path, help="a folder below that of failures")
    parser.add_argument("--json", type=Path, help="report to write")
    parser.add_argument("--all", action="store_true", help="show every fault")
    parser.add_argument("--table", default="fuzzing.targets", help="module with the kinds")
    return parser.parse_args()


def _replayed(place: Path, targets: dict[str, Target]) -> Target:
    """A kind whose only case is the one that was kept in this folder."""
    kind, case = load_case(place)
    target = targets[kind]

    def seeds(base: Path) -> list[Seed]:
        seed = target.seeds(base)[case.seed]
        others = tuple(file for file in seed.files if file != case.file)
        return [dataclasses.replace(seed, files=(case.file, *others))]

    return dataclasses.replace(
        target,
        seeds=seeds,
        hostile={case.name: lambda _: case.content},
        accepted=frozenset() if case.guarded else frozenset({case.name}),
    )


def _chosen(arguments: argparse.Namespace, targets: dict[str, Target]) -> list[Target]:
    """The kinds to try, each with as many hostile files as wanted."""
    if arguments.replay:
        arguments.count = 0
        arguments.failures = arguments.failures / "replayed"
        return [_replayed(arguments.replay, targets)]
    chosen = [targets[kind] for kind in arguments.kind or targets]
    if arguments.hostile is None:
        return chosen
    return [
        dataclasses.replace(target, hostile=_some(target.hostile, arguments.hostile))
        for target in chosen
    ]


def _some(hostile: Mapping[str, Hostile], number: int) -> dict[str, Hostile]:
    """So many at equal distances."""
    step = max(1, -(-len(hostile) // number)) if number else len(hostile) + 1
    return dict(list(hostile.items())[step - 1 :: step])


def _row(report: Report) -> str:
    counts = Counter(outcome.verdict for outcome in report.outcomes)
    good = " ".join(f"{counts[verdict]:8d}" for verdict in GOOD)
    peak = max((outcome.peak for outcome in report.outcomes), default=0) >> 20
    bad = ", ".join(f"{counts[verdict]} {verdict}" for verdict in FAULTS if counts[verdict])
    if report.skipped:
        return f"{report.kind:16s} skipped: {report.skipped}"
    number = len(report.outcomes)
    return f"{report.kind:16s}{number:6d} {good} {report.seconds:8.1f} {peak:7d}  {bad}"


def _tell(report: Report, most: int | None) -> None:
    print(_row(report), flush=True)
    for fault in report.faults[:most]:
        print(f"    {fault.number} {fault.name}: {fault.verdict}: {fault.detail[:240]!r}")
    if len(report.faults) > len(report.faults[:most]):
        print(f"    and {len(report.faults[most:])} more", flush=True)


def main() -> int:
    """Tries all cases, prints a table, and returns the exit status."""
    arguments = _arguments()
    table = importlib.import_module(arguments.table)
    table.prepare()
    targets = _chosen(arguments, table.TARGETS)
    limits = Limits(cpu=arguments.cpu, wall=arguments.wall)
    started = time.monotonic()
    print(f"{'kind':16s} cases {' '.join(f'{v:>8s}' for v in GOOD)}  seconds peak MB  faults")
    reports = []
    with tempfile.TemporaryDirectory(prefix="fuzzing-") as folder:
        waiting = (
            Supervisor(
                target,
                Path(folder),
                arguments.failures.absolute(),
                count=arguments.count,
                random_seed=arguments.seed,
                numbers=arguments.case,
                limits=limits,
            )
            for target in targets
        )
        for report in supervise(waiting, arguments.jobs):
            reports.append(report)
            _tell(report, None if arguments.all else _SHOWN)
    number = sum(len(report.outcomes) for report in reports)
    faults = sum(len(report.faults) for report in reports)
    print(f"{number} cases in {time.monotonic() - started:.0f} s: {faults} faults")
    if faults:
        print(f"their files are in {arguments.failures}; try one again with --replay FOLDER")
    if arguments.json:
        arguments.json.write_text(json.dumps([dataclasses.asdict(r) for r in reports], indent=1))
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
