"""The keyword arguments of ``createMixedSystem``, checked by name."""

from __future__ import annotations

import numbers
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

from openmm_les.errors import InputError
from openmm_les.names import read_arguments
from openmm_les.plugin.forces.options import ForceOptions
from openmm_les.plugin.mixed.charges import check_scheme
from openmm_les.plugin.mixed.decisions import Wishes, names

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
        _ = self.wishes

    @cached_property
    def wishes(self) -> Wishes:
        """What the user decided about single forces, checked."""
        return Wishes(
            names("keepForces", self.keepForces), names("replaceForces", self.replaceForces)
        )


@dataclass(frozen=True)
class ElectrostaticOptions:
    """How MM charges act on the region, with ``embedding='electrostatic'``.

    Attributes:
        boundaryCharges: what becomes of charges at cut bonds, see `plugin.mixed.charges`.
        charge: of the ML region [e]; None for the rounded sum of its MM charges.
        allowNetCharge: accept a region that is not neutral.
        chargeTolerance: how far the sum of latent charges may be from the charge of the region [e].
        mlImages: ``'exact'`` (the region's periodic images are point charges around a region
            without images) or ``'native'`` (they are those of the model, as it was trained).
    """

    boundaryCharges: str = "rcd"
    charge: int | None = None
    allowNetCharge: bool = False
    chargeTolerance: float = 0.25
    mlImages: str = "exact"

    def __post_init__(self) -> None:
        check_scheme(self.boundaryCharges)
        if self.charge is not None and not _is_integer(self.charge):
            raise InputError(f"charge: expected an integer number of e, got {self.charge!r}")
        if not isinstance(self.allowNetCharge, bool):
            raise InputError(f"allowNetCharge: expected True or False, got {self.allowNetCharge!r}")
        if not _is_real(self.chargeTolerance) or not self.chargeTolerance > 0.0:
            raise InputError(
                f"chargeTolerance: expected a charge above 0 e, got {self.chargeTolerance!r}"
            )
        if self.mlImages not in ("exact", "native"):
            raise InputError(f"mlImages: expected 'exact' or 'native', got {self.mlImages!r}")

    def total_charge(self, classical: float) -> int:
        """Charge of the region [e].

        Args:
            classical: sum of its MM charges [e].

        Raises:
            InputError: it is not 0, and that was not allowed.
        """
        total = round(classical) if self.charge is None else int(self.charge)
        if total != 0 and not self.allowNetCharge:
            raise InputError(
                f"embedding='electrostatic': expected a neutral ML region, got {total:+d} e (the "
                f"MM charges add up to {classical:+.3f} e): models trained on neutral molecules "
                "know no others. If the region is neutral once its cut bonds are capped, charge=0; "
                "if the model knows ions, allowNetCharge=True"
            )
        return total

    def check(self, forces: ForceOptions) -> None:
        """Refuse other options that do not go with these.

        Raises:
            InputError: names the option.
        """
        if forces.field is not None:
            raise InputError(
                "electricField: expected none with embedding='electrostatic', in which MM charges "
                "act on the region; leave it out, or use embedding='mechanical'"
            )
        if self.mlImages == "exact" and (forces.ewald == "mesh" or forces.lesCutoff == "smooth"):
            raise InputError(
                "ewald='mesh' and lesCutoff='smooth' are for the periodic sum of the model, which "
                "mlImages='exact' does without: leave them out, or use mlImages='native'"
            )


def read_options(
    force_group: int, embedding: str, arguments: Mapping[str, Any]
) -> tuple[MixedOptions, ElectrostaticOptions | None, ForceOptions]:
    """Read the keyword arguments of ``createMixedSystem``.

    Args:
        force_group: the group openmm-ml chose.
        embedding: ``'mechanical'`` or ``'electrostatic'``.
        arguments: everything else the user gave.

    Returns:
        The options of every embedding, those of the electrostatic one, those of the model.

    Raises:
        InputError: an unknown name or a value outside its range.
    """
    own = [field.name for field in fields(MixedOptions)]
    further = [field.name for field in fields(ElectrostaticOptions)]
    accepted = (*own, *further, *ForceOptions.accepted())
    arguments = read_arguments("createMixedSystem", arguments, accepted, taken=_OF_OPENMM_ML)
    out_of_place = [name for name in arguments if name in further]
    if embedding != "electrostatic" and out_of_place:
        raise InputError(f"{out_of_place[0]}: this option is for embedding='electrostatic'")

    def chosen(names: Iterable[str]) -> dict[str, Any]:
        return {name: arguments[name] for name in names if name in arguments}

    mixed = MixedOptions(**chosen(own))
    forces = ForceOptions.from_arguments(force_group, chosen(ForceOptions.accepted()))
    if embedding != "electrostatic":
        return mixed, None, forces
    electrostatic = ElectrostaticOptions(**chosen(further))
    electrostatic.check(forces)
    return mixed, electrostatic, forces


def _is_real(value: object) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def _is_integer(value: object) -> bool:
    return _is_real(value) and float(value).is_integer()  # type: ignore[arg-type]
