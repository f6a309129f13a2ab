"""Mechanical embedding: the region and its surroundings interact by the force field."""

from __future__ import annotations

import dataclasses
import logging
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import openmm
from openmm import app

from openmm_les.arrays import FloatArray
from openmm_les.electrostatics.embedding import charge_factor
from openmm_les.names import LAMBDA
from openmm_les.plugin.forces import Region, add_force, backends, install, pythonforce
from openmm_les.plugin.forces.pythonforce import LESCompute
from openmm_les.plugin.mixed import nonbonded
from openmm_les.plugin.mixed.embeddings import EmbeddingOptions, MixedRequest
from openmm_les.plugin.mixed.geometry import RegionGeometry
from openmm_les.plugin.mixed.interpolation import Sums, scaled
from openmm_les.plugin.mixed.links import Link
from openmm_les.plugin.mixed.region import follow_system
from openmm_les.units import (
    ANGSTROM_PER_NM,
    COULOMB_CONSTANT,
    KJ_PER_MOL_PER_EV,
    OPENMM_UNITS,
)

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from openmm_les.artifact import Artifact
    from openmm_les.evaluation.results import Evaluation
    from openmm_les.evaluation.system_model import SystemModel

logger = logging.getLogger(__name__)

#: Energy of a unit charge among its images in a cube of 1 nm, with the background that neutralises
#: them [kJ/mol] (M. Leslie, M. J. Gillan, J. Phys. C 18, 973 (1985)).
_IMAGES = -2.837297 / 2 * COULOMB_CONSTANT * KJ_PER_MOL_PER_EV / ANGSTROM_PER_NM
#: That of a spurious charge of 0.1 e, below which nothing is said [e^2].
_SMALL = 0.1**2
#: Artifacts and atoms of regions that were looked at.
_told: set[tuple[object, ...]] = set()


class MechanicalEmbedding:
    """E = E_MM - E_MM(ML-ML) + E_ML."""

    options_class: ClassVar[type[EmbeddingOptions] | None] = None

    def __init__(self, request: MixedRequest, options: None) -> None:
        self._request = request

    def change_nonbonded(self, mixed: openmm.System, sums: Sums) -> None:
        take_out = nonbonded.fade if self._request.interpolate else nonbonded.remove
        take_out(mixed, self._request.region.particles, sums)

    def add_model(
        self, mixed: openmm.System, topology: app.Topology, link_atoms: list[int]
    ) -> None:
        request = self._request
        region, links = request.region.plain, request.links
        if link_atoms:
            atoms = [*request.region.atoms, *link_atoms]
            extended = Region.from_topology(topology, mixed, atoms, request.artifact.elements)
            region, links = follow_system(extended, mixed), ()
        if not links and not request.interpolate:
            add_force(mixed, request.artifact, region, request.options)
            return
        reason = "interpolate=True needs a PythonForce"
        if links:
            reason = "linkAtoms='internal' needs a PythonForce, linkAtoms='virtual' does not"
        backend = request.options.backend
        backends.choose(backend, device=None, is_placeholder=False, needs_python=reason)
        # The particles of the force are ML atoms, then the MM atom of each link.
        particles = region.particles + tuple(link.mm_atom for link in links)
        places = {particle: i for i, particle in enumerate(particles)}
        force: openmm.Force = pythonforce.build(
            request.artifact,
            dataclasses.replace(region, particles=particles),
            request.options,
            MixedCompute,
            numbers=list(region.numbers) + [1] * len(links),
            links=[(places[link.ml_atom], places[link.mm_atom], link.distance) for link in links],
            interpolate=request.interpolate,
            mm_charge=nonbonded.charge_of(request.system, request.region.particles),
        )
        if request.interpolate:
            force = scaled(force, knows_slope=True)
        install(force, mixed, region, request.options.forceGroup)


class MixedCompute(LESCompute):
    """A model on ML atoms and on link atoms that are no particles.

    The particles of the force are the ML atoms followed by one MM atom for each link. Settings are
    those of `LESCompute` and ``links`` (the fields of `Link`, by particles of the force),
    ``interpolate``: whether the model is left out where `LAMBDA` is 0; and ``mm_charge``: of the
    region in the force field [e].
    """

    kind = "mixed"

    def __init__(self, path: str, sha256: str, settings: dict[str, Any]) -> None:
        super().__init__(path, sha256, settings)
        self._links = [Link(*link) for link in settings["links"]]
        self._unit = 1.0  # of latent charges [e]
        #: Whether `_check` looks at the next result, for which a GPU has to send the charges too.
        self._has_to_check: bool = settings["interpolate"] and settings["periodic"]

    @property
    def parameters(self) -> dict[str, float]:
        return super().parameters | ({LAMBDA: 1.0} if self._settings["interpolate"] else {})

    def geometry(self) -> RegionGeometry:
        num_atoms, num_links = len(self._settings["numbers"]), len(self._links)
        return RegionGeometry(
            num_atoms,
            range(num_atoms - num_links),
            self._links,
            periodic=self._settings["periodic"],
        )

    def _evaluate(self, state: openmm.State) -> tuple[float, FloatArray]:
        is_off = self._settings["interpolate"] and state.getParameters()[LAMBDA] == 0.0
        if is_off:  # the model need not be good for what the force field samples
            return 0.0, np.zeros(state.getPositions(asNumpy=True).shape)
        return super()._evaluate(state)

    def prepare(
        self, artifact: Artifact, cell: ArrayLike | None, positions: ArrayLike | None = None
    ) -> SystemModel:
        self._unit = charge_factor(1.0, float(artifact.metadata["les"]["prefactor"]))
        return super().prepare(artifact, cell, positions)

    def _energy_and_forces(
        self,
        model: SystemModel,
        positions: FloatArray,
        cell: FloatArray | None,
        field: FloatArray | None,
    ) -> tuple[float, FloatArray]:
        if not self._has_to_check:
            return super()._energy_and_forces(model, positions, cell, field)
        result = model.evaluate(positions, cell, field, units=OPENMM_UNITS)
        self._check(result)
        return result.energy, result.forces

    def _check(self, result: Evaluation) -> None:
        """Warn once where free energies depend on the size of the box."""
        self._has_to_check = False
        if (model := (self._path, *self._settings["numbers"])) in _told:
            return
        _told.add(model)
        sums = self._unit * np.atleast_2d(result.charges).sum(axis=-1)
        expected = self._settings.get("mm_charge", 0.0)
        spurious = float(sums @ sums) - expected**2
        if abs(spurious) > _SMALL:
            logger.warning(
                "embedding='mechanical': latent charges that add up to %.2f e take the place of "
                "MM charges of %.2f e. Among periodic images that adds about %.2f kJ/mol / L to "
                "the free energy from the force field to the model, with the length L of the box "
                "in nm: compare boxes of the same size, or take embedding='electrostatic'",
                float(np.linalg.norm(sums)),
                abs(expected),
                _IMAGES * spurious,
            )

    def _name(self, atom: int) -> str:
        number = atom - len(self._settings["numbers"]) + len(self._links)
        if number < 0:
            return super()._name(atom)
        link = self._links[number]
        first, second = map(super()._name, (link.ml_atom, link.mm_atom))
        return f"the link atom between {first} and {second}"


EMBEDDING = MechanicalEmbedding
