"""An exported LES model as an ASE calculator."""

from __future__ import annotations

import os
from typing import Any, ClassVar

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, PropertyNotImplementedError, all_changes
from ase.stress import full_3x3_to_voigt_6_stress

from openmm_les import artifact as artifacts
from openmm_les.errors import InputError
from openmm_les.system_model import SystemModel


class LESCalculator(Calculator):  # type: ignore[misc]
    """Energies, forces, latent charges and stress of an exported model.

    The energy is the total one, with the energies of the isolated atoms. Charges [e] carry the sign that
    the model was trained with. Structures are periodic in three directions or in none.

    Args:
        path: the artifact (``*.les.pt``).
        precision: ``'double'`` (default: optimisations, phonons and finite differences need it) or
            ``'single'``, about twice as fast.
        device: torch device, such as ``'cpu'`` or ``'cuda'``.
        max_neighbors: capacity of the neighbour list of an atom to begin with; it grows by itself.
        **kwargs: passed to `ase.calculators.calculator.Calculator`.

    Raises:
        ArtifactError: the file is missing, corrupt, too new, or not an openmm-les artifact.
    """

    implemented_properties: ClassVar[list[str]] = [
        "energy",
        "free_energy",
        "forces",
        "charges",
        "stress",
    ]

    def __init__(
        self,
        path: str | os.PathLike[str],
        precision: str = "double",
        device: str = "cpu",
        max_neighbors: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if precision not in ("single", "double"):
            raise InputError(f"precision: expected 'single' or 'double', got {precision!r}")
        self.artifact = artifacts.load(path)
        self._precision = precision
        self._device = device
        self._max_neighbors = max_neighbors
        self._model: SystemModel | None = None
        self._built_for: tuple[bytes, bool] | None = None

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: list[str] | None = None,
        system_changes: list[str] = all_changes,
    ) -> None:
        """Compute everything the model gives at once.

        Raises:
            InputError: partial periodicity, an element the model does not know, a box too small.
            PropertyNotImplementedError: stress of a structure without a box.
        """
        super().calculate(atoms, properties, system_changes)
        atoms = self.atoms
        periodic = _is_periodic(atoms)
        if not periodic and "stress" in (properties or ()):
            raise PropertyNotImplementedError("stress: the structure is not periodic, so it has no volume")
        positions = atoms.get_positions()
        cell = np.array(atoms.cell) if periodic else None
        kind = (atoms.numbers.tobytes(), periodic)
        if self._model is None or kind != self._built_for:
            self._model = SystemModel(
                self.artifact,
                atoms.numbers.tolist(),
                periodic=periodic,
                cell=cell,
                positions=positions,
                precision=self._precision,
                device=self._device,
                max_neighbors=self._max_neighbors,
            )
            self._built_for = kind
        result = self._model.evaluate(positions, cell)
        energy = result.energy + self._model.reference_energy
        self.results = {
            "energy": energy,
            "free_energy": energy,
            "forces": result.forces,
            "charges": result.charges,
        }
        if periodic:
            stress = result.virial / atoms.get_volume()
            self.results["stress"] = full_3x3_to_voigt_6_stress(stress)


def _is_periodic(atoms: Atoms) -> bool:
    pbc = tuple(bool(flag) for flag in atoms.pbc)
    if any(pbc) != all(pbc):
        raise InputError(
            f"pbc: expected all three directions periodic or none, got {pbc}; LES has no slab or wire "
            "sum: use pbc=True with vacuum, or pbc=False"
        )
    if all(pbc) and atoms.cell.rank < 3:
        raise InputError(
            f"cell: expected three independent lattice vectors for pbc=True, got {atoms.cell.tolist()}; "
            "call atoms.set_cell(...) or set pbc=False"
        )
    return all(pbc)
