"""What sums of multipoles cost, by the charge-only sums: times and memory on a CPU.

    python benchmarks/multipole_kernels.py [--threads 1] [--quick]

Water of 192 to 12 288 atoms, float32, tolerance 1e-5, scripted: energy and all first derivatives.
Models have charges and dipoles (u), quadrupoles (Q), induced charges (iq) and induced dipoles (iu).
Every case runs in a process of its own, so that its peak memory
can be read; times are of the processor, so that other programs disturb them little. Prints tables
and writes ``benchmarks/results/multipole_kernels.json``.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from environment import environment, peak_memory
from ewald_speed import LES, MARGIN, system_of, table
from ewald_systems import water

from openmm_les.electrostatics import EwaldOptions, build_electrostatics
from openmm_les.electrostatics.multipoles import SiteMoments, build_multipoles

SIZES = (192, 1536, 5184, 12_288)
MODELS = ("charges", "u", "uQ", "iqiu", "uQiqiu")
#: Time goes as the square of the number of sites.
LARGEST_OPEN = 1536


def moments_for(model: str, charges: torch.Tensor) -> SiteMoments:
    """Random moments of a usual size."""
    n, random = len(charges), torch.Generator().manual_seed(0)
    tensors = 0.1 * torch.randn(n, 3, 3, generator=random)
    tensors = tensors + tensors.transpose(1, 2)
    trace = tensors.diagonal(0, 1, 2).sum(1) / 3.0
    tensors = tensors - torch.diag_embed(trace[:, None].expand(-1, 3))
    alpha = 0.03 * torch.eye(3).expand(n, 3, 3).contiguous()
    return SiteMoments(
        charges,
        0.1 * torch.randn(n, 3, generator=random) if model.startswith("u") else None,
        tensors if "Q" in model else None,
        torch.full([n], 0.01) if "iq" in model else None,
        alpha if "iu" in model else None,
    )


def call_for(method: str, model: str, number: int) -> Callable[[], Any]:
    """An evaluation; ``charges`` are those of the charge-only kernels."""
    charges, positions, cell = system_of(number) if number > 24 else water((2, 2, 2))
    charges = charges.float()
    options = EwaldOptions("auto" if method == "pairs" else method, 1e-5)
    settings: dict[str, Any] = {
        "num_atoms": len(charges),
        "options": options,
        "margin": MARGIN,
    }
    system = (LES, method != "pairs", cell, torch.float32)
    if model == "charges":
        kernel = torch.jit.script(build_electrostatics(*system, **settings))
        return lambda: kernel(charges, positions, cell)
    moments = moments_for(model, charges)
    degree = 2 if "Q" in model else int(model == "u")
    induced = 1 if "iu" in model else -1
    kernel = torch.jit.script(
        build_multipoles(*system, degree=degree, induced_degree=induced, **settings)
    )
    return lambda: kernel(moments, positions, cell)


def run_case(method: str, model: str, number: int) -> dict[str, Any]:
    """One kernel, model and size; in a process of its own."""
    for _ in range(3):
        call_for(method, model, 24)()
    before = peak_memory()
    call, times = call_for(method, model, number), []
    while len(times) < 5 or (sum(times) < 3.0 and len(times) < 200):
        start = time.process_time()
        call()
        times.append(time.process_time() - start)
    result = {"name": f"{method} {model}", "atoms": number, "ms": 1e3 * min(times)}
    return result | {"calls": len(times), "peak_mb": peak_memory() - before}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="up to 1536 atoms")
    parser.add_argument("--case", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.case:
        method, model, number = arguments.case
        print(json.dumps(run_case(method, model, int(number))))
        return
    sizes = [n for n in SIZES if n <= (1536 if arguments.quick else 10**6)]
    rows = []
    for number in sizes:
        for method in ("direct", "mesh", "pairs"):
            if method == "pairs" and number > LARGEST_OPEN:
                continue
            for model in MODELS:
                case = [sys.executable, __file__, "--threads", str(arguments.threads)]
                case += ["--case", method, model, str(number)]
                child = subprocess.run(case, capture_output=True, text=True, check=True)
                rows.append(json.loads(child.stdout.splitlines()[-1]))
                print(rows[-1], flush=True)
    charges = {(r["name"].split()[0], r["atoms"]): r["ms"] for r in rows if "charges" in r["name"]}
    for row in rows:
        row["ratio"] = row["ms"] / charges[row["name"].split()[0], row["atoms"]]
    for method in ("direct", "mesh", "pairs"):
        names = [f"{method} {model}" for model in MODELS]
        for key, title in (
            ("ms", "time [ms]"),
            ("ratio", "time over that of charges"),
            ("peak_mb", "peak memory above the baseline [MB]"),
        ):
            print(f"\n{title}", end="")
            table(rows, names, sizes, key)
    out = Path(__file__).parent / "results" / "multipole_kernels.json"
    content = {"environment": environment(arguments.threads), "rows": rows}
    out.write_text(json.dumps(content, indent=1) + "\n")
    print(f"wrote {out}")


if __name__ == "__main__":
    main()
