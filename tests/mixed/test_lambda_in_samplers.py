"""The parameter of interpolation: defaults that samplers change, derivatives, boxes."""

import copy
import re

import ase.build
import numpy as np
import openmm
import pytest
from openmm import unit
from openmmml import MLPotential
from support.mixed import (
    app,
    classical,
    context,
    embedded,
    energy,
    forces,
    mixed,
    nonbonded,
    peptide,
)

from openmm_les.plugin.mixed.embeddings import mechanical

NAME = "lambda_interpolate"
MAKERS = [mixed, embedded]


def interpolated(make, method=app.NoCutoff, **options):
    """A dipeptide with lambda; the side chain is the model's."""
    structure = peptide() if method is app.NoCutoff else peptide().in_box(3.0 * np.eye(3))
    system = classical(structure, method, cutoff=1.0)
    return structure, make(structure, system, structure.side_chain, interpolate=True, **options)


def set_default(system, name, value) -> int:
    """What openmmtools does to a System: in every force of the System that has the parameter."""
    changed = 0
    for force in system.getForces():
        number = force.getNumGlobalParameters() if hasattr(force, "getNumGlobalParameters") else 0
        for i in range(number):
            if force.getGlobalParameterName(i) == name:
                force.setGlobalParameterDefaultValue(i, value)
                changed += 1
    return changed


@pytest.mark.parametrize("method", [app.NoCutoff, app.Ewald, app.PME], ids=str)
@pytest.mark.parametrize("make", MAKERS)
def test_the_default_can_be_changed(make, method):
    """A new Context then has the energy at that lambda; OpenMM refuses two defaults."""
    structure, system = interpolated(make, method)
    made = context(system, structure.positions)
    made.setParameter(NAME, 0.3)
    other = copy.deepcopy(system)
    assert set_default(other, NAME, 0.3) > 1
    fresh = context(other, structure.positions)
    assert fresh.getParameter(NAME) == 0.3
    assert energy(fresh) == pytest.approx(energy(made), abs=1e-7)
    np.testing.assert_allclose(forces(fresh), forces(made), atol=1e-6)


def test_other_parameters_have_one_default_too():
    """Those of a force field and of a field on the model, of which the sums have copies."""
    structure = peptide()
    system = classical(structure, app.NoCutoff)
    force = nonbonded(system)
    force.addGlobalParameter("charging", 0.0)
    force.addParticleParameterOffset("charging", structure.side_chain[0], 0.3, 0.0, 0.0)
    made = mixed(
        structure, system, structure.side_chain, interpolate=True, electricField=(0.0, 0.0, 0.5)
    )
    running = context(made, structure.positions)
    values = {"charging": 0.5, "electricFieldX": 0.4, NAME: 0.6}
    for name, value in values.items():
        running.setParameter(name, value)
        assert set_default(made, name, value) >= 1
    fresh = context(made, structure.positions)
    assert energy(fresh) == pytest.approx(energy(running), abs=1e-8)


# ------------------------------------------------------------------ derivatives


def slope(made) -> float:
    state = made.getState(parameterDerivatives=True)
    return state.getEnergyParameterDerivatives()[NAME]


@pytest.mark.parametrize("method", [app.NoCutoff, app.PME], ids=str)
def test_derivative_by_lambda(method):
    """The difference of the ends, since the energy is linear; at 0 the model is not computed."""
    structure, system = interpolated(mixed, method)
    made = context(system, structure.positions)
    ends = []
    for value in (0.0, 1.0):
        made.setParameter(NAME, value)
        ends.append(energy(made))
    expected = ends[1] - ends[0]
    assert abs(expected) > 1.0
    for value in (1.0, 0.4, 1e-6):
        made.setParameter(NAME, value)
        assert slope(made) == pytest.approx(expected, abs=1e-6)
    made.setParameter(NAME, 0.0)
    assert slope(made) == np.inf


def test_a_derivative_that_openmm_cannot_give_is_no_number():
    """Among MM charges a part of the energy is in a NonbondedForce, which has none."""
    structure, system = interpolated(embedded)
    made = context(system, structure.positions)
    for value in (1.0, 0.4, 0.0):
        made.setParameter(NAME, value)
        assert np.isnan(slope(made))
        assert np.isfinite(energy(made))


# ------------------------------------------------------------------ samplers


def test_replica_exchange_of_openmm():
    """What it exchanges by are the energies at each lambda of the structures that it has."""
    structure, system = interpolated(mixed)
    integrator = openmm.LangevinMiddleIntegrator(300.0, 1.0, 0.0005)
    platform = openmm.Platform.getPlatformByName("Reference")
    simulation = app.Simulation(structure.topology, system, integrator, platform)
    simulation.context.setPositions(structure.positions)
    values = (0.0, 0.5, 1.0)
    sampler = app.ReplicaExchangeSampler([{NAME: value} for value in values], simulation, 2)
    made = context(system, structure.positions)

    def check(sampler):
        for replica, known in zip(
            sampler.replicaConformation, sampler.replicaStateEnergy, strict=True
        ):
            made.setPositions(replica.getPositions())
            for value, expected in zip(values, known, strict=True):
                made.setParameter(NAME, value)
                assert energy(made) == pytest.approx(expected._value, abs=1e-6)

    sampler.reporters.append(check)
    sampler.simulate(2)


def test_replica_exchange_of_openmmtools(tmp_path):
    """Its states are Systems with other defaults, and Contexts with other parameters."""
    states = pytest.importorskip("openmmtools.states", exc_type=ImportError)
    multistate = pytest.importorskip("openmmtools.multistate", exc_type=ImportError)
    from openmmtools import mcmc

    class Lambda(states.GlobalParameterState):
        lambda_interpolate = states.GlobalParameterState.GlobalParameter(NAME, standard_value=1.0)

    structure, system = interpolated(mixed)
    common = states.ThermodynamicState(system, 300.0 * unit.kelvin)
    values = (0.0, 0.5, 1.0)
    ladder = [
        states.CompoundThermodynamicState(
            copy.deepcopy(common), composable_states=[Lambda(lambda_interpolate=value)]
        )
        for value in values
    ]
    move = mcmc.LangevinDynamicsMove(timestep=0.5 * unit.femtosecond, n_steps=2)
    sampler = multistate.ReplicaExchangeSampler(mcmc_moves=move, number_of_iterations=1)
    storage = multistate.MultiStateReporter(str(tmp_path / "exchange.nc"), checkpoint_interval=1)
    sampler.create(ladder, [states.SamplerState(structure.positions * unit.nanometer)], storage)
    sampler.run()
    beta = 1.0 / (unit.MOLAR_GAS_CONSTANT_R * 300.0 * unit.kelvin).value_in_unit(
        unit.kilojoule_per_mole
    )
    found, _, _ = storage.read_energies()
    made = context(system, structure.positions)
    for replica, known in zip(sampler.sampler_states, found[-1], strict=True):
        made.setPositions(replica.positions)
        for value, expected in zip(values, known, strict=True):
            made.setParameter(NAME, value)
            assert beta * energy(made) == pytest.approx(expected, abs=1e-3)


def test_free_energies_that_depend_on_the_box(exported, caplog, monkeypatch):
    """Latent charges without a sum of zero, among their images; the warning says how much."""
    monkeypatch.setattr(mechanical, "_told", set())  # said once in a process
    molecule, model = ase.build.molecule("NH3"), exported("mace")
    topology, box = app.Topology(), np.eye(3)
    residue = topology.addResidue("LIG", topology.addChain())
    for symbol in molecule.symbols:
        topology.addAtom(symbol, app.Element.getBySymbol(symbol), residue)

    def difference(edge) -> float:
        """Of the energies at both ends of lambda."""
        system = openmm.System()
        system.setDefaultPeriodicBoxVectors(*(edge * box))
        field = openmm.NonbondedForce()
        field.setNonbondedMethod(field.PME)
        for mass in molecule.get_masses():
            system.addParticle(mass)
            field.addParticle(0.0, 1.0, 0.0)
        system.addForce(field)
        topology.setPeriodicBoxVectors(edge * box)
        atoms = range(len(molecule))
        potential = MLPotential("les", modelPath=str(model))
        made = potential.createMixedSystem(topology, system, atoms, interpolate=True)
        there = context(made, molecule.positions / 10)
        ends = []
        for value in (0.0, 1.0):
            there.setParameter("lambda_interpolate", value)
            ends.append(energy(there))
        return ends[1] - ends[0]

    change = difference(3.0) - difference(6.0)
    found = re.search(r"add up to 0\.35 e .* of 0\.00 e.* about (-[\d.]+) kJ/mol / L", caplog.text)
    assert found
    assert change == pytest.approx(float(found[1]) * (1 / 3.0 - 1 / 6.0), rel=0.1)
