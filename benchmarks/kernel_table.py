"""Kernels, memory traffic and arithmetic of a step on a GPU, without one.

    python benchmarks/kernel_table.py [--tree before=PATH] [--atoms 45 1029 10125] [--operations 20]

For the architecture of MACELES-OFF with random weights, as `Tally` in ``step/fake_gpu.py`` counts
them: a molecule, and boxes of water with the direct sum and the mesh. Each `--tree` is a copy of
this repository at another commit, which ``git worktree add PATH COMMIT`` makes; its package is
measured in the same way.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
DEFAULT_OUTPUT = ROOT / "benchmarks" / "results" / "kernel_table.json"
ATOMS = [45, 1029, 10_125]
#: Up to so many atoms the sum is the direct one.
_DIRECT = 2000
_COLUMNS = ("launches", "bytes", "float32", "float64")


def modules_of(model: Any) -> dict[str, Any]:
    """Scripted modules of a `SystemModel`: torch code, and with kernels in Triton."""
    found = {"torch code": model.module}
    if hasattr(model, "variant"):  # another tree may be older
        from openmm_les.evaluation.engines.torchscript import script

        found["Triton"] = script(model._builder.model(replace(model.variant, kernels="triton")))
    return found


def counts_of(artifact: Any, structure: Any, operations: int) -> list[dict[str, Any]]:
    """Counts of one structure, and of the operations with most float64 arithmetic."""
    from step.fake_gpu import tally

    from openmm_les.evaluation.engines import packing
    from openmm_les.evaluation.system_model import SystemModel

    is_periodic, n = bool(structure.pbc.all()), len(structure)
    model = SystemModel(
        artifact,
        structure.numbers.tolist(),
        periodic=is_periodic,
        cell=structure.cell.array if is_periodic else None,
        positions=structure.positions,
        to_gpu=True,
        static_shapes=True,
        engine="torchscript",
        ewald="direct" if n <= _DIRECT else "mesh",
    )
    is_old = not hasattr(packing, "Layout")
    pack = packing.pack if is_old else packing.Layout(n, n, single=True).pack
    found = []
    for way, module in modules_of(model).items():
        shapes = [structure.positions.shape, (3, 3)]
        counted = tally(lambda *x, module=module: pack(module.evaluate(*x)), module, shapes)
        most = sorted(counted.by_operation.items(), key=lambda item: -item[1]["float64"])
        counts = {"way": way, "atoms": n, "slots": model.capacity}
        counts |= {name: counted.total[name] for name in _COLUMNS}
        if operations:
            counts["most float64"] = {name: dict(of_it) for name, of_it in most[:operations]}
        found.append(counts)
    return found


def rows(atoms: list[int], operations: int) -> list[dict[str, Any]]:
    """Those of the package that is imported here."""
    import torch
    from openmm_les_export import read_model
    from step import systems
    from step.models import random_maceles_off

    from openmm_les.artifact import Artifact

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "random.model"
        torch.save(random_maceles_off(), path)
        artifact = Artifact.unsaved(read_model(path), path)
    return [
        counts for n in atoms for counts in counts_of(artifact, systems.structure(n), operations)
    ]


def in_tree(path: Path, options: list[str]) -> list[dict[str, Any]]:
    """The same for the package of another tree."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(path), str(path / "export")])}
    command = [sys.executable, __file__, "--rows", *options]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def line(name: str, counts: dict[str, Any]) -> str:
    size = f"{counts['atoms']} ({counts['slots']})"
    text = f"{name:<8} {counts['way']:<11} {size:<12} {counts['launches']:>8}"
    text += f" {counts['bytes'] / 1e9:>9.3f}"
    return f"{text} {counts['float32'] / 1e9:>9.3f} {counts['float64'] / 1e9:>9.4f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tree", action="append", default=[], metavar="NAME=PATH")
    parser.add_argument("--atoms", type=int, nargs="+", default=ATOMS)
    parser.add_argument("--operations", type=int, default=0, help="print these too")
    parser.add_argument("--output", type=Path, default=DEFAULT_OUTPUT)
    parser.add_argument("--rows", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.rows:
        json.dump(rows(arguments.atoms, arguments.operations), sys.stdout)
        return
    from environment import environment

    options = ["--atoms", *map(str, arguments.atoms), "--operations", str(arguments.operations)]
    trees = dict(text.split("=", 1) for text in arguments.tree) | {"now": str(ROOT)}
    document = {"environment": environment(1), "trees": {}}
    print(
        f"{'tree':<12} {'atoms (slots)':<12} {'kernels':>8} {'GB':>9} {'GFLOP32':>9} {'GFLOP64':>9}"
    )
    for name, path in trees.items():
        document["trees"][name] = found = in_tree(Path(path).resolve(), options)
        for counts in found:
            print(line(name, counts), flush=True)
            for operation, of_it in counts.get("most float64", {}).items():
                print(f"    {operation}: {of_it}")
    arguments.output.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
