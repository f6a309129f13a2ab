"""Every family by every path, with the small models that the repository holds.

What the network of a family does is tested with its reader; here it is that nothing between the
file and a simulation knows one family better than another.
"""

import numpy as np
import openmm
import pytest
import torch
from openmmml import MLPotential
from support.capture import check_on_fake_gpu, model_for, statuses_after_the_same_work
from support.checkpoints import SYNTHETIC
from support.contexts import (
    COPY_WARNING,
    PLATFORMS,
    add_forces,
    assert_same,
    create_context,
    create_system,
    empty_system,
    energy_and_forces,
    of_calculator,
)
from support.gradients import assert_same_results, check_finite_differences, system_for
from support.helpers import atoms_of, dipeptide, references, topology_from_atoms, water_frame
from support.hostile import rewrite
from support.mixed import (
    assert_forces_are_gradients,
    classical,
    context,
    peptide_in_water,
)
from support.reproduction import (
    PRECISION,
    assert_reproduced,
    portable_reproduces,
    system_model_reproduces,
    true_forces,
)
from support.response import finite_differences
from support.tracing import waiting_nodes

from openmm_les import artifact as artifacts
from openmm_les.ase import LESCalculator
from openmm_les.evaluation.status import STATUS_BOX, STATUS_POSITIONS

pytestmark = pytest.mark.parametrize("model", SYNTHETIC)
#: Open and triclinic, of those that the references have.
OPEN, TRICLINIC = 0, 2


# ------------------------------------------------------------------ reference values


def test_portable_module(exported, model):
    path = exported(model)
    portable_reproduces(path, references(model), artifacts.inspect(path)["dtype"])


@pytest.mark.parametrize("dtype", PRECISION)
def test_system_model(exported, model, dtype):
    system_model_reproduces(exported(model), references(model), dtype)


@pytest.mark.parametrize(("structure", "dtype"), [(OPEN, "float32"), (TRICLINIC, "float64")])
def test_ase_and_openmm(exported, model, structure, dtype):
    reference = references(model)[structure]
    atoms, precision = atoms_of(reference), PRECISION[dtype]
    atoms.calc = LESCalculator(exported(model), precision=precision)
    values = atoms.get_potential_energy(), atoms.get_forces(), atoms.get_charges()
    assert_reproduced(reference, *values, dtype)
    options = {"precision": precision, "returnEnergyType": "energy"}
    made = create_system(exported(model), atoms, **options)
    expected = float(reference["energy"]), true_forces(reference)
    for platform in PLATFORMS:
        got = energy_and_forces(create_context(made, atoms.positions, platform))
        # The CPU platform has single precision of its own.
        assert_same(got, expected, "single" if platform == "CPU" else precision)


def test_derivatives(exported, model):
    """Forces, strain and Born charges, by differences of energies and charges."""
    artifact = artifacts.load(exported(model))
    for structure, atom in ((OPEN, 7), (TRICLINIC, 3)):
        atoms = atoms_of(references(model)[structure])
        check_finite_differences(artifact, atoms, atoms=[atom])
        system = system_for(artifact, atoms)
        if artifact.channels > 1:  # of which none is physical
            continue
        born = system.response(atoms.positions).born_charges
        expected = finite_differences(system, atoms, atom)
        np.testing.assert_allclose(born[atom], expected, rtol=0, atol=1e-6)


def test_a_mesh_gives_the_exact_sum(exported, model):
    atoms = water_frame(0)
    atoms.calc = LESCalculator(
        exported(model), precision="double", ewald="mesh", ewald_tolerance=1e-6
    )
    got = atoms.get_potential_energy(), atoms.get_forces()
    expected = of_calculator(exported(model), atoms)
    assert got[0] == pytest.approx(expected[0], abs=1e-5 * len(atoms))
    np.testing.assert_allclose(got[1], expected[1], atol=1e-4)


# ------------------------------------------------------------------ ways of running


def test_a_saved_system(exported, model):
    atoms = dipeptide(1)
    made = create_system(exported(model), atoms, precision="double")
    again = openmm.XmlSerializer.deserialize(openmm.XmlSerializer.serialize(made))
    got, expected = (energy_and_forces(create_context(s, atoms.positions)) for s in (again, made))
    assert_same(got, expected)


def test_constant_pressure(exported, model):
    """After trial boxes, accepted and refused, the energy is that of the box."""
    atoms = water_frame(0)
    made = create_system(exported(model), atoms)
    barostat = openmm.MonteCarloBarostat(1.0, 300.0, 1)
    barostat.setRandomNumberSeed(1)
    made.addForce(barostat)
    integrator = openmm.LangevinMiddleIntegrator(300, 1, 0.0001)
    integrator.setRandomNumberSeed(1)
    running = create_context(made, atoms.positions, "Reference", integrator)
    integrator.step(8)
    state = running.getState(positions=True, energy=True, forces=True)
    box = np.array(state.getPeriodicBoxVectors()._value)
    assert abs(box[0, 0] / (0.1 * atoms.cell.array[0, 0]) - 1) > 1e-5
    atoms.set_cell(box * 10)
    atoms.positions = state.getPositions(asNumpy=True)._value * 10
    fresh = create_context(create_system(exported(model), atoms), atoms.positions, "Reference")
    assert_same(energy_and_forces(running), energy_and_forces(fresh), "single")


@pytest.mark.parametrize("embedding", ["mechanical", "electrostatic"])
def test_a_region_in_a_force_field(exported, model, embedding, tmp_path):
    """A side chain with a link atom, in water: forces are gradients."""
    # Random weights make charges of any sum, and of no sign that the export could find.
    path = tmp_path / "signed.les.pt"
    rewrite(exported(model), path, lambda metadata: metadata.update(charge_sign=1))
    if embedding == "electrostatic" and artifacts.load(path).channels > 1:
        pytest.skip("electrostatic embedding needs one physical charge for each atom")
    solvated = peptide_in_water()
    chosen = solvated.side_chain
    options = {"precision": "double", "forceGroup": 1, "embedding": embedding}
    if embedding == "electrostatic":
        options["chargeTolerance"] = 100.0
    made = MLPotential("les", modelPath=path).createMixedSystem(
        solvated.topology, classical(solvated), chosen, **options
    )
    running = context(made, solvated.positions)
    assert_forces_are_gradients(running, solvated.positions, chosen[1:3], groups={1})


@pytest.mark.torchforce
@pytest.mark.filterwarnings(COPY_WARNING)
def test_torchforce(exported, model):
    """Dynamics, since TorchScript optimises what it has seen; and a part of a System."""
    atoms = dipeptide(0)
    results = []
    for backend in ("pythonforce", "torchforce"):
        made = create_system(exported(model), atoms, backend=backend, precision="double")
        running = create_context(made, atoms.positions, "Reference")
        running.setVelocitiesToTemperature(300, 1)
        running.getIntegrator().step(3)
        part = empty_system(atoms)
        chosen = list(range(12))[::-1]
        options = {"precision": "double", "backend": backend}
        add_forces(part, exported(model), topology_from_atoms(atoms), chosen, **options)
        alone = create_context(part, atoms.positions, "CPU")
        results.append([energy_and_forces(running), energy_and_forces(alone)])
    for one, other in zip(*results, strict=True):
        assert_same(one, other)


@pytest.mark.slow
def test_the_compiled_engine_works_or_gives_way(exported, model):
    atoms = dipeptide(2)
    artifact = artifacts.load(exported(model))
    compiled, script = (
        system_for(artifact, atoms, "single", engine=e) for e in ("compile", "torchscript")
    )
    for scale in (1.0, 1.01):
        assert_same_results(compiled, script, scale * atoms.positions)


# ------------------------------------------------------------------ CUDA graphs


def test_a_cuda_graph_can_hold_it(exported, model, record_property):
    """Nothing waits for the GPU, and the work is the same for every structure."""
    atoms = atoms_of(references(model)[TRICLINIC])
    made = model_for(artifacts.load(exported(model)), atoms)
    frozen = torch.jit.freeze(made.module)  # as openmm-torch does with modules
    assert not list(waiting_nodes(frozen.inlined_graph))
    for module in made.module, frozen:
        statuses = statuses_after_the_same_work(module, atoms)
        assert statuses[0] == 0
        assert bool(statuses[5] & STATUS_BOX) == bool(atoms.pbc.all())
        assert statuses[6] & STATUS_POSITIONS
    check_on_fake_gpu(made, record_property)  # takes the numbers away
