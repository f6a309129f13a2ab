"""OpenMM Contexts of LES models, and comparison of what they compute, for the tests."""

import numpy as np
import openmm
from openmm import unit
from openmmml import MLPotential
from support.helpers import topology_from_atoms
from support.programs import run_code

from openmm_les import catalog
from openmm_les.ase import LESCalculator
from openmm_les.plugin.factory import LESPotentialImplFactory
from openmm_les.units import FORCE_PER_EV_PER_ANGSTROM, KJ_PER_MOL_PER_EV

# Where the package is installed its entry points have done this.
for name in ("les", *catalog.names()):
    MLPotential.registerImplFactory(name, LESPotentialImplFactory())

PLATFORMS = ["Reference", "CPU"]

# What has to agree everywhere: energies [eV per atom] and forces [eV/A].
TOLERANCE = {"single": (1e-6, 1e-4), "double": (1e-9, 1e-8)}


def create_system(path, atoms, **options) -> openmm.System:
    """Pure ML System of an ASE structure."""
    potential = MLPotential("les", modelPath=path)
    return potential.createSystem(topology_from_atoms(atoms), **options)


def empty_system(atoms) -> openmm.System:
    """System with the particles and the box of an ASE structure, and no forces."""
    system = openmm.System()
    for mass in atoms.get_masses():
        system.addParticle(mass)
    if atoms.pbc.all():
        system.setDefaultPeriodicBoxVectors(*(atoms.cell.array * 0.1))
    return system


def add_forces(system, path, topology, particles, **options) -> None:
    """What openmm-ml does for a part of a System."""
    potential = LESPotentialImplFactory().createImpl("les", modelPath=path)
    potential.addForces(topology, system, particles, 0, **options)


def create_context(system, positions, platform="CPU", integrator=None) -> openmm.Context:
    """Context of one thread at `positions` [A]."""
    properties = {"Threads": "1"} if platform == "CPU" else {}
    integrator = integrator or openmm.VerletIntegrator(0.0005)
    platform = openmm.Platform.getPlatformByName(platform)
    context = openmm.Context(system, integrator, platform, properties)
    context.setPositions(positions * 0.1)
    return context


def energy_and_forces(context, **state) -> tuple[float, np.ndarray]:
    """Energy [eV] and forces [eV/A]."""
    result = context.getState(energy=True, forces=True, **state)
    energy = result.getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole)
    forces = result.getForces(asNumpy=True)._value
    return energy / KJ_PER_MOL_PER_EV, forces / FORCE_PER_EV_PER_ANGSTROM


def total_energy(context) -> float:
    """Potential and kinetic energy [eV]."""
    state = context.getState(energy=True)
    return (state.getPotentialEnergy() + state.getKineticEnergy())._value / KJ_PER_MOL_PER_EV


def evaluate(path, atoms, platform="CPU", **options) -> tuple[float, np.ndarray]:
    """Energy and forces of an ASE structure, through a Context."""
    system = create_system(path, atoms, **options)
    return energy_and_forces(create_context(system, atoms.positions, platform))


def of_calculator(path, atoms, precision="double") -> tuple[float, np.ndarray]:
    """Total energy and forces of an ASE structure, through ASE."""
    atoms = atoms.copy()
    atoms.calc = LESCalculator(path, precision=precision)
    return atoms.get_potential_energy(), atoms.get_forces()


def assert_same(got, expected, precision="double") -> None:
    """Energies and forces agree within `TOLERANCE`."""
    per_atom, per_force = TOLERANCE[precision]
    assert abs(got[0] - expected[0]) < per_atom * len(expected[1])
    np.testing.assert_allclose(got[1], expected[1], atol=per_force, rtol=0)


# What an explicit backend='torchforce' says about itself with openmmtorch 1.5.
COPY_WARNING = "ignore:backend='torchforce'.*:UserWarning"


FRESH_PROCESS = """
import sys
import numpy as np
import openmm
system = openmm.XmlSerializer.deserialize(open(sys.argv[1]).read())
positions = np.load(sys.argv[2])
integrator = openmm.VerletIntegrator(0.0005)
context = openmm.Context(system, integrator, openmm.Platform.getPlatformByName(sys.argv[4]))
context.setPositions(positions * 0.1)
state = context.getState(energy=True, forces=True)
energy, forces = state.getPotentialEnergy()._value, state.getForces(asNumpy=True)._value
np.savez(sys.argv[3], energy=energy, forces=forces)
"""


def in_fresh_process(tmp_path, xml, positions, platform="CPU", cache=None):
    """Energy [eV] and forces [eV/A] of a saved System, computed by another Python process."""
    (tmp_path / "system.xml").write_text(xml)
    np.save(tmp_path / "positions.npy", positions)
    files = [str(tmp_path / name) for name in ("system.xml", "positions.npy", "result.npz")]
    variables = {} if cache is None else {"OPENMM_LES_CACHE_DIR": str(cache)}
    child = run_code(FRESH_PROCESS, *files, platform, folder=tmp_path, **variables)
    if child.returncode != 0:
        raise RuntimeError(child.stderr)
    result = np.load(files[2])
    return result["energy"] / KJ_PER_MOL_PER_EV, result["forces"] / FORCE_PER_EV_PER_ANGSTROM


def context_of_gpu_kernels(system, positions, precision=None, integrator=None) -> openmm.Context:
    """A Context on the OpenCL platform; without a precision, on Reference."""
    name, properties = "Reference", {}
    if precision:
        name, properties = "OpenCL", {"Precision": precision}
    integrator = integrator or openmm.VerletIntegrator(0.0005)
    platform = openmm.Platform.getPlatformByName(name)
    made = openmm.Context(system, integrator, platform, properties)
    made.setPositions(positions)
    made.computeVirtualSites()
    return made
