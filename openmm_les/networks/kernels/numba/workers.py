"""Threads that share the pairs of a loop, as many as torch may use."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import torch

#: Elements of work below which another thread costs more than it saves.
_FEWEST = 2**19


def shares(begin: Any, elements: int) -> list[slice]:
    """How many threads, and from where to where in a list of pairs each works.

    Args:
        begin: where the pairs of every atom begin, and the end, shape (N + 1,).
        elements: of the largest tensor of a pair.
    """
    pairs = int(begin[-1])
    parts = max(1, min(torch.get_num_threads(), pairs * elements // _FEWEST))
    # A thread has all pairs of its atoms.
    ends = begin[np.searchsorted(begin, np.arange(parts + 1) * pairs // parts)].tolist()
    return [slice(first, last) for first, last in pairwise(ends)]


def run(work: Callable[[int, slice], None], parts: Sequence[slice]) -> None:
    """Call `work` with the number and the pairs of each part."""
    if len(parts) == 1:
        work(0, parts[0])
        return
    others = [_pool(len(parts) - 1).submit(_alone, work, t, parts[t]) for t in range(1, len(parts))]
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        work(0, parts[0])
    finally:
        torch.set_num_threads(before)
        for other in others:
            other.result()


def _alone(work: Callable[[int, slice], None], number: int, part: slice) -> None:
    with torch.inference_mode():  # a setting of the thread
        work(number, part)


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    """Threads in which torch uses no others."""
    before = torch.get_num_threads()
    ready = threading.Barrier(threads + 1)
    pool = ThreadPoolExecutor(threads, "openmm-les", torch.set_num_threads, (1,))
    for _ in range(threads):
        pool.submit(ready.wait)
    ready.wait()
    torch.set_num_threads(before)  # threads that start later take it from the last one that set it
    return pool
