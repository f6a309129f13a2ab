"""Which particles of an OpenMM System a model describes, read from a Topology and checked."""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import openmm
from openmm import app, unit

from openmm_les.errors import InputError
from openmm_les.names import shorten
from openmm_les.plugin.forces.atoms import loose_residues, name_of, residue_name
from openmm_les.units import ANGSTROM_PER_NM

Cell = tuple[tuple[float, float, float], ...]


@dataclass(frozen=True)
class Region:
    """The particles of one LES force."""

    numbers: tuple[int, ...]
    particles: tuple[int, ...]  #: indices in the System, in the order the user gave
    num_particles: int  #: of the whole System
    periodic: bool
    cell: Cell | None  #: rows are the box vectors [A]
    bonds: tuple[tuple[int, int], ...]
    #: The System has no particles: openmm-ml collects the force in an empty one and copies it into
    #: another (``interpolate=True``).
    is_placeholder: bool
    loose: tuple[str, ...] = ()  #: residues with atoms of the region that no bond holds

    @property
    def is_whole_system(self) -> bool:
        return self.particles == tuple(range(self.num_particles))

    @classmethod
    def from_topology(
        cls,
        topology: app.Topology,
        system: openmm.System,
        atoms: Iterable[int] | None,
        known_elements: Sequence[int],
    ) -> Region:
        """Select and check atoms; `system` may be empty (`is_placeholder`)."""
        everything = list(topology.atoms())
        num_particles = system.getNumParticles()
        if num_particles not in (0, len(everything)):
            raise InputError(
                f"system: expected {len(everything)} particles, one per atom of the topology, got "
                f"{num_particles}; pass the topology that belongs to the system"
            )
        particles = _indices(atoms, len(everything))
        chosen = [everything[index] for index in particles]
        _check_elements(chosen, known_elements)
        periodic, cell = _box(topology, system)
        inside = set(particles)
        bonds = tuple(
            (bond.atom1.index, bond.atom2.index)
            for bond in topology.bonds()
            if bond.atom1.index in inside and bond.atom2.index in inside
        )
        return cls(
            numbers=tuple(atom.element.atomic_number for atom in chosen),
            particles=particles,
            num_particles=len(everything),
            periodic=periodic,
            cell=cell,
            bonds=bonds,
            is_placeholder=num_particles == 0 and bool(everything),
            loose=tuple(map(residue_name, loose_residues(topology, particles))),
        )


def _indices(atoms: Iterable[int] | None, num_atoms: int) -> tuple[int, ...]:
    """The selected indices as plain integers, in the given order (a generator is read once)."""
    try:
        indices = tuple(range(num_atoms)) if atoms is None else tuple(map(operator.index, atoms))
    except TypeError as error:
        raise InputError(f"atoms: expected atom indices (integers): {error}") from None
    if not indices:
        raise InputError(
            "atoms: expected at least one atom, got none; select what the model should describe"
        )
    outside = [index for index in indices if not 0 <= index < num_atoms]
    if outside:
        raise InputError(
            f"atoms: expected indices from 0 to {num_atoms - 1}, got {shorten(outside)}; "
            "indices count the atoms of the topology from 0"
        )
    twice = [index for index, count in Counter(indices).items() if count > 1]
    if twice:
        raise InputError(
            f"atoms: expected every index once, got {shorten(twice)} more than once; "
            "remove the duplicates"
        )
    return indices


def _check_elements(atoms: Sequence[app.topology.Atom], known: Sequence[int]) -> None:
    """Refuse particles without an element (virtual sites) and elements unknown to the model."""
    bare = [atom for atom in atoms if atom.element is None]
    if bare:
        raise InputError(
            "topology: expected an element for every atom, got none for "
            f"{shorten(map(name_of, bare))}; the model describes real atoms: use a water model "
            "without virtual sites, or leave these out of `atoms`"
        )
    alien = [atom for atom in atoms if atom.element.atomic_number not in known]
    if alien:
        symbols = sorted({atom.element.symbol for atom in alien})
        expected = ", ".join(app.Element.getByAtomicNumber(int(z)).symbol for z in sorted(known))
        raise InputError(
            f"topology: expected elements the model knows ({expected}), got {', '.join(symbols)} "
            f"in {shorten(map(name_of, alien))}; leave these atoms out or use a model trained "
            "for them"
        )


def _box(topology: app.Topology, system: openmm.System) -> tuple[bool, Cell | None]:
    vectors = topology.getPeriodicBoxVectors()
    if vectors is None:
        if not system.usesPeriodicBoundaryConditions():
            return False, None
        vectors = system.getDefaultPeriodicBoxVectors()
    return True, cell_of(vectors)


def cell_of(vectors: Iterable[unit.Quantity]) -> Cell:
    rows = (vector.value_in_unit(unit.nanometer) for vector in vectors)
    x, y, z = (tuple(float(length) * ANGSTROM_PER_NM for length in row) for row in rows)
    return x, y, z  # type: ignore[return-value]
