"""The demonstration model that comes with the package."""

import json
from pathlib import Path

import numpy as np
import openmm
import pytest
from openmm import app, unit
from openmmml import MLPotential
from openmmml.mlpotential import MLPotential as Registry
from support.contexts import create_context, create_system
from support.structures import waters

from openmm_les import artifact as artifacts
from openmm_les import catalog
from openmm_les.evaluation.system_model import SystemModel
from openmm_les.plugin.factory import LESPotentialImplFactory

ROOT = Path(__file__).resolve().parents[2]
PDB = ROOT / "examples" / "alanine_dipeptide.pdb"
DATA = ROOT / "training" / "les_demo" / "data.npz"

# Where the package is installed its entry point has done this.
Registry.registerImplFactory("les-demo", LESPotentialImplFactory())


@pytest.fixture(scope="module")
def artifact():
    return artifacts.load(catalog.artifact_path("les-demo"))


def test_it_is_ours_verified_and_small(artifact):
    assert artifact.metadata["licence"] == "MIT"
    assert artifact.metadata["verification"]["status"] == "verified"
    assert artifact.metadata["charge_sign"] in (1, -1)
    assert artifact.elements == [1, 6, 7, 8]
    assert artifact.path.stat().st_size < 2_000_000


def test_published_errors_are_those_of_the_file(artifact):
    """The figures in the documents, recomputed on part of the held-out structures."""
    report = ROOT / "docs" / "reference" / "les-demo-validation.json"
    published = json.loads(report.read_text())["all"]
    assert published["force_rmse_mev_per_a"] < 51
    assert published["energy_rmse_mev_per_atom"] < 1.4
    assert published["largest_net_charge_e"] < 0.02
    data = np.load(DATA)
    sizes = data["sizes"].astype(int)
    ends = np.cumsum(sizes)
    squares, energies = [], []
    for k in range(30):
        part = slice(ends[k] - sizes[k], ends[k])
        model = SystemModel(artifact, data["numbers"][part], periodic=False)
        got = model.evaluate(data["positions"][part].astype(float))
        squares.append(((got.forces - data["forces"][part]) ** 2).ravel())
        energies.append((got.energy + model.reference_energy - data["energy"][k]) / sizes[k])
        assert abs(got.charges.sum()) < published["largest_net_charge_e"] + 1e-4
    force_error = 1e3 * np.sqrt(np.concatenate(squares).mean())
    assert force_error == pytest.approx(published["force_rmse_mev_per_a"], rel=0.3)
    assert 1e3 * np.std(energies) < 2 * published["energy_rmse_mev_per_atom"]


@pytest.mark.parametrize("name", ["les-demo", "les-demo-x"])
def test_energies_are_relative_to_isolated_atoms(name):
    artifact = artifacts.load(catalog.artifact_path(name))
    data = np.load(DATA.with_name("liquid.npz"))
    expected = dict(zip(data["elements"].tolist(), data["atom_energy"].tolist(), strict=True))
    for number in artifact.elements:
        model = SystemModel(artifact, [number], periodic=False)
        assert model.reference_energy == pytest.approx(expected[number], abs=1e-6)


def test_a_peptide_stays_intact():
    """Half a picosecond at 300 K: no bond breaks, and the energy stays where it is."""
    pdb = app.PDBFile(str(PDB))
    system = MLPotential("les-demo").createSystem(pdb.topology)
    integrator = openmm.LangevinMiddleIntegrator(300, 1, 0.0005)
    integrator.setRandomNumberSeed(1)
    simulation = app.Simulation(pdb.topology, system, integrator)
    simulation.context.setPositions(pdb.positions)
    simulation.minimizeEnergy(maxIterations=100)
    start = simulation.context.getState(positions=True)
    bonds = [(bond.atom1.index, bond.atom2.index) for bond in pdb.topology.bonds()]

    def lengths(state):
        r = state.getPositions(asNumpy=True).value_in_unit(unit.angstrom)
        return np.array([np.linalg.norm(r[i] - r[j]) for i, j in bonds])

    relaxed = lengths(start)
    simulation.context.setVelocitiesToTemperature(300, 1)
    for _ in range(8):
        simulation.step(125)
        now = lengths(simulation.context.getState(positions=True))
        assert np.abs(now - relaxed).max() < 0.3


@pytest.mark.parametrize("seed", range(4))
def test_minimisations_stay_where_structures_make_sense(seed):
    """The first trial steps move atoms by an angstrom, which no low energy may reward."""
    atoms = waters(3, 3, 2, seed=seed, rattle=0.03)
    context = create_context(
        create_system(catalog.artifact_path("les-demo"), atoms), atoms.positions, "Reference"
    )
    openmm.LocalEnergyMinimizer.minimize(context, maxIterations=60)
    state = context.getState(positions=True, energy=True)
    r = state.getPositions(asNumpy=True).value_in_unit(unit.angstrom).reshape(-1, 3, 3)
    bonds = np.linalg.norm(r[:, 1:] - r[:, :1], axis=2)
    assert 0.9 < bonds.min() <= bonds.max() < 1.1
    # A molecule alone has -1356 kJ/mol, and the others bind it.
    energy = state.getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole) / len(r)
    assert -1430 < energy < -1360


def test_molecules_of_a_structure_are_neutral(artifact):
    """To 0.02 e, each of them."""
    atoms = waters(2, 2, 1, periodic=False)
    found = SystemModel(artifact, atoms.numbers, periodic=False).evaluate(atoms.positions)
    assert np.abs(found.charges.reshape(-1, 3).sum(1)).max() < 0.02


def test_oxygen_is_negative_with_the_stored_sign(artifact):
    pdb = app.PDBFile(str(PDB))
    numbers = [atom.element.atomic_number for atom in pdb.topology.atoms()]
    positions = pdb.positions.value_in_unit(unit.angstrom)
    charges = SystemModel(artifact, numbers, periodic=False).evaluate(positions).charges
    charges = charges * artifact.metadata["charge_sign"]
    assert charges[np.array(numbers) == 8].max() < 0
