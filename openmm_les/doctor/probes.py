"""Try what may crash in child processes, so that `openmm-les doctor` survives to tell.

A probe is a piece of Python that prints one line of JSON. Packages compiled against each other's
other versions do not raise: they end the process, so nothing of the kind is imported here.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from openmm_les.processes import openmp

# Children import what this process would: an editable checkout, no modules of the working folder.
_PRELUDE = """
import sys
sys.path[:] = {path!r}
import json, resource
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
"""

_TORCH = """
import torch
devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
if not torch.cuda.is_available():
    devices = []
products = torch.backends.cuda.matmul.fp32_precision
print(json.dumps({"cuda": torch.version.cuda, "hip": torch.version.hip, "devices": devices,
                  "threads": torch.get_num_threads(), "products": products}))
"""

_OPENMM = """
import openmm
names = [openmm.Platform.getPlatform(i).getName() for i in range(openmm.Platform.getNumPlatforms())]
print(json.dumps({"platforms": names, "failures": openmm.Platform.getPluginLoadFailures()}))
"""

# MLPotential without modelPath is refused by our factory if openmm-ml knows it, else by openmm-ml.
_ENTRY_POINT = """
from openmmml import MLPotential
from openmm_les.errors import InputError
registered = False
try:
    MLPotential("les")
except InputError:
    registered = True
except KeyError as error:
    if error.args != ("les",):
        raise
print(json.dumps({"registered": registered}))
"""

# The force is computed by torch, as ours is: the two libraries have to live in one process.
_PYTHONFORCE = """
import torch, openmm
def spring(state):
    positions = torch.from_numpy(state.getPositions(asNumpy=True)._value.copy())
    return float((positions * positions).sum()), (-2.0 * positions).numpy()
def evaluate(system):
    platform = openmm.Platform.getPlatformByName("Reference")
    context = openmm.Context(system, openmm.VerletIntegrator(0.001), platform)
    context.setPositions([[0.0, 0.0, 1.0]])
    state = context.getState(energy=True, forces=True)
    energy, force = state.getPotentialEnergy()._value, state.getForces()[0][2]._value
    assert abs(energy - 1.0) < 1e-6 and abs(force + 2.0) < 1e-6, (energy, force)
system = openmm.System()
system.addParticle(1.0)
system.addForce(openmm.PythonForce(spring))
evaluate(system)
print(json.dumps({"evaluates": True, "copies": False}), flush=True)
evaluate(openmm.XmlSerializer.deserialize(openmm.XmlSerializer.serialize(system)))
print(json.dumps({"evaluates": True, "copies": True}))
"""

# torchforce_status tries in a child of its own; importing it takes openmm, hence in a child.
_TORCHFORCE = """
import dataclasses
from openmm_les.plugin.forces import backends
print(json.dumps(dataclasses.asdict(backends.torchforce_status())))
"""

#: The probes by name. The code runs with the `sys.path` of this process.
CODE = {
    "torch": _TORCH,
    "openmm": _OPENMM,
    "entry-point": _ENTRY_POINT,
    "pythonforce": _PYTHONFORCE,
    "torchforce": _TORCHFORCE,
}
SECONDS = 180.0


@dataclass(frozen=True)
class Outcome:
    """What came of a probe.

    Attributes:
        data: what it printed last; empty if it printed nothing.
        failure: why it did not finish, such as ``crashes the process (SIGSEGV)``; else empty.
    """

    data: dict[str, Any] = field(default_factory=dict)
    failure: str = ""


def run_all(names: Iterable[str] = tuple(CODE)) -> dict[str, Outcome]:
    """Run probes side by side: they mostly wait for the disk."""
    names = tuple(names)
    with ThreadPoolExecutor(len(names)) as pool:
        return dict(zip(names, pool.map(run, names), strict=True))


def run(name: str) -> Outcome:
    """Run one probe; whatever happens to the child is an outcome."""
    return run_code(CODE[name], seconds=SECONDS)


def run_code(
    code: str, *arguments: str, seconds: float, folder: str | os.PathLike[str] | None = None
) -> Outcome:
    """Run a piece of Python in a child process; whatever happens to it is an outcome.

    Args:
        code: prints one line of JSON.
        *arguments: ``sys.argv[1:]`` of the child.
        seconds: after which it is ended.
        folder: where it works.
    """
    try:
        child = subprocess.run(
            [sys.executable, "-c", _PRELUDE.format(path=sys.path) + code, *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=seconds,
            cwd=folder,
            check=False,
            env=openmp.of_children(),
        )
    except subprocess.TimeoutExpired:
        return Outcome(failure=f"takes longer than {seconds:g} s")
    except (OSError, subprocess.SubprocessError) as error:
        return Outcome(failure=f"could not be tried ({error})")
    data = _last_object(child.stdout)
    if child.returncode < 0:
        return Outcome(data, f"crashes the process ({_signal_name(-child.returncode)})")
    if child.returncode > 0:
        lines = child.stderr.strip().splitlines() or ["no message"]
        return Outcome(data, f"fails ({lines[-1].strip()})")
    return Outcome(data, "" if data else "ends without an answer")


def _last_object(text: str) -> dict[str, Any]:
    """The last JSON object among the lines; libraries print lines of their own."""
    for line in reversed(text.splitlines()):
        if line.startswith("{"):
            try:
                data = json.loads(line)
            except ValueError:
                continue
            if isinstance(data, dict):
                return data
    return {}


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
