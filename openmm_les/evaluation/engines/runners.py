"""What runs a module other than TorchScript: torch.compile, or a function by its name."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor

logger = logging.getLogger(__name__)

#: From positions, cell and extra inputs to what `pack` takes.
Module: TypeAlias = Callable[..., tuple[Tensor, ...]]

#: Pair slots beyond which nothing is compiled for a CPU: hundreds of blocks would take an hour.
_MOST_PAIRS = 2**14


def run_by(runner: str, evaluate: Module) -> Module:
    """What computes the same as a method of a module that is not scripted.

    Args:
        runner: ``'compile'``, or ``'package.module:function'`` for a function from `evaluate` to
            what this returns.
    """
    if runner == "compile":
        logger.info("compiling the model; this takes a while")
        compiled: Module = torch.compile(evaluate, fullgraph=True, dynamic=False)
        return compiled
    module, _, function = runner.partition(":")
    made: Module = getattr(importlib.import_module(module), function)(evaluate)
    return made


def can_compile(device: torch.device, pairs: int) -> bool:
    """Whether a system with so many pair slots is compiled in acceptable time; warns if not."""
    if device.type != "cpu" or pairs <= _MOST_PAIRS:
        return True
    logger.warning(
        "engine='compile' is for at most %d pairs of atoms and neighbours on a CPU, this system "
        "has %d; using TorchScript",
        _MOST_PAIRS,
        pairs,
    )
    return False
