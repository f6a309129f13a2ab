"""Mixed Systems that run, are saved, and whose molecules stay whole."""

import numpy as np
import openmm
import pytest
from support.contexts import in_fresh_process
from support.mixed import (
    PLATFORMS,
    app,
    assert_pressure_is_the_derivative,
    bare,
    classical,
    context,
    energy,
    forces,
    mixed,
    mixed_context,
    nonbonded,
    peptide,
    peptide_in_water,
    relaxed,
    total_energy,
)

from openmm_les import InputError
from openmm_les.units import FORCE_PER_EV_PER_ANGSTROM, KJ_PER_MOL_PER_EV

TWO_CUTS = ("N", "H", "CA", "HA", "CB", "HB1", "HB2", "HB3")


# ------------------------------------------------------------------ dynamics


@pytest.mark.parametrize("kind", ["internal", "virtual"])
def test_energy_conservation(kind):
    """The link atoms' forces do the work that the energy says: NVE with cut bonds, in vacuum."""
    structure = peptide()
    system = classical(structure, app.NoCutoff)
    integrator = openmm.VerletIntegrator(0.0002)
    made = relaxed(
        mixed(structure, system, structure.atoms(*TWO_CUTS), linkAtoms=kind),
        structure,
        "Reference",
        integrator=integrator,
    )
    integrator.step(50)
    totals = []
    for _ in range(40):
        integrator.step(5)
        totals.append(total_energy(made))
    # The Verlet energy oscillates with the square of the step; what is lost would add up.
    drift = np.polyfit(np.arange(40), totals, 1)[0] * 40
    assert abs(drift) < 0.05
    assert np.ptp(totals) < 1.0
    assert np.ptp([made.getState(energy=True).getKineticEnergy()._value, 0]) > 10


@pytest.mark.parametrize("interpolate", [False, True])
def test_multiple_time_steps(interpolate):
    """The groups of the model and of the force field can be told apart, with lambda too."""
    structure = peptide_in_water()
    system = classical(structure)
    for force in system.getForces():
        if isinstance(force, openmm.NonbondedForce):
            force.setReciprocalSpaceForceGroup(2)
    options = {"forceGroup": 3, "interpolate": interpolate}
    atoms = structure.atoms(*TWO_CUTS)
    made = mixed_context(structure, system, atoms, **options)
    by_group = [energy(made, {group}) for group in range(4)]
    assert sum(by_group) == pytest.approx(energy(made), abs=1e-7)
    alone = mixed_context(structure, system, atoms, forceGroup=0)
    assert by_group[3] == pytest.approx(
        energy(alone) - energy(context(without_model(alone), structure.positions)), abs=1e-6
    )
    integrator = openmm.MTSIntegrator(0.001, [(3, 1), (2, 1), (0, 4)])
    running = relaxed(mixed(structure, system, atoms, **options), structure, integrator=integrator)
    before = total_energy(running)
    integrator.step(10)
    assert total_energy(running) == pytest.approx(before, abs=20.0)
    assert running.getState(energy=True).getKineticEnergy()._value > 100.0


def without_model(made) -> openmm.System:
    system = openmm.XmlSerializer.clone(made.getSystem())
    kinds = [type(force).__name__ for force in system.getForces()]
    system.removeForce(kinds.index("PythonForce"))
    return system


def test_without_lambda_the_model_is_not_asked():
    """At lambda = 0 a structure may be one for which the model has no energy."""
    structure = peptide()
    system = classical(structure, app.NoCutoff)
    made = mixed_context(structure, system, structure.peptide, interpolate=True)
    together = structure.positions.copy()
    together[structure.atoms("HB1")] = together[structure.atoms("HB2")]
    made.setPositions(together)
    with pytest.raises(openmm.OpenMMException, match="two atoms are at the same place"):
        energy(made)
    made.setParameter("lambda_interpolate", 0.0)
    assert energy(made, {1}) == 0.0


# ------------------------------------------------------------------ molecules


@pytest.mark.parametrize("interpolate", [False, True])
@pytest.mark.parametrize("kind", ["internal", "virtual"])
@pytest.mark.parametrize("region", ["peptide", "side chain", "two cuts"])
def test_molecules_are_those_of_the_force_field(region, kind, interpolate):
    structure = peptide_in_water()
    system = classical(structure)
    atoms = {"peptide": structure.peptide, "side chain": structure.side_chain}.get(
        region, structure.atoms(*TWO_CUTS)
    )
    expected = context(system, structure.positions).getMolecules()
    made = mixed_context(structure, system, atoms, linkAtoms=kind, interpolate=interpolate)
    number = structure.topology.getNumAtoms()
    got = [sorted(i for i in molecule if i < number) for molecule in made.getMolecules()]
    assert sorted(filter(None, got)) == sorted(sorted(molecule) for molecule in expected)
    # Virtual link atoms belong to the molecule they are part of.
    assert len(got) == len(expected)


@pytest.mark.parametrize("platform", PLATFORMS)
def test_pressure_is_the_derivative_of_the_energy(platform):
    structure = peptide_in_water()
    system = classical(structure)
    nonbonded(system).setUseDispersionCorrection(False)
    assert_pressure_is_the_derivative(
        mixed(structure, system, structure.peptide), structure, platform
    )


@pytest.mark.parametrize("kind", ["internal", "virtual"])
def test_constant_pressure(kind):
    structure = peptide_in_water()
    system = mixed(structure, classical(structure), structure.atoms(*TWO_CUTS), linkAtoms=kind)
    barostat = openmm.MonteCarloBarostat(1.0, 300.0, 2)
    barostat.setRandomNumberSeed(3)
    system.addForce(barostat)
    integrator = openmm.LangevinMiddleIntegrator(300.0, 1.0, 0.0005)
    integrator.setRandomNumberSeed(4)
    made = relaxed(system, structure, integrator=integrator)
    before = made.getState().getPeriodicBoxVolume()
    integrator.step(30)
    state = made.getState(positions=True)
    assert state.getPeriodicBoxVolume() != before
    positions = bare(state.getPositions())
    for bond in structure.topology.bonds():
        ends = positions[bond.atom1.index] - positions[bond.atom2.index]
        assert np.linalg.norm(ends) < 0.2


# ------------------------------------------------------------------ saved Systems


@pytest.mark.parametrize(
    "options",
    [{}, {"interpolate": True}, {"linkAtoms": "virtual"}],
    ids=["internal", "lambda", "virtual"],
)
def test_xml_in_a_fresh_process(options, tmp_path):
    structure = peptide_in_water()
    system = mixed(structure, classical(structure), structure.atoms(*TWO_CUTS), **options)
    made = context(system, structure.positions)
    positions = bare(made.getState(positions=True).getPositions())
    xml = openmm.XmlSerializer.serialize(system)
    got, got_forces = in_fresh_process(tmp_path, xml, positions * 10, "Reference")
    assert got * KJ_PER_MOL_PER_EV == pytest.approx(energy(made), abs=1e-6)
    np.testing.assert_allclose(got_forces * FORCE_PER_EV_PER_ANGSTROM, forces(made), atol=1e-5)
    function = next(line for line in xml.splitlines() if "PythonForce" in line)
    assert len(function) < 4000
    assert openmm.XmlSerializer.serialize(openmm.XmlSerializer.deserialize(xml)) == xml


# ------------------------------------------------------------------ backends


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {},
            r"linkAtoms='internal' needs a PythonForce, linkAtoms='virtual' does not; or use back",
        ),
        ({"interpolate": True}, r"linkAtoms='internal' needs a PythonForce"),
        ({"interpolate": True, "linkAtoms": "virtual"}, r"interpolate=True needs a PythonForce"),
    ],
)
def test_torchforce_where_it_does_not_suffice(options, message):
    structure = peptide()
    system = classical(structure, app.NoCutoff)
    with pytest.raises(InputError, match=r"backend: 'torchforce' cannot be used here: " + message):
        mixed(structure, system, structure.side_chain, backend="torchforce", **options)


@pytest.mark.torchforce
@pytest.mark.filterwarnings("ignore:backend='torchforce'.*:UserWarning")
@pytest.mark.parametrize(("platform", "linked"), list(zip(PLATFORMS, [False, True], strict=True)))
def test_torchforce_agrees(platform, linked):
    structure = peptide_in_water()
    system = classical(structure)
    atoms = structure.side_chain if linked else structure.peptide
    made = [
        mixed_context(structure, system, atoms, platform, linkAtoms="virtual", backend=backend)
        for backend in ("torchforce", "pythonforce")
    ]
    energies = [energy(each, {1}) for each in made]
    assert energies[0] == pytest.approx(energies[1], abs=1e-3)
    np.testing.assert_allclose(forces(made[0]), forces(made[1]), atol=0.1)
