"""Where the time of an energy and force evaluation of openmm-les goes: parts, blocks, operations.

    python benchmarks/profile_step.py [--model maceles-off] [--atoms 22 192] [--repeats 5]

One CPU thread. Times are CPU time, which other work on the machine disturbs less than wall time,
and the smallest of the repeats. Parts are those of the scripted module, blocks those of the same
network run eagerly; operations are counted while the parts run, which makes the small ones dearer.
"""

import argparse
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from step import models, systems
from step.breakdown import Parts
from step.report import number
from step.steps import Case
from torch.utils._python_dispatch import TorchDispatchMode

Times = dict[str, float]


class Blocks:
    """CPU time of methods of a network's modules, one inside the other."""

    def __init__(self, network: Any) -> None:
        self.times: Counter[str] = Counter()
        self._watch(network.geometry.radial, "radial", ("forward",))
        self._watch(network.geometry.harmonics, "harmonics")
        self._watch(network.first, "layer 0 convolution")
        self._watch_update(network.first_update, "layer 0")
        for layer, interaction in enumerate(network.interactions, 1):
            self._watch(interaction, f"layer {layer}")
            self._watch(interaction.convolution, f"layer {layer} convolution")
            self._watch_update(interaction.update, f"layer {layer}")

    def _watch_update(self, update: Any, layer: str) -> None:
        self._watch(update, f"{layer} update")
        self._watch(update.product, f"{layer} product basis")

    def _watch(
        self, module: Any, name: str, methods: tuple[str, ...] = ("forward", "backward")
    ) -> None:
        for method in methods:
            setattr(module, method, self._timed(getattr(module, method), f"{name}, {method}"))

    def _timed(self, call: Callable[..., Any], name: str) -> Callable[..., Any]:
        def timed(*arguments: Any) -> Any:
            begin = time.thread_time()
            result = call(*arguments)
            self.times[name] += 1e3 * (time.thread_time() - begin)
            return result

        return timed


class Operations(TorchDispatchMode):
    """CPU time and number of calls of every operation of ATen."""

    def __init__(self) -> None:
        super().__init__()
        self.times: Counter[str] = Counter()
        self.calls: Counter[str] = Counter()

    def __torch_dispatch__(
        self, function: Any, types: Any, arguments: Any = (), keywords: Any = None
    ) -> Any:
        begin = time.thread_time()
        result = function(*arguments, **(keywords or {}))
        name = function._schema.name
        self.times[name] += 1e3 * (time.thread_time() - begin)
        self.calls[name] += 1
        return result


def fastest(runs: list[Times]) -> Times:
    return {name: min(run[name] for run in runs) for name in runs[0]}


def table(title: str, times: Times, whole: float, calls: Counter[str] | None = None) -> None:
    print(f"\n{title:<36} {'ms':>8} {'share':>7}" + (f" {'calls':>7}" if calls else ""))
    for name, milliseconds in times.items():
        text = f"{name:<36} {number(milliseconds):>8} {milliseconds / whole:>7.1%}"
        print(text + (f" {calls[name]:>7}" if calls else ""))


def profile(case: Case, repeats: int) -> None:
    """Print the three tables of one system."""
    parts = Parts(case, clock=time.thread_time)
    for _ in range(4):  # until TorchScript's executor is steady
        parts.times()
    by_part = fastest([parts.times() for _ in range(repeats)])
    print(f"\n{len(case.atoms())} atoms: {number(sum(by_part.values()))} ms of CPU time")
    table("part", by_part, sum(by_part.values()))

    eager = Parts(case, clock=time.thread_time, scripted=False)
    blocks = Blocks(eager.network)
    runs, whole = [], []
    for _ in range(repeats):
        blocks.times.clear()
        whole.append(sum(eager.times().values()))
        runs.append(dict(blocks.times))
    table("block, eager", fastest(runs), min(whole))

    with Operations() as operations:
        parts.times()
    most = dict(operations.times.most_common(12))
    table("operation", most, sum(operations.times.values()), operations.calls)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=models.names(), default=models.OFF)
    parser.add_argument("--atoms", type=int, nargs="+", default=[22, 192])
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        artifact = models.prepare(arguments.model, Path(folder)).artifact
        for number_of_atoms in arguments.atoms:
            structure = Path(folder) / "structure.npz"
            systems.save(systems.structure(number_of_atoms), structure)
            case = Case("", str(artifact), "", str(structure), "cpu", 1)
            profile(case, arguments.repeats)


if __name__ == "__main__":
    main()
