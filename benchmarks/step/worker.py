"""The process that measures one row for one model and structure.

Reads commands from standard input, one JSON array of name and arguments a line, and answers each
with a line of JSON. So several such processes can be measured in turns.
"""

import json
import os
import resource
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from openmm_les.benchmark.machine import forget_peak, memory

#: Steps are timed in blocks of about this length, at whose end a GPU is waited for [s].
_BLOCK = 0.02
_FIRST_STEPS, _FIRST_SECONDS = 20, 3.0
#: Time step of constant-energy dynamics [ps], fewest and most steps.
_DRIFT_STEP, _DRIFT_STEPS = 0.00025, (1000, 4000)


class Worker:
    """One row, prepared and measured on command."""

    def __init__(self, settings: dict[str, Any]) -> None:
        import torch
        from openmmml import MLPotential  # noqa: F401 - counted as an import, not as memory

        from openmm_les.evaluation import system_model  # noqa: F401 - the same
        from step.rows import OurRow, rows
        from step.steps import Case

        self._case = Case(**settings["case"])
        self._row = rows()[self._case.row]
        if not isinstance(self._row, OurRow):
            from peers import register_stand_in

            register_stand_in()
            from mace.calculators import MACECalculator  # noqa: F401 - the same
        torch.set_num_threads(self._case.threads)
        self._on_gpu = self._case.device.startswith("cuda")
        self._memory_before = memory("VmRSS")
        forget_peak()
        if not self._on_gpu:
            limit = int(2**20 * (memory("VmData") + settings["memory_mb"]))
            resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))

    def prepare(self, forces: str) -> dict[str, Any]:
        """Build it, and write the forces at the start [eV/A]."""
        begin = time.perf_counter()
        self._steps = self._row.build(self._case)
        built = time.perf_counter()
        np.save(forces, self._steps.evaluate())
        return {"build_s": built - begin, "first_s": time.perf_counter() - built}

    def warm_up(self, fewest: int) -> dict[str, Any]:
        """Until TorchScript's executor, caches and allocators are steady."""
        begin, steps = time.perf_counter(), 0
        while steps < fewest or (
            steps < _FIRST_STEPS and time.perf_counter() - begin < _FIRST_SECONDS
        ):
            last = self._time(1)
            steps += 1
        self._block = max(1, round(_BLOCK / last))
        return {"warm_up_steps": steps}

    def turn(self, seconds: float) -> dict[str, list[float]]:
        """Times of a step [ms] during so many seconds, after one that is not counted.

        Returns:
            Wall time, and the CPU time of the process, which other work on the machine disturbs
            less (waiting threads count as working ones).
        """
        if self._block > 1:
            self._time(1)  # another process had the caches
        wall: list[float] = []
        cpu: list[float] = []
        begin = time.perf_counter()
        while not wall or time.perf_counter() - begin < seconds:
            before = time.process_time()
            wall.append(1e3 * self._time(self._block) / self._block)
            cpu.append(1e3 * (time.process_time() - before) / self._block)
        return {"wall": wall, "cpu": cpu}

    def evaluations(self, seconds: float) -> list[float]:
        """Times of an evaluation of energy and forces by themselves [ms]."""
        times: list[float] = []
        begin = time.perf_counter()
        while not times or time.perf_counter() - begin < seconds:
            start = time.perf_counter()
            self._steps.evaluate()
            times.append(1e3 * (time.perf_counter() - start))
        return times

    def memory(self) -> float:
        """Peak memory above what the imports take; on a GPU what torch allocated there [MB]."""
        if self._on_gpu:
            import torch

            return torch.cuda.max_memory_allocated() / 2**20
        return memory("VmHWM") - self._memory_before

    def kernels(self) -> int:
        from step.kernels import count

        return count(lambda: self._steps.step(1), self._case.device)

    def breakdown(self, seconds: float) -> dict[str, float]:
        """Where the time of a step of ours goes [ms]."""
        from step.breakdown import breakdown

        return breakdown(self._case, lambda: 1e3 * self._time(1), seconds)

    def drift(self, seconds: float) -> dict[str, float]:
        """Slope and scatter of the total energy in about so many seconds of dynamics."""
        from energy_conservation import drift

        steps = min(max(seconds / self._time(1), _DRIFT_STEPS[0]), _DRIFT_STEPS[1])
        picoseconds = steps * _DRIFT_STEP
        artifact, atoms = Path(self._case.artifact), self._case.atoms()
        options = self._row.options(self._case.device)
        return {"ps": picoseconds, **drift(artifact, atoms, picoseconds, _DRIFT_STEP, **options)}

    def _time(self, steps: int) -> float:
        start = time.perf_counter()
        self._steps.step(steps)
        if self._on_gpu:
            import torch

            torch.cuda.synchronize()
        return time.perf_counter() - start


def main() -> None:
    # Libraries print; the answers have a file of their own.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    warnings.simplefilter("ignore")
    worker = Worker(json.loads(sys.argv[1]))
    print(json.dumps("ready"), file=answers, flush=True)
    for line in sys.stdin:
        name, *arguments = json.loads(line)
        print(json.dumps(getattr(worker, name)(*arguments)), file=answers, flush=True)


if __name__ == "__main__":
    main()
