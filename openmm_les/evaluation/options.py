"""How a model is computed: the options that every entry point has. Imports nothing heavy."""

from __future__ import annotations

import numbers
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

from openmm_les.errors import InputError, one_line
from openmm_les.evaluation.device import find_device
from openmm_les.evaluation.engines.variant import Variant
from openmm_les.names import Option, check_options, described, read_arguments
from openmm_les.networks.conditions import OPTIONS, option_of

if TYPE_CHECKING:
    from openmm_les.electrostatics import EwaldOptions


Precision: TypeAlias = Literal["single", "double"]
Ewald: TypeAlias = Literal["auto", "direct", "mesh"]
Cutoff: TypeAlias = Literal["hard", "smooth"]
Convention: TypeAlias = Literal["consistent", "original"]
Device: TypeAlias = Annotated[
    str | None, Option("torch device, such as cpu or cuda:0; None: a GPU where there is one")
]


#: Of total charges and spins.
_STATES = (-10_000.0, 10_000.0)


@described
@dataclass(frozen=True)
class EvaluationOptions:
    """How a model is computed, whoever asks for it.

    The names are the keyword arguments of ``createSystem``. Every entry point accepts them as
    ``maxNeighbors`` and as ``max_neighbors``.

    Raises:
        InputError: a value that is not accepted.
    """

    precision: Annotated[Precision, Option("arithmetic of the network and of the Ewald sum")] = (
        "single"
    )
    device: Device = "cpu"
    engine: Annotated[
        Literal["auto", "torchscript", "compile"],
        Option("what runs the model; auto: what is fastest here, as measured"),
    ] = "auto"
    maxNeighbors: Annotated[
        int | None,
        Option("slots for each atom's neighbours; None: from the structure", limits=(1, None)),
    ] = None
    ewald: Annotated[Ewald, Option("periodic sum: direct (exact), mesh, or the faster of both")] = (
        "auto"
    )
    ewaldTolerance: Annotated[
        float,
        Option(
            "RMS force error of the mesh over the RMS force",
            limits=(1e-7, 0.01),
            hint="; for more accuracy use ewald='direct', which is exact",
        ),
    ] = 1e-5
    lesCutoff: Annotated[
        Cutoff, Option("k-space cutoff; smooth changes the energy of the model")
    ] = "hard"
    fieldConvention: Annotated[
        Convention,
        Option("electric field on polarizable models: forces of the energy, or of the original"),
    ] = "consistent"
    cudaGraphs: Annotated[
        Literal["auto", True, False],
        Option("replay the model as a CUDA graph; auto: on a GPU, if it works there"),
    ] = "auto"
    charge: Annotated[
        float | None,
        Option("total charge [e], of models trained with it; None: their default", limits=_STATES),
    ] = None
    spin: Annotated[
        float | None,
        Option("total spin, as such models were trained; None: their default", limits=_STATES),
    ] = None
    features: Annotated[
        Mapping[str, Any] | None,
        Option("other inputs of such models by name: a number, or one for each atom"),
    ] = None
    variant: Annotated[
        Any,
        Option("`Variant` to compute the model by, in place of what is measured, for engine auto"),
    ] = None

    def __post_init__(self) -> None:
        if self.device is not None:
            object.__setattr__(self, "device", str(self.device))  # a torch.device, too
        check_options(self)
        object.__setattr__(self, "features", _read_features(self.features))
        if self.variant is not None and not isinstance(self.variant, Variant):
            object.__setattr__(self, "variant", Variant.from_json(self.variant))
        if self.variant is not None and self.engine != "auto":
            raise InputError(
                f"variant: expected none beside engine={self.engine!r}; leave out one of them"
            )
        for name, option in OPTIONS.items():
            if getattr(self, option) is not None and name in (self.features or {}):
                raise InputError(f"{option}: it is given a second time, as features[{name!r}]")

    @classmethod
    def accepted(cls) -> tuple[str, ...]:
        """Names of the options."""
        return tuple(field.name for field in fields(cls))

    def changed(self, where: str, arguments: Mapping[str, Any]) -> EvaluationOptions:
        """The same with other values, given under either spelling.

        Raises:
            InputError: an unknown name or a value that is not accepted.
        """
        if not arguments:
            return self
        return replace(self, **read_arguments(where, arguments, self.accepted()))

    def on_this_machine(self) -> EvaluationOptions:
        """The same with a torch device of this machine.

        Raises:
            InputError: there is no such device, or CUDA graphs are demanded on one without them.
        """
        device = find_device(self.device)
        if self.cudaGraphs is True and not device.startswith("cuda"):
            raise InputError(
                f"cudaGraphs: True needs a CUDA device, got device {device!r}; leave it out to use "
                "graphs wherever there are any"
            )
        return replace(self, device=device)

    @property
    def conditions(self) -> dict[str, Any]:
        """Values of the conditions of a model by name, those that are given."""
        own = {name: getattr(self, option) for name, option in OPTIONS.items()}
        given = {name: value for name, value in own.items() if value is not None}
        return {**given, **(self.features or {})}

    def under(self, conditions: Mapping[str, Any]) -> EvaluationOptions:
        """The same with other conditions, by name."""
        return replace(self, charge=None, spin=None, features=conditions)

    @property
    def ewald_options(self) -> EwaldOptions:
        from openmm_les.electrostatics import EwaldOptions

        return EwaldOptions(self.ewald, self.ewaldTolerance, self.lesCutoff)


def _read_features(given: Any) -> dict[str, Any] | None:
    """Names with numbers, or lists of numbers, of Python."""
    if given is None or given == {}:
        return None
    if not isinstance(given, Mapping):
        raise InputError(
            f"features: expected numbers by name, as in {{'NAME': 1.0}}, got {given!r}"
        )
    return {str(name): _plain(str(name), value) for name, value in given.items()}


def _plain(name: str, value: Any) -> float | list[float]:
    given = value.tolist() if hasattr(value, "tolist") else value
    is_list = isinstance(given, Iterable) and not isinstance(given, str)
    values = list(given) if is_list else [given]
    if not all(isinstance(each, numbers.Real) and not isinstance(each, bool) for each in values):
        raise InputError(
            f"{option_of(name)}: expected a number or a list of numbers, got "
            f"{one_line(repr(value), 80)}"
        )
    plain = [float(each) for each in values]
    return plain if is_list else plain[0]
