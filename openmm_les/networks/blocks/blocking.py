"""How large temporary tensors may be, and how work is cut into blocks for it."""

from typing import List

import torch
from torch import Tensor, nn

#: Elements of the largest temporary tensor on a CPU: it stays in the cache of one core.
CPU_ELEMENTS = 2**18
#: The same on a GPU, where launches cost more than memory traffic saves: 128 MB bound the memory of
#: large systems, and 1000 atoms of the largest published model are still one block.
GPU_ELEMENTS = 2**25
#: A second-level cache smaller than this holds no block that is worth its launches [bytes].
_SMALLEST_CACHE = 2**24


def gpu_elements(cache: int) -> int:
    """Elements of the largest temporary tensor on a GPU, a power of two.

    As float32 it takes a quarter of the second-level cache [bytes] at most, since what it is made
    from and what is made from it should stay there as well. A cache of 0 is unknown.
    """
    if cache < _SMALLEST_CACHE:
        return GPU_ELEMENTS
    return int(2 ** ((cache // 16).bit_length() - 1))


def fit_blocks(model: nn.Module, device: torch.device) -> None:
    """Let the parts of a model for a GPU, not yet scripted, work in blocks that suit it.

    The device is a CPU if the model will be moved to a GPU later.
    """
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(device if device.type == "cuda" else "cuda")
        cache = getattr(properties, "L2_cache_size", 0)
        limit_blocks(model, [CPU_ELEMENTS, gpu_elements(cache)])


def limit_blocks(model: nn.Module, limits: List[int]) -> None:
    """Let the parts of a model, not yet scripted, work in blocks of at most so many elements."""
    for part in model.modules():
        if isinstance(getattr(part, "limits", None), list):
            part.limits = limits  # type: ignore[assignment]


def block_limits() -> List[int]:
    """Limits on a CPU and on a GPU. Modules keep them, since scripts see no module constants."""
    return [CPU_ELEMENTS, GPU_ELEMENTS]


def block_size(tensor: Tensor, elements: int, limits: List[int]) -> int:
    """How many items to work on at a time, each with a temporary tensor of so many elements."""
    limit = limits[1] if tensor.is_cuda else limits[0]
    return max(1, limit // max(1, elements))


def prefix_view(buffer: Tensor, shape: List[int]) -> Tensor:
    """The beginning of a flat buffer, in some shape."""
    size = 1
    for length in shape:
        size *= length
    return buffer[:size].view(shape)
