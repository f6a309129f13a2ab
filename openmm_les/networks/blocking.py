"""How large temporary tensors may be, and how work is cut into blocks for it."""

from typing import List

import torch

#: Elements of the largest temporary tensor on a CPU: it stays in the cache of one core.
CPU_ELEMENTS = 2**18
#: The same on a GPU, where launches cost more than memory traffic saves: 128 MB bound the memory of
#: large systems, and 1000 atoms of the largest published model are still one block.
GPU_ELEMENTS = 2**25


def block_limits() -> List[int]:
    """Limits on a CPU and on a GPU. Modules keep them, since scripts see no module constants."""
    return [CPU_ELEMENTS, GPU_ELEMENTS]


def block_size(tensor: torch.Tensor, elements: int, limits: List[int]) -> int:
    """How many items to work on at a time.

    Args:
        tensor: says by its device where the work is done.
        elements: those of the largest temporary tensor for each item.
        limits: see `block_limits`.
    """
    limit = limits[1] if tensor.is_cuda else limits[0]
    return max(1, limit // max(1, elements))


def piece(buffer: torch.Tensor, shape: List[int]) -> torch.Tensor:
    """The beginning of a flat buffer, in some shape."""
    size = 1
    for length in shape:
        size *= length
    return buffer[:size].view(shape)
