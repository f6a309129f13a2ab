"""The keyword arguments of ``createMixedSystem``, checked by name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal

from openmm_les.errors import InputError
from openmm_les.names import Option, check_options, described, read_arguments
from openmm_les.plugin.forces.options import ForceOptions
from openmm_les.plugin.mixed import embeddings
from openmm_les.plugin.mixed.embeddings import EmbeddingOptions

#: Options that openmm-ml takes for itself.
_OF_OPENMM_ML = ("removeConstraints", "interpolate", "embedding", "returnInfo")


@described
@dataclass(frozen=True)
class MixedOptions:
    """How a mixed System is made; the names are the keyword arguments of ``createMixedSystem``."""

    linkAtoms: Annotated[
        Literal["internal", "virtual"],
        Option(
            "internal: link atoms inside the force, no particles; virtual: virtual sites at the "
            "end of the System and of the topology, as openmm-ml makes them"
        ),
    ] = "internal"
    linkAtomDistances: Annotated[
        Sequence[tuple[int, int, Any]],
        Option(
            "(atom, atom, distance) for cut bonds whose link atom is not to be at the sum of "
            "covalent radii [nm]"
        ),
    ] = ()
    keepForces: Annotated[
        Sequence[str], Option("names of forces that are restraints, of which nothing is removed")
    ] = ()
    replaceForces: Annotated[
        Sequence[str], Option("names of custom forces that belong to the force field")
    ] = ()

    def __post_init__(self) -> None:
        check_options(self)
        for name in ("keepForces", "replaceForces"):
            given = getattr(self, name)
            is_list = isinstance(given, Iterable) and not isinstance(given, str)
            listed = tuple(given) if is_list else (None,)
            if not all(isinstance(each, str) for each in listed):
                raise InputError(f"{name}: expected a list of names of forces, got {given!r}")
            object.__setattr__(self, name, listed)


def read_options(
    force_group: int, embedding: str, arguments: Mapping[str, Any]
) -> tuple[MixedOptions, EmbeddingOptions | None, ForceOptions]:
    """Read the keyword arguments of ``createMixedSystem`` that openmm-ml does not take for itself.

    Returns:
        The options of every embedding, those of this one if it has any, those of the model.
    """
    classes = {name: embeddings.load(name).options_class for name in embeddings.names()}
    owners = {
        field.name: name
        for name, options in classes.items()
        if options is not None
        for field in fields(options)
    }
    of_mixed = [field.name for field in fields(MixedOptions)]
    of_force = ForceOptions.accepted()
    accepted = (*of_mixed, *owners, *of_force)
    rest = read_arguments("createMixedSystem", arguments, accepted, taken=_OF_OPENMM_ML)
    for name in rest:
        if owners.get(name, embedding) != embedding and name not in of_force:
            raise InputError(f"{name}: this option is for embedding={owners[name]!r}")

    mixed = MixedOptions(**{name: rest.pop(name) for name in of_mixed if name in rest})
    # The charge of a region is that of its model, too.
    own = {name: rest[name] for name in rest if owners.get(name) == embedding}
    rest = {name: value for name, value in rest.items() if name in of_force or name not in own}
    forces = ForceOptions.from_arguments(force_group, rest)
    options_class = classes[embedding]
    if options_class is None:
        return mixed, None, forces
    options = options_class(**own)
    options.check(forces)
    return mixed, options, forces
