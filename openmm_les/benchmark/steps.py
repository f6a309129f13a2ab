"""Times MD steps of a model in one way, in this process, which may crash or take too long."""

from __future__ import annotations

import gc
import json
import logging
import statistics
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openmm
import torch
from openmm import unit
from openmmml import MLPotential

from openmm_les import catalog
from openmm_les.benchmark.machine import forget_peak, memory
from openmm_les.errors import LESError, one_line
from openmm_les.evaluation.engines.variant import Decision, Variant
from openmm_les.plugin.forces.present import models_in
from openmm_les.simulation.structures.structure import Structure, read_structure
from openmm_les.units import ANGSTROM_PER_NM

#: Short and at strong friction, so that no start structure explodes; it changes no cost.
_TIME_STEP, _FRICTION, _TEMPERATURE = 0.0002, 10.0, 300.0
#: Steps before any is timed: until caches and allocators are steady, but not for ever.
_WARM_UP_STEPS, _WARM_UP_SECONDS = 20, 3.0
#: Steps are timed in blocks of about this length, at whose end a GPU is waited for [s].
_BLOCK = 0.02


@dataclass(frozen=True)
class Case:
    """What to time; options are those of ``createSystem``."""

    model: str  #: Path of an artifact
    structure: str  #: Path of a PDB or mmCIF file
    device: str
    precision: str
    backend: str
    engine: str  #: ``'auto'`` is tuned first
    seconds: float  #: How long to time steps
    cudaGraphs: bool | str = "auto"


def platform_for(device: str) -> openmm.Platform:
    """The platform whose own share of a step is the least."""
    indices = range(openmm.Platform.getNumPlatforms())
    names = {openmm.Platform.getPlatform(i).getName() for i in indices}
    fastest = ["CUDA", "OpenCL", "Reference"] if device.startswith("cuda") else ["Reference"]
    return openmm.Platform.getPlatformByName(next(name for name in fastest if name in names))


def measure(case: Case) -> dict[str, Any]:
    """Tune where that is wanted, build the System, and time steps.

    Returns:
        ms (a step: ``median``, ``fastest``); peak_mb (on a GPU what torch allocated there);
        first_s: from building the System to the first forces; platform; and after tuning variant
        (its name) and decision.
    """
    start = read_structure(Path(case.structure))
    on_gpu = case.device.startswith("cuda")
    memory_before = memory("VmRSS")
    decision = _decision(case, start) if case.engine == "auto" else None
    gc.collect()  # the model that was tuned
    forget_peak()
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    begin = time.perf_counter()
    system = _system(case, start, None if decision is None else decision.variant)
    integrator = openmm.LangevinMiddleIntegrator(
        _TEMPERATURE * unit.kelvin, _FRICTION / unit.picosecond, _TIME_STEP * unit.picosecond
    )
    context = openmm.Context(system, integrator, platform_for(case.device))
    context.setPositions(start.positions)
    context.getState(forces=True)
    first = time.perf_counter() - begin
    times = _times(integrator, case.seconds, on_gpu)
    peak = torch.cuda.max_memory_allocated() / 2**20 if on_gpu else memory("VmHWM") - memory_before
    found = {
        "ms": {"median": statistics.median(times), "fastest": min(times)},
        "peak_mb": peak,
        "first_s": first,
        "platform": context.getPlatform().getName(),
    }
    if decision is not None:
        found |= {"variant": decision.variant.name, "decision": decision.to_json()}
    return found


def _system(case: Case, start: Structure, variant: Variant | None = None) -> openmm.System:
    names = ("backend", "engine", "precision", "cudaGraphs")
    options = {name: getattr(case, name) for name in names} | {"variant": variant}
    if case.backend == "pythonforce":
        options["device"] = case.device  # a TorchForce runs where its Context runs
    return MLPotential("les", modelPath=case.model).createSystem(start.topology, **options)


def _decision(case: Case, start: Structure) -> Decision:
    compute = models_in(_system(case, start))[0].compute
    cell = None if start.box is None else ANGSTROM_PER_NM * start.box
    positions = ANGSTROM_PER_NM * start.positions
    model = compute.prepare(catalog.open_model(case.model), cell, positions)
    return model.tune(positions, cell)


def _times(integrator: openmm.Integrator, seconds: float, on_gpu: bool) -> list[float]:
    """Times of a step [ms] during so many seconds."""

    def time_of(steps: int) -> float:
        start = time.perf_counter()
        integrator.step(steps)
        if on_gpu:
            torch.cuda.synchronize()
        return time.perf_counter() - start

    begin, steps = time.perf_counter(), 0
    while steps < 2 or (steps < _WARM_UP_STEPS and time.perf_counter() - begin < _WARM_UP_SECONDS):
        last = time_of(1)
        steps += 1
    block = max(1, round(_BLOCK / last))
    times: list[float] = []
    begin = time.perf_counter()
    while not times or time.perf_counter() - begin < seconds:
        times.append(1e3 * time_of(block) / block)
    return times


def main(settings: str) -> None:
    """Measure the case that a parent process describes in JSON, and print what was found."""
    warnings.simplefilter("ignore")
    logging.disable()
    try:
        found = measure(Case(**json.loads(settings)))
    except LESError as error:
        found = {"failed": one_line(error)}
    print(json.dumps(found), flush=True)
