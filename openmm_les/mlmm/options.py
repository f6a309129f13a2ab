"""The keyword arguments of ``createMixedSystem``, checked by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from openmm_les.errors import InputError
from openmm_les.forces.options import ForceOptions, refuse_unknown
from openmm_les.mlmm.decisions import Wishes, names


@dataclass(frozen=True)
class MixedOptions:
    """How a mixed System is made; the names are the keyword arguments of ``createMixedSystem``.

    Attributes:
        linkAtoms: ``'internal'`` (link atoms inside the force, no particles) or ``'virtual'``
            (virtual sites at the end of the System and of the topology, as openmm-ml makes them).
        linkAtomDistances: (atom, atom, distance) for cut bonds whose link atom is not to be at the
            sum of covalent radii [nm].
        keepForces: names of forces that are restraints, of which nothing is removed.
        replaceForces: names of custom forces that belong to the force field.
    """

    linkAtoms: str = "internal"
    linkAtomDistances: Sequence[tuple[int, int, Any]] = ()
    keepForces: Sequence[str] = ()
    replaceForces: Sequence[str] = ()

    def __post_init__(self) -> None:
        if self.linkAtoms not in ("internal", "virtual"):
            raise InputError(f"linkAtoms: expected 'internal' or 'virtual', got {self.linkAtoms!r}")
        _ = self.wishes

    @property
    def wishes(self) -> Wishes:
        """What the user decided about single forces, checked."""
        return Wishes(
            names("keepForces", self.keepForces), names("replaceForces", self.replaceForces)
        )


def read_options(
    force_group: int, arguments: Mapping[str, Any]
) -> tuple[MixedOptions, ForceOptions]:
    """Read the keyword arguments of ``createMixedSystem``.

    Args:
        force_group: the group openmm-ml chose.
        arguments: everything else the user gave.

    Raises:
        InputError: an unknown name or a value outside its range.
    """
    own = tuple(field.name for field in fields(MixedOptions))
    refuse_unknown("createMixedSystem", arguments, own + ForceOptions.accepted())
    mixed = {name: value for name, value in arguments.items() if name in own}
    forces = {name: value for name, value in arguments.items() if name not in own}
    return MixedOptions(**mixed), ForceOptions.from_arguments(force_group, forces)
