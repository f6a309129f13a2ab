"""A uniform electric field on a model: SystemModel, OpenMM, ASE."""

import numpy as np
import openmm
import pytest
import torch
from openmm import unit
from openmmml import MLPotential
from support.capture import model_for, pack, statuses_after_the_same_work
from support.contexts import (
    COPY_WARNING,
    PLATFORMS,
    add_forces,
    assert_same,
    create_context,
    create_system,
    empty_system,
    energy_and_forces,
    in_fresh_process,
)
from support.gradients import system_for
from support.helpers import topology_from_atoms
from support.mixed import classical, context, forces, peptide_in_water
from support.response import artifact_with, peptide
from support.tracing import launches, trace_on_fake_gpu, waiting_nodes

from openmm_les import InputError, catalog
from openmm_les import artifact as artifacts
from openmm_les.ase import LESCalculator
from openmm_les.electrostatics.embedding import Surroundings
from openmm_les.evaluation.system_model import SystemModel
from openmm_les.plugin.forces import ForceOptions
from openmm_les.units import FORCE_PER_EV_PER_ANGSTROM

#: V/A and, as OpenMM's users give it, V/nm: strong, so that mistakes are seen.
FIELD = np.array([0.11, -0.23, 0.17])
IN_NM = tuple(10.0 * FIELD)
NAMES = ("electricFieldX", "electricFieldY", "electricFieldZ")


@pytest.fixture(scope="module")
def demo():
    return artifacts.load(catalog.artifact_path("les-demo"))


def expected_in_field(artifact, structure, field=FIELD):
    """Energy and forces with the field, from those without and from the response."""
    model = system_for(artifact, structure)
    free, response = (f(structure.positions) for f in (model.evaluate, model.response))
    energy = free.energy
    if response.dipole is not None:
        energy -= field @ response.dipole
    return energy, free.forces + np.einsum("a,iab->ib", field, response.born_charges)


# ------------------------------------------------------------------ the model


@pytest.mark.parametrize("periodic", [False, True])
def test_forces_are_the_field_on_born_charges(demo, tmp_path, periodic):
    """With every parameter of the response other than it usually is."""
    les = {"bec_remove_mean": False, "bec_epsilon_factor": 1.8}
    artifact = artifact_with(demo, tmp_path / "x.les.pt", -1, **les)
    structure = peptide(periodic)
    model = system_for(artifact, structure, electric_field=True)
    got = model.evaluate(structure.positions, electric_field=FIELD)
    assert_same((got.energy, got.forces), expected_in_field(artifact, structure))
    free = system_for(artifact, structure).evaluate(structure.positions)
    assert np.abs(got.forces - free.forces).max() > 0.05
    nothing = model.evaluate(structure.positions)
    np.testing.assert_allclose(nothing.forces, free.forces, rtol=0, atol=1e-12)
    np.testing.assert_allclose(nothing.charges, free.charges, rtol=0, atol=1e-12)


def test_energy_of_a_molecule_in_a_field(demo):
    """Forces and strain derivative are derivatives of the energy."""
    structure = peptide()
    model = system_for(demo, structure, electric_field=True, max_neighbors=30)

    def energy(positions):
        return model.evaluate(positions, electric_field=FIELD).energy

    r, step = structure.positions, 1e-4
    got = model.evaluate(r, electric_field=FIELD)
    for atom, axis in ((0, 0), (7, 1), (21, 2)):
        d = np.zeros_like(r)
        d[atom, axis] = step
        slope = (8 * (energy(r + d) - energy(r - d)) - (energy(r + 2 * d) - energy(r - 2 * d))) / (
            12 * step
        )
        assert got.forces[atom, axis] == pytest.approx(-slope, abs=1e-7)
    for a, b in ((0, 0), (1, 2), (2, 1)):
        strain = np.zeros((3, 3))
        strain[a, b] = step
        slope = (energy(r + r @ strain.T) - energy(r - r @ strain.T)) / (2 * step)
        assert got.virial[a, b] == pytest.approx(slope, abs=1e-4)
    # Neutral, it is not pulled away, but turned.
    assert np.abs(got.forces.sum(0)).max() < 1e-10
    dipole = model.response(r).dipole
    torque = np.cross(r - r.mean(0), got.forces).sum(0)
    np.testing.assert_allclose(torque, np.cross(dipole, FIELD), atol=1e-9)


@pytest.mark.parametrize("periodic", [False, True])
def test_single_precision_and_growing_buffers(demo, periodic):
    structure = peptide(periodic)
    model = system_for(demo, structure, "single", electric_field=True, max_neighbors=2)
    got = model.evaluate(structure.positions, electric_field=FIELD)
    assert model.capacity > 2
    assert_same((got.energy, got.forces), expected_in_field(demo, structure), "single")


@pytest.mark.parametrize("periodic", [False, True])
def test_work_is_that_of_a_cuda_graph(demo, periodic):
    """Nothing waits for a GPU, nothing depends on a number; the field is an input."""
    structure = peptide(periodic)
    module, n = model_for(demo, structure, electric_field=True).module, len(structure)
    field = torch.tensor(FIELD)
    statuses = statuses_after_the_same_work(lambda *inputs: module(*inputs, field), structure)
    assert statuses[0] == 0
    assert not list(waiting_nodes(torch.jit.freeze(module).inlined_graph))
    operations, packed = trace_on_fake_gpu(
        lambda *inputs: pack(module(*inputs)), (n, 3), (3, 3), (3,), module=module
    )
    assert packed.is_cuda
    assert packed.shape == (11 + 4 * n,)
    assert launches(operations) > 200


# ------------------------------------------------------------------ OpenMM


@pytest.mark.parametrize("platform", PLATFORMS)
@pytest.mark.parametrize("periodic", [False, True])
def test_context_parameters_act_at_once(demo, periodic, platform):
    structure = peptide(periodic)
    options = {"precision": "double", "electricField": IN_NM}
    system = create_system(demo.path, structure, backend="pythonforce", **options)
    running = create_context(system, structure.positions, platform)
    parameters = running.getParameters()
    assert [parameters[name] for name in NAMES] == pytest.approx(IN_NM)
    precision = "single" if platform == "CPU" else "double"
    assert_same(energy_and_forces(running), expected_in_field(demo, structure), precision)
    for name, value in zip(NAMES, (0.0, 0.0, -3.0), strict=True):
        running.setParameter(name, value)
    expected = expected_in_field(demo, structure, np.array([0.0, 0.0, -0.3]))
    assert_same(energy_and_forces(running), expected, precision)


@pytest.mark.torchforce
@pytest.mark.filterwarnings(COPY_WARNING)
@pytest.mark.parametrize("periodic", [False, True])
def test_torchforce(demo, periodic):
    structure = peptide(periodic)
    options = {"precision": "double", "backend": "torchforce", "electricField": IN_NM}
    running = create_context(create_system(demo.path, structure, **options), structure.positions)
    assert_same(energy_and_forces(running), expected_in_field(demo, structure))
    running.setParameter(NAMES[1], 0.0)
    expected = expected_in_field(demo, structure, FIELD * [1, 0, 1])
    assert_same(energy_and_forces(running), expected)
    with pytest.raises(InputError, match="a TorchForce cannot change electricField in a CUDA"):
        create_system(demo.path, structure, cudaGraphs=True, **options)


def test_part_of_a_system(demo):
    """In another order; the rest feels nothing."""
    structure = peptide()
    chosen = list(range(21, 9, -1))
    system = empty_system(structure)
    options = {"precision": "double", "electricField": IN_NM}
    add_forces(system, demo.path, topology_from_atoms(structure), chosen, **options)
    energy, felt = energy_and_forces(create_context(system, structure.positions))
    part = structure[chosen]
    assert_same((energy, felt[chosen]), expected_in_field(demo, part))
    assert not np.delete(felt, chosen, 0).any()


def test_without_a_field_there_are_no_parameters(demo):
    structure = peptide()
    system = create_system(demo.path, structure, backend="pythonforce")
    running = create_context(system, structure.positions)
    assert not set(NAMES) & set(running.getParameters())


@pytest.mark.parametrize("periodic", [False, True])
def test_saved_systems_keep_the_field(demo, tmp_path, periodic):
    structure = peptide(periodic)
    options = {"precision": "double", "electricField": IN_NM}
    system = create_system(demo.path, structure, backend="pythonforce", **options)
    xml = openmm.XmlSerializer.serialize(system)
    got = in_fresh_process(tmp_path, xml, structure.positions, "Reference")
    assert_same(got, expected_in_field(demo, structure))


@pytest.mark.parametrize(
    "given",
    [
        IN_NM * unit.volt / unit.nanometer,
        np.array(IN_NM),
        list(FIELD) * unit.volt / unit.angstrom,
        [1e9 * x * unit.volt / unit.meter for x in IN_NM],
        openmm.Vec3(*IN_NM) * unit.volt / unit.nanometer,
    ],
)
def test_units_of_the_field(given):
    assert ForceOptions(electricField=given).field == pytest.approx(IN_NM)


def test_dynamics_in_a_field(demo):
    """A molecule in a field conserves its energy; without the term -E mu it would not."""
    structure = peptide()
    options = {"precision": "double", "electricField": (0.0, 0.0, 4.0)}
    system = create_system(demo.path, structure, **options)
    integrator = openmm.VerletIntegrator(0.0001)
    running = create_context(system, structure.positions, "Reference", integrator)
    running.setVelocitiesToTemperature(300, 1)
    totals, potentials = [], []
    for _ in range(10):
        integrator.step(5)
        state = running.getState(energy=True)
        totals.append((state.getPotentialEnergy() + state.getKineticEnergy())._value)
        potentials.append(state.getPotentialEnergy()._value)
    assert np.ptp(totals) < 0.005 * np.ptp(potentials)


# ------------------------------------------------------------------ ML/MM


def pull_on_side_chain(demo, **options) -> tuple[np.ndarray, openmm.Context]:
    """What a field adds to the forces [eV/A] of a mixed System, and the System in the field."""
    solvated = peptide_in_water()
    system = classical(solvated)
    potential = MLPotential("les", modelPath=demo.path)
    options = {"precision": "double", "forceGroup": 1, "returnInfo": True} | options
    results = []
    for field in (None, IN_NM):
        made = potential.createMixedSystem(
            solvated.topology, system, solvated.side_chain, electricField=field, **options
        )["system"]
        more = made.getNumParticles() - len(solvated.positions)
        running = context(made, np.concatenate([solvated.positions, np.zeros((more, 3))]))
        running.computeVirtualSites()
        results.append(forces(running, {1})[: len(solvated.positions)])
    return (results[1] - results[0]) / FORCE_PER_EV_PER_ANGSTROM, running


def test_mixed_systems(demo):
    """A side chain with a link atom, which is a particle or is not: both pull alike."""
    internal, _ = pull_on_side_chain(demo)
    virtual, _ = pull_on_side_chain(demo, linkAtoms="virtual")
    np.testing.assert_allclose(internal, virtual, atol=1e-7)
    pulled = np.flatnonzero(np.abs(internal).max(1) > 1e-6)
    chosen = peptide_in_water().side_chain
    assert set(chosen) <= set(pulled)
    assert len(pulled) == len(chosen) + 1  # and the atom that holds the link atom


def test_interpolated_systems(demo):
    """The field is part of what lambda scales."""
    _, running = pull_on_side_chain(demo, interpolate=True)
    whole = forces(running, {1})
    for name in NAMES:
        running.setParameter(name, 0.0)
    free = forces(running, {1})
    running.setParameter("lambda_interpolate", 0.25)
    quarter_free = forces(running, {1})
    for name, value in zip(NAMES, IN_NM, strict=True):
        running.setParameter(name, value)
    quarter = forces(running, {1})
    assert np.abs(whole - free).max() > 10.0
    np.testing.assert_allclose(quarter - quarter_free, 0.25 * (whole - free), atol=1e-6)


def test_electrostatic_embedding_refuses_a_field(demo):
    solvated = peptide_in_water()
    potential = MLPotential("les", modelPath=demo.path)
    with pytest.raises(InputError, match="electricField: expected none with embedding='electro"):
        potential.createMixedSystem(
            solvated.topology,
            classical(solvated),
            solvated.side_chain,
            embedding="electrostatic",
            electricField=IN_NM,
        )


# ------------------------------------------------------------------ ASE


@pytest.mark.parametrize("periodic", [False, True])
def test_ase_calculator(demo, periodic):
    structure = peptide(periodic)
    structure.calc = LESCalculator(demo.path, electric_field=FIELD)
    model = system_for(demo, structure)
    for field in (FIELD, -2 * FIELD):
        structure.calc.electric_field = field
        expected = expected_in_field(demo, structure, field)
        got = structure.get_potential_energy() - model.reference_energy
        assert_same((got, structure.get_forces()), expected)
    np.testing.assert_array_equal(structure.calc.electric_field, -2 * FIELD)


# ------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    "wrong",
    [
        (1.0, 2.0),
        1.0,
        "abc",
        (0.0, 0.0, np.nan),
        (0, 0, 1) * unit.volt,
        [(0, 0, 1)],
        (0, 0, 1) * unit.kilojoule_per_mole / unit.nanometer,
    ],
)
def test_wrong_fields(demo, wrong):
    with pytest.raises(InputError, match=r"electricField: expected three finite components"):
        create_system(demo.path, peptide(), electricField=wrong)


def test_models_that_no_field_can_act_on(demo, tmp_path):
    structure = peptide()
    unknown = artifact_with(demo, tmp_path / "x.les.pt", None)
    message = r"electricField: .*x\.les\.pt does not state the sign"
    with pytest.raises(InputError, match=message):
        create_system(unknown.path, structure, electricField=IN_NM)
    with pytest.raises(InputError, match=message):
        LESCalculator(unknown.path, electric_field=FIELD)
    around = Surroundings([0.5], "NoCutoff", total=0.0, sign=1.0)
    options = {"periodic": False, "surroundings": around, "electric_field": True}
    with pytest.raises(InputError, match="surroundings: expected none for an electric response"):
        SystemModel(demo, structure.numbers, **options)
    model = system_for(demo, structure)
    with pytest.raises(InputError, match="electric_field: expected none, since this model"):
        model.evaluate(structure.positions, electric_field=FIELD)
    model = system_for(demo, structure, electric_field=True)
    with pytest.raises(InputError, match="electric_field: expected three components"):
        model.evaluate(structure.positions, electric_field=1.0)
    with pytest.raises(InputError, match="electric_field: expected three finite components"):
        LESCalculator(demo.path, electric_field=(0, 0))
    with pytest.raises(InputError, match="electric_field: this calculator was made without"):
        LESCalculator(demo.path).electric_field = FIELD
