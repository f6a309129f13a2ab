"""Where and with what a benchmark ran, for its JSON file."""

import platform
import time
from typing import Any

from openmm_les.benchmark.machine import memory
from openmm_les.evaluation.device import cpu_name
from openmm_les.versions import version_of

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
    return {
        "date": time.strftime("%Y-%m-%d"),
        "cpu": cpu_name(),
        "gpu": _gpu(),
        "threads": threads,
        "python": platform.python_version(),
        "versions": {name: version_of(name) for name in PACKAGES},
    }


def peak_memory() -> float:
    """Largest resident memory of this process so far [MB] (Linux)."""
    return memory("VmHWM")


def _gpu() -> str | None:
    """Name of the GPU that torch sees, and the CUDA that torch was built with."""
    import torch

    if not torch.cuda.is_available():
        return None
    return f"{torch.cuda.get_device_name()}, CUDA {torch.version.cuda}"
