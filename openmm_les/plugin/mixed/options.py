"""The keyword arguments of ``createMixedSystem``, checked by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

from openmm_les.errors import InputError
from openmm_les.names import read_arguments
from openmm_les.plugin.forces.options import ForceOptions
from openmm_les.plugin.mixed import embeddings
from openmm_les.plugin.mixed.embeddings import EmbeddingOptions
from openmm_les.plugin.mixed.force_field import ForceOverrides

#: Options that openmm-ml takes for itself.
_OF_OPENMM_ML = ("removeConstraints", "interpolate", "embedding", "returnInfo")


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
        _ = self.overrides

    @cached_property
    def overrides(self) -> ForceOverrides:
        """What the user decided about single forces, checked."""
        return ForceOverrides.read(self.keepForces, self.replaceForces)


def read_options(
    force_group: int, embedding: str, arguments: Mapping[str, Any]
) -> tuple[MixedOptions, EmbeddingOptions | None, ForceOptions]:
    """Read the keyword arguments of ``createMixedSystem``.

    Args:
        force_group: the group openmm-ml chose.
        embedding: one of `embeddings.names`.
        arguments: everything else the user gave.

    Returns:
        The options of every embedding, those of this one if it has any, those of the model.

    Raises:
        InputError: an unknown name or a value outside its range.
    """
    classes = {name: embeddings.load(name).options_class for name in embeddings.names()}
    owners = {
        field.name: name
        for name, options in classes.items()
        if options is not None
        for field in fields(options)
    }
    of_mixed = [field.name for field in fields(MixedOptions)]
    accepted = (*of_mixed, *owners, *ForceOptions.accepted())
    arguments = read_arguments("createMixedSystem", arguments, accepted, taken=_OF_OPENMM_ML)
    for name in arguments:
        if owners.get(name, embedding) != embedding:
            raise InputError(f"{name}: this option is for embedding={owners[name]!r}")

    rest = dict(arguments)
    mixed = MixedOptions(**{name: rest.pop(name) for name in of_mixed if name in rest})
    own = {name: rest.pop(name) for name in owners if name in rest}
    forces = ForceOptions.from_arguments(force_group, rest)
    options_class = classes[embedding]
    if options_class is None:
        return mixed, None, forces
    options = options_class(**own)
    options.check(forces)
    return mixed, options, forces
