"""Where the time of a step of openmm-les goes."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from openmm_les import artifact
from openmm_les.evaluation.system_model import SystemModel
from step.steps import Case

_WARM_UP = 3


class Parts:
    """The parts of a `SystemModel`'s module, called one after the other as it does.

    Args:
        case: system and model.
        clock: gives the time [s].
        scripted: the scripted network, as simulations run it; else the same one eagerly.

    Attributes:
        names: of the parts, in the order in which they run.
        network: the network that is timed.
    """

    names = ("neighbors", "forward", "ewald", "backward")

    def __init__(
        self,
        case: Case,
        clock: Callable[[], float] = time.perf_counter,
        scripted: bool = True,
        engine: str = "auto",
    ) -> None:
        atoms = case.atoms()
        periodic = bool(atoms.pbc.all())
        model = SystemModel(
            artifact.load(Path(case.artifact)),
            atoms.numbers.tolist(),
            periodic=periodic,
            cell=atoms.cell.array if periodic else None,
            positions=atoms.positions,
            device=case.device,
            engine=engine,
        )
        self._device, self._clock = case.device, clock
        self._module: Any = model.module
        self.network: Any = self._module.network if scripted else model.network
        positions = torch.from_numpy(atoms.positions).to(case.device)
        self._positions = positions.index_select(0, self._module.order)
        self._cell = torch.from_numpy(np.ascontiguousarray(atoms.cell.array)).to(case.device)

    @torch.no_grad()
    def times(self) -> dict[str, float]:
        """One run [ms]."""
        module, positions, cell = self._module, self._positions, self._cell
        stamps = [self._now()]
        neighbors = module.neighbors(positions, cell)
        stamps.append(self._now())
        energies, charges, tape = self.network.short_range(
            positions, neighbors, module.species, module.counts
        )
        stamps.append(self._now())
        potential = module.electrostatics(charges, positions, cell)[1]
        stamps.append(self._now())
        self.network.pull_back(torch.ones_like(energies), potential, tape, module.counts)
        stamps.append(self._now())
        return dict(zip(self.names, (1e3 * np.diff(stamps)).tolist(), strict=True))

    def _now(self) -> float:
        if self._device.startswith("cuda"):
            torch.cuda.synchronize()
        return self._clock()


def breakdown(case: Case, step: Callable[[], float], seconds: float) -> dict[str, float]:
    """Medians of the parts and of the whole step, measured in turns, and what is left [ms].

    Args:
        case: system and model.
        step: makes an MD step and returns its time [ms].
        seconds: how long to measure.
    """
    parts = Parts(case)
    for _ in range(_WARM_UP):
        parts.times()
    found: list[dict[str, float]] = []
    begin = time.perf_counter()
    while len(found) < 3 or time.perf_counter() - begin < seconds:
        found.append({**parts.times(), "step": step()})
    medians = {name: float(np.median([times[name] for times in found])) for name in found[0]}
    medians["rest"] = medians["step"] - sum(medians[name] for name in Parts.names)
    return medians
