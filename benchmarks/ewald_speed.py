"""The periodic LES sum, energy and all its derivatives: this package against its peers.

    python benchmarks/ewald_speed.py [--threads 1] [--quick]

Water of 192 to 98 304 atoms, float32. Peers: the same sum over all vectors and atoms with autograd,
as LES codes do it, and torch-pme's P3M with the LES kernel, at the fastest mesh that keeps the
tolerance. Every case runs in a process of its own, so that its peak memory above what an
import and a tiny system take can be read. Prints tables and writes
``benchmarks/results/ewald_speed.json``.
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

import torch
from environment import environment, peak_memory
from ewald_systems import System, water

from openmm_les.electrostatics import EwaldOptions, build_electrostatics

REPEATS = {192: 4, 1536: 8, 5184: 12, 12288: 16, 41472: 24, 98304: 32}
OURS = ("direct", "mesh 1e-5", "mesh 1e-4")
LARGEST = {"autograd": 12288, "torch-pme": 5184, "direct": 41472}
LES = {"sigma": 1.0, "dl": 2.0, "prefactor": 90.4756, "remove_self_interaction": False}
#: Our mesh may become this much coarser in a simulation; torch-pme makes a new one at every call.
MARGIN = 1.15 ** (1 / 3)

Call = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def system_of(number: int) -> System:
    """Water of `number` atoms; not always a cube."""
    edge = round((number / 3) ** (1 / 3))
    repeats = (edge, edge, number // 3 // edge**2)
    assert 3 * math.prod(repeats) == number
    return water(repeats)


def ours(name: str, system: System) -> Call:
    """Gradient with respect to the positions; energy and the rest come along."""
    method, _, tolerance = name.partition(" ")
    options = EwaldOptions(method, float(tolerance or 1e-5))
    module = build_electrostatics(
        LES,
        True,
        system[2],
        torch.float32,
        num_atoms=len(system[0]),
        options=options,
        margin=MARGIN,
    )
    scripted = torch.jit.script(module)
    return lambda q, r, cell: scripted(q, r, cell)[2]


def autograd() -> Call:
    """What LES codes do: every vector times every atom, differentiated by autograd."""
    from peers import Les

    les = Les(LES)

    def gradient(q: torch.Tensor, r: torch.Tensor, cell: torch.Tensor) -> torch.Tensor:
        q, r = q.requires_grad_(), r.float().requires_grad_()
        energy = les(q, r, cell.float())["E_lr"]
        return torch.autograd.grad(energy.sum(), [q, r])[1]

    return gradient


def torch_pme(spacing: float, nodes: int) -> Call:
    """torch-pme's P3M for the LES kernel: no pairs, no background, no self term."""
    import torchpme

    class TruncatedGaussian(torchpme.potentials.Potential):  # type: ignore[misc]
        def lr_from_k_sq(self, k_sq: torch.Tensor) -> torch.Tensor:
            inside = (k_sq > 0) & (k_sq <= (2 * math.pi / LES["dl"]) ** 2)
            safe = torch.where(inside, k_sq, 1.0)
            weight = 2 * LES["prefactor"] * torch.exp(-(LES["sigma"] ** 2) * safe / 2) / safe
            return torch.where(inside, weight, 0.0)

        def from_dist(self, dist: torch.Tensor, pair_mask: Any = None) -> torch.Tensor:
            return torch.zeros_like(dist)

        lr_from_dist = from_dist

        def self_contribution(self) -> torch.Tensor:
            return torch.zeros(())

        def background_correction(self) -> torch.Tensor:
            return torch.zeros(())

    calculator = torchpme.P3MCalculator(
        TruncatedGaussian(smearing=LES["sigma"]), mesh_spacing=spacing, interpolation_nodes=nodes
    ).float()
    no_pairs, no_distances = torch.zeros(0, 2, dtype=torch.int64), torch.zeros(0)

    def gradient(q: torch.Tensor, r: torch.Tensor, cell: torch.Tensor) -> torch.Tensor:
        q, r = q.requires_grad_(), r.float().requires_grad_()
        potential = calculator(q[:, None], cell.float(), r, no_pairs, no_distances)[:, 0]
        energy = (q * potential).sum()
        return torch.autograd.grad(energy, [q, r])[1]

    return gradient


def exact(system: System) -> torch.Tensor:
    """Gradient in float64, without a mesh."""
    module = build_electrostatics(
        LES, True, system[2], torch.float64, num_atoms=1, options=EwaldOptions("direct")
    )
    return module(*system)[2]


def error_of(call: Call, system: System, expected: torch.Tensor) -> float:
    charges, positions, cell = system
    got = call(charges.float(), positions, cell).double()
    return float((got - expected).norm() / expected.norm())


def search_torch_pme(tolerance: str, number: int) -> dict[str, Any]:
    """Spacing [A] and nodes of the fastest torch-pme mesh that keeps the tolerance."""
    system = system_of(number)
    expected = exact(system)
    best = (math.inf, 0.0, 0)
    for nodes in (4, 5):  # the largest that it has
        for spacing in (1.4, 1.0, 0.7, 0.5, 0.35, 0.25, 0.18):
            call = torch_pme(spacing, nodes)
            if error_of(call, system, expected) <= float(tolerance):
                best = min(best, (time_of(call, system, 1.0)[0], spacing, nodes))
                break
    return {"spacing": best[1], "nodes": best[2]}


def time_of(call: Call, system: System, seconds: float = 3.0) -> tuple[float, int]:
    """Shortest time of a call [ms] and how many were made."""
    charges, positions, cell = system
    times: list[float] = []
    while len(times) < 4 or (sum(times) < seconds and len(times) < 200):
        q, r = charges.float().clone(), positions.clone()
        start = time.perf_counter()
        call(q, r, cell)
        times.append(time.perf_counter() - start)
        if times[0] > 20.0:
            break
    return 1e3 * min(times), len(times)


def run_case(name: str, number: int, mesh: list[str] | None) -> dict[str, Any]:
    """One method and size; in a process of its own."""
    system, small = system_of(number), water((2, 2, 2))
    settings: dict[str, Any] = {}
    if mesh:
        settings = {"spacing": float(mesh[0]), "nodes": int(mesh[1])}
        call = small_call = torch_pme(**settings)
    elif name == "autograd":
        call = small_call = autograd()
    else:
        call, small_call = ours(name, system), ours(name, small)
    for _ in range(3):
        small_call(small[0].float(), small[1], small[2])
    before = peak_memory()
    milliseconds, calls = time_of(call, system)
    memory = peak_memory() - before
    result = {"name": name, "atoms": number, "ms": milliseconds, "calls": calls} | settings
    result["peak_mb"] = memory
    if number <= 5184:
        result["force_error"] = error_of(call, system, exact(system))
    return result


def in_child(arguments: list[str], threads: int) -> dict[str, Any]:
    """What this script prints as a child process."""
    command = [sys.executable, __file__, "--threads", str(threads), *arguments]
    child = subprocess.run(command, capture_output=True, text=True, check=False)
    if child.returncode:
        return {"failed": (child.stderr.strip().splitlines() or ["killed"])[-1]}
    found: dict[str, Any] = json.loads(child.stdout.splitlines()[-1])
    return found


def table(rows: list[dict[str, Any]], names: list[str], sizes: list[int], key: str) -> None:
    print(f"\n{'atoms':>8}" + "".join(f"{name:>16}" for name in names))
    for number in sizes:
        found = {row["name"]: row for row in rows if row["atoms"] == number}
        cells = [found.get(name, {}).get(key) for name in names]
        texts = ["-" if value is None else f"{value:.3g}" for value in cells]
        print(f"{number:>8}" + "".join(f"{text:>16}" for text in texts))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="up to 1536 atoms")
    parser.add_argument("--case", nargs="+", metavar="NAME ATOMS [MESH]", help=argparse.SUPPRESS)
    parser.add_argument("--search", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.search:
        print(json.dumps(search_torch_pme(arguments.search[0], int(arguments.search[1]))))
        return
    if arguments.case:
        name, number, *mesh = arguments.case
        print(json.dumps(run_case(name, int(number), mesh)))
        return
    sizes = [n for n in REPEATS if n <= (1536 if arguments.quick else 10**6)]
    names = ["autograd", "torch-pme 1e-5", "torch-pme 1e-4", *OURS]
    rows = []
    for number in sizes:
        for name in names:
            method, _, tolerance = name.partition(" ")
            if number > LARGEST.get(method, 10**6):
                continue
            case = ["--case", name, str(number)]
            if method == "torch-pme":
                mesh = in_child(["--search", tolerance, str(number)], arguments.threads)
                case += [str(mesh["spacing"]), str(mesh["nodes"])]
            found = in_child(case, arguments.threads)
            rows.append({"name": name, "atoms": number} | found)
            print(rows[-1], flush=True)
    for key, title in (
        ("ms", "time [ms]"),
        ("peak_mb", "peak memory above the baseline [MB]"),
        ("force_error", "RMS force error / RMS force"),
    ):
        print(f"\n{title}", end="")
        table(rows, names, sizes, key)
    time_by = {(row["name"], row["atoms"]): row.get("ms") for row in rows}
    for number in sizes:
        for name in OURS:
            for peer in ("autograd", "torch-pme 1e-5", "torch-pme 1e-4"):
                mine, other = time_by.get((name, number)), time_by.get((peer, number))
                if mine and other and (peer == "autograd" or peer[-4:] == name[-4:]):
                    print(f"{number} atoms: {name} is {other / mine:.1f}x as fast as {peer}")
    first, last = time_by.get(("mesh 1e-5", 5184)), time_by.get(("mesh 1e-5", 98304))
    if first and last:
        exponent = math.log(last / first) / math.log(98304 / 5184)
        print(f"cost exponent of the mesh from 5184 to 98304 atoms: {exponent:.2f}")
    out = Path(__file__).parent / "results" / "ewald_speed.json"
    out.write_text(
        json.dumps({"environment": environment(arguments.threads), "rows": rows}, indent=1) + "\n"
    )
    print(f"wrote {out}")


if __name__ == "__main__":
    main()
