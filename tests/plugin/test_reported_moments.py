"""What LESReporter writes of models with latent moments, against the model itself."""

import numpy as np
import pytest
from openmm import unit
from openmmml import MLPotential
from support.helpers import topology_from_atoms
from support.moments import moments_artifact
from support.reporters import ENDINGS, reported, simulate, water

from openmm_les.evaluation.system_model import SystemModel
from openmm_les.units import COULOMB_CONSTANT

pytestmark = pytest.mark.usefixtures("moments_family")

MOMENTS = ("polarizability", "atomicDipoles", "quadrupoles", "inducedCharges", "inducedDipoles")
EVERY_MOMENT = dict.fromkeys(MOMENTS, True)


@pytest.fixture(scope="module")
def model(tmp_path_factory, moments_family):
    """All moments, with charges whose sign and mean are not the physical ones."""
    path = tmp_path_factory.mktemp("moments") / "all.les.pt"
    options = {"bec_remove_mean": True, "bec_epsilon_factor": 1.7}
    return moments_artifact("all", path, charge_sign=-1, **options)


def simulation_of(model, atoms):
    topology = topology_from_atoms(atoms)
    system = MLPotential("les", modelPath=model.path).createSystem(topology)
    return simulate(topology, system, 0.1 * atoms.positions)


def state_of(simulation):
    """Positions [A] and velocities [A/ps]."""
    state = simulation.context.getState(positions=True, velocities=True)
    positions = state.getPositions(asNumpy=True).value_in_unit(unit.angstrom)
    return positions, state.getVelocities(asNumpy=True).value_in_unit(
        unit.angstrom / unit.picosecond
    )


@pytest.mark.parametrize("ending", ENDINGS)
def test_moments_are_those_of_the_model(tmp_path, model, ending):
    simulation = simulation_of(model, water())
    path = tmp_path / f"series{ending}"
    options = {"charges": True, "dipole": True, "precision": "double", **EVERY_MOMENT}
    found = reported(simulation, path, 4, 2, **options)
    positions, _ = state_of(simulation)
    system = SystemModel(model, [8, 1, 1], periodic=False, precision="double")
    latent = system.evaluate(positions).moments
    factor = -np.sqrt(1.7)
    charges = factor * (latent.total_charges - latent.total_charges.mean())
    expected = {
        "charges": charges,
        "induced_charges": factor * (latent.induced_charges - latent.induced_charges.mean()),
        "atomic_dipoles": factor * (latent.dipoles + latent.induced_dipoles),
        "induced_dipoles": factor * latent.induced_dipoles,
        "quadrupoles": factor * latent.quadrupoles,
        "polarizability": 1.7 * COULOMB_CONSTANT * latent.alpha.sum(axis=0),
    }
    expected["dipole"] = charges @ positions + expected["atomic_dipoles"].sum(axis=0)
    assert set(found.values) == set(expected)
    for name, values in expected.items():
        assert np.abs(values).max() > 1e-4, name
        np.testing.assert_allclose(found.get(name)[-1], values, rtol=1e-6, atol=1e-8, err_msg=name)
