"""The keyword arguments that ``createSystem`` and ``createMixedSystem`` accept, checked by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from openmm_les.evaluation.options import EvaluationOptions
from openmm_les.names import option, read_arguments
from openmm_les.plugin.forces.electric_field import Field, read_field

#: createMixedSystem has read this one, and openmm-ml hands it on to addForces all the same.
_READ_BEFORE = "linkAtomDistances"


@dataclass(frozen=True)
class ForceOptions(EvaluationOptions):
    """How one LES force is computed; the names are the keyword arguments of ``createSystem``.

    There they may be spelled as in Python, too: ``max_neighbors`` for ``maxNeighbors``.
    """

    device: str | None = option(
        None, "torch device, such as cpu or cuda:0; None: a GPU where there is one"
    )
    backend: str = option(
        "auto",
        "how OpenMM calls the model",
        choices=("auto", "torchforce", "pythonforce"),
    )
    returnEnergyType: str = option(
        "interaction_energy",
        "interaction_energy: without the energies of the isolated atoms; energy: with them",
        choices=("interaction_energy", "energy"),
    )
    forceGroup: int = option(0, "force group of the new forces", limits=(0, 31), is_integer=True)
    electricField: Any = option(  # noqa: RUF009
        None,
        "three components [V/nm] of a uniform field on the model's atoms, a Quantity or numbers: "
        "the values in a new Context of the parameters electricFieldX, electricFieldY, "
        "electricFieldZ; None: no field and no such parameters",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        _ = self.field

    @property
    def field(self) -> Field | None:
        """Components of the electric field [V/nm], checked."""
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
