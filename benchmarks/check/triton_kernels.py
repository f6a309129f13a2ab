"""A matrix product in Triton, to see what its precisions are worth on a device."""

import torch
import triton
import triton.language as tl

_BLOCK = 64


@triton.jit
def _product(a, b, c, n, precision: tl.constexpr, block: tl.constexpr):  # type: ignore[no-untyped-def]
    rows = tl.program_id(0) * block + tl.arange(0, block)
    columns = tl.program_id(1) * block + tl.arange(0, block)
    total = tl.zeros((block, block), dtype=tl.float32)
    for start in range(0, n, 32):
        inner = start + tl.arange(0, 32)
        left = tl.load(a + rows[:, None] * n + inner[None, :])
        right = tl.load(b + inner[:, None] * n + columns[None, :])
        total += tl.dot(left, right, input_precision=precision)
    tl.store(c + rows[:, None] * n + columns[None, :], total)


def product(a: torch.Tensor, b: torch.Tensor, precision: str) -> torch.Tensor:
    """a @ b of square float32 matrices whose size is a multiple of the block's."""
    n = len(a)
    c = torch.empty_like(a)
    _product[(n // _BLOCK, n // _BLOCK)](a, b, c, n, precision, _BLOCK)
    return c
