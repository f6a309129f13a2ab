"""Published models, exported once, and what their original code says of them."""

from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import ase.io
import numpy as np
from ase import Atoms
from openmm_les_export import export

from openmm_les.ase import LESCalculator

Array = np.ndarray


class Reference(NamedTuple):
    """What the original code says of a structure: energy [eV], forces [eV/A]."""

    atoms: Atoms
    energy: float
    forces: Array
    published_forces: Array | None  #: By the authors, in single precision [eV/A]
    dft_forces: Array | None  #: [eV/A]


class Published:
    """Models and data of the papers in a folder `shared`; artifacts are written to `exports`."""

    def __init__(self, shared: Path, exports: Path) -> None:
        self.data = shared / "data"
        self._models, self._exports = shared / "models", exports
        self.calculator = cache(self._calculator)

    def structures(self, file: str) -> list[Atoms]:
        """Structures with labels."""
        return list(ase.io.read(self.data / file, index=":"))

    def references(self, model: str) -> dict[str, Reference]:
        """By name of the structure; energies lack isolated atoms where the model's file does."""
        file = self._file(model)
        energy = "energy_model" if _lacks_atoms(file) else "energy"
        with np.load(file.with_suffix(".npz")) as content:
            data = dict(content)
        return {
            str(name): _reference(data, f"{i}/", energy) for i, name in enumerate(data["names"])
        }

    def _calculator(self, model: str) -> LESCalculator:
        """Ours, in double precision, from an export that is verified like every other."""
        output, file = self._exports / f"{model}.les.pt", self._file(model)
        if not output.exists():
            export(file, output, atomic_energies="zero" if _lacks_atoms(file) else None)
        return LESCalculator(output)

    def _file(self, model: str) -> Path:
        folders = (self._models, self._models / "cace_ewald")
        names = [folder / f"{model}{suffix}" for folder in folders for suffix in (".pth", ".model")]
        return next(file for file in names if file.exists())


def energy_and_forces(atoms: Atoms, calculator: LESCalculator) -> tuple[float, Array]:
    """Energy [eV] and forces [eV/A] by our model."""
    calculator.calculate(atoms)
    return calculator.results["energy"], calculator.results["forces"]


def _lacks_atoms(file: Path) -> bool:
    """Whether isolated-atom energies are missing from the file, as from all of CACE."""
    return file.suffix == ".pth"


def _reference(data: dict[str, Array], prefix: str, energy: str) -> Reference:
    def value(name: str) -> Any:
        return data.get(prefix + name)

    is_periodic = bool(value("pbc").any())
    cell = value("cell") if is_periodic else None
    # CACE's own sum without a box divides by r + 1e-6 A; ours divides by r.
    by_r = value("energy_without_epsilon")
    return Reference(
        Atoms(value("numbers"), value("positions"), cell=cell, pbc=is_periodic),
        float(value(energy) + (0.0 if by_r is None else by_r - value("energy"))),
        value("forces") if by_r is None else value("forces_without_epsilon"),
        value("forces_published"),
        value("forces_dft"),
    )
