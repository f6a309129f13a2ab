"""Where and with what a benchmark ran, for its JSON file."""

import platform
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = (
    "torch",
    "openmm",
    "openmmml",
    "mace-torch",
    "e3nn",
    "torch-pme",
    "matscipy",
    "vesin-torch",
    "vesin",
    "numba",
    "openmm-les",
    "openmmtorch",
    "ase",
    "cuequivariance-torch",
    "openequivariance",
    "dask",
    "distributed",
)


def environment(threads: int) -> dict[str, Any]:
    """Date, hardware and versions; a package that is not installed is None."""
    cpu = platform.processor() or platform.machine()
    information = Path("/proc/cpuinfo")
    if information.exists():
        lines = information.read_text().splitlines()
        models = [line for line in lines if line.startswith("model name")]
        cpu = models[0].split(":", 1)[1].strip() if models else cpu
    return {
        "date": time.strftime("%Y-%m-%d"),
        "cpu": cpu,
        "gpu": _gpu(),
        "threads": threads,
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in PACKAGES},
    }


def peak_memory() -> float:
    """Largest resident memory of this process so far [MB] (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    status = dict(line.split(":", 1) for line in lines)
    return float(status["VmHWM"].split()[0]) / 1024


def _gpu() -> str | None:
    """Name of the GPU that torch sees, and the CUDA that torch was built with."""
    import torch

    if not torch.cuda.is_available():
        return None
    return f"{torch.cuda.get_device_name()}, CUDA {torch.version.cuda}"


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
