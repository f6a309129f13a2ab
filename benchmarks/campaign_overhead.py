"""What the engine of campaigns adds to each task, and how much memory it takes.

    python benchmarks/campaign_overhead.py [--tasks 100 1000 10000] [--workers 2] [--output FILE]

A task is a process of Python that does nothing. "alone" are such processes begun one after another
by as many threads as there are workers, without Dask; the overhead is the difference of wall times
by the number of tasks. Memory is that of the process which has client and
scheduler, and of a worker. Prints a table and, with ``--output``, writes a JSON file.
"""

import argparse
import json
import os
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from environment import environment

from openmm_les.campaign import worker
from openmm_les.campaign.engine import Task, connect, execute
from openmm_les.processes import children

#: Processes of which the time alone is measured.
ALONE = 200
#: What a process runs in place of a command of openmm-les.
NOTHING = "pass"
MB = 1024.0**2


def memory(process: int) -> float:
    """Resident memory of a process [MB]."""
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / MB


def alone(workers: int, folder: Path) -> float:
    """Wall time for each process without the engine [s]."""

    def one(number: int) -> None:
        children.start_bound(NOTHING, folder=folder).communicate()

    begin = time.perf_counter()
    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(one, range(ALONE)))
    return (time.perf_counter() - begin) / ALONE


class Peak(threading.Thread):
    """Follows the memory of processes [MB]."""

    def __init__(self, processes: list[int]) -> None:
        super().__init__(daemon=True)
        self.most = dict.fromkeys(processes, 0.0)
        self.end = threading.Event()

    def run(self) -> None:
        while not self.end.wait(0.2):
            for process in self.most:
                self.most[process] = max(self.most[process], memory(process))


def measure(client: Any, number: int, folder: Path) -> dict[str, float]:
    """Wall time for each of so many tasks [s], and memory [MB]."""
    workers = list(client.run(os.getpid).values())
    tasks = [Task(f"task-{n}", (), folder / str(n)) for n in range(number)]
    peak = Peak([os.getpid(), *workers])
    peak.start()
    begin = time.perf_counter()
    failed = sum(outcome.error is not None for outcome in execute(client, tasks))
    seconds = (time.perf_counter() - begin) / number
    peak.end.set()
    assert failed == 0
    return {
        "tasks": number,
        "seconds": seconds,
        "memory": peak.most[os.getpid()],
        "worker_memory": max(peak.most[each] for each in workers),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", type=int, nargs="+", default=[100, 1000, 10_000])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as name, connect(given.workers) as client:
        folder = Path(name)
        client.run(setattr, worker, "COMMAND", NOTHING)
        print(f"{'tasks':>6} {'ms a task':>10} {'alone':>7} {'overhead':>9} {'memory [MB]':>12}")
        for number in given.tasks:
            # Before and after, since others use this machine.
            before = alone(given.workers, folder)
            row = measure(client, number, folder / str(number))
            row["alone"] = (before + alone(given.workers, folder)) / 2
            row["overhead"] = row["seconds"] - row["alone"]
            rows.append(row)
            print(
                f"{number:>6} {1e3 * row['seconds']:>10.1f} {1e3 * row['alone']:>7.1f} "
                f"{1e3 * row['overhead']:>9.1f} {row['memory']:>6.0f} + {row['worker_memory']:.0f}",
                flush=True,
            )
    if given.output:
        data = environment(1) | {"workers": given.workers, "rows": rows}
        given.output.write_text(json.dumps(data, indent=2) + "\n")


if __name__ == "__main__":
    main()
