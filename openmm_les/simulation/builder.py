"""Builds the OpenMM Simulation of a run: model, device, platform, ensemble, random seeds."""

from __future__ import annotations

import hashlib
import os
import secrets
from dataclasses import dataclass
from typing import Any

import openmm
import torch
from openmm import app, unit
from openmmml import MLPotential

from openmm_les import __version__
from openmm_les.arrays import FloatArray
from openmm_les.artifact import Artifact
from openmm_les.errors import InputError
from openmm_les.evaluation.capacity import with_headroom
from openmm_les.evaluation.device import find_device
from openmm_les.evaluation.engines.variant import Variant
from openmm_les.names import LAMBDA
from openmm_les.neighbors.matrix import largest_number_of_neighbors
from openmm_les.plugin.forces import backends
from openmm_les.simulation.checkpoint import PhaseName
from openmm_les.simulation.config import RunConfig
from openmm_les.simulation.fields import LARGEST_SEED
from openmm_les.simulation.hybrid import Hybrid, create_mixed_system
from openmm_les.simulation.messages import in_run_terms
from openmm_les.simulation.structures.structure import Structure, with_box
from openmm_les.units import ANGSTROM_PER_NM

#: OpenMM's own variable for the threads of its CPU platform.
_THREADS = "OPENMM_CPU_THREADS"


@dataclass(frozen=True)
class Phase:
    """One part of a run, with one integrator."""

    name: PhaseName
    steps: int
    ensemble: str  #: ``"NVT"``, ``"NPT"`` or ``"NVE"``


@dataclass(frozen=True)
class State:
    """State that one phase passes to the next."""

    positions: FloatArray  #: Shape (n, 3) [nm]
    velocities: FloatArray | None  #: Shape (n, 3) [nm/ps]; None draws thermal ones
    box: FloatArray | None  #: Box vectors in rows [nm]; None where not periodic


def plan_phases(config: RunConfig) -> list[Phase]:
    """The phases of a run; NVE is equilibrated as NVT, with a thermostat."""
    production = Phase("production", config.steps, config.ensemble)
    if config.equilibration_steps == 0:
        return [production]
    ensemble = "NVT" if config.ensemble == "NVE" else config.ensemble
    return [Phase("equilibration", config.equilibration_steps, ensemble), production]


def resolve_config(config: RunConfig) -> RunConfig:
    """Choose backend, device, platform and seed where the configuration leaves them open."""
    reason = ""
    if config.ml_region and config.backend == "auto":
        reason = "cut bonds and electrostatic embedding need it"
    with in_run_terms(app.Topology()):
        backend = backends.choose(
            config.backend, device=config.device, is_placeholder=False, needs_python=reason
        )
    device = find_device(config.device)
    platform = config.platform
    if platform == "auto":
        # For a model alone, Reference and CPU take the same time (2.9 and 3.1 ms a step for 22
        # atoms, 25.9 and 25.0 ms for 192), and Reference adds no threads to those of torch. A force
        # field is slow on Reference, which has no neighbour list.
        platform = "CPU" if config.ml_region else "Reference"
        if device.startswith("cuda") and "CUDA" in _platforms():
            platform = "CUDA"
    if platform not in _platforms():
        raise InputError(
            f"platform: expected one of {', '.join(_platforms())}, which OpenMM has here, got "
            f"{platform}"
        )
    update = {
        "backend": backend,
        # A TorchForce runs where its platform does.
        "device": None if backend == "torchforce" else device,
        "platform": platform,
        "seed": config.seed or 1 + secrets.randbelow(LARGEST_SEED),
    }
    return config.model_copy(update=update)


def choose_max_neighbors(artifact: Artifact, state: State, hybrid: Hybrid | None) -> int:
    """Capacity for neighbours, with head-room; chosen once a run, since sums depend on it."""
    box = None if state.box is None else state.box * ANGSTROM_PER_NM
    positions = state.positions * ANGSTROM_PER_NM
    if hybrid is not None:
        positions = positions[[*hybrid.atoms, *hybrid.ends]]
    return with_headroom(largest_number_of_neighbors(positions, box, artifact.cutoff))


def create_simulation(
    config: RunConfig,
    structure: Structure,
    artifact: Artifact,
    ensemble: str,
    box: FloatArray | None,
    seed: tuple[str, int] = ("", 0),
    hybrid: Hybrid | None = None,
    variant: Variant | None = None,
) -> app.Simulation:
    """Build System, integrator and Context, from a configuration of `resolve_config`.

    The buffers of the model are made for `box` [nm], and the random numbers depend on phase and
    step in `seed`. The model is computed as `variant` says, None for the usual way.
    """
    system = create_system(config, structure, artifact, box, hybrid, variant)
    if ensemble == "NPT":
        if box is None:
            raise InputError(
                "ensemble: NPT needs a periodic box; expected box vectors in the structure "
                "(CRYST1 of a PDB file), got none"
            )
        pressure, temperature = config.pressure * unit.bar, config.temperature * unit.kelvin
        system.addForce(openmm.MonteCarloBarostat(pressure, temperature, config.barostat_interval))
    integrator = _integrator(config, ensemble)
    _set_seeds(config, system, integrator, *seed)
    platform = openmm.Platform.getPlatformByName(config.platform)
    properties = _properties(config, platform)
    try:
        simulation = app.Simulation(
            with_box(structure.topology, box), system, integrator, platform, properties
        )
    except openmm.OpenMMException as error:
        raise InputError(f"platform: {config.platform} does not work here: {error}") from error
    if config.lambda_interpolate is not None:
        simulation.context.setParameter(LAMBDA, config.lambda_interpolate)
    return simulation


def create_system(
    config: RunConfig,
    structure: Structure,
    artifact: Artifact,
    box: FloatArray | None,
    hybrid: Hybrid | None = None,
    variant: Variant | None = None,
) -> openmm.System:
    """The System without a barostat; see `create_simulation`."""
    topology = with_box(structure.topology, box)
    options = vars(config.evaluation_options) | {"backend": config.backend, "variant": variant}
    with in_run_terms(topology):
        if hybrid is not None:
            return create_mixed_system(config, hybrid, topology, artifact, options)
        return MLPotential("les", modelPath=artifact.path).createSystem(topology, **options)


def reseed(
    config: RunConfig, simulation: app.Simulation, phase: str, step: int, *, keep_state: bool = True
) -> None:
    """Bring a Context into the state of a new one that has loaded its present checkpoint.

    A checkpoint of OpenMM lacks the step size of the barostat and the age of the neighbour list of
    the force field, which decides the order of its sums. Unless it is to `keep_state`, the Context
    is a new one without positions, whose random numbers begin anew, too.
    """
    _set_seeds(config, simulation.system, simulation.integrator, phase, step)
    simulation.context.reinitialize(preserveState=keep_state)


def set_positions(simulation: app.Simulation, positions: FloatArray) -> None:
    """Set positions [nm], apply constraints, and place virtual sites."""
    context = simulation.context
    context.setPositions(positions * unit.nanometer)
    if simulation.system.getNumConstraints() > 0:
        context.applyConstraints(simulation.integrator.getConstraintTolerance())
    context.computeVirtualSites()


def constrained_particles(simulation: app.Simulation) -> set[int]:
    """Indices of particles with constraints."""
    system = simulation.system
    pairs = (system.getConstraintParameters(i)[:2] for i in range(system.getNumConstraints()))
    return {particle for pair in pairs for particle in pair}


def draw_velocities(config: RunConfig, simulation: app.Simulation) -> None:
    """Draw velocities at the temperature of the run."""
    seed = _derive_seed(config, "velocities", "", 0)
    simulation.context.setVelocitiesToTemperature(config.temperature * unit.kelvin, seed)


def environment() -> dict[str, Any]:
    """Versions and settings that the last bits of a trajectory depend on."""
    return {
        "openmm-les": __version__,
        "openmm": openmm.version.version,
        "torch": torch.__version__,
        "torch threads": torch.get_num_threads(),
        _THREADS: os.environ.get(_THREADS),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def _integrator(config: RunConfig, ensemble: str) -> openmm.Integrator:
    time_step = config.time_step * unit.femtosecond
    if ensemble == "NVE":
        return openmm.VerletIntegrator(time_step)
    return openmm.LangevinMiddleIntegrator(
        config.temperature * unit.kelvin, config.friction / unit.picosecond, time_step
    )


def _set_seeds(
    config: RunConfig, system: openmm.System, integrator: openmm.Integrator, phase: str, step: int
) -> None:
    if hasattr(integrator, "setRandomNumberSeed"):
        integrator.setRandomNumberSeed(_derive_seed(config, "integrator", phase, step))
    for force in system.getForces():
        if isinstance(force, openmm.MonteCarloBarostat):
            force.setRandomNumberSeed(_derive_seed(config, "barostat", phase, step))


def _derive_seed(config: RunConfig, purpose: str, phase: str, step: int) -> int:
    """A seed for one purpose, phase and step; never 0, which is any seed for OpenMM."""
    digest = hashlib.sha256(f"{config.seed}/{purpose}/{phase}/{step}".encode()).digest()
    return 1 + int.from_bytes(digest[:8], "big") % LARGEST_SEED


def _platforms() -> list[str]:
    count = openmm.Platform.getNumPlatforms()
    return [openmm.Platform.getPlatform(index).getName() for index in range(count)]


def _properties(config: RunConfig, platform: openmm.Platform) -> dict[str, str]:
    """Platform properties that make runs bit-identical."""
    precision = "double" if config.precision == "double" else "mixed"
    wanted = {"Precision": precision, "DeterministicForces": "true"}
    device = config.device or ""
    if device.startswith("cuda:"):
        wanted["DeviceIndex"] = device.removeprefix("cuda:")
    if config.ml_region and _THREADS not in os.environ:
        # With several threads, the CPU platform sums forces of a force field in any order.
        wanted["Threads"] = "1"
    known = platform.getPropertyNames()
    return {name: value for name, value in wanted.items() if name in known}
