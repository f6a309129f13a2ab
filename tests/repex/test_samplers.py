"""Samplers of OpenMM and of other packages, with the force of a model."""

import io
import subprocess
import sys

import ase.io
import numpy as np
import openmm
import pytest
from openmm import app, unit
from openmmml import MLPotential
from support.campaigns import python_path
from support.mixed import classical, context, energy, mixed, peptide
from support.runs import PEPTIDE, water_box

from openmm_les import LESCalculator
from openmm_les.units import GAS_CONSTANT

LAMBDA, LAMBDAS = "lambda_interpolate", (0.0, 0.5, 1.0)
PHI = (4, 6, 8, 10)


def langevin():
    integrator = openmm.LangevinMiddleIntegrator(300.0, 1.0, 0.0005)
    integrator.setRandomNumberSeed(1)
    return integrator


def simulated(topology, system, positions) -> app.Simulation:
    platform = openmm.Platform.getPlatformByName("Reference")
    simulation = app.Simulation(topology, system, langevin(), platform)
    simulation.context.setPositions(positions)
    return simulation


def interpolated():
    structure = peptide()
    system = classical(structure, app.NoCutoff, cutoff=1.0)
    return structure, mixed(structure, system, structure.side_chain, interpolate=True)


def test_expanded_ensemble_of_openmm():
    """It moves between states by their energies, which are those of the structure it has."""
    structure, system = interpolated()
    simulation = simulated(structure.topology, system, structure.positions)
    states, rows = [{LAMBDA: value} for value in LAMBDAS], io.StringIO()
    sampler = app.ExpandedEnsembleSampler(states, simulation, 2, reportInterval=2, energyFile=rows)
    sampler.step(8)
    found = [float(text) for text in rows.getvalue().splitlines()[-1].split(",")]
    assert found[0] == 8
    state = simulation.context.getState(positions=True)
    made = context(system, state.getPositions(asNumpy=True))
    expected = []
    for value in LAMBDAS:
        made.setParameter(LAMBDA, value)
        expected.append(energy(made) / (GAS_CONSTANT * 300.0))
    # The file has seven digits of energies of some thousand kT.
    np.testing.assert_allclose(np.diff(found[1:]), np.diff(expected), atol=1e-3)


def test_metadynamics_of_openmm():
    """The bias is the sum of its hills, and the model has the energy that it has without one."""
    pdb = app.PDBFile(str(PEPTIDE))
    system = MLPotential("les-demo").createSystem(pdb.topology)
    plain = context(openmm.XmlSerializer.clone(system), pdb.positions)
    torsion = openmm.CustomTorsionForce("theta")
    torsion.addTorsion(*PHI)
    phi = app.BiasVariable(torsion, -np.pi, np.pi, 0.35, True)
    bias = app.Metadynamics(system, [phi], 300.0 * unit.kelvin, 4.0, 1.0, 2)
    simulation = simulated(pdb.topology, system, pdb.positions)
    bias.step(simulation, 6)
    group = bias._force.getForceGroup()
    state = simulation.context.getState(positions=True, energy=True, groups={group})
    others = simulation.context.getState(energy=True, groups={*range(32)} - {group})
    plain.setPositions(state.getPositions())
    assert others.getPotentialEnergy()._value == pytest.approx(energy(plain), abs=1e-3)
    # Three hills at nearly the same angle, which tempering makes a little lower.
    assert 2.5 < state.getPotentialEnergy()._value <= 3.0
    deepest = bias.getFreeEnergy().min()._value
    assert -4.0 < deepest < -4.0 / 3.0 * state.getPotentialEnergy()._value + 0.2


def test_multistate_sampler_of_openmmtools(tmp_path):
    """Replicas that are not exchanged; needs netCDF4 and mpiplus, too."""
    states = pytest.importorskip("openmmtools.states", exc_type=ImportError)
    multistate = pytest.importorskip("openmmtools.multistate", exc_type=ImportError)
    from openmmtools import mcmc

    pdb = app.PDBFile(str(PEPTIDE))
    system = MLPotential("les-demo").createSystem(pdb.topology)
    temperatures = (300.0, 350.0)
    ladder = [states.ThermodynamicState(system, t * unit.kelvin) for t in temperatures]
    move = mcmc.LangevinDynamicsMove(timestep=0.5 * unit.femtosecond, n_steps=2)
    sampler = multistate.MultiStateSampler(mcmc_moves=move, number_of_iterations=1)
    storage = multistate.MultiStateReporter(str(tmp_path / "states.nc"), checkpoint_interval=1)
    sampler.create(ladder, [states.SamplerState(pdb.positions)], storage)
    sampler.run()
    reduced, _, _ = storage.read_energies()
    made = context(system, pdb.positions)
    for replica, known in zip(sampler.sampler_states, reduced[-1], strict=True):
        made.setPositions(replica.positions)
        expected = energy(made) / (GAS_CONSTANT * np.array(temperatures))
        np.testing.assert_allclose(known, expected, atol=1e-3)


I_PI_DRIVER = """
from ipi.pes._ase import ASEDriver
from openmm_les import LESCalculator

__DRIVER_NAME__, __DRIVER_CLASS__ = "les", "LESDriver"


class LESDriver(ASEDriver):
    def check_parameters(self):
        super().check_parameters()
        self.ase_calculator = LESCalculator("les-demo", precision="double")
"""
I_PI_INPUT = """<simulation verbosity='low'>
  <output prefix='out'>
    <properties stride='1' filename='log'>[step, potential{electronvolt}]</properties>
    <trajectory filename='pos' stride='1' format='xyz' cell_units='angstrom'>
      positions{angstrom}
    </trajectory>
  </output>
  <total_steps>4</total_steps>
  <ffdirect name='les'>
    <pes>custom</pes>
    <pes_path>driver.py</pes_path>
    <parameters>{template:start.xyz}</parameters>
  </ffdirect>
  <system>
    <initialize nbeads='1'>
      <file mode='ase' units='angstrom'>start.xyz</file>
      <velocities mode='thermal' units='kelvin'>300</velocities>
    </initialize>
    <forces><force forcefield='les'/></forces>
    <motion mode='dynamics'>
      <dynamics mode='nve'><timestep units='femtosecond'>0.5</timestep></dynamics>
    </motion>
    <ensemble><temperature units='kelvin'>300</temperature></ensemble>
  </system>
</simulation>
"""


def test_driver_of_i_pi(tmp_path):
    """A simulation of i-PI, whose energies are those of its structures.

    Its driver for ASE needs the stress, so that the structure is periodic.
    """
    pytest.importorskip("ipi", reason="needs i-PI (pip install ipi)")
    atoms = ase.io.read(water_box(tmp_path / "water.pdb"))
    ase.io.write(tmp_path / "start.xyz", atoms)
    (tmp_path / "driver.py").write_text(I_PI_DRIVER)
    (tmp_path / "input.xml").write_text(I_PI_INPUT)
    command = "from ipi.engine.simulation import Simulation as S\n"
    command += "S.load_from_xml(open('input.xml')).run()"
    environment = python_path() | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", command],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (tmp_path / "out.log").exists(), done.stderr + done.stdout
    energies = np.loadtxt(tmp_path / "out.log")[:, 1]
    frames = ase.io.read(tmp_path / "out.pos_0.xyz", ":")
    assert len(frames) == len(energies) >= 4
    calculator = LESCalculator("les-demo", precision="double")
    for frame, found in zip(frames, energies, strict=True):
        structure = atoms.copy()
        structure.positions = frame.positions
        structure.calc = calculator
        assert structure.get_potential_energy() == pytest.approx(found, abs=1e-4)
