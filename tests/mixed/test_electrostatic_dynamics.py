"""Electrostatic embedding in simulations: what is conserved, saved, restarted, and what stops."""

import logging
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import openmm
import pytest
from support.mixed import (
    PLATFORMS,
    app,
    assert_pressure_is_the_derivative,
    bare,
    classical,
    context,
    embedded,
    embedded_context,
    energy,
    forces,
    nonbonded,
    peptide,
    peptide_in_water,
    relaxed,
    total_energy,
)
from support.programs import run_code

from openmm_les.plugin.forces import FORCE_NAME
from openmm_les.units import FORCE_PER_EV_PER_ANGSTROM, KJ_PER_MOL_PER_EV

# ------------------------------------------------------------------ dynamics


def smooth(structure, method=app.PME, **options) -> openmm.System:
    """A force field without steps at its cutoff, which would look like a drift."""
    system = classical(structure, method, **options)
    nonbonded(system).setUseSwitchingFunction(True)
    nonbonded(system).setSwitchingDistance(0.55)
    return system


def drift(made, integrator, samples, steps=5) -> tuple[float, float]:
    """What the total energy gains, and how far it strays from that line [kJ/mol]."""
    totals = []
    for _ in range(samples):
        integrator.step(steps)
        totals.append(total_energy(made))
    times = np.arange(samples)
    slope, start = np.polyfit(times, totals, 1)
    return slope * samples, float(np.ptp(totals - (start + slope * times)))


def test_energy_conservation_without_cutoffs():
    """The response of the charges does the work that the energy says; a droplet, flexible."""
    structure = peptide_in_water()
    droplet = structure.only(structure.peptide + structure.waters(12)).in_box(None)
    integrator = openmm.VerletIntegrator(0.0002)
    system = embedded(droplet, classical(droplet, app.NoCutoff), droplet.peptide)
    made = relaxed(system, droplet, "Reference", integrator=integrator)
    integrator.step(50)
    gained, strayed = drift(made, integrator, 40)
    # The Verlet energy oscillates with the square of the step; what is lost would add up.
    # Without the response of the charges 0.14 and 1.0.
    assert abs(gained) < 0.05
    assert strayed < 0.5
    assert made.getState(energy=True).getKineticEnergy()._value > 50


def test_energy_conservation_in_a_box():
    """Single precision, flexible water, PME: 25 fs change less than 1 kJ/mol of 650 atoms."""
    structure = peptide_in_water()
    integrator = openmm.VerletIntegrator(0.00025)
    made = relaxed(
        embedded(structure, smooth(structure), structure.peptide, precision="single"),
        structure,
        iterations=20,
        integrator=integrator,
    )
    integrator.step(40)
    gained, strayed = drift(made, integrator, 20)
    assert abs(gained) < 1.0
    assert strayed < 10.0
    assert made.getState(energy=True).getKineticEnergy()._value > 500.0


@pytest.mark.slow
def test_drift_over_two_picoseconds():
    """Single precision: less than 1 meV for an atom and picosecond, as without surroundings."""
    structure = peptide_in_water()
    integrator = openmm.VerletIntegrator(0.00025)
    made = relaxed(
        embedded(structure, smooth(structure), structure.peptide, precision="single"),
        structure,
        integrator=integrator,
    )
    integrator.step(400)
    gained, _ = drift(made, integrator, 200, steps=40)
    assert abs(gained) / KJ_PER_MOL_PER_EV / structure.topology.getNumAtoms() / 2.0 < 1e-3


def test_minimizer_lowers_energy_and_forces():
    structure = peptide_in_water()
    options = {"interpolate": True, "precision": "single"}
    system = embedded(structure, classical(structure), structure.side_chain, **options)
    made = context(system, structure.positions, "CPU")
    before = energy(made), np.abs(forces(made)).max()
    openmm.LocalEnergyMinimizer.minimize(made, 10.0, 40)
    assert energy(made) < before[0] - 100.0
    assert np.abs(forces(made)).max() < 0.5 * before[1]


@pytest.mark.parametrize("interpolate", [False, True])
def test_multiple_time_steps(interpolate):
    """One force, in the group that was asked for, beside the force field's own groups."""
    structure = peptide_in_water()
    system = classical(structure)
    nonbonded(system).setReciprocalSpaceForceGroup(2)
    options = {"forceGroup": 3, "interpolate": interpolate, "precision": "single"}
    made_system = embedded(structure, system, structure.side_chain, **options)
    ours = [f for f in made_system.getForces() if f.getName() == FORCE_NAME]
    assert [f.getForceGroup() for f in ours] == [3]
    assert ours[0].usesPeriodicBoundaryConditions()
    integrator = openmm.MTSIntegrator(0.001, [(3, 1), (2, 1), (0, 4)])
    made = relaxed(made_system, structure, integrator=integrator)
    by_group = [energy(made, {group}) for group in range(4)]
    assert by_group[1] == 0.0
    assert all(by_group[group] != 0.0 for group in (0, 2, 3))
    assert sum(by_group) == pytest.approx(energy(made), abs=1e-3)
    before = total_energy(made)
    integrator.step(10)
    assert total_energy(made) == pytest.approx(before, abs=20.0)
    assert made.getState(energy=True).getKineticEnergy()._value > 100.0


# ------------------------------------------------------------------ molecules and pressure


@pytest.mark.parametrize("interpolate", [False, True])
def test_molecules_are_those_of_the_force_field(interpolate):
    structure = peptide_in_water("tip4pew")
    system = classical(structure, water="tip4pew")
    expected = context(system, structure.positions).getMolecules()
    for atoms in (structure.peptide[::-1], structure.side_chain):
        made = embedded_context(structure, system, atoms, interpolate=interpolate)
        assert sorted(map(sorted, made.getMolecules())) == sorted(map(sorted, expected))


@pytest.mark.parametrize("interpolate", [False, True])
@pytest.mark.parametrize("platform", PLATFORMS)
def test_pressure_is_the_derivative_of_the_energy(platform, interpolate):
    structure = peptide_in_water()
    system = classical(structure)
    nonbonded(system).setUseDispersionCorrection(False)
    made = embedded(structure, system, structure.peptide, interpolate=interpolate)
    assert_pressure_is_the_derivative(made, structure, platform)


def under_pressure(system, structure, steps=10) -> openmm.Context:
    """A Context after some moves of a barostat."""
    barostat = openmm.MonteCarloBarostat(1.0, 300.0, 2)
    barostat.setRandomNumberSeed(3)
    system.addForce(barostat)
    integrator = openmm.LangevinMiddleIntegrator(300.0, 1.0, 0.0005)
    integrator.setRandomNumberSeed(4)
    made = relaxed(system, structure, iterations=10, integrator=integrator)
    before = made.getState().getPeriodicBoxVolume()
    integrator.step(steps)
    assert made.getState().getPeriodicBoxVolume() != before
    return made


def test_constant_pressure_with_charge_sites():
    """TIP4P-Ew: after moves of the barostat the energy is that of a new Context in the new box."""
    structure = peptide_in_water("tip4pew")
    system = classical(structure, water="tip4pew", rigidWater=True)
    system = embedded(structure, system, structure.side_chain)
    made = under_pressure(system, structure)
    state = made.getState(positions=True)
    positions = bare(state.getPositions())
    for bond in structure.topology.bonds():
        ends = positions[bond.atom1.index] - positions[bond.atom2.index]
        assert np.linalg.norm(ends) < 0.2
    fresh = openmm.XmlSerializer.clone(system)
    fresh.setDefaultPeriodicBoxVectors(*state.getPeriodicBoxVectors())
    assert energy(context(fresh, positions), {1}) == pytest.approx(energy(made, {1}), abs=1e-6)


@pytest.mark.parametrize("images", ["exact", "native"])
def test_a_box_that_changes_its_shape(images):
    """A Context in a box for which the buffers are too small is as one made for that box."""
    structure = peptide_in_water()
    system = embedded(structure, classical(structure), structure.side_chain, mlImages=images)
    made = context(system, structure.positions)
    energy(made, {1})
    longer = structure.in_box(np.diag([1.9, 1.5, 2.7]))
    fresh = embedded(longer, classical(longer), longer.side_chain, mlImages=images)
    made.setPeriodicBoxVectors(*bare(longer.topology.getPeriodicBoxVectors()))
    expected = context(fresh, structure.positions)
    assert energy(made, {1}) == pytest.approx(energy(expected, {1}), abs=1e-6)
    np.testing.assert_allclose(forces(made, {1}), forces(expected, {1}), atol=1e-5)


# ------------------------------------------------------------------ what is saved


@pytest.mark.parametrize("platform", PLATFORMS)
def test_lambda_survives_a_checkpoint(platform):
    structure = peptide_in_water()
    system = embedded(structure, classical(structure), structure.side_chain, interpolate=True)
    made = context(system, structure.positions, platform)
    full = energy(made)
    made.setParameter("lambda_interpolate", 0.3)
    expected = energy(made)
    assert abs(expected - full) > 1.0
    checkpoint, state = made.createCheckpoint(), made.getState(positions=True, parameters=True)
    for restore in (
        lambda other: other.loadCheckpoint(checkpoint),
        lambda other: other.setState(state),
    ):
        other = context(system, structure.positions, platform)
        restore(other)
        assert other.getParameter("lambda_interpolate") == 0.3
        # The CPU platform adds in single precision.
        assert energy(other) == pytest.approx(expected, abs=1e-3)


RESTART = """
import sys
import openmm
system, state = (openmm.XmlSerializer.deserialize(open(name).read()) for name in sys.argv[1:])
integrator = openmm.LangevinMiddleIntegrator(300.0, 1.0, 0.0005)
context = openmm.Context(system, integrator, openmm.Platform.getPlatformByName("CPU"))
context.setState(state)
print(context.getState(energy=True).getPotentialEnergy()._value)
integrator.step(5)
print(context.getState(energy=True).getPotentialEnergy()._value)
"""


def test_restart_in_a_new_process_after_moves_of_a_barostat(tmp_path):
    """System and State as XML say everything: the new box, lambda, the charges around."""
    structure = peptide_in_water()
    system = embedded(structure, classical(structure), structure.side_chain, interpolate=True)
    made = under_pressure(system, structure)
    made.setParameter("lambda_interpolate", 0.4)
    state = made.getState(positions=True, velocities=True, parameters=True)
    files = [tmp_path / "system.xml", tmp_path / "state.xml"]
    for file, what in zip(files, (system, state), strict=True):
        file.write_text(openmm.XmlSerializer.serialize(what))
    done = run_code(RESTART, *files, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    first, later = map(float, done.stdout.split())
    assert first == pytest.approx(energy(made), abs=1e-2)
    assert later == pytest.approx(first, abs=500.0)


# ------------------------------------------------------------------ several at once


def test_contexts_at_once():
    """Of one System and of two, in threads: structures and boxes do not mix."""
    structure = peptide_in_water()
    system = classical(structure)
    systems = [
        embedded(structure, system, atoms) for atoms in (structure.peptide, structure.side_chain)
    ]
    random = np.random.default_rng(7)
    jobs = []
    for made in (systems[0], systems[1], systems[0]):
        positions = structure.positions + random.normal(0.0, 0.001, structure.positions.shape)
        jobs.append(context(made, positions))
    jobs[2].setPeriodicBoxVectors(*(1.02 * 1.9 * np.eye(3)))

    def look(made):
        return [(energy(made, {1}), forces(made, {1})) for _ in range(3)]

    alone = [look(made) for made in jobs]
    with ThreadPoolExecutor(3) as pool:
        together = list(pool.map(look, jobs))
    for one, other in zip(alone, together, strict=True):
        for (e, f), (expected, expected_f) in zip(other, one, strict=True):
            assert e == pytest.approx(expected, abs=1e-8)
            np.testing.assert_allclose(f, expected_f, atol=1e-7)
    energies = [results[0][0] for results in alone]
    assert np.diff(np.sort(energies)).min() > 1e-3


# ------------------------------------------------------------------ what stops


def test_charges_that_stay_far_from_that_of_the_region_stop():
    """At once at the start; later some may be off, as those of structures a minimiser tries."""
    alone = peptide()
    made = embedded_context(alone, classical(alone, app.NoCutoff), alone.peptide)
    energy(made)
    made.setPositions(0.7 * alone.positions)
    for _ in range(19):
        energy(made)
    made.setPositions(alone.positions)
    energy(made)
    made.setPositions(0.7 * alone.positions)
    for _ in range(19):
        energy(made)
    with pytest.raises(openmm.OpenMMException, match=r"the latent charges .* add up to"):
        energy(made)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("place", ["ML atom", "M1", "water"])
def test_positions_that_are_not_finite(place, value):
    structure = peptide_in_water()
    system = embedded(structure, classical(structure), structure.side_chain)
    made = context(system, structure.positions)
    choices = {"ML atom": structure.side_chain, "M1": structure.atoms("CA")}
    positions = structure.positions.copy()
    positions[choices.get(place, structure.waters(1))[0], 1] = value
    made.setPositions(positions)
    with pytest.raises(openmm.OpenMMException, match=r"positions or box vectors are NaN or inf"):
        energy(made, {1})


@pytest.mark.parametrize("method", [app.PME, app.CutoffPeriodic], ids=str)
@pytest.mark.parametrize("platform", PLATFORMS)
def test_a_box_that_shrinks_below_two_cutoffs(platform, method):
    """OpenMM says so, as without a model."""
    structure = peptide_in_water()
    system = embedded(structure, classical(structure, method, cutoff=0.9), structure.peptide)
    made = context(system, structure.positions, platform)
    energy(made)
    made.setPeriodicBoxVectors(*(1.79 * np.eye(3)))
    with pytest.raises(openmm.OpenMMException, match=r"decreased to less than twice the nonbonded"):
        energy(made)


# ------------------------------------------------------------------ engines


@pytest.mark.slow
def test_compiled_engine(caplog):
    structure = peptide_in_water()
    few = structure.only(structure.peptide + structure.waters(30))
    system = classical(few)
    made = [
        embedded_context(few, system, few.peptide, precision="single", engine=engine)
        for engine in ("compile", "torchscript")
    ]
    with caplog.at_level(logging.INFO, "openmm_les.evaluation.engines"):
        for scale in (1.0, 1.001, 1.002):  # the first call compiles, the others run what it made
            for each in made:
                each.setPositions(scale * few.positions)
            assert energy(made[0], {1}) == pytest.approx(energy(made[1], {1}), abs=5e-3)
            difference = forces(made[0], {1}) - forces(made[1], {1})
            assert np.abs(difference).max() < 1e-4 * FORCE_PER_EV_PER_ANGSTROM
    said = [
        record.message
        for record in caplog.records
        if record.name.startswith("openmm_les.evaluation.engines")
    ]
    assert said == ["compiling the model; this takes a while"]
