"""The keyword arguments that ``createSystem`` and ``createMixedSystem`` accept, checked by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal

from openmm_les.evaluation.options import Device, EvaluationOptions
from openmm_les.names import Option, described, read_arguments
from openmm_les.plugin.forces.electric_field import Field, read_field

#: createMixedSystem has read this one, and openmm-ml hands it on to addForces all the same.
_READ_BEFORE = "linkAtomDistances"


@described
@dataclass(frozen=True)
class ForceOptions(EvaluationOptions):
    """How one LES force is computed; the names are the keyword arguments of ``createSystem``.

    There they may be spelled as in Python, too: ``max_neighbors`` for ``maxNeighbors``.
    """

    device: Device = None
    backend: Annotated[
        Literal["auto", "torchforce", "pythonforce"], Option("how OpenMM calls the model")
    ] = "auto"
    returnEnergyType: Annotated[
        Literal["interaction_energy", "energy"],
        Option("energy without those of the isolated atoms (interaction_energy) or with them"),
    ] = "interaction_energy"
    forceGroup: Annotated[int, Option("force group of the new forces", limits=(0, 31))] = 0
    electricField: Annotated[
        Any,
        Option(
            "three components [V/nm] of a uniform field on the model's atoms, a Quantity or "
            "numbers: values in a new Context of the parameters electricFieldX, electricFieldY "
            "and electricFieldZ; None: no field and no such parameters"
        ),
    ] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        _ = self.field

    @property
    def field(self) -> Field | None:
        return read_field(self.electricField)

    @property
    def evaluation(self) -> EvaluationOptions:
        """Those that are not about OpenMM."""
        return EvaluationOptions(
            **{each.name: getattr(self, each.name) for each in fields(EvaluationOptions)}
        )

    @classmethod
    def from_arguments(cls, force_group: int, arguments: Mapping[str, Any]) -> ForceOptions:
        """Read the keyword arguments of ``createSystem``.

        Args:
            force_group: the group openmm-ml chose; a ``forceGroup`` among `arguments` overrides it.
            arguments: everything else the user gave.

        Raises:
            InputError: an unknown name or a value outside its range.
        """
        given = {name: value for name, value in arguments.items() if name != _READ_BEFORE}
        given = read_arguments("createSystem", given, cls.accepted(), taken=("removeCMMotion",))
        return cls(**{"forceGroup": force_group, **given})
