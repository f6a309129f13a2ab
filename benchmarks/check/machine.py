"""What machine this is, and how much of it there is to use."""

import os
import time
from collections.abc import Callable

import openmm
import torch

from check.stages import Visit

_SWITCHES = ("NVIDIA_TF32_OVERRIDE", "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE", "CUDA_LAUNCH_BLOCKING")


def versions_and_ceilings(visit: Visit) -> None:
    """Versions, what may change float32 products, bandwidth, products a second."""
    count = openmm.Platform.getNumPlatforms()
    with visit.piece("openmm") as found:
        found["version"] = openmm.version.version
        found["platforms"] = [openmm.Platform.getPlatform(i).getName() for i in range(count)]
        failures = openmm.Platform.getPluginLoadFailures()
        found["not_loaded"] = [text[:120] for text in failures if "CUDA" in text]
    with visit.piece("products") as found:
        found["float32_precision"] = torch.get_float32_matmul_precision()
        found["allow_tf32"] = torch.backends.cuda.matmul.allow_tf32
        found["environment"] = {name: os.environ.get(name) for name in _SWITCHES}
        found["ok"] = found["float32_precision"] == "highest" and not found["allow_tf32"]
    if visit.on_gpu:
        with visit.piece("device") as found:
            properties = torch.cuda.get_device_properties(0)
            for name in ("name", "total_memory", "multi_processor_count", "L2_cache_size"):
                found[name] = getattr(properties, name)
    size = 2**28 if visit.on_gpu else 2**24
    with visit.piece("copy") as found:
        source = torch.ones(size, device=visit.device)
        target = torch.empty_like(source)
        seconds = best_time(visit, lambda: target.copy_(source))
        found["GB_per_s"] = 2 * source.nbytes / seconds / 1e9
    n = 4096 if visit.on_gpu else 512
    for dtype in (torch.float32, torch.float64):
        with visit.piece(f"product_{dtype}".replace("torch.", "")) as found:
            a = torch.randn(n, n, dtype=dtype, device=visit.device)
            found["TFLOP_per_s"] = 2 * n**3 / best_time(visit, lambda a=a: a @ a) / 1e12


def best_time(visit: Visit, call: Callable[[], object], repeats: int = 5) -> float:
    """The shortest time of a call [s], by events on a GPU."""
    call()
    times = []
    for _ in range(repeats):
        if visit.on_gpu:
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            call()
            end.record()
            torch.cuda.synchronize()
            times.append(1e-3 * start.elapsed_time(end))
        else:
            begin = time.perf_counter()
            call()
            times.append(time.perf_counter() - begin)
    return min(times)
