"""LES models in real OpenMM Contexts, through PythonForce, which works in every installation."""

import copy
import os
import shutil
import subprocess
import sys

import numpy as np
import openmm
import pytest
from helpers import dipeptide, topology_from_atoms, water_frame
from openmm import app, unit
from openmmml import MLPotential
from openmmml.mlpotential import MLPotentialImpl

from openmm_les import artifact as artifacts
from openmm_les.ase import LESCalculator
from openmm_les.potential import LESPotentialImplFactory
from openmm_les.units import FORCE_PER_EV_PER_ANGSTROM, KJ_PER_MOL_PER_EV

PLATFORMS = ["Reference", "CPU"]

# DESIGN.md: energies [eV per atom] and forces [eV/A] of anything that should be the same.
TOLERANCE = {"single": (1e-6, 1e-4), "double": (1e-9, 1e-8)}


@pytest.fixture(autouse=True)
def _registered():
    MLPotential.registerImplFactory("les", LESPotentialImplFactory())


def create_system(path, atoms, **options) -> openmm.System:
    """Pure ML System of an ASE structure."""
    potential = MLPotential("les", modelPath=path)
    return potential.createSystem(topology_from_atoms(atoms), **options)


def create_context(system, positions, platform="CPU", integrator=None) -> openmm.Context:
    """Context of one thread at `positions` [A]."""
    name = openmm.Platform.getPlatformByName(platform)
    properties = {"Threads": "1"} if platform == "CPU" else {}
    integrator = integrator or openmm.VerletIntegrator(0.0005)
    context = openmm.Context(system, integrator, name, properties)
    context.setPositions(positions * 0.1)
    return context


def energy_and_forces(context, **state) -> tuple[float, np.ndarray]:
    """Energy [eV] and forces [eV/A]."""
    result = context.getState(energy=True, forces=True, **state)
    energy = result.getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole) / KJ_PER_MOL_PER_EV
    forces = result.getForces(asNumpy=True)._value / FORCE_PER_EV_PER_ANGSTROM
    return energy, forces


def evaluate(path, atoms, platform="CPU", **options) -> tuple[float, np.ndarray]:
    system = create_system(path, atoms, **options)
    return energy_and_forces(create_context(system, atoms.positions, platform))


def assert_same(got, expected, precision="double"):
    per_atom, per_force = TOLERANCE[precision]
    assert abs(got[0] - expected[0]) < per_atom * len(expected[1])
    np.testing.assert_allclose(got[1], expected[1], atol=per_force, rtol=0)


def of_calculator(path, atoms, precision="double") -> tuple[float, np.ndarray]:
    atoms = atoms.copy()
    atoms.calc = LESCalculator(path, precision=precision)
    return atoms.get_potential_energy(), atoms.get_forces()


# ------------------------------------------------------------------ registration


def in_process(code, *paths) -> str:
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join([*paths, *filter(None, sys.path)]))
    command = [sys.executable, "-c", code]
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, check=True
    ).stdout


def test_factory_imports_nothing_slow():
    slow = "{'torch', 'openmm', 'openmmml', 'numpy'}"
    code = f"import sys, openmm_les.potential; print({slow} & set(sys.modules))"
    assert in_process(code) == "set()\n"


@pytest.mark.parametrize("first", ["openmmml", "openmm_les.potential, openmmml"])
def test_entry_point_registers_in_any_order_of_import(tmp_path, first):
    """`import openmmml` loads the entry point, also while openmm_les is what imported it."""
    metadata = tmp_path / "entry-0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: entry\nVersion: 0\n")
    (metadata / "entry_points.txt").write_text(
        "[openmmml.potentials]\nles = openmm_les.potential:LESPotentialImplFactory\n"
    )
    code = (
        f"import sys, {first}\n"
        "print(type(openmmml.MLPotential._implFactories['les']).__name__, 'torch' in sys.modules)"
    )
    assert in_process(code, str(tmp_path)) == "LESPotentialImplFactory False\n"


def test_interface_of_openmmml(water_artifact):
    """What openmm-ml calls is there, with its own defaults for what it adds later."""
    impl = LESPotentialImplFactory().createImpl("les", modelPath=water_artifact)
    assert isinstance(impl, MLPotentialImpl)
    assert impl.getMLLongRange() is True
    assert impl.getSupportedEmbeddings() == []
    assert MLPotential("les", modelPath=water_artifact).getSupportedEmbeddings() == ["mechanical"]


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


def add_to(system, path, topology, particles, **options):
    potential = LESPotentialImplFactory().createImpl("les", modelPath=path)
    potential.addForces(topology, system, particles, 0, **options)


@pytest.mark.parametrize("platform", PLATFORMS)
def test_subset_in_any_order(dipeptide_artifact, platform):
    atoms = dipeptide(1)
    number = len(atoms)
    whole = atoms + atoms  # the second copy is described by nobody
    whole.positions[number:] += 30.0
    order = np.random.default_rng(3).permutation(number)
    system = openmm.System()
    for mass in whole.get_masses():
        system.addParticle(mass)
    topology = topology_from_atoms(whole)
    add_to(system, dipeptide_artifact, topology, order.tolist(), precision="double")
    energy, forces = energy_and_forces(create_context(system, whole.positions, platform))
    assert_same((energy, forces[:number]), evaluate(dipeptide_artifact, atoms, precision="double"))
    assert not forces[number:].any()


@pytest.mark.parametrize("platform", PLATFORMS)
def test_subset_of_a_periodic_system(water_artifact, platform):
    """Molecules around the ML ones do not matter, nor which image of the box they are in."""
    atoms = water_frame(0)
    chosen = list(range(30, 90))
    system = openmm.System()
    for mass in atoms.get_masses():
        system.addParticle(mass)
    system.setDefaultPeriodicBoxVectors(*(atoms.cell.array * 0.1))
    add_to(system, water_artifact, topology_from_atoms(atoms), chosen, precision="double")
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
def test_mechanical_embedding_of_openmmml(water_artifact, platform, interpolate):
    """The lambda of interpolate=True runs from the force field to the mixed System."""
    topology, positions = water_cluster(8)
    field = app.ForceField("tip3p.xml")
    classical = field.createSystem(topology, nonbondedMethod=app.NoCutoff, rigidWater=False)
    potential = MLPotential("les", modelPath=water_artifact)
    options = {"precision": "double", "linkAtomDistances": []}
    mixed = potential.createMixedSystem(
        topology, classical, range(6), interpolate=interpolate, **options
    )
    context = create_context(mixed, positions, platform)
    energy, forces = energy_and_forces(context)
    if interpolate:
        context.setParameter("lambda_interpolate", 0.0)
        expected = energy_and_forces(create_context(classical, positions, platform))
        got = energy_and_forces(context)
        assert got[0] == pytest.approx(expected[0], abs=1e-6)
        np.testing.assert_allclose(got[1], expected[1], atol=1e-5)
        plain = potential.createMixedSystem(topology, classical, range(6), **options)
        context = create_context(plain, positions, platform)
    # lambda = 1, and without interpolation: everything but the ML region is the force field.
    expected = energy_and_forces(context)
    assert energy == pytest.approx(expected[0], abs=1e-6)
    np.testing.assert_allclose(forces, expected[1], atol=1e-5)
    np.testing.assert_allclose(forces.sum(axis=0), 0, atol=1e-5)


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
    assert len(molecules) == 64
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
    assert len(create_context(system, atoms.positions).getMolecules()) == 192


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
        state = context.getState(energy=True)
        totals.append((state.getPotentialEnergy() + state.getKineticEnergy())._value)
    totals = np.array(totals) / KJ_PER_MOL_PER_EV / len(atoms)
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
        state = context.getState(energy=True)
        times.append(state.getTime()._value)
        totals.append((state.getPotentialEnergy() + state.getKineticEnergy())._value)
    drift = np.polyfit(times, np.array(totals) / KJ_PER_MOL_PER_EV / len(atoms), 1)[0]
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


# ------------------------------------------------------------------ saved Systems

FRESH_PROCESS = """
import sys
import numpy as np
import openmm
system = openmm.XmlSerializer.deserialize(open(sys.argv[1]).read())
positions = np.load(sys.argv[2])
integrator = openmm.VerletIntegrator(0.0005)
context = openmm.Context(system, integrator, openmm.Platform.getPlatformByName(sys.argv[4]))
context.setPositions(positions * 0.1)
state = context.getState(energy=True, forces=True)
energy, forces = state.getPotentialEnergy()._value, state.getForces(asNumpy=True)._value
np.savez(sys.argv[3], energy=energy, forces=forces)
"""


def in_fresh_process(tmp_path, xml, positions, platform="CPU", cache=None):
    """Energy [eV] and forces [eV/A] of a saved System, computed by another Python process."""
    (tmp_path / "system.xml").write_text(xml)
    np.save(tmp_path / "positions.npy", positions)
    files = [str(tmp_path / name) for name in ("system.xml", "positions.npy", "result.npz")]
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(filter(None, sys.path)))
    if cache is not None:
        environment["OPENMM_LES_CACHE_DIR"] = str(cache)
    child = subprocess.run(
        [sys.executable, "-c", FRESH_PROCESS, *files, platform],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if child.returncode != 0:
        raise RuntimeError(child.stderr)
    result = np.load(files[2])
    return result["energy"] / KJ_PER_MOL_PER_EV, result["forces"] / FORCE_PER_EV_PER_ANGSTROM


def test_xml_round_trip_in_a_fresh_process(water_artifact, tmp_path):
    atoms = water_frame(0)
    system = create_system(water_artifact, atoms, precision="double")
    xml = openmm.XmlSerializer.serialize(system)
    expected = energy_and_forces(create_context(system, atoms.positions))
    assert_same(in_fresh_process(tmp_path, xml, atoms.positions), expected)


def test_xml_of_a_subset_keeps_options_and_order(dipeptide_artifact, tmp_path):
    atoms = dipeptide(0)
    order = list(reversed(range(len(atoms))))
    system = openmm.System()
    for mass in atoms.get_masses():
        system.addParticle(mass)
    options = {"precision": "double", "returnEnergyType": "energy", "maxNeighbors": 40}
    add_to(system, dipeptide_artifact, topology_from_atoms(atoms), order, **options)
    expected = energy_and_forces(create_context(system, atoms.positions))
    assert_same(expected, of_calculator(dipeptide_artifact, atoms))
    xml = openmm.XmlSerializer.serialize(system)
    assert_same(in_fresh_process(tmp_path, xml, atoms.positions, "Reference"), expected)


def test_saved_system_finds_a_moved_artifact(dipeptide_artifact, tmp_path, monkeypatch):
    atoms = dipeptide(0)
    monkeypatch.setenv("OPENMM_LES_CACHE_DIR", str(tmp_path / "cache"))
    original = shutil.copy(dipeptide_artifact, tmp_path / "here.les.pt")
    system = create_system(original, atoms, precision="double")
    expected = energy_and_forces(create_context(system, atoms.positions))
    xml = openmm.XmlSerializer.serialize(system)

    # Making the System left a copy in the cache.
    original.rename(tmp_path / "there.les.pt")
    assert_same(in_fresh_process(tmp_path, xml, atoms.positions), expected)

    with pytest.raises(RuntimeError, match=r"here\.les\.pt does not exist.*sha256"):
        in_fresh_process(tmp_path, xml, atoms.positions, cache=tmp_path / "empty")


def test_saved_system_does_not_run_another_model(
    dipeptide_artifact, water_artifact, tmp_path, monkeypatch
):
    monkeypatch.setenv("OPENMM_LES_CACHE_DIR", str(tmp_path / "cache"))
    path = shutil.copy(dipeptide_artifact, tmp_path / "model.les.pt")
    atoms = dipeptide(0)
    xml = openmm.XmlSerializer.serialize(create_system(path, atoms))
    shutil.copy(water_artifact, path)
    with pytest.raises(RuntimeError, match=r"model\.les\.pt holds another model now"):
        in_fresh_process(tmp_path, xml, atoms.positions, cache=tmp_path / "empty")


def test_xml_holds_no_weights(water_artifact):
    xml = openmm.XmlSerializer.serialize(create_system(water_artifact, water_frame(0)))
    system = openmm.XmlSerializer.deserialize(xml)
    function = next(line for line in xml.splitlines() if "PythonForce" in line)
    assert len(function) < 4000
    assert "torch" not in bytes.fromhex(function.split('function="')[1].split('"')[0]).decode(
        "latin1"
    )
    assert openmm.XmlSerializer.serialize(system) == xml


def test_saved_function_keeps_its_name(water_artifact):
    """XML files that users keep name this function; it must never move."""
    xml = openmm.XmlSerializer.serialize(create_system(water_artifact, water_frame(0)))
    assert b"openmm_les.forces.pythonforce".hex() in xml
    assert b"restore".hex() in xml


def test_copied_system(water_artifact):
    atoms = water_frame(0)
    system = create_system(water_artifact, atoms, precision="double")
    expected = energy_and_forces(create_context(system, atoms.positions))
    duplicate = copy.deepcopy(system)
    assert_same(energy_and_forces(create_context(duplicate, atoms.positions)), expected)


def test_two_contexts_share_a_system(water_artifact):
    """Contexts of one System share the callable; their structures must not mix."""
    first, second = water_frame(0), water_frame(1)
    system = create_system(water_artifact, first, precision="double")
    contexts = [create_context(system, first.positions), create_context(system, second.positions)]
    contexts[1].setPeriodicBoxVectors(*(second.cell.array * 0.1))
    for _ in range(2):
        for atoms, context in zip((first, second), contexts, strict=True):
            expected = evaluate(water_artifact, atoms, precision="double")
            assert_same(energy_and_forces(context), expected)


# ------------------------------------------------------------------ what must stop a simulation


def compressed(atoms, factor):
    squeezed = atoms.copy()
    squeezed.positions = atoms.get_center_of_mass() + factor * (
        atoms.positions - atoms.get_center_of_mass()
    )
    return squeezed


def test_neighbour_capacity_grows(dipeptide_artifact):
    """From far apart to the normal structure: more neighbours than at the start, none is lost."""
    atoms = dipeptide(0)
    dilute = compressed(atoms, 8.0)
    system = create_system(dipeptide_artifact, dilute, precision="double", maxNeighbors=1)
    context = create_context(system, dilute.positions)
    energy_and_forces(context)
    context.setPositions(atoms.positions * 0.1)
    expected = evaluate(dipeptide_artifact, atoms, precision="double")
    assert_same(energy_and_forces(context), expected)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("platform", PLATFORMS)
def test_positions_that_are_not_finite(dipeptide_artifact, platform, value):
    atoms = dipeptide(0)
    system = create_system(dipeptide_artifact, atoms)
    context = create_context(system, atoms.positions, platform)
    energy_and_forces(context)
    atoms.positions[3, 1] = value
    context.setPositions(atoms.positions * 0.1)
    # The CPU platform finds NaN itself in some cases; infinity never.
    with pytest.raises(openmm.OpenMMException, match=r"position|coordinate is NaN"):
        energy_and_forces(context)


@pytest.mark.parametrize("platform", PLATFORMS)
def test_two_atoms_at_one_place(dipeptide_artifact, platform):
    atoms = dipeptide(0)
    context = create_context(create_system(dipeptide_artifact, atoms), atoms.positions, platform)
    atoms.positions[5] = atoms.positions[2]
    context.setPositions(atoms.positions * 0.1)
    with pytest.raises(openmm.OpenMMException, match=r"same place"):
        energy_and_forces(context)


@pytest.mark.parametrize("platform", PLATFORMS)
def test_box_that_becomes_too_small(water_artifact, platform):
    atoms = water_frame(0)
    context = create_context(create_system(water_artifact, atoms), atoms.positions, platform)
    energy_and_forces(context)
    context.setPeriodicBoxVectors(*(np.eye(3) * 0.1))
    with pytest.raises(
        openmm.OpenMMException, match=r"the box is too small: its faces are 1\.000 A"
    ):
        energy_and_forces(context)


def test_unexpected_failure_names_itself(water_artifact, caplog):
    """OpenMM keeps the text of an exception: it names the type, and the log has the traceback."""
    from openmm_les.forces.pythonforce import restore

    artifact = artifacts.load(water_artifact)
    force = openmm.PythonForce(restore(str(artifact.path), artifact.sha256, {"periodic": False}))
    system = openmm.System()
    system.addParticle(1.0)
    system.addForce(force)
    context = create_context(system, np.zeros((1, 3)))
    with pytest.raises(openmm.OpenMMException, match=r"the LES force failed: KeyError: 'numbers'"):
        energy_and_forces(context)
    assert "Traceback" in caplog.text


def test_interrupt_is_named(water_artifact, monkeypatch):
    """Ctrl-C in a step reaches the user as an OpenMMException, which would otherwise be empty."""
    from openmm_les.system_model import SystemModel

    atoms = water_frame(0)
    context = create_context(create_system(water_artifact, atoms), atoms.positions)

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(SystemModel, "evaluate", interrupted)
    with pytest.raises(openmm.OpenMMException, match="interrupted from the keyboard"):
        energy_and_forces(context)
