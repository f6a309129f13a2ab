"""Triton kernels without a GPU: run in its interpreter, and compiled for GPUs that are not there.

Triton decides when a kernel is defined whether it will be interpreted, so that its interpreter
needs a process of its own.
"""

import contextlib
import io
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

#: Compute capabilities that are compiled for: A100, RTX 4090, H100 and H200, RTX 5090.
TARGETS = [80, 89, 90, 120]
#: Shared memory that every one of them has for a program [bytes].
SHARED_MEMORY = 99 * 1024


def run_interpreted(*files: Path) -> None:
    """Run the tests of some files in Triton's interpreter."""
    pytest.importorskip("triton", reason="torch for a CPU comes without triton")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-x",
        "-p",
        "no:cacheprovider",
        *map(str, files),
    ]
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def patch_interpreter() -> None:
    """Let loops of interpreted kernels end at an argument.

    Numbers have the shape [1] there, which numpy takes for no index since 2.4.
    """
    import triton.runtime.interpreter as interpreter

    patch_tensor = interpreter._patch_lang_tensor

    def patch_index_too(tensor):
        patch_tensor(tensor)
        tensor.__index__ = lambda self: int(self.handle.data.item())

    interpreter._patch_lang_tensor = patch_index_too


def poison_memory() -> None:
    """Let fresh memory of torch be NaN, or the largest number, so that a slot left out shows."""
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    assert torch.empty(3).isnan().all()


@dataclass(frozen=True)
class Compiled:
    """What a GPU needs to run a kernel."""

    name: str
    registers: int  #: of a thread
    spilled: int  #: bytes that a thread has in memory instead of registers
    shared: int  #: shared memory of a program [bytes]
    ptx: str = field(repr=False)  #: its code


@contextlib.contextmanager
def compiled_for(capability: int) -> Iterator[list[Compiled]]:
    """Kernels that are launched inside are compiled for a GPU, and never run.

    What they would have written stays undefined. The list has them all in the end.
    """
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.runtime.jit import JITFunction

    driver = SimpleNamespace(
        get_current_target=lambda: GPUTarget("cuda", capability, 32),
        get_current_device=lambda: capability,
        get_current_stream=lambda device: 0,
    )
    kernels: list[Compiled] = []
    launched: list[JITFunction] = []
    run = JITFunction.run

    def compile_only(self, *args, grid, warmup, **kwargs):
        log = io.StringIO()
        with contextlib.redirect_stdout(log):
            kernel = run(self, *args, grid=grid, warmup=True, **kwargs)
        launched.append(self)
        if said := log.getvalue():  # nothing where a kernel is launched again
            registers = int(re.search(r"Used (\d+) registers", said).group(1))
            spilled = int(re.search(r"(\d+) bytes spill stores", said).group(1))
            name, shared = self.fn.__name__, kernel.metadata.shared
            kernels.append(Compiled(name, registers, spilled, shared, kernel.asm["ptx"]))
        return kernel

    with pytest.MonkeyPatch.context() as patch, triton.knobs.nvidia.scope():
        triton.knobs.nvidia.dump_ptxas_log = True
        patch.setattr(triton.knobs.compilation, "always_compile", True)
        patch.setattr(triton.runtime.driver, "_active", driver)
        patch.setattr(JITFunction, "run", compile_only)
        yield kernels
    for kernel in launched:
        kernel.device_caches.pop(capability, None)
