"""Time, memory and accuracy of an MD step: openmm-les and its peers, same weights.

    python benchmarks/md_step.py [--quick] [--threads 2] [--sizes 22 192 ...] [--models ...]
                                 [--rows ...] [--device cpu] [--output FILE]
    python benchmarks/md_step.py --redraw benchmarks/results/md_step.json

Models: the architecture of MACELES-OFF with random weights, and published small models where the
checkout has them beside it (``les-demo`` elsewhere). Systems: molecules of 22 and 45 atoms, water
of 192 to 10 125. Peers are made of mace-torch with a stand-in for the `les` package (`peers`).

Every row runs in a process of its own with limits on memory and time; those of one model and
system are measured in turns, since machines are noisy. Prints a table and writes a JSON file and a
picture: a run of everything into ``benchmarks/results``, others where ``--output`` says. A row that
one system has stopped before any step was timed is not tried with larger ones; one that was stopped
later keeps what was measured, and says why it is not complete.
"""

import argparse
import json
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from environment import environment
from step import models, report, systems
from step.compare import Comparison, Limits
from step.rows import Row, rows
from step.steps import platform_for

RESULTS = Path(__file__).resolve().parent / "results"
SIZES = (22, 45, 192, 1029, 3000, 5184, 10125)
#: Systems of each model, of those that it knows.
SIZES_OF = {
    models.OFF: tuple(size for size in SIZES if size != 5184),
    "water": (192, 1029, 3000, 5184, 10125),
    "dipeptide": (45,),
    "les-demo": SIZES,
}
QUICK_SIZES = (22, 45, 192)


def parsed_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="22 to 192 atoms, few rows, short")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--sizes", type=int, nargs="+", help="atoms; the nearest system is taken")
    parser.add_argument("--models", nargs="+", choices=models.names())
    parser.add_argument("--rows", nargs="+", help="names of rows")
    parser.add_argument("--device", nargs="+", help="cpu, and cuda where there is one")
    parser.add_argument("--seconds", type=float, help="length of a turn (1.5, quick 1)")
    parser.add_argument("--memory", type=float, default=8.0, help="limit of a row on a CPU [GB]")
    parser.add_argument(
        "--time", type=float, help="limit of a row, and again of its dynamics [s] (120, quick 60)"
    )
    parser.add_argument("--compile-time", type=float, default=300.0, help="to compile, besides [s]")
    parser.add_argument("--output", type=Path, help="JSON file; the picture lies beside it")
    parser.add_argument("--redraw", type=Path, help="draw the picture of a JSON file again")
    return parser.parse_args()


def limits_of(arguments: argparse.Namespace) -> Limits:
    quick = arguments.quick
    return Limits(
        turns=1 if quick else 3,
        seconds=arguments.seconds or (1.0 if quick else 1.5),
        memory_gb=arguments.memory,
        row_seconds=arguments.time or (60.0 if quick else 120.0),
        compile_seconds=arguments.compile_time,
        with_drift=not quick,
        with_large=bool(arguments.rows),
    )


def chosen_rows(arguments: argparse.Namespace) -> dict[str, Row]:
    everything = rows()
    if arguments.rows:
        unknown = [name for name in arguments.rows if name not in everything]
        if unknown:
            raise SystemExit(f"--rows: no {unknown[0]!r}; there are {', '.join(everything)}")
        return {name: everything[name] for name in arguments.rows}
    return {n: row for n, row in everything.items() if row.is_quick or not arguments.quick}


def chosen_sizes(arguments: argparse.Namespace, model: str) -> tuple[int, ...]:
    if arguments.sizes:
        return tuple(arguments.sizes)
    return tuple(s for s in SIZES_OF[model] if not arguments.quick or s in QUICK_SIZES)


def default_models() -> list[str]:
    """Without the published models, the one that comes with the package."""
    found = models.names()
    return [name for name in found if name != "les-demo"] if "water" in found else found


def output_of(arguments: argparse.Namespace) -> Path | None:
    """Where to write; a part of the comparison never replaces all of it unasked."""
    is_part = arguments.quick or arguments.sizes or arguments.models or arguments.rows
    return arguments.output or (None if is_part else RESULTS / "md_step.json")


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure everything, print a line for each result, and return what is written."""
    begin = time.monotonic()
    devices = arguments.device or ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    limits = limits_of(arguments)
    found: list[dict[str, Any]] = []
    print(report.header(), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        comparison = Comparison(chosen_rows(arguments), limits, arguments.threads, Path(folder))
        for name in arguments.models or default_models():
            model = models.prepare(name, Path(folder))
            for size in chosen_sizes(arguments, name):
                atoms = systems.structure(size)
                if not models.describes(name, atoms.numbers):
                    continue
                for device in devices:
                    for result in comparison.measure(model, atoms, device):
                        found.append(result)
                        print(report.line(result), flush=True)
    document: dict[str, Any] = {
        "environment": environment(arguments.threads),
        "openmm_platforms": {device: platform_for(device).getName() for device in devices},
        "limits": {
            "memory_gb": limits.memory_gb,
            "seconds": limits.row_seconds,
            "compile_seconds": limits.compile_seconds,
        },
        "rows": found,
    }
    document["exponents"] = report.exponents(document)
    document["minutes"] = (time.monotonic() - begin) / 60
    return document


def main() -> None:
    arguments = parsed_arguments()
    warnings.simplefilter("ignore")
    if arguments.redraw:
        picture = arguments.redraw.with_suffix(".png")
        report.plot(json.loads(arguments.redraw.read_text()), picture)
        print(f"wrote {picture}")
        return
    torch.set_num_threads(arguments.threads)
    document = run(arguments)
    print(report.conclusions(document))
    if output := output_of(arguments):
        output.write_text(json.dumps(document, indent=1) + "\n")
        print(f"wrote {output}")
        if any("failed" not in row for row in document["rows"]):
            report.plot(document, output.with_suffix(".png"))
            print(f"wrote {output.with_suffix('.png')}")


if __name__ == "__main__":
    main()
