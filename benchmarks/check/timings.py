"""How long a step takes, what it launches, and what Triton's products are worth."""

import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from check.carried import DEMO, OFF, SMALL_TIMED, TIMED, Structure, system_model
from check.machine import best_time
from check.stages import Visit

_KERNELS = 8


def steps(visit: Visit) -> None:
    """An evaluation with and without a graph, its kernels, and openmm-ml on the same weights."""
    sizes = TIMED if visit.on_gpu else SMALL_TIMED
    name = OFF if OFF in visit.carried.models else DEMO
    for size in (size for size in sizes if size in visit.carried.structures):
        structure = visit.carried.structures[size]
        for graphs in (True, False) if visit.on_gpu else (False,):
            with visit.piece(f"{name}/{size}/{'graph' if graphs else 'plain'}") as found:
                artifact = visit.carried.artifact(name)
                model = system_model(artifact, structure, device=visit.device, cuda_graphs=graphs)
                for _ in range(4):
                    model.evaluate(structure.positions)
                found["ms"] = 1e3 * _fastest(lambda: model.evaluate(structure.positions))  # noqa: B023
                if visit.on_gpu:
                    found["peak_MB"] = torch.cuda.max_memory_allocated() / 2**20
                if not graphs:
                    found |= _kernels(visit, model, structure)
        if size <= 1100:
            with visit.piece(f"{name}/{size}/openmm-ml") as found:
                found |= _openmm_ml(visit, name, structure)


def _fastest(call: Any, repeats: int = 7) -> float:
    """A call returns numpy arrays: nothing is left to wait for."""
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        call()
        times.append(time.perf_counter() - begin)
    return min(times)


def _kernels(visit: Visit, model: Any, structure: Structure) -> dict[str, Any]:
    """What runs on the device in an evaluation: how many, and the longest ones."""
    activity = torch.profiler.ProfilerActivity
    with torch.profiler.profile(activities=[activity.CPU, activity.CUDA]) as profile:
        model.evaluate(structure.positions)
    if not visit.on_gpu:
        events = [e for e in profile.key_averages() if e.self_cpu_time_total > 0]
        longest = sorted(events, key=lambda e: -e.self_cpu_time_total)[:_KERNELS]
        table = [[e.key[:60], e.count, e.self_cpu_time_total] for e in longest]
        return {"operations": sum(e.count for e in events), "longest": table}
    on_device = torch.autograd.DeviceType.CUDA
    events = [e for e in profile.key_averages() if e.device_type == on_device]
    longest = sorted(events, key=lambda e: -e.self_device_time_total)[:_KERNELS]
    return {
        "launches": sum(e.count for e in events),
        "device_ms": 1e-3 * sum(e.self_device_time_total for e in events),
        "longest_us": [[e.key[:80], e.count, e.self_device_time_total] for e in longest],
    }


def _openmm_ml(visit: Visit, name: str, structure: Structure) -> dict[str, Any]:
    """openmm-ml's MACE potential with the same architecture and other random weights."""
    missing = [package for package in ("mace", "ase") if find_spec(package) is None]
    if missing or name != OFF:
        return {"not_measured": f"needs mace-torch and ase, and the model {OFF}"}
    import tempfile

    from ase import Atoms
    from peers import register_stand_in
    from step.models import random_maceles_off
    from step.rows import rows
    from step.steps import Case
    from step.systems import save

    torch.set_grad_enabled(True)
    try:
        with tempfile.TemporaryDirectory() as temporary:
            peer, atoms_file = Path(temporary) / "peer.model", Path(temporary) / "atoms.npz"
            register_stand_in()
            torch.save(random_maceles_off(), peer)
            atoms = Atoms(structure.numbers, structure.positions)
            if structure.cell is not None:
                atoms = Atoms(structure.numbers, structure.positions, cell=structure.cell, pbc=True)
            save(atoms, atoms_file)
            case = Case("openmm-ml", "", str(peer), str(atoms_file), visit.device, 1)
            dynamics = rows()["openmm-ml"].build(case)
            dynamics.step(3)
            return {"ms": 1e3 * _fastest(lambda: dynamics.step(1), 5)}
    finally:
        torch.set_grad_enabled(False)


def triton_products(visit: Visit) -> None:
    """Whether Triton works here, and how exact and fast its float32 products are.

    The package has no Triton kernels yet; this is what they would be built from.
    """
    if not visit.on_gpu or find_spec("triton") is None:
        visit.say("triton", {"not_measured": "needs a GPU and triton"})
        return
    from check.triton_kernels import product

    n = 1024
    a, b = (torch.randn(n, n, device=visit.device) for _ in range(2))
    exact = a.double() @ b.double()
    for precision in ("ieee", "tf32x3", "tf32"):
        with visit.piece(precision) as found:
            result = product(a, b, precision)
            found["relative_error"] = float((result - exact).norm() / exact.norm())
            seconds = best_time(visit, lambda p=precision: product(a, b, p))
            found["TFLOP_per_s"] = 2 * n**3 / seconds / 1e12
            found["ok"] = found["relative_error"] < (1e-2 if precision == "tf32" else 1e-5)
