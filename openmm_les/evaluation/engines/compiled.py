"""The engines that run the module of a system: TorchScript, or code made by torch.compile."""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import Tensor

from openmm_les.evaluation.engines.evaluator import Module
from openmm_les.evaluation.engines.packing import compare, pack

logger = logging.getLogger(__name__)

#: Pair slots beyond which nothing is compiled for a CPU: hundreds of blocks would take an hour.
_MOST_PAIRS = 2**14


def with_engine(
    engine: str, model: Any, scripted: Any, device: torch.device, num_pairs: int
) -> Module:
    """What evaluates `model`, or the same scripted, by the option `engine`."""
    evaluate: Module = scripted.evaluate
    if engine != "compile":
        return evaluate
    if device.type == "cpu" and num_pairs > _MOST_PAIRS:
        logger.warning(
            "engine='compile' is for at most %d pairs of atoms and neighbours on a CPU, this "
            "system has %d; using TorchScript",
            _MOST_PAIRS,
            num_pairs,
        )
        return evaluate
    return CompiledModule(model.evaluate, evaluate)


class CompiledModule:
    """A module compiled by torch.compile at its first valid call, or else its script.

    Compilation takes ten seconds to minutes; torch caches the code on disk, for one number of atoms
    and neighbours. If the result differs from the script's, the script runs, with a warning.
    """

    def __init__(self, module: Module, script: Module) -> None:
        self._module = module
        self._script = script
        self._chosen: Module | None = None

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        if self._chosen is not None:
            return self._chosen(*inputs)
        expected = self._script(*inputs)
        if int(expected[-1]) == 0:  # else its buffers are too small, and a new one will be made
            self._chosen = self._choose(inputs, expected)
        return expected

    def _choose(self, inputs: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> Module:
        logger.info("compiling the model for %d atoms; this takes a while", len(inputs[0]))
        try:
            compiled: Module = torch.compile(self._module, fullgraph=True, dynamic=False)
            results = compiled(*inputs)
            charges = expected[2]
            rows = charges.numel() // charges.shape[-1]
            one, other = (pack(values).cpu().numpy() for values in (expected, results))
            compare(one, other, rows)
        except Exception as error:  # whatever a compiler or a version of torch may raise
            reason = str(error).strip().splitlines() or [type(error).__name__]
            logger.warning("engine='compile' does not work here, using TorchScript: %s", reason[0])
            return self._script
        return compiled
