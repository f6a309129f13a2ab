"""What a visit to a GPU takes along: a model, structures, and float64 results of the CPU."""

import json
import logging
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from openmm_les import artifact as artifacts
from openmm_les import catalog
from openmm_les.artifact.canonical import CanonicalModel
from openmm_les.evaluation.system_model import SystemModel

logger = logging.getLogger(__name__)

OFF, DEMO = "maceles-off", "les-demo"
#: Atoms of the structures that are compared, and of those that are only timed.
COMPARED, TIMED = (22, 192, 1029, 3000), (45, 1029, 10_125)
SMALL_COMPARED, SMALL_TIMED = (22, 192), (45,)
#: Largest structure for the large model on a CPU.
_SMALL_OFF = 100
_RESULTS = ("energy", "forces", "charges", "virial")
_MODEL, _STRUCTURES, _REFERENCES = "maceles-off.npz", "structures.npz", "references.npz"

#: Packages that a bare image with torch and numpy lacks, for the package and for the peer.
WHEELS = [
    "openmm==8.6.1",
    "openmm-cuda-13==8.6.1",
    "openmmml==1.8",
    "click",
    "platformdirs",
    "pydantic",
    "pydantic-core",
    "annotated-types",
    "typing-inspection",
    "ase",
    "mace-torch",
    "e3nn==0.4.4",
    "matscipy",
    "torch-ema",
    "prettytable",
    "wcwidth",
    "lmdb",
    "configargparse",
    "python-hostlist",
    "GitPython",
    "gitdb",
    "smmap",
]


@dataclass(frozen=True)
class Structure:
    """Atoms in a box, or without one.

    Attributes:
        numbers: atomic numbers, shape (n,).
        positions: shape (n, 3) [A].
        cell: lattice vectors in rows, shape (3, 3) [A]; None if not periodic.
    """

    numbers: np.ndarray
    positions: np.ndarray
    cell: np.ndarray | None


class Carried:
    """A folder that `prepare` wrote.

    Args:
        folder: that folder; artifacts are written into it.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @cached_property
    def structures(self) -> dict[int, Structure]:
        """By number of atoms."""
        with np.load(self._folder / _STRUCTURES) as arrays:
            found = dict(arrays)
        sizes = sorted({int(name.split("/")[0]) for name in found})
        return {
            n: Structure(found[f"{n}/numbers"], found[f"{n}/positions"], found.get(f"{n}/cell"))
            for n in sizes
        }

    @property
    def models(self) -> list[str]:
        """Names of the models that are here."""
        return [DEMO, *([OFF] if (self._folder / _MODEL).exists() else [])]

    def artifact(self, name: str) -> artifacts.Artifact:
        """A model, written as an artifact where that has not been done."""
        if name == DEMO:
            return artifacts.load(catalog.artifact_path(DEMO))
        path = self._folder / f"{name}.les.pt"
        if not path.exists():
            artifacts.save(self._canonical(), path)
        return artifacts.load(path)

    def _canonical(self) -> CanonicalModel:
        with np.load(self._folder / _MODEL) as arrays:
            state = {name: torch.from_numpy(value).double() for name, value in arrays.items()}
        description = state.pop("description").to(torch.uint8).numpy().tobytes()
        return CanonicalModel(state=state, **json.loads(description))

    @cached_property
    def references(self) -> dict[tuple[str, int], dict[str, np.ndarray]]:
        """Results of the CPU in float64, by model and number of atoms."""
        with np.load(self._folder / _REFERENCES) as arrays:
            found: dict[tuple[str, int], dict[str, np.ndarray]] = {}
            for name, value in arrays.items():
                model, size, quantity = name.split("/")
                found.setdefault((model, int(size)), {})[quantity] = value
        return found


def system_model(artifact: artifacts.Artifact, structure: Structure, **options: Any) -> SystemModel:
    """A `SystemModel` of a structure, whose capacities fit it; by default of the plain engine."""
    return SystemModel(
        artifact,
        structure.numbers.tolist(),
        periodic=structure.cell is not None,
        cell=structure.cell,
        positions=structure.positions,
        **{"engine": "torchscript", **options},
    )


def prepare(folder: Path, small: bool) -> None:
    """Write models, structures and references.

    The architecture of MACELES-OFF with random weights needs mace-torch, structures need ASE; where
    one is missing, what needs it is left out, with a warning.

    Args:
        folder: made if it is not there.
        small: for a CPU.
    """
    from step.systems import structure  # needs ASE

    folder.mkdir(parents=True, exist_ok=True)
    compared, timed = (SMALL_COMPARED, SMALL_TIMED) if small else (COMPARED, TIMED)
    arrays = {}
    for size in sorted({*compared, *timed}):
        atoms = structure(size)
        n = len(atoms)
        arrays |= {f"{n}/numbers": atoms.numbers, f"{n}/positions": atoms.positions}
        if atoms.pbc.all():
            arrays[f"{n}/cell"] = atoms.cell.array
    np.savez_compressed(folder / _STRUCTURES, **arrays)
    try:
        _save_maceles_off(folder / _MODEL)
    except ImportError as error:
        logger.warning("the architecture of MACELES-OFF is left out: %s", error)
    here, results = Carried(folder), {}
    for name in here.models:
        artifact = here.artifact(name)
        for size in compared:
            if size not in here.structures or (small and name == OFF and size > _SMALL_OFF):
                continue
            structure_ = here.structures[size]
            model = system_model(artifact, structure_, precision="double", device="cpu")
            found = model.evaluate(structure_.positions)
            results |= {f"{name}/{size}/{key}": getattr(found, key) for key in _RESULTS}
    np.savez_compressed(folder / _REFERENCES, **results)
    if not small:  # what travels is small; there it is made again
        (folder / f"{OFF}.les.pt").unlink(missing_ok=True)


def _save_maceles_off(path: Path) -> None:
    """Weights in float32, half as large; they are the model from here on."""
    from step.models import prepare as export_model

    with tempfile.TemporaryDirectory() as temporary:
        model = export_model(OFF, Path(temporary))
        canonical = artifacts.load(model.artifact).canonical
    description = {
        name: getattr(canonical, name)
        for name in ("family", "hyper", "les", "source", "provenance")
    }
    text = np.frombuffer(json.dumps(description).encode(), dtype=np.uint8)
    state = {name: value.float().numpy() for name, value in canonical.state.items()}
    np.savez(path, description=text, **state)


def download_wheels(folder: Path, python: str = "3.12") -> None:
    """Packages for an image that has torch and no network, with whatever pip is set up to use."""
    folder.mkdir(parents=True, exist_ok=True)
    platforms = [f"manylinux_2_{n}_x86_64" for n in (17, 24, 27, 28, 31, 34, 35)]
    tags = [f"--platform={tag}" for tag in (*platforms, "manylinux2014_x86_64")]
    pip = [sys.executable, "-m", "pip"]
    target = [f"--python-version={python}", "--implementation=cp", "--only-binary=:all:", *tags]
    for package in WHEELS:
        got = subprocess.run(
            [*pip, "download", "-q", "--no-deps", "-d", str(folder), *target, package],
            capture_output=True,
            text=True,
        )
        if got.returncode:  # a source distribution of pure Python
            subprocess.run(
                [*pip, "wheel", "-q", "--no-deps", "-w", str(folder), package], check=True
            )


def instructions(folder: Path) -> str:
    """What to type there, and how much it is."""
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 2**20
    return (
        f"{folder}: {size:.1f} MiB. On the machine with the GPU, in a clone with this folder:\n"
        f"  python3 -m pip install -q --no-index --no-deps --target site {folder}/wheels/*.whl\n"
        "  PYTHONPATH=site:.:export python3 benchmarks/gpu_check.py "
        f"--carried {folder} --output gpu_check.json"
    )
