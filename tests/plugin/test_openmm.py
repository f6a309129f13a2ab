"""LES models in real OpenMM Contexts, through PythonForce, which works in every installation."""

import os
import subprocess
import sys

import numpy as np
import openmm
import pytest
from openmm import app
from openmmml import MLPotential
from openmmml.embeddings.mechanicalembedding import MechanicalEmbedding
from openmmml.mlpotential import MLPotentialImpl
from support.contexts import (
    PLATFORMS,
    add_forces,
    assert_same,
    create_context,
    create_system,
    empty_system,
    energy_and_forces,
    evaluate,
    of_calculator,
    total_energy,
)
from support.helpers import dipeptide, topology_from_atoms, water_frame

from openmm_les import artifact as artifacts
from openmm_les.plugin.factory import LESPotentialImplFactory

# ------------------------------------------------------------------ registration


def in_process(code, *paths) -> str:
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join([*paths, *filter(None, sys.path)]))
    command = [sys.executable, "-c", code]
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, check=True
    ).stdout


def test_factory_imports_nothing_slow():
    slow = "{'torch', 'openmm', 'openmmml', 'numpy'}"
    code = f"import sys, openmm_les.plugin.factory; print({slow} & set(sys.modules))"
    assert in_process(code) == "set()\n"


@pytest.mark.parametrize("first", ["openmmml", "openmm_les.plugin.factory, openmmml"])
def test_entry_point_registers_in_any_order_of_import(tmp_path, first):
    """`import openmmml` loads the entry point, also while openmm_les is what imported it."""
    metadata = tmp_path / "entry-0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: entry\nVersion: 0\n")
    (metadata / "entry_points.txt").write_text(
        "[openmmml.potentials]\nles = openmm_les.plugin.factory:LESPotentialImplFactory\n"
    )
    code = (
        f"import sys, {first}\n"
        "print(type(openmmml.MLPotential._implFactories['les']).__name__, 'torch' in sys.modules)"
    )
    assert in_process(code, str(tmp_path)) == "LESPotentialImplFactory False\n"


def test_interface_of_openmmml(water_artifact):
    """What openmm-ml calls is there; of the embeddings ours comes first."""
    impl = LESPotentialImplFactory().createImpl("les", modelPath=water_artifact)
    assert isinstance(impl, MLPotentialImpl)
    assert impl.getMLLongRange() is True
    assert impl.getSupportedEmbeddings() == ["mechanical", "electrostatic"]
    potential = MLPotential("les", modelPath=water_artifact)
    assert potential.getSupportedEmbeddings() == ["electrostatic", "mechanical"]


# ------------------------------------------------------------------ energies and forces


@pytest.mark.parametrize("platform", PLATFORMS)
@pytest.mark.parametrize("precision", ["single", "double"])
def test_water_agrees_with_ase(water_artifact, platform, precision):
    atoms = water_frame(0)
    got = evaluate(water_artifact, atoms, platform, precision=precision, returnEnergyType="energy")
    assert_same(got, of_calculator(water_artifact, atoms, precision), precision)


@pytest.mark.parametrize("platform", PLATFORMS)
@pytest.mark.parametrize("precision", ["single", "double"])
def test_dipeptide_agrees_with_ase(dipeptide_artifact, platform, precision):
    atoms = dipeptide(0)
    got = evaluate(
        dipeptide_artifact, atoms, platform, precision=precision, returnEnergyType="energy"
    )
    assert_same(got, of_calculator(dipeptide_artifact, atoms, precision), precision)


def test_single_precision_is_the_default_and_agrees_with_double(water_artifact):
    atoms = water_frame(1)
    default = evaluate(water_artifact, atoms)
    single = evaluate(water_artifact, atoms, precision="single")
    assert default[0] == pytest.approx(single[0], abs=1e-9)
    assert_same(default, evaluate(water_artifact, atoms, precision="double"), "single")


def test_interaction_energy_lacks_the_isolated_atoms(dipeptide_artifact):
    atoms = dipeptide(0)
    options = {"precision": "double"}
    interaction, forces = evaluate(dipeptide_artifact, atoms, **options)
    total, same_forces = evaluate(dipeptide_artifact, atoms, returnEnergyType="energy", **options)
    canonical = artifacts.load(dipeptide_artifact).canonical
    reference = dict(
        zip(
            canonical.hyper["elements"], canonical.state["reference_energies"].tolist(), strict=True
        )
    )
    assert total - interaction == pytest.approx(sum(reference[z] for z in atoms.numbers), abs=1e-7)
    np.testing.assert_array_equal(forces, same_forces)


def test_order_of_the_atoms_does_not_matter(water_artifact):
    atoms = water_frame(0)
    order = np.random.default_rng(1).permutation(len(atoms))
    expected = evaluate(water_artifact, atoms, precision="double")
    energy, forces = evaluate(water_artifact, atoms[order], precision="double")
    assert_same((energy, forces), (expected[0], expected[1][order]))


def test_wrapped_and_unwrapped_positions_are_the_same(water_artifact):
    atoms = water_frame(0)
    expected = evaluate(water_artifact, atoms, precision="double")
    shifts = np.random.default_rng(2).integers(-2, 3, (len(atoms), 3))
    atoms.positions += shifts @ atoms.cell
    assert_same(evaluate(water_artifact, atoms, precision="double"), expected)


@pytest.mark.parametrize("platform", PLATFORMS)
def test_the_box_of_the_context_counts(water_artifact, platform):
    atoms = water_frame(0)
    system = create_system(water_artifact, atoms, precision="double", returnEnergyType="energy")
    context = create_context(system, atoms.positions, platform)
    energy_and_forces(context)
    # The rows of a reduced triclinic cell, as OpenMM wants them.
    sheared = atoms.cell @ np.array([[1.01, 0, 0], [0.05, 0.99, 0], [-0.03, 0.04, 1.02]]).T
    sheared = np.tril(sheared)
    sheared[1, 0], sheared[2, 0], sheared[2, 1] = 0.6, -0.4, 0.5
    atoms.set_cell(sheared, scale_atoms=True)
    context.setPeriodicBoxVectors(*(sheared * 0.1))
    context.setPositions(atoms.positions * 0.1)
    assert_same(energy_and_forces(context), of_calculator(water_artifact, atoms))


# ------------------------------------------------------------------ part of a System


@pytest.mark.parametrize("platform", PLATFORMS)
def test_subset_in_any_order(dipeptide_artifact, platform):
    atoms = dipeptide(1)
    number = len(atoms)
    whole = atoms + atoms  # the second copy is described by nobody
    whole.positions[number:] += 30.0
    order = np.random.default_rng(3).permutation(number)
    system = empty_system(whole)
    topology = topology_from_atoms(whole)
    add_forces(system, dipeptide_artifact, topology, order.tolist(), precision="double")
    energy, forces = energy_and_forces(create_context(system, whole.positions, platform))
    assert_same((energy, forces[:number]), evaluate(dipeptide_artifact, atoms, precision="double"))
    assert not forces[number:].any()


@pytest.mark.parametrize("platform", PLATFORMS)
def test_subset_of_a_periodic_system(water_artifact, platform):
    """Molecules around the ML ones do not matter, nor which image of the box they are in."""
    atoms = water_frame(0)
    chosen = list(range(21, 54))
    system = empty_system(atoms)
    add_forces(system, water_artifact, topology_from_atoms(atoms), chosen, precision="double")
    outside = atoms.positions + 2 * atoms.cell[0] - atoms.cell[2]
    energy, forces = energy_and_forces(create_context(system, outside, platform))
    alone = atoms[chosen]
    assert_same((energy, forces[chosen]), evaluate(water_artifact, alone, precision="double"))


def water_cluster(number):
    """Whole molecules (O, H, H) cut out of a box of water, and their topology."""
    box = water_frame(0)
    oxygens = np.flatnonzero(box.numbers == 8)[:number]
    hydrogens = np.flatnonzero(box.numbers == 1)
    topology, positions = app.Topology(), []
    chain = topology.addChain()
    for oxygen in oxygens:
        vectors = box.get_distances(oxygen, hydrogens, mic=True, vector=True)
        nearest = vectors[np.argsort(np.linalg.norm(vectors, axis=1))[:2]]
        positions += [box.positions[oxygen], *(box.positions[oxygen] + nearest)]
        residue = topology.addResidue("HOH", chain)
        first = topology.addAtom("O", app.element.oxygen, residue)
        for name in ("H1", "H2"):
            topology.addBond(first, topology.addAtom(name, app.element.hydrogen, residue))
    return topology, np.array(positions)


@pytest.mark.parametrize("interpolate", [False, True])
@pytest.mark.parametrize("platform", PLATFORMS)
def test_embeddings_of_others(water_artifact, platform, interpolate):
    """They ask for forces only, with interpolation for those of a System without particles."""
    topology, positions = water_cluster(8)
    field = app.ForceField("tip3p.xml")
    classical = field.createSystem(topology, nonbondedMethod=app.NoCutoff, rigidWater=False)
    ours = MLPotential("les", modelPath=water_artifact).createMixedSystem(
        topology, classical, range(6), interpolate=interpolate, precision="double"
    )
    impl = LESPotentialImplFactory().createImpl("les", modelPath=water_artifact)
    theirs = MechanicalEmbedding().createMixedSystem(
        impl, topology, classical, list(range(6)), 0, interpolate, precision="double"
    )
    contexts = [create_context(system, positions, platform) for system in (ours, theirs)]
    for value in (0.0, 0.4, 1.0) if interpolate else (None,):
        if interpolate:
            for context in contexts:
                context.setParameter("lambda_interpolate", value)
        first, second = map(energy_and_forces, contexts)
        assert first[0] == pytest.approx(second[0], abs=1e-6)
        np.testing.assert_allclose(first[1], second[1], atol=1e-5)


# ------------------------------------------------------------------ options


def test_force_group(water_artifact):
    atoms = water_frame(0)
    context = create_context(create_system(water_artifact, atoms, forceGroup=7), atoms.positions)
    energy, _ = energy_and_forces(context, groups={7})
    assert energy == energy_and_forces(context)[0]
    assert energy_and_forces(context, groups=set(range(32)) - {7})[0] == 0.0


def test_multiple_time_steps(water_artifact):
    """The force group is good for what force groups are for."""
    atoms = water_frame(0)
    system = create_system(water_artifact, atoms, forceGroup=1)
    integrator = openmm.MTSIntegrator(0.0005, [(1, 1), (0, 2)])
    context = create_context(system, atoms.positions, integrator=integrator)
    integrator.step(2)
    assert np.isfinite(energy_and_forces(context)[0])


# ------------------------------------------------------------------ molecules


def test_molecules_stay_whole(water_artifact):
    atoms = water_frame(0)
    context = create_context(create_system(water_artifact, atoms), atoms.positions)
    molecules = context.getMolecules()
    assert len(molecules) == 27
    assert all(len(molecule) == 3 for molecule in molecules)
    state = context.getState(positions=True, enforcePeriodicBox=True)
    wrapped = state.getPositions(asNumpy=True)._value * 10
    shifts = (wrapped - atoms.positions) @ np.linalg.inv(atoms.cell)
    for molecule in molecules:
        same = np.broadcast_to(shifts[molecule[0]], (3, 3))
        np.testing.assert_allclose(shifts[list(molecule)], same, atol=1e-5)


def test_topology_without_bonds_makes_atoms_molecules(water_artifact):
    """Nothing is guessed: documented, and pinned here."""
    atoms = water_frame(0)
    topology = topology_from_atoms(atoms)
    bare = app.Topology()
    residue = bare.addResidue("HOH", bare.addChain())
    for atom in topology.atoms():
        bare.addAtom(atom.name, atom.element, residue)
    bare.setPeriodicBoxVectors(topology.getPeriodicBoxVectors())
    system = MLPotential("les", modelPath=water_artifact).createSystem(bare)
    assert len(create_context(system, atoms.positions).getMolecules()) == 81


# ------------------------------------------------------------------ dynamics


def test_energy_conservation(water_artifact):
    """A short NVE run from a relaxed box; `tests` marked slow look at picoseconds."""
    atoms = water_frame(0)
    integrator = openmm.VerletIntegrator(0.00025)
    system = create_system(water_artifact, atoms)
    context = create_context(system, atoms.positions, integrator=integrator)
    context.setVelocitiesToTemperature(300, 1)
    totals = []
    for _ in range(10):
        integrator.step(8)
        totals.append(total_energy(context) / len(atoms))
    totals = np.array(totals)
    assert np.abs(totals - totals[0]).max() < 2e-4  # eV per atom


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["water", "dipeptide"])
def test_drift_over_two_picoseconds(request, kind):
    """float32 NVE: total energy drifts by less than 1 meV per atom and picosecond."""
    path = request.getfixturevalue(f"{kind}_artifact")
    atoms = water_frame(0) if kind == "water" else dipeptide(0)
    integrator = openmm.VerletIntegrator(0.0005)
    system = create_system(path, atoms)
    context = create_context(system, atoms.positions, integrator=integrator)
    openmm.LocalEnergyMinimizer.minimize(context, 10.0, 50)
    context.setVelocitiesToTemperature(300, 1)
    integrator.step(200)
    times, totals = [], []
    for _ in range(100):
        integrator.step(40)
        times.append(context.getTime()._value)
        totals.append(total_energy(context) / len(atoms))
    drift = np.polyfit(times, totals, 1)[0]
    assert abs(drift) < 1e-3


def test_minimizer_lowers_the_energy(dipeptide_artifact):
    atoms = dipeptide(0)
    context = create_context(create_system(dipeptide_artifact, atoms), atoms.positions)
    before, _ = energy_and_forces(context)
    openmm.LocalEnergyMinimizer.minimize(context, 50.0, 20)
    after, _ = energy_and_forces(context)
    assert after < before


@pytest.mark.parametrize("platform", PLATFORMS)
def test_constant_pressure(water_artifact, platform):
    """The barostat changes the box and keeps molecules whole; energies stay those of the model."""
    atoms = water_frame(0)
    system = create_system(water_artifact, atoms)
    barostat = openmm.MonteCarloBarostat(1.0, 300.0, 2)
    barostat.setRandomNumberSeed(3)
    system.addForce(barostat)
    integrator = openmm.LangevinMiddleIntegrator(300, 1.0, 0.0005)
    integrator.setRandomNumberSeed(4)
    context = create_context(system, atoms.positions, platform, integrator)
    context.setVelocitiesToTemperature(300, 5)
    integrator.step(20)
    state = context.getState(positions=True)
    after = atoms.copy()
    after.positions = state.getPositions(asNumpy=True)._value * 10
    after.set_cell(np.array(state.getPeriodicBoxVectors()._value) * 10)
    assert after.get_volume() != pytest.approx(atoms.get_volume(), rel=1e-6)
    expected = evaluate(water_artifact, after, precision="double")
    assert_same(energy_and_forces(context), expected, "single")
    for first, *rest in context.getMolecules():
        assert (after.get_distances(first, rest, mic=True) < 2.0).all()
