"""What is compared: every way to make MD steps with the same weights, behind one interface."""

import functools
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import openmm
import torch
from ase import Atoms, units
from ase.md.verlet import VelocityVerlet
from openmm import unit
from peers import Les, register_stand_in, without_charges

from openmm_les.forces import ForceOptions
from openmm_les.units import ANGSTROM_PER_NM, FORCE_PER_EV_PER_ANGSTROM
from step.systems import load, topology_of

#: Short, so that random weights cannot throw atoms at each other [fs]. It changes no cost.
TIME_STEP = 0.2


@dataclass(frozen=True)
class Case:
    """What one process measures; paths, so that it fits on a command line."""

    row: str
    artifact: str
    peer: str
    structure: str
    device: str
    threads: int

    def atoms(self) -> Atoms:
        return load(Path(self.structure))

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


class Steps(Protocol):
    """Something that makes MD steps."""

    def step(self, steps: int) -> None:
        """Velocity-Verlet steps, each with one evaluation of energy and forces."""

    def evaluate(self) -> np.ndarray:
        """One evaluation of energy and forces [eV/A], shape (n, 3)."""


class OpenMMSteps:
    """Steps of an OpenMM Context."""

    def __init__(self, system: openmm.System, case: Case) -> None:
        integrator = openmm.VerletIntegrator(0.001 * TIME_STEP)
        self.context = openmm.Context(system, integrator, platform_for(case.device))
        self.context.setPositions(case.atoms().positions / ANGSTROM_PER_NM)
        self._integrator = integrator

    def step(self, steps: int) -> None:
        self._integrator.step(steps)

    def evaluate(self) -> np.ndarray:
        state = self.context.getState(energy=True, forces=True)
        per_nm = unit.kilojoule_per_mole / unit.nanometer
        forces: np.ndarray = state.getForces(asNumpy=True).value_in_unit(per_nm)
        return forces / FORCE_PER_EV_PER_ANGSTROM


class ASESteps:
    """Steps of an ASE calculator."""

    def __init__(self, calculator: Any, case: Case) -> None:
        self.atoms = case.atoms()
        self.atoms.calc = calculator
        self._dynamics = VelocityVerlet(self.atoms, timestep=TIME_STEP * units.fs)

    def step(self, steps: int) -> None:
        for _ in range(steps):
            self._dynamics.step()

    def evaluate(self) -> np.ndarray:
        self.atoms.calc.reset()
        forces: np.ndarray = self.atoms.get_forces()
        return forces


@functools.cache
def platform_for(device: str) -> openmm.Platform:
    """The platform whose own share of a step is the least."""
    names = {
        openmm.Platform.getPlatform(i).getName() for i in range(openmm.Platform.getNumPlatforms())
    }
    fastest = ["CUDA", "OpenCL", "Reference"] if device.startswith("cuda") else ["Reference"]
    return openmm.Platform.getPlatformByName(next(name for name in fastest if name in names))


@dataclass(frozen=True)
class Row:
    """A way to make MD steps.

    Attributes:
        build: makes it for a case, in the process that measures.
        largest: more atoms are not tried on a CPU unless the row is asked for by name.
        is_ours: openmm-les.
        is_whole: computes the whole model; else the network without charges.
        is_quick: part of a short run.
        note: what to know about it.
        missing: what would have to be installed.
    """

    build: Callable[[Case], Steps]
    largest: int = 10**6
    is_ours: bool = False
    is_whole: bool = True
    is_quick: bool = True
    note: str = ""
    missing: str = ""


def rows() -> dict[str, Row]:
    """All rows by name; the first is the one that others are compared with."""
    found = dict(_ours())
    found["openmm-ml"] = Row(_openmm_ml, note="MLPotential('mace'), PythonForce, mace-torch eager")
    found["mace-torch"] = Row(_mace, note="ASE calculator, eager")
    found["mace-torch scripted"] = Row(
        _mace_scripted,
        largest=200,
        is_whole=False,
        is_quick=False,
        note="ASE calculator, torch.jit.script of the network without charges",
    )
    found["mace-torch compiled"] = Row(
        _mace_compiled,
        largest=200,
        is_whole=False,
        is_quick=False,
        note="ASE calculator, compile_mode='default', the network without charges",
    )
    for name, package in (("cueq", "cuequivariance_torch"), ("oeq", "openequivariance")):
        found[f"mace-torch {name}"] = Row(
            functools.partial(_mace_accelerated, option=f"enable_{name}"),
            note=f"ASE calculator, enable_{name}=True",
            is_quick=bool(find_spec(package)),
            missing="" if find_spec(package) else package,
        )
    return found


def _ours() -> dict[str, Row]:
    """openmm-les: each backend with each engine that this version has."""
    engines = ["torchscript", "compile"] if "engine" in ForceOptions.accepted() else [""]
    found = {}
    for backend in ("pythonforce", "torchforce"):
        for engine in engines:
            name = f"openmm-les {backend}" + (" compiled" if engine == "compile" else "")
            found[name] = Row(
                functools.partial(_openmm_les, backend=backend, engine=engine),
                # What the backend adds to a step does not grow with the system.
                largest=200 if backend == "torchforce" else 10**6,
                is_ours=True,
                missing=""
                if backend == "pythonforce" or find_spec("openmmtorch")
                else "openmmtorch",
            )
    return found


def options_of_ours(backend: str, engine: str, device: str) -> dict[str, str]:
    """Keyword arguments of ``createSystem``."""
    options = {"backend": backend}
    if engine:
        options["engine"] = engine
    if backend == "pythonforce":
        options["device"] = device  # a TorchForce runs where its Context runs
    return options


def _openmm_les(case: Case, backend: str, engine: str) -> Steps:
    from openmmml import MLPotential

    potential = MLPotential("les", modelPath=case.artifact)
    options = options_of_ours(backend, engine, case.device)
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


def _peer(case: Case) -> torch.nn.Module:
    register_stand_in()
    import mace  # noqa: F401 - before anything of e3nn is loaded

    model: torch.nn.Module = torch.load(case.peer, map_location=case.device, weights_only=False)
    # mace-torch makes a model again, without the parameters of its charges, to convert it.
    Les.defaults = {
        "sigma": model.les.ewald.sigma,
        "dl": model.les.ewald.dl,
        "prefactor": model.les.ewald.norm_factor,
        "remove_self_interaction": model.les.ewald.remove_self_interaction,
    }
    return model


def _calculator(case: Case, model: torch.nn.Module, **options: Any) -> Steps:
    from mace.calculators import MACECalculator

    calculator = MACECalculator(
        models=[model], device=case.device, default_dtype="float32", **options
    )
    return ASESteps(calculator, case)


def _mace(case: Case) -> Steps:
    return _calculator(case, _peer(case))


def _mace_scripted(case: Case) -> Steps:
    from e3nn.util import jit

    return _calculator(case, jit.script(without_charges(_peer(case))))


def _mace_compiled(case: Case) -> Steps:
    return _calculator(case, without_charges(_peer(case)), compile_mode="default")


def _mace_accelerated(case: Case, option: str) -> Steps:
    return _calculator(case, _peer(case), **{option: True})
