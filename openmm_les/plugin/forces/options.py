"""The keyword arguments that ``createSystem`` and ``createMixedSystem`` accept, checked by name."""

from __future__ import annotations

import numbers
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from openmm_les.electrostatics import EwaldOptions
from openmm_les.errors import InputError
from openmm_les.evaluation.engines.compiled import check_engine
from openmm_les.evaluation.engines.evaluator import check_cuda_graphs
from openmm_les.names import read_arguments
from openmm_les.plugin.forces.electric_field import Field, read_field

# createMixedSystem hands its own options on to addForces; they are not ours to judge.
_OF_EMBEDDINGS = frozenset({"linkAtomDistances"})


@dataclass(frozen=True)
class ForceOptions:
    """How one LES force is computed; the names are the keyword arguments of ``createSystem``.

    There they may be spelled as in Python, too: ``max_neighbors`` for ``maxNeighbors``.

    Attributes:
        precision: ``'single'`` or ``'double'``, the arithmetic of the network and of the Ewald sum.
        device: torch device such as ``'cpu'`` or ``'cuda:0'``; None takes a GPU where there is one.
        backend: ``'auto'``, ``'torchforce'`` or ``'pythonforce'``.
        engine: ``'torchscript'``, or ``'compile'`` for code that torch.compile makes for the system
            (PythonForce only).
        returnEnergyType: ``'interaction_energy'`` (without the isolated atoms) or ``'energy'``.
        forceGroup: force group of the new forces, 0 to 31.
        maxNeighbors: capacity of the neighbour list of an atom; None derives it from the structure.
        ewald: ``'direct'`` (exact), ``'mesh'`` (O(N log N)) or ``'auto'``; see
            `openmm_les.electrostatics.EwaldOptions`.
        ewaldTolerance: RMS force error over RMS force of the mesh.
        lesCutoff: ``'hard'``, as models are trained, or ``'smooth'``, which changes the energy.
        cudaGraphs: ``'auto'`` (PythonForce: on a GPU, if it works there; TorchForce: no), True
            (where that does not work, an error says why) or False.
        electricField: three components [V/nm] of a uniform field on the model's atoms, a Quantity
            or numbers: the values in a new Context of the parameters ``electricFieldX``,
            ``electricFieldY``, ``electricFieldZ``. None for no field, and no such parameters.
    """

    precision: str = "single"
    device: str | None = None
    backend: str = "auto"
    engine: str = "torchscript"
    returnEnergyType: str = "interaction_energy"
    forceGroup: int = 0
    maxNeighbors: int | None = None
    ewald: str = "auto"
    ewaldTolerance: float = 1e-5
    lesCutoff: str = "hard"
    cudaGraphs: bool | str = "auto"
    electricField: Any = None

    def __post_init__(self) -> None:
        _one_of("precision", self.precision, ("single", "double"))
        _one_of("backend", self.backend, ("auto", "torchforce", "pythonforce"))
        check_engine(self.engine)
        _one_of("returnEnergyType", self.returnEnergyType, ("interaction_energy", "energy"))
        _integer("forceGroup", self.forceGroup, 0, 31)
        if self.maxNeighbors is not None:
            _integer("maxNeighbors", self.maxNeighbors, 1, None)
        _ = self.ewald_options
        check_cuda_graphs(self.cudaGraphs)
        _ = self.field

    @property
    def field(self) -> Field | None:
        """Components of the electric field [V/nm], checked."""
        return read_field(self.electricField)

    @property
    def ewald_options(self) -> EwaldOptions:
        """The options of the periodic sum, checked."""
        return EwaldOptions(self.ewald, self.ewaldTolerance, self.lesCutoff)

    @classmethod
    def accepted(cls) -> tuple[str, ...]:
        """Names of the accepted keyword arguments."""
        return tuple(field.name for field in fields(cls))

    @classmethod
    def from_arguments(cls, force_group: int, arguments: Mapping[str, Any]) -> ForceOptions:
        """Read the keyword arguments of ``createSystem``.

        Args:
            force_group: the group openmm-ml chose; a ``forceGroup`` among `arguments` overrides it.
            arguments: everything else the user gave.

        Raises:
            InputError: an unknown name or a value outside its range.
        """
        given = {name: value for name, value in arguments.items() if name not in _OF_EMBEDDINGS}
        given = read_arguments("createSystem", given, cls.accepted(), taken=("removeCMMotion",))
        given.setdefault("forceGroup", force_group)
        if given.get("device") is not None:
            given["device"] = str(given["device"])  # a torch.device, too
        return cls(**given)


def _one_of(name: str, value: object, expected: tuple[str, ...]) -> None:
    if value not in expected:
        choices = " or ".join(repr(choice) for choice in expected)
        raise InputError(f"{name}: expected {choices}, got {value!r}")


def _integer(name: str, value: object, low: int, high: int | None) -> None:
    is_integer = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not is_integer or value < low or (high is not None and value > high):  # type: ignore[operator]
        limits = f"from {low} to {high}" if high is not None else f"of at least {low}"
        raise InputError(f"{name}: expected an integer {limits}, got {value!r}")
