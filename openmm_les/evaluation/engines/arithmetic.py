"""Settings of torch that change what modules compute, held fixed while ours run.

They belong to the process, and other code sets them for its own purposes:

- TF32 or bfloat16 products in place of float32 ones: faster training, forces that are wrong by
  0.3 meV/A and conserve no energy.
- TorchScript's profiling executor: from the second call on it compiles groups of operations for a
  GPU, where `round` rounds halves away from zero and derivatives have been wrong (openmm-ml, issue
  50). Without it the first two calls are faster by a second, and later ones slower by 0 to 10 %.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterator
from typing import Any

import torch

logger = logging.getLogger(__name__)

#: Torch's names of true float32: set explicitly, or by default.
_TRUE = ("ieee", "none")


@contextlib.contextmanager
def as_written() -> Iterator[None]:
    """Run modules in true float32 and operation by operation; settings come back afterwards."""
    # A setting of the thread; torch's own context manager for it has no types.
    before = torch._C._get_graph_executor_optimize()
    torch._C._set_graph_executor_optimize(False)
    try:
        with _float32:
            yield
    finally:
        torch._C._set_graph_executor_optimize(before)


def reduced_precision() -> str:
    """What torch would use in place of float32 products, such as ``'tf32'``; empty for nothing."""
    return next(
        (part.fp32_precision for part in _products() if part.fp32_precision not in _TRUE), ""
    )


def forbid_fusion() -> None:
    """Let TorchScript fuse nothing in this process, also in the threads of OpenMM."""
    if torch._C._jit_texpr_fuser_enabled():
        torch._C._jit_set_texpr_fuser_enabled(False)
        logger.info("a TorchForce on a GPU: TorchScript fuses no operations in this process")


class _Float32:
    """True float32 while any thread is inside; the last one restores the settings."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._legacy: str | None = None
        self._before: list[str] | None = None

    def __enter__(self) -> None:
        with self._lock:
            self._inside += 1
            if reduced_precision():
                if self._before is None:
                    self._before = [part.fp32_precision for part in _products()]
                    self._legacy = _legacy_precision()
                torch.set_float32_matmul_precision("highest")  # all of `_products`

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0 and self._before is not None:
                if self._legacy is not None:
                    torch.set_float32_matmul_precision(self._legacy)
                for part, precision in zip(_products(), self._before, strict=True):
                    if part.fp32_precision != precision:
                        part.fp32_precision = precision
                self._before = None


def _products() -> tuple[Any, Any]:
    return torch.backends.cuda.matmul, torch.backends.mkldnn.matmul  # type: ignore[attr-defined, unused-ignore]


def _legacy_precision() -> str | None:
    """The older setting; torch raises where the newer ones contradict it."""
    try:
        return torch.get_float32_matmul_precision()
    except RuntimeError:
        return None


_float32 = _Float32()
