"""The coupling of an ML region to its MM surroundings: energy and all derivatives.

    python benchmarks/mlmm_coupling.py [--threads 1] [--quick]

50 ML atoms in the middle of water, 5000 to 100 000 MM atoms in a cube, Gaussian ML charges
(sigma 1 A), the default tolerance 1e-5. For scale, the Coulomb and Lennard-Jones forces of the same
system by OpenMM's CPU platform (PME, 9 A, default tolerance). Every case runs in a process of its
own, so that its peak memory above what an import and a small system take can be read. Then the
errors that tolerances lead to, in boxes of several shapes. Prints tables and writes
``benchmarks/results/mlmm_coupling.json``.
"""

import argparse
import json
import math
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from environment import environment, peak_memory
from ewald_systems import System, random_ions, strained, water

from openmm_les.electrostatics.embedding import Coupling, build_coupling

ML_ATOMS = 50
#: Edges of the cubes, in molecules of water.
EDGES = (12, 16, 20, 24, 32)
CASES = ("PME float32", "PME float64", "CutoffPeriodic float32", "NoCutoff float32", "OpenMM")
TIMED_SECONDS = 4.0

Region = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


def region_of(system: System) -> Region:
    """The ML atoms are the nearest to the centre: charges, positions, those of MM, cell."""
    charges, positions, cell = system
    order = (positions - cell.sum(dim=0) / 2).norm(dim=1).argsort()
    ml, mm = order[:ML_ATOMS], order[ML_ATOMS:]
    return charges[ml], positions[ml], charges[mm], positions[mm], cell


def region_in_water(edge: int) -> Region:
    return region_of(water((edge, edge, edge)))


def boxes() -> dict[str, Region]:
    """Where the errors are measured; the last ones are random ions, and have a net charge."""
    dodecahedron = np.array([[30.0, 0, 0], [0, 30.0, 0], [15.0, 15.0, 15.0 * math.sqrt(2)]])
    octahedron = 30.0 * np.array([[1.0, 0, 0], [1 / 3, 0.942809, 0], [-1 / 3, 0.471405, 0.816497]])
    return {
        "cube": region_in_water(8),
        "large cube": region_in_water(12),
        "strained": region_of(strained(water((8, 8, 8)))),
        "long": region_of(water((7, 8, 15))),
        "dodecahedron": region_of(random_ions(1800, dodecahedron, net_charge=3.0)),
        "octahedron": region_of(random_ions(2000, octahedron, net_charge=-3.0)),
    }


def ours(name: str, cell: torch.Tensor) -> Callable[..., Coupling]:
    method, dtype = name.split()
    module = build_coupling(method, cell=cell, cutoff=9.0, width=1.0, dtype=getattr(torch, dtype))
    scripted: Callable[..., Coupling] = torch.jit.script(module)
    return scripted


def openmm_forces(region: Region, threads: int) -> Callable[..., Any]:
    """The nonbonded forces of the whole system, as TIP3P has them."""
    import openmm

    charges, positions = torch.cat([region[0], region[2]]), torch.cat([region[1], region[3]])
    system, force = openmm.System(), openmm.NonbondedForce()
    system.setDefaultPeriodicBoxVectors(*(0.1 * region[4].numpy()))
    for charge in charges.tolist():
        system.addParticle(1.0)
        force.addParticle(charge, 0.315, 0.64 if charge < 0 else 0.0)
    force.setNonbondedMethod(openmm.NonbondedForce.PME)
    force.setCutoffDistance(0.9)
    system.addForce(force)
    platform = openmm.Platform.getPlatformByName("CPU")
    context = openmm.Context(
        system, openmm.VerletIntegrator(0.001), platform, {"Threads": str(threads)}
    )
    places = 0.1 * positions.numpy()

    def call(*_: torch.Tensor) -> Any:
        context.setPositions(places)
        return context.getState(energy=True, forces=True)

    return call


def time_of(call: Callable[..., Any], region: Region) -> tuple[float, int]:
    """Least CPU time of a call, of all threads [ms], and how many calls were made.

    With one thread it is the time, but for that which other programs take meanwhile.
    """
    times: list[float] = []
    while len(times) < 4 or (sum(times) < TIMED_SECONDS and len(times) < 200):
        start = time.process_time()
        call(*region)
        times.append(time.process_time() - start)
    return 1e3 * min(times), len(times)


def relative(got: torch.Tensor, expected: torch.Tensor) -> float:
    return float((got - expected).norm() / expected.norm())


def error_of(call: Callable[..., Coupling], name: str, region: Region) -> float:
    """RMS force error over RMS force, of all atoms."""
    exact = build_coupling(name.split()[0], cell=region[4], cutoff=9.0, width=1.0, tolerance=1e-12)
    forces = [torch.cat([x.gradient, x.mm_gradient]) for x in (call(*region), exact(*region))]
    return relative(*forces)


def accuracy() -> list[dict[str, Any]]:
    """RMS force errors over RMS forces of ML and of MM atoms, and errors of the energy [eV]."""
    rows = []
    for name, region in boxes().items():
        exact = build_coupling("PME", cell=region[4], width=1.0, tolerance=1e-12)(*region)
        for tolerance in (1e-4, 1e-5, 1e-6, 1e-7):
            for dtype in (torch.float64, torch.float32):
                module = build_coupling(
                    "PME", cell=region[4], width=1.0, tolerance=tolerance, dtype=dtype
                )
                got = module(*region)
                row = {
                    "box": name,
                    "mm_atoms": len(region[2]),
                    "tolerance": tolerance,
                    "dtype": str(dtype).removeprefix("torch."),
                    "grid": module.structure.limits.tolist(),
                    "ml": relative(got.gradient, exact.gradient),
                    "mm": relative(got.mm_gradient, exact.mm_gradient),
                    "energy": float(got.energy - exact.energy),
                }
                print(row, flush=True)
                rows.append(row)
    return rows


def run_case(name: str, edge: int, threads: int) -> dict[str, Any]:
    """One method and size; in a process of its own."""
    small, region = region_in_water(6), region_in_water(edge)
    number = len(region[2])
    if name == "OpenMM":
        milliseconds, calls = time_of(openmm_forces(region, threads), region)
        return {"mm_atoms": number, "ms": milliseconds, "calls": calls}
    warm = ours(name, small[4])
    for _ in range(3):
        warm(*small)
    before = peak_memory()
    call = ours(name, region[4])
    milliseconds, calls = time_of(call, region)
    memory = peak_memory() - before
    result = {"mm_atoms": number, "ms": milliseconds, "calls": calls, "peak_mb": memory}
    return result | {"force_error": error_of(call, name, region)}


def in_child(name: str, edge: int, threads: int) -> dict[str, Any]:
    """What this script prints as a child process."""
    command = [sys.executable, __file__, "--threads", str(threads), "--case", name, str(edge)]
    child = subprocess.run(command, capture_output=True, text=True, check=False)
    if child.returncode:
        return {"failed": (child.stderr.strip().splitlines() or ["killed"])[-1]}
    found: dict[str, Any] = json.loads(child.stdout.splitlines()[-1])
    return found


def table(rows: list[dict[str, Any]], key: str) -> None:
    print(f"{'MM atoms':>9}" + "".join(f"{name:>24}" for name in CASES))
    for number in sorted({row["mm_atoms"] for row in rows if "mm_atoms" in row}):
        found = {row["name"]: row.get(key) for row in rows if row.get("mm_atoms") == number}
        texts = ["-" if found.get(name) is None else f"{found[name]:.3g}" for name in CASES]
        print(f"{number:>9}" + "".join(f"{text:>24}" for text in texts))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="up to 12 000 MM atoms")
    parser.add_argument("--case", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.case:
        print(json.dumps(run_case(arguments.case[0], int(arguments.case[1]), arguments.threads)))
        return
    rows = []
    for edge in EDGES[:2] if arguments.quick else EDGES:
        for name in CASES:
            rows.append({"name": name} | in_child(name, edge, arguments.threads))
            print(rows[-1], flush=True)
    for key, title in (
        ("ms", "CPU time [ms]"),
        ("peak_mb", "peak memory above the baseline [MB]"),
        ("force_error", "RMS force error / RMS force"),
    ):
        print(f"\n{title}")
        table(rows, key)
    exponents: dict[str, float] = {}
    for name in CASES:
        found = [row for row in rows if row["name"] == name and "ms" in row]
        if len(found) > 1:
            first, last = found[0], found[-1]
            growth = math.log(last["mm_atoms"] / first["mm_atoms"])
            exponents[name] = math.log(last["ms"] / first["ms"]) / growth
            print(f"cost exponent of {name}: {exponents[name]:.2f}")
    out = Path(__file__).parent / "results" / "mlmm_coupling.json"
    document = {
        "environment": environment(arguments.threads),
        "rows": rows,
        "exponents": exponents,
        "accuracy": accuracy(),
    }
    out.write_text(json.dumps(document, indent=1) + "\n")
    print(f"wrote {out}")


if __name__ == "__main__":
    main()
