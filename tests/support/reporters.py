"""Short simulations with a reporter."""

from importlib.util import find_spec

import numpy as np
import openmm
import pytest
from ase import Atoms
from openmm import app, unit
from openmmml import MLPotential
from support.contexts import create_system
from support.helpers import ROOT, topology_from_atoms

from openmm_les import catalog
from openmm_les.analysis import formats
from openmm_les.plugin.reporter import LESReporter

MODEL = catalog.artifact_path("les-demo")
PEPTIDE = ROOT / "examples" / "alanine_dipeptide.pdb"
#: Names of atoms of its side chain.
METHYL = ("CB", "HB1", "HB2", "HB3")
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


def simulation_of(atoms, integrator=None, model=MODEL, **options) -> app.Simulation:
    system = create_system(model, atoms, **options)
    return simulate(topology_from_atoms(atoms), system, 0.1 * atoms.positions, integrator)


def simulation_of_methyl(embedding="mechanical", model=MODEL, **options) -> app.Simulation:
    """Alanine dipeptide with its side chain by the model, through a cut bond."""
    pdb = app.PDBFile(str(PEPTIDE))
    field = app.ForceField("amber14-all.xml").createSystem(pdb.topology)
    atoms = [atom.index for atom in pdb.topology.atoms() if atom.name in METHYL]
    mixed = MLPotential("les", modelPath=model).createMixedSystem(
        pdb.topology, field, atoms, embedding=embedding, returnInfo=True, **options
    )
    number = mixed["system"].getNumParticles()
    positions = np.zeros((number, 3))  # OpenMM places link atoms that are virtual sites
    positions[:22] = pdb.getPositions(asNumpy=True).value_in_unit(unit.nanometer)
    return simulate(mixed["topology"], mixed["system"], positions)


def reported(simulation, path, steps, interval=1, **options):
    """Run with a reporter and read its file."""
    simulation.reporters.append(LESReporter(path, interval, **options))
    simulation.step(steps)
    return formats.read(path)
