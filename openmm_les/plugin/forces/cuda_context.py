"""Which CUDA context is current while torch runs inside a call from OpenMM.

OpenMM's CUDA platform makes contexts of its own and relies on a stack of current ones, in each of
its threads. Torch uses the primary context of a device. It makes that current only when it changes
the device, so it may run in OpenMM's context ("invalid resource handle"), or leave its own behind,
in which OpenMM's next kernel fails (CUDA_ERROR_INVALID_HANDLE).
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
from collections.abc import Iterator

from openmm_les.errors import SimulationError

_LIBRARY = "libcuda.so.1"


@contextlib.contextmanager
def torch_context(device: str | None) -> Iterator[None]:
    """Let torch run in its own CUDA context, and afterwards restore the one that was current.

    Does nothing where torch does not run on a CUDA device. ``'cuda'`` means the first one, and so
    does None where torch has one.
    """
    index = _index(device)
    if index is None:
        yield
        return
    driver = _driver()
    previous = ctypes.c_void_p()
    _check(driver.cuCtxGetCurrent(ctypes.byref(previous)), "cuCtxGetCurrent")
    try:
        # Both replace the top of the stack and leave alone what is under it.
        _check(driver.cuCtxSetCurrent(_primary_context(index)), "cuCtxSetCurrent")
        yield
    finally:
        driver.cuCtxSetCurrent(previous)


@functools.cache
def _index(device: str | None) -> int | None:
    """Number of the CUDA device, None if it is not one or not one of this machine."""
    import torch

    # A ROCm build of torch also says "cuda", but has no such driver.
    if torch.version.cuda is None or not torch.cuda.is_available():
        return None
    name, _, number = (device or "cuda").partition(":")
    if name != "cuda" or not (number or "0").isdecimal():
        return None
    index = int(number or "0")
    return index if index < torch.cuda.device_count() else None


@functools.cache
def _driver() -> ctypes.CDLL:
    driver = ctypes.CDLL(_LIBRARY)
    _check(driver.cuInit(0), "cuInit")
    return driver


@functools.cache
def _primary_context(index: int) -> ctypes.c_void_p:
    """The context of torch on a device; never released, since torch does not either."""
    device, context = ctypes.c_int(), ctypes.c_void_p()
    _check(_driver().cuDeviceGet(ctypes.byref(device), index), "cuDeviceGet")
    result = _driver().cuDevicePrimaryCtxRetain(ctypes.byref(context), device)
    _check(result, "cuDevicePrimaryCtxRetain")
    return context


def _check(result: int, function: str) -> None:
    if result != 0:
        raise SimulationError(f"CUDA driver: {function} failed with error {result}")
