"""What the LES energy costs in a training step, by closed forms and by autograd over the same sum.

    python benchmarks/learning_sum.py [--threads 1]

A step is the energy of four structures of 192 water molecules, or of sixteen small clusters, their
forces and dE/dq with a graph, and the backward pass of a loss of these: what LES adds to a step of
training on forces. In float32, with charges alone or with dipoles and quadrupoles (uQ). Beside
`openmm_les.learning.LES` there is autograd over the sum as it is written down (one half space of
reciprocal vectors; pairs once), and over the factorised structure factors that LES computes. Every
case runs in a process of its own, so that its peak memory can be read; times are of the processor,
so that other programs disturb them little. Prints a table and writes
``benchmarks/results/learning_sum.json``.
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
from ewald_systems import water
from torch import Tensor

from openmm_les.electrostatics.cell import inverse_and_volume, largest_indices
from openmm_les.electrostatics.kernel import ReciprocalKernel
from openmm_les.electrostatics.multipoles.factors import MultipoleFactors
from openmm_les.learning import LES

SIGMA, DL, PREFACTOR = 1.0, 2.0, 90.4756
#: Molecules along each axis, structures, whether periodic, moments.
SYSTEMS: dict[str, tuple[tuple[int, int, int], int, bool, bool]] = {
    "warm": ((2, 1, 1), 2, True, False),
    "warm open": ((2, 1, 1), 2, False, False),
    "4 x 192 waters": ((6, 4, 8), 4, True, False),
    "4 x 192 waters, uQ": ((6, 4, 8), 4, True, True),
    "4 x 192 waters, open": ((6, 4, 8), 4, False, False),
    "16 x 8 waters, open": ((2, 2, 2), 16, False, False),
}
METHODS = ("LES", "autograd", "autograd, factorised")
KERNEL = ReciprocalKernel(sigma=SIGMA, dl=DL, prefactor=PREFACTOR, remove_self_interaction=False)
Batch = dict[str, Tensor]


def batch_of(system: str) -> Batch:
    repeats, number, periodic, moments = SYSTEMS[system]
    parts = [water(repeats, seed) for seed in range(number)]
    n = len(parts[0][0])
    found = {
        "charges": torch.cat([q for q, _, _ in parts]),
        "positions": torch.cat([r for _, r, _ in parts]),
        "batch": torch.arange(number).repeat_interleave(n),
        "cell": torch.stack([cell * periodic for _, _, cell in parts]),
    }
    if moments:
        random = torch.Generator().manual_seed(0)
        tensors = 0.1 * torch.randn(number * n, 3, 3, generator=random)
        tensors = tensors + tensors.transpose(1, 2)
        trace = tensors.diagonal(0, 1, 2).sum(1) / 3.0
        found["quadrupoles"] = tensors - torch.diag_embed(trace[:, None].expand(-1, 3))
        found["dipoles"] = 0.1 * torch.randn(number * n, 3, generator=random)
    return {name: x if name == "batch" else x.float() for name, x in found.items()}


def by_les(batch: Batch) -> Tensor:
    return LES(sigma=SIGMA, dl=DL, prefactor=PREFACTOR, remove_self_interaction=False)(**batch)


def half_space(cell: Tensor) -> tuple[MultipoleFactors, Tensor, Tensor, Tensor]:
    limits = [int(x) for x in largest_indices(cell, KERNEL.k_max).tolist()]
    factors = MultipoleFactors(limits, dtype=torch.float32)
    inverse, volume = inverse_and_volume(cell)
    k, weights, _ = KERNEL(factors.grid, inverse, volume)
    return factors, inverse, k, weights * factors.multiplicity


def structures_of(batch: Batch) -> list[Batch]:
    each = []
    for i, cell in enumerate(batch["cell"]):
        own = batch["batch"] == i
        each.append({name: x[own] for name, x in batch.items() if name != "cell"} | {"cell": cell})
    return each


def by_autograd(batch: Batch) -> Tensor:
    """Sums over vectors and sites, or over pairs, as they are written down."""
    if not bool(batch["cell"].any()):
        return pairs_by_autograd(batch)
    energies = []
    for own in structures_of(batch):
        _, _, k, weights = half_space(own["cell"])
        k, weights = k[weights > 0].float(), weights[weights > 0].float()
        phases = own["positions"] @ k.t()
        cos, sin = torch.cos(phases), torch.sin(phases)
        if "dipoles" in own:
            real = own["charges"][:, None] - 0.5 * torch.einsum(
                "ka,nab,kb->nk", k, own["quadrupoles"], k
            )
            imaginary = own["dipoles"] @ k.t()
            first = (real * cos - imaginary * sin).sum(0)
            second = (real * sin + imaginary * cos).sum(0)
        else:
            first, second = own["charges"] @ cos, own["charges"] @ sin
        energies.append((weights * (first**2 + second**2)).sum())
    return torch.stack(energies)


def pairs_by_autograd(batch: Batch) -> Tensor:
    owner, q, r = batch["batch"], batch["charges"], batch["positions"]
    i, j = torch.nonzero(torch.triu(owner[:, None] == owner[None], 1), as_tuple=True)
    distance = (r[i] - r[j]).norm(dim=1)
    screened = torch.erf(distance / (SIGMA * math.sqrt(2))) / distance
    pairs = PREFACTOR / (2 * math.pi) * q[i] * q[j] * screened
    own = PREFACTOR / (SIGMA * (2 * math.pi) ** 1.5) * q**2
    energies = q.new_zeros(len(batch["cell"])).index_add(0, owner[i], pairs)
    return energies.index_add(0, owner, own)


def by_factors(batch: Batch) -> Tensor:
    """Charges alone."""
    energies = []
    for own in structures_of(batch):
        factors, inverse, _, weights = half_space(own["cell"])
        places = own["positions"].double() @ inverse
        sums = factors.moment_sums(own["charges"][:, None], places, 0)
        energies.append((weights.float() * sums.square().sum(0)).sum())
    return torch.stack(energies)


def step(energy_of: Callable[[Batch], Tensor], batch: Batch) -> list[Tensor]:
    """Energies, forces and dE/dq, and the gradients of a loss of them."""
    learnt = [name for name in batch if name not in ("batch", "cell")]
    leaves = [batch[name].detach().requires_grad_() for name in learnt]
    energies = energy_of(batch | dict(zip(learnt, leaves, strict=True)))
    first = torch.autograd.grad(energies.sum(), leaves, create_graph=True)
    loss = energies.square().sum() + sum(x.square().sum() for x in first)
    return [x.detach() for x in (energies, *first, *torch.autograd.grad(loss, leaves))]


def run_case(method: str, system: str) -> dict[str, Any]:
    """In a process of its own."""
    energy_of = {"LES": by_les, "autograd": by_autograd, "autograd, factorised": by_factors}[method]
    for warm in ("warm", "warm open"):
        if "factorised" not in method or warm == "warm":
            step(energy_of, batch_of(warm))
    batch = batch_of(system)
    before, times = peak_memory(), []
    while len(times) < 3 or (sum(times) < 2.0 and len(times) < 50):
        start = time.process_time()
        found = step(energy_of, batch)
        times.append(time.process_time() - start)
    peak = peak_memory() - before
    wrong = max(
        float((x - y).abs().max() / y.abs().max())
        for x, y in zip(found, step(by_les, batch), strict=True)
    )
    return {
        "system": system,
        "method": method,
        "ms": 1e3 * min(times),
        "calls": len(times),
        "peak_mb": peak,
        "largest_difference": wrong,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--case", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.case:
        print(json.dumps(run_case(*arguments.case)))
        return
    rows = []
    for system, (_, _, periodic, moments) in SYSTEMS.items():
        if system.startswith("warm"):
            continue
        for method in METHODS if periodic and not moments else METHODS[:2]:
            case = [sys.executable, __file__, "--threads", str(arguments.threads)]
            case += ["--case", method, system]
            child = subprocess.run(case, capture_output=True, text=True, check=True)
            rows.append(json.loads(child.stdout.splitlines()[-1]))
            row, ours = rows[-1], next(x for x in rows if x["system"] == system)
            row["time_over_les"] = row["ms"] / ours["ms"]
            row["memory_over_les"] = row["peak_mb"] / max(ours["peak_mb"], 1.0)
            print(
                f"{system:24}{method:24}{row['ms']:8.1f} ms ({row['time_over_les']:4.1f} x)"
                f"{row['peak_mb']:8.0f} MB ({row['memory_over_les']:4.1f} x)"
                f"   differs by {row['largest_difference']:.0e}",
                flush=True,
            )
    out = Path(__file__).parent / "results" / "learning_sum.json"
    content = {"environment": environment(arguments.threads), "rows": rows}
    out.write_text(json.dumps(content, indent=1) + "\n")
    print(f"wrote {out}")


if __name__ == "__main__":
    main()
