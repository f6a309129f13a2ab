"""The search for neighbours: cells, all pairs, loops (extra ``cpu``), and peers.

    python benchmarks/neighbors.py [--threads 1] [--quick]

Water of 192 to 98 304 atoms, cutoff 4.5 A. Ours are timed as a simulation runs them: the padded
matrix with float64 shifts and reverse slots, in buffers made for a box that may shrink by 15 %.
matscipy and vesin-torch (where installed) make a plain list of pairs. Every case runs in a process
of its own, so that its peak memory above what an import and a tiny system take can be read. Prints
tables and writes ``benchmarks/results/neighbors.json``.
"""

import argparse
import json
import math
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from environment import environment
from ewald_systems import water

from openmm_les.evaluation.capacity import with_headroom
from openmm_les.neighbors.cells import choose_grid
from openmm_les.neighbors.matrix import (
    image_offsets,
    image_range,
    largest_number_of_neighbors,
    neighbor_matrix,
)

REPEATS = {
    192: (4, 4, 4),
    375: (5, 5, 5),
    648: (6, 6, 6),
    1536: (8, 8, 8),
    5184: (12, 12, 12),
    12288: (16, 16, 16),
    41472: (24, 24, 24),
    98304: (32, 32, 32),
}
#: All pairs of 41 472 atoms take a minute and 1.7 GB.
LARGEST = {"all pairs": 12288}
CUTOFF = 4.5
#: What a box may shrink to in a simulation.
MARGIN = 0.85 ** (1 / 3)
TIMED_SECONDS = 3.0

Call = Callable[[], Any]


def water_of(number: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Positions, sorted by element as in a simulation, and cell."""
    _, positions, cell = water(REPEATS[number])
    oxygen_first = torch.cat([torch.arange(i, number, 3) for i in range(3)])
    return positions[oxygen_first].contiguous(), cell


def ours(positions: torch.Tensor, cell: torch.Tensor, through_cells: bool) -> Call:
    r, box = positions.numpy(), cell.numpy()
    capacity = with_headroom(largest_number_of_neighbors(r, box, CUTOFF))
    offsets = image_offsets(image_range(box, CUTOFF, MARGIN))
    grid = choose_grid(len(r), CUTOFF, box, r, capacity, MARGIN) if through_cells else None
    if through_cells and grid is None:
        raise ValueError("too small for cells")
    scripted = torch.jit.script(neighbor_matrix)
    return lambda: scripted(positions, cell, True, offsets, CUTOFF, capacity, True, grid=grid)


def cells(positions: torch.Tensor, cell: torch.Tensor) -> Call:
    return ours(positions, cell, True)


def all_pairs(positions: torch.Tensor, cell: torch.Tensor) -> Call:
    return ours(positions, cell, False)


def loops(positions: torch.Tensor, cell: torch.Tensor) -> Call:
    from openmm_les.networks.kernels.numba.neighbors import LoopSearch

    box = cell.numpy()
    capacity = with_headroom(largest_number_of_neighbors(positions.numpy(), box, CUTOFF))
    ranges = image_range(box, CUTOFF, MARGIN)
    scripted = torch.jit.script(LoopSearch(True, ranges, CUTOFF, capacity, True, None))
    return lambda: scripted(positions, cell)


def matscipy(positions: torch.Tensor, cell: torch.Tensor) -> Call:
    from ase import Atoms
    from matscipy.neighbours import neighbour_list

    atoms = Atoms(["O"] * len(positions), positions.numpy(), cell=cell.numpy(), pbc=True)
    return lambda: neighbour_list("ijS", atoms, CUTOFF)


def vesin(positions: torch.Tensor, cell: torch.Tensor) -> Call:
    from vesin_torch import NeighborList

    search = NeighborList(cutoff=CUTOFF, full_list=True)
    return lambda: search.compute(positions, cell, True, "ijS")


METHODS = {
    "all pairs": all_pairs,
    "cells": cells,
    "loops": loops,
    "matscipy": matscipy,
    "vesin-torch": vesin,
}


def time_of(call: Call) -> tuple[float, int]:
    """Shortest time of a call [ms] and how many were made."""
    times: list[float] = []
    while len(times) < 4 or (sum(times) < TIMED_SECONDS and len(times) < 200):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
        if times[0] > 10.0:
            break
    return 1e3 * min(times), len(times)


def run_case(name: str, number: int) -> dict[str, Any]:
    """One method and size; in a process of its own."""
    small = METHODS[name](*water_of(648))
    for _ in range(3):
        small()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with torch.no_grad():
        milliseconds, calls = time_of(METHODS[name](*water_of(number)))
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return {"ms": milliseconds, "calls": calls, "peak_mb": memory / 1024}


def in_child(name: str, number: int, threads: int) -> dict[str, Any]:
    """What this script prints as a child process."""
    command = [sys.executable, __file__, "--threads", str(threads), "--case", name, str(number)]
    child = subprocess.run(command, capture_output=True, text=True, check=False)
    if child.returncode:
        return {"failed": (child.stderr.strip().splitlines() or ["killed"])[-1]}
    found: dict[str, Any] = json.loads(child.stdout.splitlines()[-1])
    return found


def table(rows: list[dict[str, Any]], names: list[str], key: str) -> None:
    print(f"{'atoms':>8}" + "".join(f"{name:>14}" for name in names))
    for number in sorted({row["atoms"] for row in rows}):
        found = {row["name"]: row.get(key) for row in rows if row["atoms"] == number}
        texts = ["-" if found.get(name) is None else f"{found[name]:.3g}" for name in names]
        print(f"{number:>8}" + "".join(f"{text:>14}" for text in texts))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="up to 1536 atoms")
    parser.add_argument("--case", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.case:
        print(json.dumps(run_case(arguments.case[0], int(arguments.case[1]))))
        return
    needed = {"vesin-torch": "vesin_torch", "loops": "numba"}
    names = [name for name in METHODS if find_spec(needed.get(name, "torch"))]
    rows = []
    for number in REPEATS:
        if arguments.quick and number > 1536:
            continue
        for name in names:
            if number > LARGEST.get(name, number):
                continue
            rows.append({"name": name, "atoms": number} | in_child(name, number, arguments.threads))
            print(rows[-1], flush=True)
    print("\ntime [ms]")
    table(rows, names, "ms")
    print("\npeak memory above the baseline [MB]")
    table(rows, names, "peak_mb")
    exponents: dict[str, float] = {}
    for name in names:
        found = [r for r in rows if r["name"] == name and r["atoms"] >= 1536 and "ms" in r]
        if len(found) > 1:
            first, last = found[0], found[-1]
            growth = math.log(last["atoms"] / first["atoms"])
            exponents[name] = math.log(last["ms"] / first["ms"]) / growth
            sizes = f"from {first['atoms']} to {last['atoms']} atoms"
            print(f"cost exponent of {name} {sizes}: {exponents[name]:.2f}")
    out = Path(__file__).parent / "results" / "neighbors.json"
    document = {"environment": environment(arguments.threads), "rows": rows, "exponents": exponents}
    out.write_text(json.dumps(document, indent=1) + "\n")
    print(f"wrote {out}")


if __name__ == "__main__":
    main()
