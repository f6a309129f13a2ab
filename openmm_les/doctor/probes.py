"""What `openmm-les doctor` tries in child processes, which may crash.

A probe is a piece of Python that prints one line of JSON. Packages that were compiled against other
versions of each other do not raise: they end the process, so none of them is imported here.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from openmm_les.processes.children import Outcome, run_python

_TORCH = """
import torch
number = torch.cuda.device_count() if torch.cuda.is_available() else 0
devices = [torch.cuda.get_device_name(i) for i in range(number)]
products = torch.backends.cuda.matmul.fp32_precision
print(json.dumps({"cuda": torch.version.cuda, "hip": torch.version.hip, "devices": devices,
                  "threads": torch.get_num_threads(), "products": products}))
"""

_OPENMM = """
import openmm
names = [openmm.Platform.getPlatform(i).getName() for i in range(openmm.Platform.getNumPlatforms())]
print(json.dumps({"platforms": names, "failures": openmm.Platform.getPluginLoadFailures()}))
"""

# The device that OpenMM takes for OpenCL; only a Context tells.
_OPENCL = """
import openmm
found = {"vendor": "", "device": ""}
system = openmm.System()
system.addParticle(1.0)
try:
    platform = openmm.Platform.getPlatformByName("OpenCL")
    context = openmm.Context(system, openmm.VerletIntegrator(0.001), platform)
    found["vendor"] = platform.getPropertyValue(context, "OpenCLPlatformName")
    found["device"] = platform.getPropertyValue(context, "DeviceName")
except openmm.OpenMMException:
    pass
print(json.dumps(found))
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

#: The probes by name.
CODE = {"torch": _TORCH, "openmm": _OPENMM, "opencl": _OPENCL, "entry-point": _ENTRY_POINT}
CODE |= {"pythonforce": _PYTHONFORCE, "torchforce": _TORCHFORCE}
SECONDS = 180.0


def run_all() -> dict[str, Outcome]:
    """Run all probes at the same time: they mostly wait for the disk."""
    with ThreadPoolExecutor(len(CODE)) as pool:
        return dict(zip(CODE, pool.map(run, CODE), strict=True))


def run(name: str) -> Outcome:
    """Run one probe."""
    return run_python(CODE[name], seconds=SECONDS)
