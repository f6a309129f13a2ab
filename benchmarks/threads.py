"""One evaluation with several threads, on a quiet machine and beside others that want its cores.

    python benchmarks/threads.py [--threads 1 2] [--atoms 45 192] [--busy 2] [--seconds 3]
                                 [--output FILE]

Every row is a process of its own, with OpenMP's threads waiting as they do by default (spinning) or
asleep (``OMP_WAIT_POLICY=passive``); "measured" lets openmm-les choose among all threads, as it
does unless it is told not to. The load is `--busy` processes that do nothing but count.
Prints a table and, with ``--output``, writes a JSON file.
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve()


def evaluate(atoms: int, threads: int, measured: bool, seconds: float) -> dict[str, Any]:
    """Milliseconds of evaluations of `les-demo`, for at least so many seconds."""
    import numpy as np
    import torch
    from step.systems import structure

    from openmm_les import artifact
    from openmm_les.catalog import artifact_path
    from openmm_les.evaluation.system_model import SystemModel
    from openmm_les.processes import threads as policy

    torch.set_num_threads(threads)
    system = structure(atoms)
    periodic = bool(system.pbc.all())
    times: list[float] = []
    with contextlib.nullcontext() if measured else policy.unmeasured():
        model = SystemModel(
            artifact.load(artifact_path("les-demo")),
            system.numbers,
            periodic=periodic,
            cell=system.cell.array if periodic else None,
            positions=system.positions,
        )
        for _ in range(8):  # in which the threads are measured, too
            model.evaluate(system.positions)
        end = time.perf_counter() + seconds
        while len(times) < 5 or time.perf_counter() < end:
            begin = time.perf_counter()
            model.evaluate(system.positions)
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


def row(arguments: argparse.Namespace, **case: Any) -> dict[str, Any]:
    """One case in a process of its own."""
    environment = {k: v for k, v in os.environ.items() if k not in ("OMP_NUM_THREADS",)}
    environment.pop("OMP_WAIT_POLICY", None)
    if case["wait"] == "passive":
        environment["OMP_WAIT_POLICY"] = "passive"
    command = [sys.executable, HERE, "--child", json.dumps(case | {"seconds": arguments.seconds})]
    begin = time.monotonic()
    with busy(case["busy"]):
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=600, check=False
        )
    if done.returncode != 0:
        raise SystemExit(done.stderr)
    return case | json.loads(done.stdout) | {"process_seconds": time.monotonic() - begin}


def cases(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    for atoms in arguments.atoms:
        for load in (0, arguments.busy):
            for wait in ("default", "passive"):
                for threads in arguments.threads:
                    for measured in (False, True) if threads > 1 else (False,):
                        case = {"atoms": atoms, "busy": load, "wait": wait, "threads": threads}
                        yield case | {"measured": measured}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    cores = len(os.sched_getaffinity(0))
    parser.add_argument("--threads", type=int, nargs="+", default=sorted({1, cores}))
    parser.add_argument("--atoms", type=int, nargs="+", default=[45, 192])
    parser.add_argument("--busy", type=int, default=cores, help="processes of the load")
    parser.add_argument("--seconds", type=float, default=3.0, help="length of a row")
    parser.add_argument("--output", type=Path, help="JSON file")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        case = json.loads(arguments.child)
        keys = ("atoms", "threads", "measured", "seconds")
        print(json.dumps(evaluate(*(case[key] for key in keys))))
        return
    from environment import environment

    rows = []
    print(f"{'atoms':>6} {'load':>5} {'wait':>8} {'threads':>10} {'ms':>9}   10 to 90 %")
    for case in cases(arguments):
        result = row(arguments, **case)
        rows.append(result)
        threads = f"{result['threads']}{', meas.' if result['measured'] else ''}"
        print(
            f"{result['atoms']:>6} {result['busy']:>5} {result['wait']:>8} {threads:>10} "
            f"{result['median']:>9.1f}   {result['low']:.1f} to {result['high']:.1f}",
            flush=True,
        )
    if arguments.output:
        document = {"environment": environment(max(arguments.threads)), "rows": rows}
        arguments.output.write_text(json.dumps(document, indent=1) + "\n")
        print(f"wrote {arguments.output}")


if __name__ == "__main__":
    main()
