"""Kernels in a step: the operations that reach the device."""

from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

#: Memory without content.
_ALLOCATIONS = ("aten::empty", "aten::empty_like", "aten::empty_strided", "aten::new_empty")
#: Reading a value back, or nothing at all.
_OTHERS = ("aten::_local_scalar_dense", "aten::detach", "aten::lift_fresh", "aten::_unsafe_view")


class _Counter(TorchDispatchMode):
    """Counts operations below autograd that compute something: no views, no allocations."""

    def __init__(self) -> None:
        super().__init__()
        self.number = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, arguments: Any = (), keywords: Any = None
    ) -> Any:
        schema = function._schema
        returned = [result.alias_info for result in schema.returns]
        is_view = any(alias is not None and not alias.is_write for alias in returned)
        if not is_view and schema.name not in _ALLOCATIONS + _OTHERS:
            self.number += 1
        return function(*arguments, **(keywords or {}))


def count(step: Callable[[], None], device: str) -> int:
    """Kernels of a step: operations of ATen on a CPU, what the profiler sees of a GPU."""
    if not device.startswith("cuda"):
        with _Counter() as counter:
            step()
        return counter.number
    activities = [torch.profiler.ProfilerActivity.CUDA, torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities) as profile:
        step()
        torch.cuda.synchronize()
    on_device = [e for e in profile.events() if e.device_type == torch.autograd.DeviceType.CUDA]
    return sum(not e.name.startswith(("Memcpy", "Memset")) for e in on_device)
