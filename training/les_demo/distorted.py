"""Strongly distorted structures for the demonstration model, labelled with GFN2-xTB.

    python distorted.py distorted.npz --model earlier.les.pt

Samples at some temperature say nothing of atoms that come too close or of bonds that are stretched.
A model that was trained on them alone may give such structures a low energy, and the first trial
steps of an energy minimisation reach them. Of each structure this makes three: displaced at random,
once along the forces of a model, and once more along the forces there, each time by up to 0.25 A
(RMS over the coordinates). It takes structures of `generate.py` and `liquid.py` that are trained
on; none is held out.
"""

import argparse
from functools import cache
from pathlib import Path

import generate
import numpy as np
from ase import Atoms
from dataset import DISTORTED

from openmm_les import artifact as artifacts
from openmm_les.evaluation.system_model import SystemModel

HERE = Path(__file__).parent
#: How far, RMS over the coordinates [A].
RANDOM, ALONG_FORCES = (0.08, 0.25), (0.03, 0.25)
#: More tells nothing that a minimisation needs [eV/A].
LARGEST_FORCE = 100.0


def structures(path: Path, count: int, generator: np.random.Generator) -> list[Atoms]:
    """Some of a file that `generate.save` wrote, of those behind the first tenth."""
    data = dict(np.load(path))
    ends = np.cumsum(data["sizes"].astype(int))
    chosen = generator.choice(np.arange(len(ends) // 10, len(ends)), count, replace=False)
    parts = [slice(ends[k] - int(data["sizes"][k]), ends[k]) for k in chosen]
    return [Atoms(data["numbers"][p], data["positions"][p].astype(float)) for p in parts]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path)
    parser.add_argument("--model", type=Path, required=True, help="artifact, for the forces")
    parser.add_argument(
        "--count", type=int, nargs=2, default=(250, 60), help="of data.npz and liquid.npz"
    )
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    generator = np.random.default_rng(arguments.seed)
    artifact = artifacts.load(arguments.model)

    @cache
    def model(numbers: tuple[int, ...]) -> SystemModel:
        return SystemModel(artifact, numbers, periodic=False)

    def displacement(shape: np.ndarray, lengths: tuple[float, float]) -> np.ndarray:
        return generator.uniform(*lengths) * shape / np.sqrt(np.mean(shape**2))

    rows = []
    files = HERE / "data.npz", HERE / "liquid.npz"
    for path, count in zip(files, arguments.count, strict=True):
        for atoms in structures(path, count, generator):
            forces_of = model(tuple(atoms.numbers.tolist())).evaluate
            random = atoms.positions + displacement(generator.normal(size=(len(atoms), 3)), RANDOM)
            once = atoms.positions + displacement(forces_of(atoms.positions).forces, ALONG_FORCES)
            twice = once + displacement(forces_of(once).forces, ALONG_FORCES)
            for positions in (random, once, twice):
                try:
                    labelled = Atoms(atoms.numbers, positions)
                    energy, forces = generate.label(labelled)
                except RuntimeError:  # the charges of GFN2-xTB do not converge
                    continue
                if np.isfinite(energy) and np.abs(forces).max() < LARGEST_FORCE:
                    rows.append((DISTORTED, labelled, energy, forces))
        print(f"{path.name}: {len(rows)} structures", flush=True)
    generate.save(arguments.output, rows, generator)


if __name__ == "__main__":
    main()
