"""The same answer on a GPU as on the CPU."""

import numpy as np
import openmm
import pytest
from helpers import dipeptide, topology_from_atoms, water_frame
from openmm import unit
from openmmml import MLPotential

from openmm_les import artifact as artifacts
from openmm_les.system_model import SystemModel

pytestmark = pytest.mark.gpu

TOLERANCES = {"single": (2e-6, 2e-4), "double": (1e-9, 1e-8)}


@pytest.mark.parametrize("precision", ["single", "double"])
@pytest.mark.parametrize("kind", ["water", "dipeptide"])
def test_system_model_agrees_with_the_cpu(request, kind, precision):
    artifact = artifacts.load(request.getfixturevalue(f"{kind}_artifact"))
    atoms = water_frame(0) if kind == "water" else dipeptide(0)
    periodic = bool(atoms.pbc.all())
    results = [
        SystemModel(
            artifact,
            atoms.numbers,
            periodic=periodic,
            cell=atoms.cell.array if periodic else None,
            positions=atoms.positions,
            precision=precision,
            device=device,
        ).evaluate(atoms.positions)
        for device in ("cpu", "cuda")
    ]
    energy, force = TOLERANCES[precision]
    assert abs(results[0].energy - results[1].energy) / len(atoms) < energy
    np.testing.assert_allclose(results[0].forces, results[1].forces, rtol=0, atol=force)
    np.testing.assert_allclose(results[0].charges, results[1].charges, rtol=0, atol=1e-5)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_dynamics_on_the_fastest_platform(water_artifact, device):
    atoms = water_frame(0)
    potential = MLPotential("les", modelPath=water_artifact)
    system = potential.createSystem(topology_from_atoms(atoms), device=device)
    integrator = openmm.LangevinMiddleIntegrator(300, 1, 0.0005)
    context = openmm.Context(system, integrator)
    context.setPositions(atoms.positions * 0.1)
    integrator.step(20)
    energy = context.getState(energy=True).getPotentialEnergy()
    assert np.isfinite(energy.value_in_unit(unit.kilojoule_per_mole))
