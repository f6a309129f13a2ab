"""What a measurement was made on: hardware, versions, settings; no names of users or hosts."""

from __future__ import annotations

import contextlib
import os
import platform
import re
from pathlib import Path
from typing import Any

import openmm
import torch

from openmm_les import __version__
from openmm_les.evaluation.device import cpu_name
from openmm_les.evaluation.engines.arithmetic import reduced_precision
from openmm_les.versions import version_of

_PACKAGES = ("torch", "triton", "numba", "vesin", "openmm", "openmmml", "openmmtorch", "numpy")
#: Variables that change how fast or how exact libraries compute.
_VARIABLES = (
    *("CUDA_LAUNCH_BLOCKING", "NVIDIA_TF32_OVERRIDE", "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE"),
    *("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "OPENMM_CPU_THREADS", "PYTORCH_TENSOREXPR"),
)
_DRIVER = Path("/proc/driver/nvidia/version")


def describe() -> dict[str, Any]:
    """This machine and what is installed on it, as plain values."""
    number = openmm.Platform.getNumPlatforms()
    return {
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {"openmm-les": __version__, **{n: version_of(n) for n in _PACKAGES}},
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "load": os.getloadavg()[0],
        "gpus": gpus(),
        "driver": _driver(),
        "cuda": torch.version.cuda,
        "openmm_platforms": [openmm.Platform.getPlatform(i).getName() for i in range(number)],
        "flags": {
            "in_place_of_float32": reduced_precision() or None,
            **{name: os.environ.get(name) for name in _VARIABLES},
        },
    }


def gpus() -> list[dict[str, Any]]:
    """The GPUs that torch sees."""
    number = torch.cuda.device_count() if torch.cuda.is_available() else 0
    found = []
    for properties in map(torch.cuda.get_device_properties, range(number)):
        wanted = ("name", "total_memory", "multi_processor_count", "L2_cache_size")
        values = {name: getattr(properties, name, None) for name in wanted}
        found.append({**values, "capability": f"{properties.major}.{properties.minor}"})
    return found


def memory(name: str) -> float:
    """A line of the status of this process, such as ``VmHWM``, its largest memory [MB].

    0 on systems other than Linux.
    """
    with contextlib.suppress(FileNotFoundError):
        lines = Path("/proc/self/status").read_text().splitlines()
        status = dict(line.split(":", 1) for line in lines)
        return float(status[name].split()[0]) / 1024
    return 0.0


def forget_peak() -> None:
    """Let the largest memory of this process start again from what it has now."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _driver() -> str | None:
    """Version of the NVIDIA driver."""
    with contextlib.suppress(OSError):
        if found := re.search(r"\d+\.\d+(\.\d+)?", _DRIVER.read_text()):
            return found.group()
    return None
