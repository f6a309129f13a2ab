"""An exported LES model as an ASE calculator."""

from __future__ import annotations

import inspect
import os
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

try:
    from ase import Atoms
    from ase.calculators.calculator import Calculator, PropertyNotImplementedError, all_changes
    from ase.outputs import Properties, all_outputs
except ModuleNotFoundError as error:
    if error.name != "ase":
        raise
    raise ModuleNotFoundError(
        "the calculator needs ASE: pip install 'openmm-les[ase]'", name=error.name
    ) from None

from openmm_les.arrays import FloatArray
from openmm_les.catalog import open_model
from openmm_les.errors import InputError
from openmm_les.evaluation.checks import check_sign, check_single_charge
from openmm_les.evaluation.conditions import conditions_in
from openmm_les.evaluation.options import EvaluationOptions, Precision
from openmm_les.evaluation.results import LatentMoments
from openmm_les.evaluation.system_model import SystemModel
from openmm_les.evaluation.systems import SystemModels
from openmm_les.names import both_spellings, spellings
from openmm_les.networks.moments import missing_moments

#: What every calculator of ASE accepts.
_OF_ASE = tuple(inspect.signature(Calculator.__init__).parameters)[1:-1]
_OF_OPTIONS = tuple(
    spellings(name)[1]
    for name in EvaluationOptions.accepted()
    if name not in ("precision", "device")
)


#: Properties that only models with latent moments have, by their names in `missing_moments`.
_OF_MOMENTS = {
    "dipoles": "atomic_dipoles",
    "quadrupoles": "quadrupoles",
    "polarizability": "polarizability",
}


class LESCalculator(Calculator):  # type: ignore[misc, unused-ignore]
    """Energies, forces, latent charges, stress and electric response of an exported model.

    The energy is the total one, with the energies of the isolated atoms. Charges [e] carry the sign
    that the model was trained with. Structures are periodic in three directions or in none.

    ``dipole`` [e A] (structures that are not periodic) and ``born_effective_charges`` [e] (axes:
    atom, polarization, displacement) are computed when they are asked for, with the physical sign;
    see `openmm_les.evaluation.response.Response`.

    Models with several latent charges for each atom have charges of shape (n, channels), and no
    dipoles and Born effective charges.

    Charges of models with latent moments are permanent and induced ones, and so is the ``dipole``.
    They have, as far as the model does, ``dipoles`` of atoms [e A], ``quadrupoles`` of atoms (their
    traceless second moments) [e A^2] and the ``polarizability`` [e A^2/V], with the physical sign;
    see `openmm_les.evaluation.response.results.PhysicalMoments`.

    A model that was trained with charges, spins or other inputs takes them from the structure:
    ``atoms.info['charge']`` (or ``'total_charge'``), ``['spin']`` (or ``'total_spin'``), others by
    their names, those of atoms from ``atoms.arrays``. The options ``charge``, ``spin`` and
    ``features`` go before what structures state; without either the model's defaults are taken.

    Options may be spelled as in OpenMM, too: ``maxNeighbors`` for ``max_neighbors``. They are fixed
    when the calculator is made. A pickle or a copy of a calculator holds its options, the path of
    the artifact and the last results; it builds the model again when it needs it.

    Args:
        path: the artifact (``*.les.pt``), or the name of a model, such as ``'les-demo'``;
            ``modelPath`` means the same.
        precision: ``'double'`` (default: optimisations, phonons and finite differences need it) or
            ``'single'``, about twice as fast.
        device: torch device, such as ``'cpu'`` or ``'cuda'``; None takes a GPU where there is one.
        electric_field: three components [V/A] of a uniform field; None for none. The energy of a
            molecule then has the term -E mu. A periodic structure feels forces without a term in
            its energy and its stress: no line searches, no variable cells.
        **options: the others of `openmm_les.evaluation.options.EvaluationOptions`, such as
            ``max_neighbors``; ``label``, ``atoms``, ``directory``, as every calculator of ASE has
            them.

    Raises:
        InputError: an unknown argument, precision or device, or an option of the periodic sum out
            of range.
        ArtifactError: the file is missing, corrupt, too new, or not an openmm-les artifact.
    """

    implemented_properties = [  # noqa: RUF012
        "energy",
        "free_energy",
        "les_energy",
        "forces",
        "charges",
        "stress",
        "dipole",
        "born_effective_charges",
        *_OF_MOMENTS,
    ]

    @both_spellings("LESCalculator", (*_OF_OPTIONS, *_OF_ASE), {"modelPath": "path"})
    def __init__(
        self,
        path: str | os.PathLike[str],
        precision: Precision = "double",
        device: str | None = "cpu",
        electric_field: ArrayLike | None = None,
        **options: Any,
    ) -> None:
        self._lock = threading.RLock()
        of_ase = {name: options.pop(name) for name in _OF_ASE if name in options}
        super().__init__(**of_ase)  # type: ignore[no-untyped-call, unused-ignore]
        defaults = EvaluationOptions(precision, device)
        self._options = defaults.changed("LESCalculator", options).on_this_machine()
        self.artifact = open_model(path)
        self._field = None if electric_field is None else _components(electric_field)
        if self._field is not None:
            check_sign(self.artifact)
        self._moments: LatentMoments | None = None
        lacking = {
            own for own, name in _OF_MOMENTS.items() if missing_moments(self.artifact.layout, name)
        }
        known = type(self).implemented_properties
        self.implemented_properties = [name for name in known if name not in lacking]
        self._models = self._make_models()

    @property
    def electric_field(self) -> FloatArray | None:
        """The field [V/A]; it can be changed where there is one, though not in place."""
        return None if self._field is None else self._field.copy()

    @electric_field.setter
    def electric_field(self, value: ArrayLike) -> None:
        if self._field is None:
            raise InputError(
                "electric_field: this calculator was made without one; make it with "
                "electric_field=(0, 0, 0) to change the field later"
            )
        self._field = _components(value)
        self.reset()  # type: ignore[no-untyped-call, unused-ignore]

    def set(self, **kwargs: Any) -> dict[str, Any]:
        """Refuse options: they are fixed when the calculator is made."""
        for name in kwargs:
            _refuse_change(name)
        return {}

    def __setattr__(self, name: str, value: Any) -> None:
        if name != "electric_field" and name in _FIXED:
            _refuse_change(name)
        super().__setattr__(name, value)

    def __getstate__(self) -> dict[str, Any]:
        state = dict(vars(self), results=dict(self.results))
        del state["_lock"], state["_models"]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _lock=threading.RLock())
        self._models = self._make_models()

    def _make_models(self) -> SystemModels:
        return SystemModels(self.artifact, self._options, electric_field=self._field is not None)

    def get_property(
        self, name: str, atoms: Atoms | None = None, allow_calculation: bool = True
    ) -> Any:
        """As ASE has it, for one thread at a time: results belong to the structure asked for."""
        with self._lock:
            return super().get_property(  # type: ignore[no-untyped-call, unused-ignore]
                name, atoms, allow_calculation
            )

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: list[str] | None = None,
        system_changes: list[str] = all_changes,
    ) -> None:
        """Compute energy, forces, charges and stress at once; a response where it is asked for.

        Raises:
            InputError: partial periodicity, an element the model does not know, a box too small.
            PropertyNotImplementedError: stress of a structure without a box, dipole with one, an
                electric response of a model with several charges for each atom, what a model
                without such moments lacks.
        """
        super().calculate(  # type: ignore[no-untyped-call, unused-ignore]
            atoms, properties, system_changes
        )
        structure: Any = self.atoms  # ASE is typed in part only
        periodic = _is_periodic(structure)
        wanted = properties or ()
        if not periodic and "stress" in wanted:
            raise PropertyNotImplementedError(
                "stress: the structure is not periodic, so it has no volume"
            )
        if periodic and "dipole" in wanted:
            raise PropertyNotImplementedError(
                "dipole: that of a periodic structure is not defined, only its changes are; see "
                "born_effective_charges"
            )
        for name in ("dipole", "born_effective_charges"):
            if name in wanted:
                try:
                    check_single_charge(self.artifact, name)
                except InputError as error:
                    raise PropertyNotImplementedError(str(error)) from None
        positions = structure.get_positions()
        cell = np.array(structure.cell) if periodic else None
        numbers, conditions = structure.numbers.tolist(), self._conditions(structure)
        model = self._models.model_for(numbers, positions, cell, conditions)
        if system_changes or "energy" not in self.results:
            self.results = self._evaluate(model, positions, cell)
        self.results |= self._response(model, positions, cell, wanted)

    def _response(
        self,
        model: SystemModel,
        positions: FloatArray,
        cell: FloatArray | None,
        wanted: Sequence[str],
    ) -> dict[str, Any]:
        """Results that are computed where they are asked for."""
        results = {}
        of_moments = [name for name in _OF_MOMENTS if name in wanted]
        if "dipole" in wanted and self._moments is None:
            results["dipole"] = model.physical_charges(self.results["charges"]) @ positions
        elif "dipole" in wanted or of_moments:
            assert self._moments is not None  # get_property knows what the model has
            physical = model.physical_moments(self._moments)
            results = {name: getattr(physical, name) for name in of_moments}
            if "dipole" in wanted:
                results["dipole"] = physical.dipole(positions)
        if "born_effective_charges" in wanted:
            results["born_effective_charges"] = model.response(positions, cell).born_charges
        return results

    def export_properties(self) -> Properties:
        """The results that ASE has a name for, for ``Atoms.get_properties``, which i-PI calls."""
        return Properties({n: value for n, value in self.results.items() if n in all_outputs})

    def check_state(self, atoms: Atoms, tol: float = 1e-15) -> list[str]:
        """As ASE has it; a change of a charge, spin or feature of the structure counts too."""
        changes: list[str] = super().check_state(atoms, tol)  # type: ignore[no-untyped-call, unused-ignore]
        if not changes and not _same(self._conditions(atoms), self._conditions(self.atoms)):
            changes.append("info")
        return changes

    def _conditions(self, structure: Any) -> dict[str, Any]:
        """Those that the structure states, of the ones that the model takes."""
        return conditions_in(self.artifact, {**structure.info, **structure.arrays})

    def _evaluate(
        self, model: SystemModel, positions: FloatArray, cell: FloatArray | None
    ) -> dict[str, Any]:
        result = model.evaluate(positions, cell, self._field)
        self._moments = result.moments
        energy = result.energy + model.reference_energy
        results = {
            "energy": energy,
            "free_energy": energy,
            "les_energy": result.les_energy,
            "forces": result.forces,
            "charges": result.charges,
        }
        if cell is not None:
            stress = result.virial / np.linalg.det(cell)
            # Voigt order of ASE: xx, yy, zz, yz, xz, xy.
            results["stress"] = stress[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]
        return results


_FIXED = frozenset(
    spelled
    for name in ("path", "electric_field", *EvaluationOptions.accepted())
    for spelled in spellings(name)
)


def _refuse_change(name: str) -> None:
    raise InputError(
        f"{name}: the options of a LESCalculator are fixed when it is made, except electric_field "
        f"where there is one; make a new LESCalculator(path, ...)"
    )


def _same(first: dict[str, Any], second: dict[str, Any]) -> bool:
    return first.keys() == second.keys() and all(
        np.array_equal(first[name], second[name]) for name in first
    )


def _components(field: ArrayLike) -> FloatArray:
    array = np.array(field, dtype=np.float64)
    if array.shape != (3,) or not np.isfinite(array).all():
        raise InputError(f"electric_field: expected three finite components [V/A], got {field!r}")
    return array


def _is_periodic(atoms: Any) -> bool:
    pbc = tuple(bool(flag) for flag in atoms.pbc)
    if any(pbc) != all(pbc):
        raise InputError(
            f"pbc: expected all three directions periodic or none, got {pbc}; LES has no sum for "
            "slabs or wires: use pbc=True with vacuum, or pbc=False"
        )
    if all(pbc) and atoms.cell.rank < 3:
        raise InputError(
            "cell: expected three independent lattice vectors for pbc=True, got "
            f"{atoms.cell.tolist()}; call atoms.set_cell(...) or set pbc=False"
        )
    return all(pbc)
