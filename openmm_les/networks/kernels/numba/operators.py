"""Operators of torch that are written in Python, for scripted modules that run in this process."""

from collections.abc import Callable
from typing import Any, TypeVar

import torch

Function = TypeVar("Function", bound=Callable[..., Any])

_library: Any = torch.library.Library("openmm_les_loops", "FRAGMENT")  # type: ignore[no-untyped-call, unused-ignore]


def operator(signature: str) -> Callable[[Function], Function]:
    """Makes a function of tensors on a CPU ``torch.ops.openmm_les_loops.NAME``.

    `signature` is ``NAME(arguments) -> results`` in torch's notation.
    """

    def register(function: Function) -> Function:
        _library.define(signature)
        _library.impl(signature.partition("(")[0], function, "CPU")
        return function

    return register
