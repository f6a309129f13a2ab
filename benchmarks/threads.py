"""One evaluation with several threads, on a quiet machine and beside others that want its cores.

    python benchmarks/threads.py [--threads 1 2] [--atoms 45 192] [--busy 0 2] [--seconds 3]
                                 [--models les-demo maceles-off] [--waits default passive]
                                 [--output FILE]

Every row is a process of its own, with OpenMP's threads waiting as they do by default (spinning) or
asleep (``OMP_WAIT_POLICY=passive``); "measured" lets openmm-les choose among all threads, as it
does unless it is told not to. The load is `--busy` processes that do nothing but count. Of
MACELES-OFF it is the architecture, with random weights. Prints a table, with how many times as
long as one thread the others take, and, with ``--output``, writes a JSON file.
"""

import argparse
import contextlib
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve()
MODELS = ("les-demo", "maceles-off")
WAITS = ("default", "passive")


def artifact_of(model: str) -> Any:
    """The model by its name, or read from the file that another process has made of it."""
    from openmm_les.artifact import Artifact, load
    from openmm_les.catalog import artifact_path

    if model == "les-demo":
        return load(artifact_path(model))
    from openmm_les_export import read_model

    return Artifact.unsaved(read_model(Path(model)), Path(model))


def evaluate(
    model: str, atoms: int, threads: int, measured: bool, seconds: float
) -> dict[str, Any]:
    """Milliseconds of evaluations, for at least so many seconds."""
    import numpy as np
    import torch
    from step.systems import structure

    from openmm_les.evaluation.system_model import SystemModel
    from openmm_les.processes import threads as policy

    torch.set_num_threads(threads)
    system = structure(atoms)
    periodic = bool(system.pbc.all())
    times: list[float] = []
    with contextlib.nullcontext() if measured else policy.unmeasured():
        found = SystemModel(
            artifact_of(model),
            system.numbers,
            periodic=periodic,
            cell=system.cell.array if periodic else None,
            positions=system.positions,
        )
        for _ in range(8):  # in which the threads are measured, too
            found.evaluate(system.positions)
        end = time.perf_counter() + seconds
        while len(times) < 5 or time.perf_counter() < end:
            begin = time.perf_counter()
            found.evaluate(system.positions)
            times.append(1e3 * (time.perf_counter() - begin))
    low, median, high = np.percentile(times, [10, 50, 90])
    return {"atoms": len(system), "median": median, "low": low, "high": high, "count": len(times)}


@contextlib.contextmanager
def busy(processes: int) -> Iterator[None]:
    """So many processes that want a core each."""
    children = [
        subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(processes)
    ]
    try:
        yield
    finally:
        for child in children:
            child.kill()
            child.wait()


def row(
    arguments: argparse.Namespace, files: dict[str, str], case: dict[str, Any]
) -> dict[str, Any]:
    """One case in a process of its own; `files` are those of models that have no name."""
    environment = {k: v for k, v in os.environ.items() if k not in ("OMP_NUM_THREADS",)}
    environment.pop("OMP_WAIT_POLICY", None)
    if case["wait"] == "passive":
        environment["OMP_WAIT_POLICY"] = "passive"
    given = case | {"seconds": arguments.seconds, "model": files.get(case["model"], case["model"])}
    command = [sys.executable, HERE, "--child", json.dumps(given)]
    begin = time.monotonic()
    with busy(case["busy"]):
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=600, check=False
        )
    if done.returncode != 0:
        raise SystemExit(done.stderr)
    return case | json.loads(done.stdout) | {"process_seconds": time.monotonic() - begin}


def cases(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    names = ("model", "atoms", "busy", "wait")
    places = (arguments.models, arguments.atoms, arguments.busy, arguments.waits)
    for place in itertools.product(*places):
        for threads in arguments.threads:
            for measured in (False, True) if threads > 1 else (False,):
                case = dict(zip(names, place, strict=True))
                yield case | {"threads": threads, "measured": measured}


def _is_one_thread_of(row: dict[str, Any], other: dict[str, Any]) -> bool:
    same = ("model", "atoms", "busy", "wait")
    return row["threads"] == 1 and all(row[name] == other[name] for name in same)


def random_model(folder: Path) -> str:
    """The file of a model with the architecture of MACELES-OFF."""
    import torch
    from step.models import random_maceles_off

    path = folder / "random.model"
    torch.save(random_maceles_off(), path)
    return str(path)


def line(result: dict[str, Any]) -> str:
    """A line of the table."""
    threads = f"{result['threads']}{', meas.' if result['measured'] else ''}"
    ratio = f"{result['of_one_thread']:.2f}" if "of_one_thread" in result else ""
    return (
        f"{result['model']:<12} {result['atoms']:>6} {result['busy']:>5} {result['wait']:>8} "
        f"{threads:>10} {result['median']:>9.1f} {ratio:>7}   {result['low']:.1f} to "
        f"{result['high']:.1f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    cores = len(os.sched_getaffinity(0))
    parser.add_argument("--threads", type=int, nargs="+", default=sorted({1, cores}))
    parser.add_argument("--atoms", type=int, nargs="+", default=[45, 192])
    parser.add_argument("--models", nargs="+", choices=MODELS, default=["les-demo"])
    parser.add_argument("--busy", type=int, nargs="+", default=[0, cores], help="load: processes")
    parser.add_argument("--waits", nargs="+", choices=WAITS, default=WAITS)
    parser.add_argument("--seconds", type=float, default=3.0, help="length of a row")
    parser.add_argument("--output", type=Path, help="JSON file")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        case = json.loads(arguments.child)
        keys = ("model", "atoms", "threads", "measured", "seconds")
        print(json.dumps(evaluate(*(case[key] for key in keys))))
        return
    from environment import environment

    rows: list[dict[str, Any]] = []
    print(
        f"{'model':<12} {'atoms':>6} {'load':>5} {'wait':>8} {'threads':>10} {'ms':>9} "
        f"{'of one':>7}   10 to 90 %"
    )
    with tempfile.TemporaryDirectory() as folder:
        files = {}
        if "maceles-off" in arguments.models:
            files["maceles-off"] = random_model(Path(folder))
        for case in cases(arguments):
            result = row(arguments, files, case)
            rows.append(result)
            one = next((each for each in rows if _is_one_thread_of(each, result)), None)
            if one is not None:
                result["of_one_thread"] = result["median"] / one["median"]
            print(line(result), flush=True)
    if arguments.output:
        document = {"environment": environment(max(arguments.threads)), "rows": rows}
        arguments.output.write_text(json.dumps(document, indent=1) + "\n")
        print(f"wrote {arguments.output}")


if __name__ == "__main__":
    main()
