"""The backends, by which OpenMM calls a model, and which of them work in this installation.

openmmtorch is compiled against one libtorch and one OpenMM; with others it fails to import or
crashes the process. So a child process tries it before it is imported here.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import logging
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

from openmm_les.errors import InputError
from openmm_les.processes.children import run_python
from openmm_les.versions import OPENMMTORCH_BUILT_FOR, numbers_of, version_of

if TYPE_CHECKING:
    import openmm

    from openmm_les.artifact import Artifact
    from openmm_les.plugin.forces.options import ForceOptions
    from openmm_les.plugin.forces.region import Region

logger = logging.getLogger(__name__)

#: The modules with the function `build` of each backend. They import torch, or may not be there.
_MODULES = {
    "torchforce": "openmm_les.plugin.forces.torchforce",
    "pythonforce": "openmm_les.plugin.forces.pythonforce",
}
_COPY_CRASH = "crashes the process when a System is copied or read from XML"

# Prints what works so far, before it tries what may crash.
_PROBE = """
import copy, torch, openmm, openmmtorch
class Spring(torch.nn.Module):
    def forward(self, positions):
        return (positions * positions).sum(), -2.0 * positions
system = openmm.System()
system.addParticle(1.0)
force = openmmtorch.TorchForce(torch.jit.trace(Spring(), torch.zeros(1, 3)))
force.setOutputsForces(True)
system.addForce(force)
platform = openmm.Platform.getPlatformByName("Reference")
context = openmm.Context(system, openmm.VerletIntegrator(0.001), platform)
context.setPositions([[0.0, 0.0, 1.0]])
state = context.getState(energy=True, forces=True)
assert abs(state.getPotentialEnergy()._value - 1.0) < 1e-6
assert abs(state.getForces()[0][2]._value + 2.0) < 1e-6
print(json.dumps({"evaluates": True}), flush=True)
copy.deepcopy(system)
print(json.dumps({"evaluates": True, "copies": True}), flush=True)
"""
_PROBE_SECONDS = 120


@dataclass(frozen=True)
class TorchForceStatus:
    """What openmmtorch can do here."""

    evaluates: bool
    copies: bool  #: a System with a TorchForce survives XML and `copy.deepcopy`
    reason: str  #: what does not work, why, and the command that repairs it; empty if all works


def choose(
    requested: str, *, device: str | None, is_placeholder: bool, needs_python: str = ""
) -> str:
    """The backend to use, ``'torchforce'`` or ``'pythonforce'``.

    Args:
        device: what the user asked for; a TorchForce always runs where its Context runs.
        is_placeholder: the force will be copied into another System (``interpolate=True``).
        needs_python: why only a PythonForce will do; empty if that is not so.
    """
    if requested == "pythonforce":
        return requested
    reason = needs_python or _obstacle(requested, device, is_placeholder)
    if not reason:
        return "torchforce"
    if requested == "torchforce":
        raise InputError(
            f"backend: 'torchforce' cannot be used here: {reason}; or use backend='pythonforce'"
        )
    logger.info("backend='auto' takes PythonForce: %s", reason)
    return "pythonforce"


def build(name: str, artifact: Artifact, region: Region, options: ForceOptions) -> openmm.Force:
    """The force of a model by a backend of `choose`; its force group is still the default."""
    force: openmm.Force = importlib.import_module(_MODULES[name]).build(artifact, region, options)
    return force


def _obstacle(requested: str, device: str | None, is_placeholder: bool) -> str:
    """Why a TorchForce cannot be used; empty if it can."""
    if device is not None:
        return "a TorchForce runs on the device of the OpenMM platform: leave `device` out"
    if requested == "auto" and _is_known_to_crash():
        return f"{_versions()} {_COPY_CRASH}"
    status = torchforce_status()
    if status.evaluates and requested == "torchforce" and not status.copies:
        if is_placeholder:
            return f"interpolate=True copies the force, and {status.reason}"
        warnings.warn(
            f"backend='torchforce': {status.reason}; writing XML works, reading or copying does "
            "not",
            stacklevel=3,
        )
        return ""
    return status.reason


@functools.cache
def torchforce_status() -> TorchForceStatus:
    """Find out in a child process what openmmtorch can do here (seconds, once per process)."""
    if importlib.util.find_spec("openmmtorch") is None:
        return TorchForceStatus(
            False, False, "openmmtorch is not installed (pip install 'openmm-les[torchforce]')"
        )
    outcome = run_python(_PROBE, seconds=_PROBE_SECONDS)
    if not outcome.failure:
        return TorchForceStatus(True, True, "")
    if outcome.data.get("evaluates"):
        return TorchForceStatus(True, False, f"{_versions()} {_COPY_CRASH}")
    return TorchForceStatus(False, False, f"{_versions()} {outcome.failure}{_remedy()}")


def _is_known_to_crash() -> bool:
    """Whether the version table alone rules out copies, so that no child has to try."""
    release, openmm = version_of("openmmtorch"), version_of("openmm")
    if release not in OPENMMTORCH_BUILT_FOR or openmm is None:
        return False
    return numbers_of(openmm)[:2] >= numbers_of(OPENMMTORCH_BUILT_FOR[release][1])


def _remedy() -> str:
    """The pip command that installs the torch which the installed openmmtorch needs."""
    release, installed = version_of("openmmtorch"), version_of("torch")
    if release not in OPENMMTORCH_BUILT_FOR or installed is None:
        return ""
    needed, _ = OPENMMTORCH_BUILT_FOR[release]
    same_number = numbers_of(installed)[:2] == numbers_of(needed)
    if same_number and not installed.endswith("+cpu"):
        return ""
    # For pip the CPU build satisfies the same version: it has to be told to replace it.
    force = "--force-reinstall " if same_number else ""
    return (
        f"; openmmtorch {release} was built for the CUDA build of torch {needed}: "
        f"pip install {force}'torch=={needed}.*'"
    )


def _versions() -> str:
    names = ("openmmtorch", "openmm", "torch")
    release, openmm, torch = (f"{name} {version_of(name) or '(unknown version)'}" for name in names)
    return f"{release} with {openmm} and {torch}"
