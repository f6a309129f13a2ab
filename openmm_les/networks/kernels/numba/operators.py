"""Operators of torch that are written in Python, for scripted modules that run in this process."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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


@contextmanager
def stoppable() -> Iterator[None]:
    """Lets what a signal raises in an operator reach the user, from a module that is scripted.

    Python handles signals where its code runs, and TorchScript turns every exception there into a
    RuntimeError with its text.
    """
    try:
        yield
    except RuntimeError as error:
        raised = re.search(
            r"^RuntimeError: (KeyboardInterrupt|SystemExit): (\d*)", str(error), re.M
        )
        if raised is None:
            raise
        if raised[1] == "SystemExit":
            raise SystemExit(int(raised[2] or 0)) from None
        raise KeyboardInterrupt from None
