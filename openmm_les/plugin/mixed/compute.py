"""What the `PythonForce` of a mixed System calls: the model with link atoms, unless lambda is 0."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import openmm

from openmm_les.arrays import FloatArray
from openmm_les.plugin.forces import pythonforce
from openmm_les.plugin.forces.pythonforce import LESCompute
from openmm_les.plugin.mixed import caps
from openmm_les.plugin.mixed.interpolation import LAMBDA
from openmm_les.units import ANGSTROM_PER_NM

if TYPE_CHECKING:
    from openmm_les.artifact import Artifact
    from openmm_les.plugin.forces.options import ForceOptions
    from openmm_les.plugin.forces.region import Region
    from openmm_les.plugin.mixed.links import Link

Spread = Callable[[FloatArray], FloatArray]


def build(
    artifact: Artifact,
    region: Region,
    options: ForceOptions,
    links: Sequence[Link],
    interpolate: bool,
) -> openmm.PythonForce:
    """Return a `PythonForce` for a region with internal link atoms or lambda.

    Args:
        artifact: the model.
        region: the ML atoms.
        options: how the model is computed.
        links: cut bonds; the MM atoms of these become particles of the force.
        interpolate: whether the model is left out where the global parameter `LAMBDA` is 0.

    Raises:
        InputError: the model cannot describe the region, such as a box that is too small.
    """
    particles = region.particles + tuple(link.mm_atom for link in links)
    place = {particle: i for i, particle in enumerate(particles)}
    wider = dataclasses.replace(region, particles=particles)
    return pythonforce.build(
        artifact,
        wider,
        options,
        MixedCompute,
        numbers=list(region.numbers) + [1] * len(links),
        links=[
            (place[link.ml_atom], place[link.mm_atom], link.distance * ANGSTROM_PER_NM)
            for link in links
        ],
        interpolate=interpolate,
    )


class MixedCompute(LESCompute):
    """A model on ML atoms and on link atoms that are no particles.

    The particles of the force are the ML atoms followed by one MM atom for each link; the atoms of
    the model are the ML atoms followed by the link atoms.

    Args:
        path: as `LESCompute`.
        sha256: as `LESCompute`.
        settings: those of `LESCompute` and ``links``, a list of (particle L1, particle M1, distance
            [A]), and ``interpolate``.
    """

    kind = "mixed"

    def __init__(self, path: str, sha256: str, settings: dict[str, Any]) -> None:
        super().__init__(path, sha256, settings)
        links = settings["links"]
        self._ml_ends = np.array([link[0] for link in links], dtype=np.int64)
        self._mm_ends = np.array([link[1] for link in links], dtype=np.int64)
        self._distances = np.array([link[2] for link in links], dtype=np.float64)

    @property
    def parameters(self) -> dict[str, float]:
        """Those of `LESCompute`, and lambda if the model may be left out."""
        return super().parameters | ({LAMBDA: 1.0} if self._settings["interpolate"] else {})

    def _evaluate(self, state: openmm.State) -> tuple[float, FloatArray]:
        is_off = self._settings["interpolate"] and state.getParameters()[LAMBDA] == 0.0
        if is_off:  # the model need not be good for what the force field samples
            return 0.0, np.zeros(state.getPositions(asNumpy=True).shape)
        return super()._evaluate(state)

    def _name(self, atom: int) -> str:
        link = atom - len(self._settings["numbers"]) + len(self._distances)
        if link < 0:
            return super()._name(atom)
        first, second = map(super()._name, (int(self._ml_ends[link]), int(self._mm_ends[link])))
        return f"the link atom between {first} and {second}"

    def _compute(
        self, positions: FloatArray, cell: FloatArray | None, field: FloatArray | None
    ) -> tuple[float, FloatArray]:
        atoms, spread = self._arrange(positions, cell)
        energy, forces = super()._compute(atoms, cell, field)
        return energy, spread(forces)

    def _arrange(self, positions: FloatArray, cell: FloatArray | None) -> tuple[FloatArray, Spread]:
        """From particles to what the model sees [A], and from forces on that to those on them."""
        links = len(self._distances)
        if links == 0:
            return positions, lambda forces: forces
        placed = caps.place(
            positions[self._ml_ends], positions[self._mm_ends], self._distances, cell
        )

        def spread(forces: FloatArray) -> FloatArray:
            on_ml, on_mm = placed.spread(forces[-links:])
            spread_out = np.zeros_like(positions)
            spread_out[:-links] = forces[:-links]
            np.add.at(spread_out, self._ml_ends, on_ml)
            np.add.at(spread_out, self._mm_ends, on_mm)
            return spread_out

        return np.concatenate([positions[:-links], placed.positions]), spread
