"""Short simulations with a reporter."""

from importlib.util import find_spec

import openmm
import pytest
from ase import Atoms
from openmm import app

from openmm_les.analysis import formats
from openmm_les.plugin.reporter import LESReporter

STEP = 0.00025  # ps
#: Of the files that a reporter writes.
ENDINGS = [
    ".csv",
    pytest.param(".h5", marks=pytest.mark.skipif(find_spec("h5py") is None, reason="needs h5py")),
]


def water(box=None) -> Atoms:
    positions = [[0.0, 0.0, 0.0], [0.76, 0.59, 0.0], [-0.76, 0.59, 0.0]]
    return Atoms("OHH", positions, cell=box, pbc=box is not None)


def simulate(topology, system, positions, integrator=None) -> app.Simulation:
    """A Simulation on one thread at `positions` [nm], at 300 K."""
    integrator = integrator or openmm.VerletIntegrator(STEP)
    platform = openmm.Platform.getPlatformByName("CPU")
    simulation = app.Simulation(topology, system, integrator, platform, {"Threads": "1"})
    simulation.context.setPositions(positions)
    simulation.context.computeVirtualSites()
    simulation.context.setVelocitiesToTemperature(300, 3)
    return simulation


def reported(simulation, path, steps, interval=1, **options):
    """Run with a reporter and read its file."""
    simulation.reporters.append(LESReporter(path, interval, **options))
    simulation.step(steps)
    return formats.read(path)
