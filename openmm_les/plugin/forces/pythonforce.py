"""LES through `openmm.PythonForce`: works with every torch, and calls Python once a step."""

from __future__ import annotations

import dataclasses
import logging
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import openmm

from openmm_les import artifact as artifacts
from openmm_les import saved
from openmm_les.errors import LESError, SimulationError, printable
from openmm_les.evaluation.options import EvaluationOptions
from openmm_les.names import shorten
from openmm_les.plugin.forces import electric_field
from openmm_les.plugin.forces.cuda_context import torch_context
from openmm_les.processes.interrupts import called_by_openmm, handed_over
from openmm_les.units import ANGSTROM_PER_NM, KJ_PER_MOL_PER_EV, OPENMM_UNITS

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from openmm_les.arrays import FloatArray
    from openmm_les.artifact import Artifact
    from openmm_les.electrostatics.embedding import Surroundings
    from openmm_les.evaluation.builder import Geometry
    from openmm_les.evaluation.system_model import SystemModel
    from openmm_les.plugin.forces.options import ForceOptions
    from openmm_les.plugin.forces.region import Region

logger = logging.getLogger(__name__)


class _ForOpenMM(SimulationError):
    """An error whose text needs no Python code of ours: OpenMM crashes if that raises."""

    __str__ = Exception.__str__


def build(
    artifact: Artifact,
    region: Region,
    options: ForceOptions,
    kind: type[LESCompute] | None = None,
    **extra_settings: Any,
) -> openmm.PythonForce:
    """A `PythonForce` that calls a `kind`, `LESCompute` if None; its force group is the default."""
    artifacts.store_in_cache(artifact)
    settings = {
        "numbers": list(region.numbers),
        "periodic": region.periodic,
        "options": dataclasses.asdict(options.evaluation),
        "total_energy": options.returnEnergyType == "energy",
        "electric_field": options.field,
        "particles": None if region.is_whole_system else list(region.particles),
        **extra_settings,
    }
    compute = (kind or LESCompute)(str(artifact.path), artifact.sha256, settings)
    with torch_context(options.device):
        compute.prepare(artifact, region.cell)
    force = openmm.PythonForce(compute, compute.parameters)
    # Set also for a subset: OpenMM may hand over positions wrapped into the box.
    force.setUsesPeriodicBoundaryConditions(region.periodic)
    if not region.is_whole_system:
        force.setParticles(region.particles)
    return force


class LESCompute:
    """What a `PythonForce` calls: from a State to energy [kJ/mol] and forces [kJ/mol/nm].

    It pickles to path and hash of the artifact and plain settings, so a saved System has no weights
    and can move to another machine, where the first call builds the model.
    """

    #: Its name in saved Systems.
    kind = "model"

    def __init__(self, path: str, sha256: str, settings: dict[str, Any]) -> None:
        self._path = path
        self._sha256 = sha256
        self._settings = settings
        self._model: SystemModel | None = None
        # Contexts made from one System share this object and may run in different threads.
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return saved.reduced(self.kind, self._path, self._sha256, self._settings)

    @property
    def settings(self) -> Mapping[str, Any]:
        return self._settings

    def artifact(self) -> Artifact:
        """The model, from its file or the copy in the cache."""
        return artifacts.load(artifacts.find(self._path, self._sha256))

    @property
    def parameters(self) -> dict[str, float]:
        return electric_field.defaults(self._settings["electric_field"])

    def prepare(
        self, artifact: Artifact, cell: ArrayLike | None, positions: ArrayLike | None = None
    ) -> SystemModel:
        """Build the model; without `positions` its neighbour capacity grows in the first call."""
        from openmm_les.evaluation.system_model import SystemModel

        self._model = SystemModel(
            artifact,
            self._settings["numbers"],
            EvaluationOptions(**self._settings["options"]),
            periodic=self._settings["periodic"],
            cell=cell,
            positions=positions,
            surroundings=self.surroundings(artifact),
            electric_field=self._settings["electric_field"] is not None,
            geometry=self.geometry(),
        )
        return self._model

    def geometry(self) -> Geometry | None:
        """From the particles of the force to what the model sees, if that is not the same."""
        return None

    def surroundings(self, artifact: Artifact) -> Surroundings | None:
        """MM charges around the atoms of the model, if it feels any."""
        return None

    @called_by_openmm
    def __call__(self, state: openmm.State) -> tuple[float, NDArray[np.float64]]:
        """Evaluate the model. OpenMM turns an exception into one that keeps only the text."""
        try:
            # OpenMM calls with a CUDA context of its own, which may be current.
            with handed_over(), self._lock, torch_context(self._settings["options"]["device"]):
                return self._evaluate(state)
        except LESError as error:
            raise _ForOpenMM(str(error)) from error
        except ModuleNotFoundError as error:
            raise _ForOpenMM(saved.what_is_missing(error)) from error
        except Exception as error:
            logger.exception("the LES force failed")
            what = printable(f"{type(error).__name__}: {error}")
            raise _ForOpenMM(f"the LES force failed: {what}") from error

    def _evaluate(self, state: openmm.State) -> tuple[float, NDArray[np.float64]]:
        # In nanometers; reading the bare value avoids unit arithmetic in every step.
        positions = state.getPositions(asNumpy=True)._value
        cell = None
        if self._settings["periodic"]:
            cell = np.array(state.getPeriodicBoxVectors()._value) * ANGSTROM_PER_NM
        field = None
        if self._settings["electric_field"] is not None:
            field = np.array(electric_field.field_of(state.getParameters()))
        model = self._model
        if model is None:
            model = self.prepare(self.artifact(), cell, positions * ANGSTROM_PER_NM)
        try:
            energy, forces = self._energy_and_forces(model, positions, cell, field)
        except SimulationError as error:
            raise self._in_system(error) from None
        if self._settings["total_energy"]:
            energy += model.reference_energy
        return energy * KJ_PER_MOL_PER_EV, forces

    def _energy_and_forces(
        self,
        model: SystemModel,
        positions: FloatArray,
        cell: FloatArray | None,
        field: FloatArray | None,
    ) -> tuple[float, FloatArray]:
        """Energy [eV] and forces [kJ/mol/nm], from positions [nm], cell [A] and field [V/A].

        Raises:
            SimulationError: results that must not be used.
        """
        return model.energy_and_forces(positions, cell, field, units=OPENMM_UNITS)

    def _in_system(self, error: SimulationError) -> SimulationError:
        if not error.atoms:
            return error
        return SimulationError(f"{error.reason}: {shorten(map(self._name, error.atoms))}")

    def _name(self, atom: int) -> str:
        return f"atom {self._particle(atom)} (of the System)"

    def _particle(self, place: int) -> int:
        particles: list[int] | None = self._settings.get("particles")
        return place if particles is None else particles[place]
