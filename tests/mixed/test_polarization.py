"""Regions of models with moments among MM charges, in OpenMM."""

import numpy as np
import openmm
import pytest
from openmmml import MLPotential
from oracles.moments_family import model_with_moments
from support.mixed import (
    app,
    assert_forces_are_gradients,
    classical,
    context,
    energy,
    forces,
    nonbonded,
    peptide_in_water,
    relaxed,
    total_energy,
)
from support.moments import MOMENTS, moments_artifact

from openmm_les import artifact as artifacts
from openmm_les.errors import InputError
from openmm_les.evaluation.system_model import SystemModel
from openmm_les.plugin.mixed.mm_field import _radii
from openmm_les.plugin.mixed.region import MLRegion

pytestmark = pytest.mark.usefixtures("moments_family")

RESPONDING = {"polarization": "mm"}
METHODS = [app.NoCutoff, app.CutoffNonPeriodic, app.CutoffPeriodic, app.PME]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "moments.les.pt"
    moments_artifact("all", path)
    return path


@pytest.fixture(scope="module")
def few():
    """The dipeptide and a few waters, in a box of the size of the whole."""
    whole = peptide_in_water()
    near = sorted(
        (r for r in whole.topology.residues() if r.name == "HOH"),
        key=lambda r: np.linalg.norm(
            whole.positions[next(r.atoms()).index] - whole.positions[whole.peptide].mean(axis=0)
        ),
    )[:25]
    return whole.only(whole.peptide + [a.index for r in near for a in r.atoms()])


def embedded(structure, system, model, atoms=None, **options):
    known = {"embedding": "electrostatic", "precision": "double"}
    if options.get("embedding", "electrostatic") == "electrostatic":
        known["chargeTolerance"] = 5.0
    return MLPotential("les", modelPath=model).createMixedSystem(
        structure.topology,
        system,
        structure.side_chain if atoms is None else atoms,
        forceGroup=1,
        **(known | options),
    )


@pytest.mark.parametrize("options", [{}, RESPONDING | {"mmDamping": "lj"}], ids=["none", "mm"])
@pytest.mark.parametrize("method", METHODS, ids=str)
def test_forces_are_gradients(few, model, method, options):
    """On L1, M1 and M2 of a cut bond, an ML atom, and MM charges."""
    structure = few if method not in (app.NoCutoff, app.CutoffNonPeriodic) else few.in_box(None)
    system = embedded(structure, classical(structure, method), model, **options)
    made = context(system, structure.positions)
    probed = [*structure.atoms("CB", "HB1", "CA", "N"), *structure.waters(1)[:2]]
    assert_forces_are_gradients(made, structure.positions, probed, groups={1})
    np.testing.assert_allclose(forces(made, {1}).sum(axis=0), 0.0, atol=1e-7)


def test_the_response_has_an_energy(few, model):
    """Not a little. What the model induces in itself sees the charges, too: it may be positive."""
    structure = few.in_box(None)
    whole = classical(structure, app.NoCutoff)
    found = {}
    for name, options in {
        "none": {},
        "mm": RESPONDING,
        "damped": RESPONDING | {"mmDamping": "lj"},
    }.items():
        system = embedded(structure, whole, model, structure.peptide, **options)
        found[name] = energy(context(system, structure.positions), {1})
    assert abs(found["mm"] - found["none"]) > 1.0
    assert abs(found["mm"] - found["damped"]) > 0.1


def test_without_charges_it_is_the_mechanical_embedding(few, model):
    structure = few.in_box(None)
    system = classical(structure, app.NoCutoff)
    force = nonbonded(system)
    for i in range(force.getNumParticles()):
        charge, *rest = force.getParticleParameters(i)
        kept = charge if i in set(structure.waters(1)[:1]) else 0.0
        force.setParticleParameters(i, 1e-9 * kept, *rest)
    for i in range(force.getNumExceptions()):
        first, second, _, *rest = force.getExceptionParameters(i)
        force.setExceptionParameters(i, first, second, 0.0, *rest)
    made, expected = (
        context(
            embedded(structure, system, model, structure.peptide, **options), structure.positions
        )
        for options in (RESPONDING, {"embedding": "mechanical"})
    )
    assert energy(made) == pytest.approx(energy(expected), abs=1e-5)
    np.testing.assert_allclose(forces(made), forces(expected), atol=1e-4)


def test_lambda_is_linear_and_systems_can_be_saved(few, model):
    whole = classical(few)
    system = embedded(few, whole, model, interpolate=True, **RESPONDING)
    xml = openmm.XmlSerializer.serialize(system)
    made = context(openmm.XmlSerializer.deserialize(xml), few.positions)
    fixed = context(embedded(few, whole, model, **RESPONDING), few.positions)
    ends = {}
    for value, expected in ((1.0, fixed), (0.0, context(whole, few.positions))):
        made.setParameter("lambda_interpolate", value)
        ends[value] = energy(made)
        assert ends[value] == pytest.approx(energy(expected), abs=1e-6)
    made.setParameter("lambda_interpolate", 0.3)
    assert energy(made) == pytest.approx(0.7 * ends[0.0] + 0.3 * ends[1.0], abs=1e-6)


def test_energy_is_conserved(few, model):
    structure = few.in_box(None)
    system = embedded(structure, classical(structure, app.NoCutoff), model, **RESPONDING)
    made = relaxed(system, structure, integrator=openmm.VerletIntegrator(0.00025))
    made.getIntegrator().step(20)
    energies = []
    for _ in range(10):
        made.getIntegrator().step(10)
        energies.append(total_energy(made))
    assert np.ptp(energies) < 0.5
    state = made.getState(energy=True)
    assert state.getKineticEnergy()._value > 20.0


def test_permanent_charges_add_up_to_the_charge_of_the_region(few, model):
    structure = few.in_box(None)
    options = {"chargeTolerance": 1e-6} | RESPONDING
    system = embedded(
        structure, classical(structure, app.NoCutoff), model, structure.peptide, **options
    )
    numbers = [a.element.atomic_number for a in structure.topology.atoms()]
    alone = SystemModel(
        artifacts.load(model), [numbers[i] for i in structure.peptide], periodic=False
    )
    moments = alone.evaluate(10 * structure.positions[structure.peptide]).moments
    total = float(moments.charges.sum())
    assert abs(float(moments.induced_charges.sum())) > 2e-3
    with pytest.raises(openmm.OpenMMException, match=f"add up to [+]?{total:.3f} e, expected"):
        energy(context(system, structure.positions))


def test_a_negative_response_is_refused(few, tmp_path):
    structure, path = few.in_box(None), tmp_path / "negative.les.pt"
    canonical = model_with_moments(MOMENTS["all"])
    canonical.state["moment_factors"][4] *= -1.0
    artifacts.save(canonical, path, dtype="float64", charge_sign=1)
    whole = classical(structure, app.NoCutoff)
    made = context(embedded(structure, whole, path, **RESPONDING), structure.positions)
    with pytest.raises(
        openmm.OpenMMException, match=r"expected charge responses kappa above 0, got -"
    ):
        energy(made)
    free = {"conserveInducedCharge": False}
    energy(context(embedded(structure, whole, path, **RESPONDING, **free), structure.positions))


def test_damping_follows_lennard_jones_radii():
    """Hydrogens of TIP3P and charge sites of TIP4P have the radius of their oxygen."""
    structure = peptide_in_water("tip4pew")
    system = classical(structure, water="tip4pew")
    region = MLRegion.from_topology(structure.topology, system, structure.peptide, [1, 6, 7, 8])
    radii = _radii(system, nonbonded(system), region)
    of_water = radii[structure.waters(1)]
    assert len(of_water) == 4
    np.testing.assert_allclose(of_water, 0.5 * 2 ** (1 / 6) * 3.16435, rtol=1e-5)


def test_what_cannot_respond_is_refused(few, model, tmp_path):
    structure = few.in_box(None)
    whole = classical(structure, app.NoCutoff)
    permanent = tmp_path / "permanent.les.pt"
    moments_artifact("permanent", permanent)
    for path in (permanent, None):
        potential = MLPotential("les", modelPath=path) if path else MLPotential("les-demo")
        with pytest.raises(InputError, match=r"polarization='mm': expected a model with a respo"):
            potential.createMixedSystem(
                structure.topology,
                whole,
                structure.peptide,
                embedding="electrostatic",
                polarization="mm",
            )
    for options, message in (
        ({"mmDamping": "lj"}, "mmDamping: this option is for polarization='mm'"),
        ({"conserveInducedCharge": False}, "conserveInducedCharge: this option is for polariz"),
        ({"polarization": "scf"}, "polarization: expected 'none' or 'mm', got 'scf'"),
        ({"embedding": "mechanical"} | RESPONDING, "polarization: this option is for embedding="),
    ):
        with pytest.raises(InputError, match=message):
            embedded(structure, whole, model, **options)
