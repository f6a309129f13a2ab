"""The torch device on which a model runs, and the name of the CPU."""

from __future__ import annotations

import contextlib
import functools
import platform
from pathlib import Path

from openmm_les.errors import InputError


def find_device(requested: str | None) -> str:
    """Name of a torch device of this machine; None takes a GPU where torch has one."""
    import torch

    if requested is None:
        requested = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        # With its number: another thread may have another current device.
        return str(torch.empty(0, device=requested).device)
    except (RuntimeError, AssertionError) as error:  # torch without CUDA asserts
        raise InputError(
            f"device: expected a torch device of this machine, got {requested!r} "
            f"({str(error).splitlines()[0]}); leave it out to choose one automatically"
        ) from error


@functools.cache
def cpu_name() -> str:
    """The model of the CPU."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
