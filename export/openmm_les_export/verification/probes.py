"""Structures on which every export is verified, deterministic and made of the model's elements.

Hydrides packed at van der Waals distance, or single atoms at bonding distance without hydrogen.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from openmm_les.artifact.canonical import CanonicalModel
from openmm_les.networks.conditions import Condition, conditions_of
from openmm_les.networks.registry import families
from openmm_les_export.verification.reference import all_pairs

Array = npt.NDArray[np.float64]

#: Covalent radii of Z = 1 .. 96 [pm], Cordero et al., Dalton Trans. 2008, 2832, table 2.
_RADII = tuple(
    int(radius)
    for radius in """
31 28 128 96 84 76 71 66 57 58 166 141 121 111 107 105 102 106 203 176 170 160 153 139 139 132 126
124 132 122 122 120 119 120 120 116 220 195 190 175 164 154 147 146 142 139 145 144 142 139 139 138
139 140 244 215 207 204 203 201 199 198 198 196 194 192 192 189 190 187 187 175 170 162 151 144 141
136 136 132 145 146 148 140 150 150 260 221 215 206 200 196 190 187 180 169
""".split()  # noqa: SIM905 - a list would take a line for each
)
#: Hydrogen atoms that a non-metal binds.
_VALENCES = (
    dict.fromkeys((6, 14, 32, 50), 4)
    | dict.fromkeys((5, 7, 15, 33, 51), 3)
    | dict.fromkeys((8, 16, 34, 52), 2)
    | dict.fromkeys((1, 9, 17, 35, 53), 1)
)
#: Isolated atoms of one element at most.
_MOST_COPIES = 5
_DIRECTIONS = 100
_FEWEST_ATOMS = 9
#: Distance beyond the sum of the covalent radii [A]: between molecules, and between bare atoms.
_MOLECULE_GAP, _ATOM_GAP = 1.4, 0.3
#: How near a pair may be to a step of the energy [A].
_STEP_MARGIN = 1e-7


@dataclass(frozen=True)
class Probe:
    name: str
    positions: Array  #: shape (n, 3) [A]
    numbers: npt.NDArray[np.int64]
    cell: Array | None = None  #: lattice vectors in rows [A]
    #: Of the model by name, where they are not those of `neutral_conditions`.
    conditions: Mapping[str, Any] = field(default_factory=dict)


def probes_for(canonical: CanonicalModel) -> list[Probe]:
    hyper = canonical.hyper
    steps = [hyper[name] for name in families()[canonical.family].energy_steps]
    probes = probe_structures(hyper["elements"], hyper["cutoff"], steps)
    if not (known := conditions_of(hyper)):
        return probes
    cluster, box = probes[:2]
    others = [
        replace(
            probe,
            name=f"{probe.name} in other conditions",
            conditions={each.name: _another(each, step, len(probe.numbers)) for each in known},
        )
        for probe, step in ((cluster, 1), (box, -1))
    ]
    return [*probes, *others]


def _another(condition: Condition, step: int, num_atoms: int) -> float | list[float]:
    """A value beside the neutral one, above or below; of the last class the first is beside."""
    value = condition.neutral + step
    if condition.classes is not None:
        value = condition.lowest + (value - condition.lowest) % condition.classes
    if condition.per == "system":
        return value
    return [value if atom % 2 else condition.neutral for atom in range(num_atoms)]


def probe_structures(
    elements: Sequence[int], cutoff: float, steps: Sequence[float] = ()
) -> list[Probe]:
    """Cluster, periodic box, triclinic box, two distant fragments, isolated atoms.

    Pairs are off `steps`, distances [A] at which the energy has one, by more than rounding.
    """
    molecules = _molecules(elements)
    numbers = np.concatenate([numbers for numbers, _ in molecules])
    gap = _MOLECULE_GAP if 1 in elements else _ATOM_GAP
    cluster = _pack(molecules, gap)
    padding = 2 * max(map(_radius, elements)) + gap
    sides = np.ptp(cluster, axis=0) + padding * np.array([1.0, 1.07, 1.13])
    # Off the origin, so that some atoms lie outside the box.
    boxed = cluster - cluster.min(axis=0) - 0.23 * sides
    skewed = np.diag(sides * [1.02, 1.05, 0.99])
    skewed[1, 0], skewed[2, 0], skewed[2, 1] = 0.31 * sides[0], -0.22 * sides[0], 0.27 * sides[1]
    apart = cluster @ _rotation(0.7) + [3.0 * cutoff + np.ptp(cluster), 1.3, -0.4]
    probes = [
        Probe("cluster", cluster, numbers),
        Probe("periodic box", boxed, numbers, np.diag(sides)),
        Probe("triclinic box", boxed, numbers, skewed),
        Probe("two far fragments", np.vstack([cluster, apart]), np.tile(numbers, 2)),
    ]
    probes.append(_isolated_atoms(elements, cutoff))
    return [_off_steps(probe, steps) for probe in probes] if steps else probes


def _isolated_atoms(elements: Sequence[int], cutoff: float) -> Probe:
    """Atoms beyond each other's cutoff; numbers of atoms differ, so that no swap cancels."""
    ordered = sorted(elements)
    numbers = np.repeat(ordered, [1 + i % _MOST_COPIES for i in range(len(ordered))])
    side = math.ceil(len(numbers) ** (1 / 3))
    grid = np.stack(np.unravel_index(np.arange(len(numbers)), (side, side, side)), axis=1)
    positions = 1.6 * cutoff * grid @ _rotation(0.3) + [0.4, -1.1, 2.3]
    return Probe("isolated atoms", positions, numbers.astype(np.int64))


def _off_steps(probe: Probe, steps: Sequence[float]) -> Probe:
    """The structure, stretched slightly until no pair is at a step."""
    stretch = 1.0
    while True:
        cell = None if probe.cell is None else stretch * probe.cell
        positions = stretch * probe.positions
        source, target, shifts = all_pairs(positions, cell, max(steps) + 2 * _STEP_MARGIN)
        vectors = positions[target.numpy()] - positions[source.numpy()] + shifts.numpy()
        distances = np.linalg.norm(vectors, axis=1)
        if all(np.all(np.abs(distances - step) > _STEP_MARGIN) for step in steps):
            return Probe(probe.name, positions, probe.numbers, cell)
        stretch += 1e-4


def _molecules(elements: Sequence[int]) -> list[tuple[npt.NDArray[np.int64], Array]]:
    """A hydride of each element, or single atoms where the model has no hydrogen.

    Random atoms have energies that are too large to be reproduced to 1e-6 eV per atom in float32.
    """
    heavy = sorted(z for z in elements if z > 1) or [1]
    tetrahedron = np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]) / 3**0.5
    molecules = []
    for z in heavy:
        hydrogens = _VALENCES.get(z, 0) if 1 in elements else 0
        bonds = tetrahedron[:hydrogens] * (_radius(z) + _radius(1) + (0.12 if z == 1 else 0.0))
        molecule = np.array([z] + [1] * hydrogens, dtype=np.int64), np.vstack([np.zeros(3), bonds])
        molecules.append(molecule)
    if 1 in elements and all(len(numbers) == 1 for numbers, _ in molecules):
        molecules.append((np.array([1], dtype=np.int64), np.zeros((1, 3))))
    size = sum(len(numbers) for numbers, _ in molecules)
    return molecules * -(-_FEWEST_ATOMS // size)


def _radius(number: int) -> float:
    return _RADII[min(number, len(_RADII)) - 1] / 100.0


def _pack(molecules: list[tuple[npt.NDArray[np.int64], Array]], gap: float) -> Array:
    """Positions [A]; each rotated molecule is as near to the first as the others allow."""
    # A spiral over the sphere, tilted so that nothing lies along a coordinate axis.
    index = np.arange(_DIRECTIONS) + 0.5
    height, angle = 1 - 2 * index / _DIRECTIONS, np.pi * (1 + 5**0.5) * index
    flat = np.sqrt(1 - height**2)
    directions = np.stack([flat * np.cos(angle), flat * np.sin(angle), height], 1) @ _rotation(0.4)
    placed, radii = np.zeros((0, 3)), np.zeros(0)
    for i, (numbers, shape) in enumerate(molecules):
        turned = shape @ _rotation(1.3 * i)
        sizes = np.array([_radius(int(z)) for z in numbers])
        contacts = sizes[:, None] + radii[None] + gap
        distance = 0.0
        while True:
            # Another starting direction for each molecule keeps the cluster from being regular.
            centres = distance * np.roll(directions, -17 * i, axis=0)
            trials = turned[None] + centres[:, None]
            apart = np.linalg.norm(trials[:, :, None] - placed[None, None], axis=3)
            free = np.all(apart >= contacts, axis=(1, 2))
            if free.any():
                break
            distance += 0.2
        placed, radii = np.vstack([placed, trials[np.argmax(free)]]), np.append(radii, sizes)
    return placed


def _rotation(angle: float) -> Array:
    c, s = np.cos(angle), np.sin(angle)
    about_z = np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])
    about_x = np.array([[1.0, 0.0, 0.0], [0.0, c, -s], [0.0, s, c]])
    rotation: Array = about_z @ about_x
    return rotation
