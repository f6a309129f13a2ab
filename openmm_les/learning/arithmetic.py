"""Products of float32 are those of float32, whatever the training around them has chosen."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

P = ParamSpec("P")
R = TypeVar("R")


def without_autocast(function: Callable[P, R]) -> Callable[P, R]:
    """Calls it without autocast, under which products have 8 digits of binary precision.

    Autograd runs a backward pass with the autocast of whoever starts it.
    """

    @wraps(function)
    def run(*arguments: P.args, **options: P.kwargs) -> R:
        given: tuple[Any, ...] = (*arguments, *options.values())
        devices = {value.device.type for value in given if isinstance(value, Tensor)}
        with ExitStack() as stack:
            for device in devices:
                stack.enter_context(torch.autocast(device, enabled=False))
            return function(*arguments, **options)

    return run
