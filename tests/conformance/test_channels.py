"""Models with several latent charges for each atom, on every path."""

import dataclasses
import pickle

import numpy as np
import openmm
import pytest
import torch
from ase import Atoms
from ase.calculators.calculator import PropertyNotImplementedError
from openmm import app, unit
from openmmml import MLPotential
from oracles import ewald, several_charges
from support.capture import SYSTEMS, check_on_fake_gpu, model_for, statuses_after_the_same_work
from support.contexts import COPY_WARNING, create_context, create_system, energy_and_forces
from support.gradients import check_finite_differences, system_for
from support.helpers import dipeptide, topology_from_atoms
from support.mixed import assert_forces_are_gradients, classical, context, peptide_in_water

from openmm_les import InputError, LESReporter
from openmm_les import artifact as artifacts
from openmm_les.analysis.formats import read
from openmm_les.ase import LESCalculator
from openmm_les.electrostatics.embedding import Surroundings
from openmm_les.evaluation.system_model import SystemModel
from openmm_les.networks import build_network, registry
from openmm_les.networks.form import Form
from openmm_les.simulation.config import RunConfig
from openmm_les.simulation.output import check_response

#: No reciprocal vector is near the cutoff, where differences of energies would have steps.
CELL = [[9.3, 0, 0], [1.3, 9.7, 0], [-0.9, 2.2, 10.3]]
REFUSED = "expected a model with one latent charge for each atom, got .*, with 3"


@pytest.fixture(scope="module", autouse=True)
def _family():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(registry.families(), "several", several_charges.FAMILY)
        yield


@pytest.fixture(scope="module")
def path(_family, tmp_path_factory):
    return several_charges.save(tmp_path_factory.mktemp("several") / "several.les.pt")


@pytest.fixture(scope="module")
def artifact(path):
    return artifacts.load(path)


def waters(periodic: bool) -> Atoms:
    one = np.array([[0.0, 0.0, 0.0], [0.76, 0.59, 0.0], [-0.76, 0.59, 0.0]])
    positions = np.concatenate([one, one[:, [1, 2, 0]] + [2.9, 0.3, -0.4]])
    return Atoms("OHHHOH", positions[[0, 1, 2, 4, 3, 5]], cell=CELL, pbc=periodic)


# ------------------------------------------------------------------ numbers


@pytest.mark.parametrize("periodic", [False, True])
@pytest.mark.parametrize(("precision", "tolerance"), [("single", 3e-5), ("double", 1e-9)])
def test_energies_of_the_charges_add_up(artifact, periodic, precision, tolerance):
    atoms = waters(periodic)
    result = system_for(artifact, atoms, precision).evaluate(atoms.positions)
    assert result.charges.shape == (6, 3)
    les = artifact.canonical.les
    names = [field.name for field in dataclasses.fields(ewald.Parameters) if field.name in les]
    energy = (ewald.k_sum if periodic else ewald.pair_sum)(
        ewald.Parameters(**{name: les[name] for name in names})
    )
    r, cell = torch.tensor(atoms.positions), torch.tensor(atoms.cell.array)
    expected = sum(float(energy(torch.tensor(q), r, cell)) for q in result.charges.T)
    assert abs(expected) > 0.1
    assert result.les_energy == pytest.approx(expected, abs=tolerance)
    inputs = r, torch.tensor(atoms.numbers), cell
    total, forces, charges = artifact.module(*inputs, periodic)
    calculator = LESCalculator(artifact.path, precision=precision)
    atoms.calc = pickle.loads(pickle.dumps(calculator))
    assert float(total) == pytest.approx(atoms.get_potential_energy(), abs=tolerance)
    np.testing.assert_allclose(forces, atoms.get_forces(), atol=10 * tolerance)
    for found in charges.numpy(), atoms.get_charges():
        np.testing.assert_allclose(found, result.charges, atol=tolerance)


@pytest.mark.parametrize("periodic", [False, True])
def test_forces_and_strain_are_derivatives(artifact, periodic):
    check_finite_differences(artifact, waters(periodic), atoms=[0, 3])


def test_a_mesh_and_the_smooth_cutoff(artifact, caplog):
    atoms = waters(periodic=True)
    exact, meshed, smooth = (
        system_for(artifact, atoms, **options).evaluate(atoms.positions)
        for options in (
            {},
            {"ewald": "mesh", "ewaldTolerance": 1e-7},
            {"lesCutoff": "smooth", "ewald": "direct"},
        )
    )
    assert meshed.energy == pytest.approx(exact.energy, abs=1e-6)
    np.testing.assert_allclose(meshed.forces, exact.forces, atol=1e-5)
    assert f"by {smooth.energy - exact.energy:+.6f} eV" in caplog.text


# ------------------------------------------------------------------ ways of running


@pytest.mark.parametrize("name", ["open", "direct sum", "mesh"])
def test_a_cuda_graph_can_hold_it(artifact, name, record_property):
    structure, method = SYSTEMS[name]
    atoms = structure()
    made = model_for(artifact, atoms, method)
    assert statuses_after_the_same_work(torch.jit.freeze(made.module), atoms)[0] == 0
    check_on_fake_gpu(made, record_property)


@pytest.mark.torchforce
@pytest.mark.filterwarnings(COPY_WARNING)
def test_openmm(path):
    atoms = dipeptide(0)
    expected = system_for(artifacts.load(path), atoms).evaluate(atoms.positions)
    for backend in ("pythonforce", "torchforce"):
        made = create_system(path, atoms, backend=backend, precision="double")
        energy, forces = energy_and_forces(create_context(made, atoms.positions, "Reference"))
        assert energy == pytest.approx(expected.energy, abs=1e-8)
        np.testing.assert_allclose(forces, expected.forces, atol=1e-7)


def test_mechanical_embedding_with_a_link_atom(path):
    solvated = peptide_in_water()
    chosen = solvated.side_chain
    made = MLPotential("les", modelPath=path).createMixedSystem(
        solvated.topology, classical(solvated), chosen, precision="double", forceGroup=1
    )
    running = context(made, solvated.positions)
    assert_forces_are_gradients(running, solvated.positions, chosen[1:2], groups={1})


def simulation_of(path, atoms) -> app.Simulation:
    topology, integrator = topology_from_atoms(atoms), openmm.VerletIntegrator(0.0005)
    made = app.Simulation(topology, create_system(path, atoms), integrator)
    made.context.setPositions(0.1 * atoms.positions * unit.nanometer)
    return made


def test_a_reporter_has_their_energy(path, tmp_path):
    atoms = dipeptide(0)
    running = simulation_of(path, atoms)
    running.reporters.append(LESReporter(tmp_path / "out.csv", 2, lesEnergy=True))
    running.step(2)
    positions = running.context.getState(positions=True).getPositions(asNumpy=True)._value * 10
    expected = system_for(artifacts.load(path), atoms, "single").evaluate(positions).les_energy
    assert read(tmp_path / "out.csv").get("les_energy")[0] == pytest.approx(expected, abs=1e-4)


# ------------------------------------------------------------------ what needs physical charges


@pytest.mark.parametrize("name", ["charges", "dipole", "born_charges", "current"])
def test_a_reporter_refuses_what_is_not_physical(path, tmp_path, name):
    running = simulation_of(path, dipeptide(0))
    running.reporters.append(LESReporter(tmp_path / "out.csv", 1, **{name: True}))
    with pytest.raises(InputError, match=f"LESReporter: {name}: {REFUSED}"):
        running.step(1)
    config = RunConfig(structure="a.pdb", model=str(path), response=[name])
    with pytest.raises(InputError, match=f"response: {name}: {REFUSED}"):
        check_response(config, None, artifacts.load(path))


def test_physical_charges_are_refused(path, artifact):
    atoms = waters(periodic=False)
    model = system_for(artifact, atoms)
    for call in (
        lambda: model.response(atoms.positions),
        lambda: model.physical_charges(np.zeros((6, 3))),
    ):
        with pytest.raises(InputError, match=f"electric response: {REFUSED}"):
            call()
    with pytest.raises(InputError, match=f"electricField: {REFUSED}"):
        LESCalculator(path, electric_field=(0, 0, 0.1))
    with pytest.raises(InputError, match=f"electricField: {REFUSED}"):
        create_system(path, atoms, electricField=(0, 0, 0.1))
    around = Surroundings([0.5], "NoCutoff", total=0.0, sign=1.0)
    with pytest.raises(InputError, match=f"surroundings: {REFUSED}"):
        SystemModel(artifact, atoms.numbers, periodic=False, surroundings=around)
    atoms.calc = LESCalculator(path)
    for name in ("dipole", "born_effective_charges"):
        with pytest.raises(PropertyNotImplementedError, match=f"{name}: {REFUSED}"):
            atoms.calc.get_property(name, atoms)
    assert atoms.get_charges().shape == (6, 3)


def test_electrostatic_embedding_is_refused(path):
    solvated = peptide_in_water()
    with pytest.raises(InputError, match=f"embedding='electrostatic': {REFUSED}"):
        MLPotential("les", modelPath=path).createMixedSystem(
            solvated.topology, classical(solvated), solvated.side_chain, embedding="electrostatic"
        )


def test_a_network_with_another_number_of_charges_is_refused(artifact):
    canonical = artifact.canonical
    other = dataclasses.replace(canonical, hyper={**canonical.hyper, "charge_channels": 2})
    with pytest.raises(
        InputError, match=r"charge_channels or moments of 3 latent numbers .* got 2"
    ):
        build_network(other, [0], Form(torch.float64))
