"""The model on the device against float64 results of a CPU, and CUDA graphs against it."""

from typing import Any

import numpy as np
import torch

from check.carried import DEMO, SMALL_COMPARED, system_model
from check.stages import Visit
from openmm_les.errors import LESError
from openmm_les.evaluation.results import Evaluation

#: Largest error allowed: energy [eV/atom], forces [eV/A], charges [e].
_ALLOWED = {"single": (2e-6, 2e-4, 1e-5), "double": (1e-9, 1e-8, 1e-9)}
#: Sizes up to which double precision is tried.
_DOUBLE = 1100
#: Atoms for which a mesh is tried on a GPU.
_LARGE = 1000
_REPEATS = 20


def errors(got: Evaluation, expected: dict[str, np.ndarray], precision: str) -> dict[str, Any]:
    """Largest errors, and whether they are allowed."""
    energy = float(abs(got.energy - expected["energy"])) / len(expected["forces"])
    forces, charges = (
        float(np.abs(getattr(got, name) - expected[name]).max()) for name in ("forces", "charges")
    )
    virial = float(np.abs(got.virial - expected["virial"]).max())
    limits = _ALLOWED[precision]
    ok = energy < limits[0] and forces < limits[1] and charges < limits[2]
    return {
        "energy_eV_per_atom": energy,
        "forces_eV_per_A": forces,
        "charges_e": charges,
        "virial_eV": virial,
        "ok": bool(ok),
    }


def against_references(visit: Visit) -> None:
    """Every model and size: one call, replayed as a graph, in double precision, on a mesh."""
    for (name, size), expected in sorted(visit.carried.references.items(), key=lambda x: x[0][1]):
        structure = visit.carried.structures[size]
        artifact = visit.carried.artifact(name)
        variants: dict[str, dict[str, Any]] = {"plain": {"cuda_graphs": False}}
        if visit.on_gpu:
            variants["graph"] = {"cuda_graphs": True}
        if size <= _DOUBLE:
            variants["double"] = {"precision": "double", "cuda_graphs": False}
        if structure.cell is not None and size >= (_LARGE if visit.on_gpu else 0):
            variants["mesh"] = {"ewald": "mesh", "cuda_graphs": False}
        for variant, options in variants.items():
            with visit.piece(f"{name}/{size}/{variant}") as found:
                model = system_model(artifact, structure, device=visit.device, **options)
                for _ in range(3):  # the first call, the recording, the graph
                    result = model.evaluate(structure.positions)
                found |= errors(result, expected, options.get("precision", "single"))
                if variant == "mesh":  # its error is a fraction of the forces
                    found["ok"] = found["forces_eV_per_A"] < 1e-3


def graphs(visit: Visit) -> None:
    """Boxes, overflow, repeats and memory of recorded modules; a failed recording at the end."""
    size = SMALL_COMPARED[1]
    structure, artifact = visit.carried.structures[size], visit.carried.artifact(DEMO)
    on_device = {"device": visit.device, "cuda_graphs": visit.on_gpu or "auto"}

    def reference(scale: float) -> dict[str, np.ndarray]:
        model = system_model(artifact, structure, precision="double", device="cpu")
        found = model.evaluate(structure.positions * scale, structure.cell * scale)
        return vars(found)

    with visit.piece("boxes") as found:
        model = system_model(artifact, structure, **on_device)
        for scale in (1.0, 1.01, 0.99, 1.2, 0.85, 1.0):  # 1.2 and 0.85 need new buffers
            result = model.evaluate(structure.positions * scale, structure.cell * scale)
            found[f"x{scale}"] = errors(result, reference(scale), "single")["forces_eV_per_A"]
        found["ok"] = all(value < _ALLOWED["single"][1] for value in found.values())
    with visit.piece("overflow") as found:
        model = system_model(artifact, structure, max_neighbors=8, **on_device)
        result = model.evaluate(structure.positions)
        found |= errors(result, reference(1.0), "single")
        found["capacity"] = model.capacity
    with visit.piece("repeats") as found:
        results = [model.evaluate(structure.positions).forces for _ in range(_REPEATS)]
        found["different"] = sum(not np.array_equal(results[0], each) for each in results)
    with visit.piece("invalid_positions") as found:
        try:
            model.evaluate(structure.positions * np.nan)
        except LESError as error:
            found["message"] = str(error)[:80]
        again = model.evaluate(structure.positions)
        found["ok"] = "message" in found and np.isfinite(again.energy)
    if not visit.on_gpu:
        return
    with visit.piece("memory") as found:
        for _ in range(3):
            model = system_model(artifact, structure, **on_device)
            model.evaluate(structure.positions)
            found.setdefault("allocated_MB", []).append(torch.cuda.memory_allocated() / 2**20)
    with visit.piece("failed_capture") as found:
        model = system_model(artifact, structure, device=visit.device, cuda_graphs="auto")
        model.module.neighbors.trim = True  # reads back how many neighbours there are
        result = model.evaluate(structure.positions)
        found |= errors(model.evaluate(structure.positions), reference(1.0), "single")
        block = torch.empty(2**26, device=visit.device)
        before = torch.cuda.memory_reserved()
        del block
        torch.cuda.empty_cache()
        found["freed_MB"] = (before - torch.cuda.memory_reserved()) / 2**20
        found["ok"] = found["ok"] and found["freed_MB"] > 0


def torchforce_module(visit: Visit) -> None:
    """The module of a TorchForce, frozen and recorded as openmm-torch does, but without it."""
    from openmm_les.plugin.forces import torchforce

    for size in SMALL_COMPARED:
        structure, artifact = visit.carried.structures[size], visit.carried.artifact(DEMO)
        with visit.piece(f"{DEMO}/{size}") as found:
            model = system_model(artifact, structure, to_gpu=visit.on_gpu, static_shapes=True)
            periodic = structure.cell is not None
            kind = torchforce.PeriodicTorchForce if periodic else torchforce.OpenTorchForce
            module = torch.jit.script(kind(model.module, None, 0.0, 3)).eval().to(visit.device)
            module = torch.jit.freeze(module)
            inputs = [torch.from_numpy(structure.positions * 0.1).to(visit.device)]
            if structure.cell is not None:
                inputs.append(torch.from_numpy(structure.cell * 0.1).to(visit.device))
            for _ in range(4):
                energy, forces = module(*inputs)
            if visit.on_gpu:
                graph = torch.cuda.CUDAGraph()
                torch.cuda.synchronize()
                with torch.cuda.graph(graph):
                    energy, forces = module(*inputs)
                graph.replay()
                torch.cuda.synchronize()
            expected = visit.carried.references[DEMO, size]
            scale = torchforce.FORCE_PER_EV_PER_ANGSTROM
            difference = forces.cpu().numpy() / scale - expected["forces"]
            found["forces_eV_per_A"] = float(np.abs(difference).max())
            found["ok"] = found["forces_eV_per_A"] < _ALLOWED["single"][1]
            if not visit.on_gpu:
                continue
            inputs[0].fill_(float("nan"))
            graph.replay()
            found["nan_energy"] = bool(torch.isnan(energy))
            found["ok"] = found["ok"] and found["nan_energy"]
