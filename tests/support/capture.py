"""Models as they run on a GPU, and proofs that a CUDA graph can hold what they do."""

import numpy as np
import torch
from ase import Atoms
from support.helpers import dipeptide
from support.structures import sheared, waters
from support.tracing import by_name, launches, trace, trace_on_fake_gpu

from openmm_les.evaluation.engines.packing import Layout
from openmm_les.evaluation.system_model import SystemModel

#: What the detector says of a number that the host reads.
READS = r"_local_scalar_dense\.default waits"


#: Every branch that the parameters of a system choose: structure, and how its sum is computed.
SYSTEMS = {
    "open": (lambda: dipeptide(0), "auto"),
    "open, cells": (lambda: waters(6, 6, 6, periodic=False), "auto"),
    "direct sum": (lambda: waters(4, 4, 3), "direct"),
    "mesh": (lambda: waters(4, 4, 3), "mesh"),
    "triclinic": (lambda: sheared(waters(4, 4, 3)), "direct"),
    "triclinic, mesh": (lambda: sheared(waters(4, 4, 3)), "mesh"),
    "many images": (lambda: waters(2, 1, 1), "direct"),
    "cells": (lambda: waters(6, 6, 6), "direct"),
    "cells, mesh": (lambda: waters(6, 6, 6), "mesh"),
    "one atom": (lambda: Atoms("O", [[0, 0, 0]]), "auto"),
}


def model_for(artifact, atoms, ewald="auto", **options) -> SystemModel:
    """As it runs on a GPU."""
    periodic = bool(atoms.pbc.all())
    options = {"to_gpu": True, "static_shapes": True, "ewald": ewald} | options
    return SystemModel(
        artifact,
        atoms.numbers,
        periodic=periodic,
        cell=atoms.cell.array if periodic else None,
        positions=atoms.positions,
        **options,
    )


def latents_of(artifact) -> int:
    """Numbers of each atom that modules return: latents, and induced moments after them."""
    return artifact.channels if artifact.layout is None else artifact.layout.rows + 4


def pack(results):
    """What a module returns, in one array of float64."""
    return Layout(results[1].shape[0], results[2].shape[-1]).pack(results)


def check_on_fake_gpu(model, record_property) -> None:
    module, n = model.module, len(model.numbers)
    operations, packed = trace_on_fake_gpu(
        lambda positions, cell: pack(module(positions, cell)), (n, 3), (3, 3), module=module
    )
    assert packed.is_cuda
    assert packed.shape == (11 + (3 + latents_of(model.artifact)) * n,)
    calls = by_name(operations)
    assert calls["aten.bmm.default"] + calls["aten.mm.default"] > 10  # it was the whole model
    assert launches(operations) > 200
    record_property("launches", launches(operations))


def changed(atoms):
    """Positions and cells that differ in all that may change in a simulation."""
    positions, cell = atoms.positions, atoms.cell.array
    rng = np.random.default_rng(0)
    yield positions, cell
    yield positions + rng.normal(0, 0.3, positions.shape), cell
    yield positions * 1.04 + 77.0, cell * 1.04  # a larger box, atoms outside of it
    yield positions * 0.97, cell * [[0.97], [0.95], [0.99]]  # another shape
    yield positions * 0.3, cell  # too many neighbours
    yield positions, cell * 1.5  # a box outgrown
    yield positions * np.nan, cell


def statuses_after_the_same_work(module, atoms) -> list[int]:
    inputs = [(torch.tensor(r), torch.tensor(cell)) for r, cell in changed(atoms)]
    for _ in range(3):  # TorchScript optimises what it has seen
        module(*inputs[0])
    logs, results = zip(*(trace(module, *pair) for pair in inputs), strict=True)
    assert all(log == logs[0] for log in logs)
    return [int(result[4]) for result in results]


def torchforce_module(artifact, kind, name, warm_up):
    structure, ewald = SYSTEMS[name]
    model = model_for(artifact, structure(), ewald)
    particles = tuple(range(2, 2 + len(model.numbers)))  # of a larger system
    return torch.jit.script(kind(model.module, particles, 0.0, warm_up)), len(model.numbers) + 5
