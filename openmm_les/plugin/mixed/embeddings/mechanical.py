"""Mechanical embedding: the region and its surroundings interact by the force field."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import numpy as np
import openmm
from openmm import app

from openmm_les.arrays import FloatArray
from openmm_les.names import LAMBDA
from openmm_les.plugin.forces import Region, add_force, backends, install, pythonforce
from openmm_les.plugin.forces.pythonforce import LESCompute
from openmm_les.plugin.mixed import nonbonded
from openmm_les.plugin.mixed.embeddings import EmbeddingOptions, MixedRequest
from openmm_les.plugin.mixed.geometry import RegionGeometry
from openmm_les.plugin.mixed.interpolation import Sums, scaled
from openmm_les.plugin.mixed.links import Link
from openmm_les.plugin.mixed.region import follow_system


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
        )
        if request.interpolate:
            force = scaled(force, knows_slope=True)
        install(force, mixed, region, request.options.forceGroup)


class MixedCompute(LESCompute):
    """A model on ML atoms and on link atoms that are no particles.

    The particles of the force are the ML atoms followed by one MM atom for each link. Settings are
    those of `LESCompute` and ``links`` (the fields of `Link`, by particles of the force), and
    ``interpolate``: whether the model is left out where `LAMBDA` is 0.
    """

    kind = "mixed"

    def __init__(self, path: str, sha256: str, settings: dict[str, Any]) -> None:
        super().__init__(path, sha256, settings)
        self._links = [Link(*link) for link in settings["links"]]

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

    def _name(self, atom: int) -> str:
        number = atom - len(self._settings["numbers"]) + len(self._links)
        if number < 0:
            return super()._name(atom)
        link = self._links[number]
        first, second = map(super()._name, (link.ml_atom, link.mm_atom))
        return f"the link atom between {first} and {second}"


EMBEDDING = MechanicalEmbedding
