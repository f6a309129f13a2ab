"""What the `PythonForce` of electrostatic embedding calls: the model among MM charges."""

from __future__ import annotations

import dataclasses
import math
import zlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import openmm

from openmm_les.arrays import FloatArray
from openmm_les.errors import InputError, SimulationError
from openmm_les.plugin.forces import pythonforce
from openmm_les.plugin.forces.pythonforce import LESCompute
from openmm_les.plugin.mixed import caps
from openmm_les.plugin.mixed.compute import MixedCompute, Spread
from openmm_les.plugin.mixed.images import Cluster, nearest
from openmm_les.units import ANGSTROM_PER_NM

if TYPE_CHECKING:
    from openmm_les.artifact import Artifact
    from openmm_les.electrostatics.embedding import Surroundings
    from openmm_les.evaluation.results import Evaluation
    from openmm_les.plugin.forces.options import ForceOptions
    from openmm_les.plugin.mixed.field import MMField
    from openmm_les.plugin.mixed.links import Link
    from openmm_les.plugin.mixed.options import ElectrostaticOptions
    from openmm_les.plugin.mixed.region import MLRegion

_PATIENCE = 20
"""So many evaluations in a row may miss the charge of the region: minimisers try, and turn back."""


def build(
    artifact: Artifact,
    region: MLRegion,
    field: MMField,
    links: Sequence[Link],
    options: ForceOptions,
    electrostatic: ElectrostaticOptions,
    interpolate: bool,
    num_particles: int,
) -> openmm.PythonForce:
    """Return a `PythonForce` for a region among MM charges; its particles are all of the topology.

    Args:
        artifact: the model.
        region: the ML atoms.
        field: the MM charges.
        links: cut bonds, whose link atoms the force places itself.
        options: how the model is computed.
        electrostatic: how it is embedded.
        interpolate: whether the model is left out where the global parameter `LAMBDA` is 0.
        num_particles: of the System, with link atoms that are particles too.

    Raises:
        InputError: the model cannot describe the region, or the sign of its charges is not known.
    """
    if artifact.metadata.get("charge_sign") is None:
        raise InputError(
            f"embedding='electrostatic': {artifact.path} does not state the sign of its latent "
            "charges (charge_sign), without which MM charges would attract what they should repel; "
            "use embedding='mechanical'"
        )
    plain = region.plain
    place = {atom: i for i, atom in enumerate(plain.particles)}
    charged = [int(i) for i in np.flatnonzero(field.charges)]
    everything = tuple(range(plain.num_particles))
    whole = dataclasses.replace(plain, particles=everything, num_particles=num_particles)
    return pythonforce.build(
        artifact,
        whole,
        options,
        EmbeddedCompute,
        numbers=list(plain.numbers) + [1] * len(links),
        particles=None,
        links=[(link.ml_atom, link.mm_atom, link.distance * ANGSTROM_PER_NM) for link in links],
        interpolate=interpolate,
        atoms=list(plain.particles),
        bonds=[(place[first], place[second]) for first, second in plain.bonds],
        charges=_pack(field.charges),
        on_bonds=[dataclasses.astuple(charge) for charge in field.on_bonds],
        scaled_pairs=_scaled_pairs(field, place, charged),
        method=field.method,
        cutoff=field.cutoff,
        dielectric=field.dielectric,
        charge=field.total,
        charge_tolerance=float(electrostatic.chargeTolerance),
        ml_images=electrostatic.mlImages,
    )


class EmbeddedCompute(MixedCompute):
    """A model on ML and link atoms that feels the charges of all other particles.

    The particles of the force are those of the System. The atoms of the model are the ML atoms, in
    one piece, followed by the link atoms; then come the particles that have an MM charge, and
    charges on bonds.

    MM charges are part of the settings, compressed: a box of water repeats itself, so that they
    take about a kilobyte of a saved System. Charges that change in the NonbondedForce later do not
    change here.

    Args:
        path: as `LESCompute`.
        sha256: as `LESCompute`.
        settings: those of `MixedCompute`, with particles of the System in ``links``; ``atoms``
            (particles), ``bonds`` (pairs of these, by their place), ``charges`` of all particles,
            ``on_bonds`` (the fields of `BondCharge`), ``charge_tolerance`` [e], and the fields of
            `openmm_les.electrostatics.embedding.Surroundings`.
    """

    kind = "embedded"

    def __init__(self, path: str, sha256: str, settings: dict[str, Any]) -> None:
        super().__init__(path, sha256, settings)
        atoms = settings["atoms"]
        place = {atom: i for i, atom in enumerate(atoms)}
        self._atoms = np.array(atoms, dtype=np.int64)
        self._hosts = np.array([place[atom] for atom in self._ml_ends], dtype=np.int64)
        self._cluster = Cluster(len(atoms), settings["bonds"])
        charges = _unpack(settings["charges"])
        self._charged = np.flatnonzero(charges)
        on_bonds = settings["on_bonds"]
        self._first = np.array([charge[0] for charge in on_bonds], dtype=np.int64)
        self._second = np.array([charge[1] for charge in on_bonds], dtype=np.int64)
        self._fractions = np.array([[charge[2]] for charge in on_bonds]).reshape(-1, 1)
        self._mm_charges = [*charges[self._charged].tolist(), *(charge[3] for charge in on_bonds)]
        self._sign = 1.0
        self._misses = _PATIENCE  # none is allowed at the start

    def _surroundings(self, artifact: Artifact) -> Surroundings:
        from openmm_les.electrostatics.embedding import Surroundings, charge_factor

        settings = self._settings
        sign, les = float(artifact.metadata["charge_sign"]), artifact.metadata["les"]
        self._sign = charge_factor(sign, float(les["prefactor"]))
        return Surroundings(
            charges=self._mm_charges,
            method=settings["method"],
            total=settings["charge"],
            sign=self._sign,
            cutoff=settings["cutoff"],
            dielectric=settings["dielectric"],
            scaled_pairs=settings["scaled_pairs"],
            hosts=self._hosts.tolist(),
            images=settings["ml_images"],
            tolerance=min(settings["options"]["ewaldTolerance"], 1e-4),
        )

    def _name(self, atom: int) -> str:
        if atom < len(self._atoms):
            return LESCompute._name(self, int(self._atoms[atom]))
        return super()._name(atom)

    def _check(self, result: Evaluation) -> None:
        total = self._sign * float(result.charges.sum())
        expected, allowed = self._settings["charge"], self._settings["charge_tolerance"]
        if abs(total - expected) <= allowed:
            self._misses = 0
            return
        self._misses += 1
        if self._misses >= _PATIENCE:
            raise SimulationError.with_remedy(
                "embedding='electrostatic': the latent charges of the ML region add up to "
                f"{total:+.3f} e, expected {expected:+d} e within {allowed:g} e (chargeTolerance): "
                "the model does not describe this region well, or its charge is wrong. To go on, "
                "with the difference spread evenly over the atoms of the region, give "
                f"chargeTolerance={_next_tenth(abs(total - expected))}; another region, another "
                "charge or embedding='mechanical' does without"
            )

    def _arrange(self, positions: FloatArray, cell: FloatArray | None) -> tuple[FloatArray, Spread]:
        atoms = self._cluster.in_one_piece(positions[self._atoms], cell)
        placed = caps.place(atoms[self._hosts], positions[self._mm_ends], self._distances, cell)
        start = positions[self._first]
        on_bonds = start + self._fractions * nearest(positions[self._second] - start, cell)
        parts = [atoms, placed.positions, positions[self._charged], on_bonds]
        ends = np.cumsum([len(part) for part in parts])[:-1]

        def spread(forces: FloatArray) -> FloatArray:
            on_atoms, on_caps, on_charged, on_bonds = np.split(forces, ends)
            spread_out = np.zeros_like(positions)
            spread_out[self._atoms] = on_atoms
            spread_out[self._charged] = on_charged
            on_ml, on_mm = placed.spread(on_caps)
            np.add.at(spread_out, self._ml_ends, on_ml)
            np.add.at(spread_out, self._mm_ends, on_mm)
            np.add.at(spread_out, self._first, (1.0 - self._fractions) * on_bonds)
            np.add.at(spread_out, self._second, self._fractions * on_bonds)
            return spread_out

        return np.concatenate(parts), spread


def _scaled_pairs(
    field: MMField, place: dict[int, int], charged: Sequence[int]
) -> list[tuple[int, int, float]]:
    """ML atom and MM charge by their places, and the factor.

    A charge on a bond is what M1 gave to M2, and interacts like the rest of the charge of M2.
    """
    columns = {particle: [j] for j, particle in enumerate(charged)}
    for j, charge in enumerate(field.on_bonds, start=len(charged)):
        columns.setdefault(charge.second, []).append(j)
    return [
        (place[atom], j, factor)
        for (atom, particle), factor in sorted(field.factors.items())
        for j in columns.get(particle, [])
    ]


def _next_tenth(value: float) -> float:
    """The first multiple of 0.1 that is above a value with some room."""
    return math.ceil(10.0 * (value + 0.05)) / 10.0


def _pack(charges: FloatArray) -> bytes:
    return zlib.compress(charges.astype("<f8").tobytes(), 9)


def _unpack(packed: bytes) -> FloatArray:
    return np.frombuffer(zlib.decompress(packed), dtype="<f8").astype(np.float64)
