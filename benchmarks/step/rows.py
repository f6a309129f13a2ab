"""What is compared: every way to make MD steps with the same weights."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch
from peers import Les, register_stand_in, without_charges

from step.steps import ASESteps, Case, OpenMMSteps, Steps, platform_for
from step.systems import topology_of

#: Rows from which differences of forces are taken, the first that there is.
REFERENCES = ("mace-torch", "openmm-ml")
#: What a backend or an ASE calculator adds to a step does not grow with the system.
_SMALL = 200
#: What names of rows say of engines.
_ENGINES = {None: "", "torchscript": " torch code", "compile": " compiled"}


@dataclass(frozen=True)
class Row:
    """A way to make MD steps.

    Attributes:
        build: makes it for a case, in the process that measures.
        note: what to know about it.
        package: what has to be installed for it.
        largest: more atoms are not tried on a CPU unless the row is asked for by name.
        warm_up: fewest steps before any is timed, after a first evaluation.
        is_whole: computes the whole model; else the network without charges.
        is_quick: part of a short run.
        is_compiled: by torch.compile.
    """

    build: Callable[[Case], Steps]
    note: str
    package: str = "torch"
    largest: int = 10**6
    warm_up: int = 1
    is_whole: bool = True
    is_quick: bool = True
    is_compiled: bool = False

    @property
    def is_missing(self) -> bool:
        return find_spec(self.package) is None


@dataclass(frozen=True)
class OurRow(Row):
    """openmm-les with one backend and engine.

    Attributes:
        backend, engine: as in ``createSystem``; None: the engine that is usual.
    """

    backend: str = "pythonforce"
    engine: str | None = None

    @property
    def has_dynamics(self) -> bool:
        """Whether to run dynamics for the energy: once for each engine."""
        return self.backend == "pythonforce"

    @property
    def is_taken_apart(self) -> bool:
        """Whether to time the parts of a step, which are those of the usual engine."""
        return self.backend == "pythonforce" and self.engine is None

    def options(self, device: str) -> dict[str, str]:
        """Keyword arguments of ``createSystem``."""
        options = {"backend": self.backend}
        if self.engine:
            options["engine"] = self.engine
        if self.backend == "pythonforce":
            options["device"] = device  # a TorchForce runs where its Context runs
        return options


def rows() -> dict[str, Row]:
    """All rows by name."""
    return {**our_rows(), **_peers()}


def our_rows() -> dict[str, OurRow]:
    """Each backend with the usual engine, and a PythonForce with those that are chosen by name."""
    found = {}
    for backend, engine in (
        ("pythonforce", None),
        ("pythonforce", "torchscript"),
        ("pythonforce", "compile"),
        ("torchforce", None),
    ):
        is_compiled = engine == "compile"
        found[f"openmm-les {backend}" + _ENGINES[engine]] = OurRow(
            _openmm_les,
            note=f"backend={backend!r}" + (f", engine={engine!r}" if engine else ""),
            package="openmmtorch" if backend == "torchforce" else "torch",
            largest=_SMALL if is_compiled or backend == "torchforce" else 10**6,
            warm_up=2,
            is_compiled=is_compiled,
            backend=backend,
            engine=engine,
        )
    return found


def _peers() -> dict[str, Row]:
    return {
        "openmm-ml": Row(_openmm_ml, note="MLPotential('mace'), PythonForce, mace-torch eager"),
        "mace-torch": Row(_mace, note="ASE calculator, eager", largest=_SMALL),
        "mace-torch scripted": Row(
            _mace_scripted,
            note="ASE calculator, torch.jit.script of the network without charges",
            largest=_SMALL,
            warm_up=2,
            is_whole=False,
            is_quick=False,
        ),
        "mace-torch compiled": Row(
            _mace_compiled,
            note="ASE calculator, torch.compile of the network, eager sum of the charges, forces "
            "by autograd (compile_mode gives forces of zero)",
            largest=_SMALL,
            warm_up=2,
            is_quick=False,
            is_compiled=True,
        ),
        "mace-torch cueq": _accelerated("enable_cueq", "cuequivariance_torch"),
        "mace-torch oeq": _accelerated("enable_oeq", "openequivariance"),
    }


def _accelerated(option: str, package: str) -> Row:
    return Row(
        functools.partial(_mace, **{option: True}),
        note=f"ASE calculator, {option}=True",
        package=package,
        largest=_SMALL,  # their kernels are for GPUs
        warm_up=2,
        is_quick=find_spec(package) is not None,
    )


def _openmm_les(case: Case) -> Steps:
    from openmmml import MLPotential

    row = our_rows()[case.row]
    on_host = platform_for(case.device).getName() == "Reference"
    if row.backend == "torchforce" and on_host and case.device != "cpu":
        raise RuntimeError("this OpenMM has no platform on which a TorchForce uses the GPU")
    options = row.options(case.device)
    potential = MLPotential("les", modelPath=case.artifact)
    return OpenMMSteps(potential.createSystem(topology_of(case.atoms()), **options), case)


def _openmm_ml(case: Case) -> Steps:
    from openmmml import MLPotential

    register_stand_in()
    system = MLPotential("mace", modelPath=case.peer).createSystem(
        topology_of(case.atoms()),
        precision="single",
        returnEnergyType="energy",
        device=case.device,
    )
    return OpenMMSteps(system, case)


def _mace(case: Case, **options: Any) -> Steps:
    return _calculator(case, _peer(case), **options)


def _mace_scripted(case: Case) -> Steps:
    from e3nn.util import jit

    return _calculator(case, jit.script(without_charges(_peer(case))))


def _mace_compiled(case: Case) -> Steps:
    from step.compiled import CompiledMACE

    return ASESteps(CompiledMACE(_peer(case), case.device), case)


def _peer(case: Case) -> torch.nn.Module:
    register_stand_in()
    import mace  # noqa: F401 - before anything of e3nn is loaded

    model: torch.nn.Module = torch.load(case.peer, map_location=case.device, weights_only=False)
    # mace-torch makes the model again to convert it, without the arguments of its charges.
    Les.defaults = model.les.arguments
    return model


def _calculator(case: Case, model: torch.nn.Module, **options: Any) -> Steps:
    from mace.calculators import MACECalculator

    calculator = MACECalculator(
        models=[model], device=case.device, default_dtype="float32", **options
    )
    return ASESteps(calculator, case)
