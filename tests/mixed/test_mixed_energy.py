"""Mechanical embedding: what is in the energy of a mixed System, and what is not."""

import logging

import numpy as np
import openmm
import pytest
from ase import Atoms
from openmmml import MLPotential
from support.contexts import of_calculator
from support.mixed import (
    METHODS,
    PHENYLALANINE,
    PLATFORMS,
    app,
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
    villin,
    villin_by_charmm,
)

from openmm_les import InputError, catalog
from openmm_les import artifact as artifacts
from openmm_les.evaluation.system_model import SystemModel
from openmm_les.plugin.forces import FORCE_NAME
from openmm_les.units import FORCE_PER_EV_PER_ANGSTROM, KJ_PER_MOL_PER_EV

# Energies [kJ/mol] and forces [kJ/mol/nm] of 700 atoms; the CPU platform computes in float32.
TOLERANCE = {"Reference": (1e-7, 1e-6), "CPU": (0.1, 1.0)}


# A molecule, and several molecules in any order, whose virtual sites belong to them.
CASES = [("tip3p", 0), ("tip4pew", 2)]


def region_of(structure, waters):
    return structure.waters(waters) + structure.peptide


def without_correction(system):
    """The dispersion correction is a property of all atoms: it stays, and does not add up."""
    nonbonded(system).setUseDispersionCorrection(False)
    return system


@pytest.mark.parametrize(("water", "number"), CASES)
@pytest.mark.parametrize("method", METHODS, ids=str)
@pytest.mark.parametrize("platform", PLATFORMS)
def test_with_its_own_force_field_a_region_gives_the_force_field(platform, method, water, number):
    """E - E_ML is what is missing from the energy of the region alone in the same box."""
    structure = peptide_in_water(water)
    atoms = region_of(structure, number)
    whole = without_correction(classical(structure, method, water))
    system = mixed(structure, whole, atoms)
    alone = structure.only(atoms)
    alone_system = without_correction(classical(alone, method, water))

    rest, own = (
        context(system, structure.positions, platform),
        context(alone_system, alone.positions, platform),
    )
    full = context(whole, structure.positions, platform)
    per_energy, per_force = TOLERANCE[platform]
    assert energy(rest, {0}) + energy(own) == pytest.approx(energy(full), abs=per_energy)
    got = forces(rest, {0})
    got[sorted(atoms)] += forces(own)
    np.testing.assert_allclose(got, forces(full), atol=per_force)


@pytest.mark.parametrize("platform", PLATFORMS)
@pytest.mark.parametrize("method", [app.NoCutoff, app.PME], ids=str)
def test_the_model_is_that_of_the_region_in_the_box(method, platform):
    """With its own periodic images exactly where the force field has them."""
    structure = peptide_in_water()
    made = mixed_context(structure, classical(structure, method), structure.peptide, platform)
    atoms = ase_atoms(structure, structure.peptide, periodic=method is app.PME)
    expected, expected_forces = of_calculator(catalog.artifact_path("les-demo"), atoms)
    expected -= reference_energy(atoms)
    assert energy(made, {1}) == pytest.approx(expected * KJ_PER_MOL_PER_EV, abs=1e-5)
    got = forces(made, {1})
    np.testing.assert_allclose(
        got[structure.peptide], expected_forces * FORCE_PER_EV_PER_ANGSTROM, atol=1e-3
    )
    got[structure.peptide] = 0.0
    assert not got.any()


def ase_atoms(structure, chosen, periodic) -> Atoms:
    everything = list(structure.topology.atoms())
    box = structure.topology.getPeriodicBoxVectors()
    return Atoms(
        [everything[i].element.symbol for i in chosen],
        structure.positions[chosen] * 10,
        cell=bare(box) * 10,
        pbc=periodic,
    )


def reference_energy(atoms) -> float:
    artifact = artifacts.load(catalog.artifact_path("les-demo"))
    return SystemModel(artifact, atoms.numbers, periodic=False).reference_energy


@pytest.mark.parametrize(
    ("method", "platform"), [*((method, "Reference") for method in METHODS), (app.PME, "CPU")]
)
def test_lambda_leads_from_the_force_field_to_the_mixed_system(method, platform):
    water, number = CASES[1]
    structure = peptide_in_water(water)
    whole = classical(structure, method, water)
    atoms = region_of(structure, number)
    fixed = mixed_context(structure, whole, atoms, platform)
    made = mixed_context(structure, whole, atoms, platform, interpolate=True)
    pure = context(whole, structure.positions, platform)
    assert made.getParameter("lambda_interpolate") == 1.0
    per_energy, per_force = TOLERANCE[platform]
    ends = {}
    for value, expected in ((1.0, fixed), (0.0, pure)):
        made.setParameter("lambda_interpolate", value)
        ends[value] = energy(made), forces(made)
        assert ends[value][0] == pytest.approx(energy(expected), abs=per_energy)
        np.testing.assert_allclose(ends[value][1], forces(expected), atol=per_force)
    for value in (0.25, 0.7):
        made.setParameter("lambda_interpolate", value)
        for got, low, high in zip((energy(made), forces(made)), ends[0.0], ends[1.0], strict=True):
            np.testing.assert_allclose(
                got, (1 - value) * low + value * high, rtol=1e-6, atol=per_energy
            )


@pytest.mark.parametrize("platform", PLATFORMS)
def test_force_field_with_custom_forces(platform):
    """CHARMM36: Lennard-Jones with fixes and its 1-4 terms, impropers, CMAP are custom forces."""
    structure = villin()
    whole = villin_by_charmm()
    kinds = [type(force).__name__ for force in whole.getForces()]
    assert {"CustomNonbondedForce", "CustomBondForce", "CustomTorsionForce"} <= set(kinds)
    chosen = structure.side_chain_of(PHENYLALANINE)
    assert len(chosen) == 14
    fixed = mixed_context(structure, whole, chosen, platform)
    made = mixed_context(structure, whole, chosen, platform, interpolate=True)
    per_energy, per_force = TOLERANCE[platform]
    assert energy(made) == pytest.approx(energy(fixed), abs=per_energy)
    np.testing.assert_allclose(forces(made), forces(fixed), atol=per_force)
    made.setParameter("lambda_interpolate", 0.0)
    pure = context(whole, structure.positions, platform)
    assert energy(made) == pytest.approx(energy(pure), abs=per_energy)
    np.testing.assert_allclose(forces(made), forces(pure), atol=per_force)


def test_order_images_and_edges_do_not_matter():
    """Permuted regions, whole molecules in other images, a region across the edge of the box."""
    structure = peptide_in_water()
    whole = classical(structure)
    expected = mixed_context(structure, whole, structure.peptide)
    order = np.random.default_rng(1).permutation(structure.peptide).tolist()
    permuted = mixed_context(structure, whole, order)
    assert energy(permuted) == pytest.approx(energy(expected), abs=1e-7)
    np.testing.assert_allclose(forces(permuted), forces(expected), atol=1e-6)

    box = bare(structure.topology.getPeriodicBoxVectors())
    moved = structure.positions.copy()
    moved[structure.peptide] += 2 * box[0] - box[2]
    before = energy(permuted), forces(permuted)
    permuted.setPositions(moved)
    assert energy(permuted) == pytest.approx(before[0], abs=1e-6)
    np.testing.assert_allclose(forces(permuted), before[1], atol=1e-5)

    # Molecules wrapped after a shift: the peptide lies across the edge, in one piece.
    shift = -structure.positions[structure.peptide].mean(axis=0)
    permuted.setPositions(structure.positions + shift)
    wrapped = permuted.getState(positions=True, enforcePeriodicBox=True)
    permuted.setPositions(wrapped.getPositions())
    assert energy(permuted, {1}) == pytest.approx(energy(expected, {1}), abs=1e-6)
    # The mesh of PME is not invariant to a shift.
    np.testing.assert_allclose(forces(permuted), before[1], atol=0.5)


@pytest.mark.parametrize("platform", PLATFORMS)
def test_triclinic_box(platform):
    vectors = [[2.1, 0, 0], [0.7, 2.1, 0], [-0.7, 0.7, 2.1]]
    skewed = peptide_in_water().in_box(vectors)
    whole = without_correction(classical(skewed))
    made = mixed_context(skewed, whole, skewed.peptide, platform)
    alone = skewed.only(skewed.peptide).in_box(vectors)
    own = context(without_correction(classical(alone)), alone.positions, platform)
    full = context(whole, skewed.positions, platform)
    tolerance, _ = TOLERANCE[platform]
    assert energy(made, {0}) + energy(own) == pytest.approx(energy(full), abs=tolerance)


def test_dispersion_correction_stays():
    structure = peptide_in_water()
    differences = []
    for wanted in (True, False):
        whole = classical(structure)
        nonbonded(whole).setUseDispersionCorrection(wanted)
        both = [whole, mixed(structure, whole, structure.peptide)]
        differences.append([energy(context(s, structure.positions), {0}) for s in both])
    (full, part), (bare_full, bare_part) = differences
    assert full - bare_full < -1.0
    assert part - bare_part == pytest.approx(full - bare_full, abs=1e-6)


def test_parameter_offsets_inside_the_region():
    """Charges that depend on a global parameter do not bring removed interactions back."""
    structure = peptide_in_water()
    whole = without_correction(classical(structure))
    force = nonbonded(whole)
    force.addGlobalParameter("charging", 0.0)
    first, second = structure.peptide[4], structure.waters(1)[0]
    for atom in (first, second):
        force.addParticleParameterOffset("charging", atom, 0.3, 0.0, 0.0)
    within = next(
        i
        for i in range(force.getNumExceptions())
        if set(force.getExceptionParameters(i)[:2]) <= set(structure.peptide)
    )
    force.addExceptionParameterOffset("charging", within, 0.5, 0.0, 0.0)
    results = []
    for interpolate in (False, True):
        system = mixed(structure, whole, structure.peptide, interpolate=interpolate)
        made = context(system, structure.positions)
        before = energy(made)
        made.setParameter("charging", 1.0)
        results.append((before, energy(made)))
        if interpolate:
            made.setParameter("lambda_interpolate", 0.0)
            pure = context(whole, structure.positions)
            pure.setParameter("charging", 1.0)
            assert energy(made) == pytest.approx(energy(pure), abs=1e-7)
    assert results[0] == pytest.approx(results[1], abs=1e-7)
    assert abs(results[0][1] - results[0][0]) > 0.1


@pytest.mark.parametrize("interpolate", [False, True])
@pytest.mark.parametrize("platform", PLATFORMS)
def test_several_nonbonded_forces(platform, interpolate):
    """Charges in one, Lennard-Jones in the other: the sum is that of one force with both."""
    structure = peptide_in_water()
    together = without_correction(classical(structure))
    apart = without_correction(classical(structure))
    charges = nonbonded(apart)
    dispersion = openmm.XmlSerializer.clone(charges)
    apart.addForce(dispersion)
    dispersion = apart.getForce(apart.getNumForces() - 1)
    for i in range(charges.getNumParticles()):
        charge, sigma, epsilon = charges.getParticleParameters(i)
        charges.setParticleParameters(i, charge, sigma, 0.0)
        dispersion.setParticleParameters(i, 0.0, sigma, epsilon)
    for i in range(charges.getNumExceptions()):
        first, second, product, sigma, epsilon = charges.getExceptionParameters(i)
        charges.setExceptionParameters(i, first, second, product, sigma, 0.0)
        dispersion.setExceptionParameters(i, first, second, 0.0, sigma, epsilon)
    results = [
        energy(
            mixed_context(
                structure, system, structure.side_chain, platform, interpolate=interpolate
            )
        )
        for system in (together, apart)
    ]
    assert results[0] == pytest.approx(results[1], abs=TOLERANCE[platform][0])


def test_a_region_that_is_everything():
    """Nothing of the force field is left."""
    structure = peptide()
    made = mixed_context(structure, classical(structure, app.NoCutoff), structure.peptide)
    pure = MLPotential("les-demo").createSystem(structure.topology, precision="double")
    expected = context(pure, structure.positions)
    assert energy(made) == pytest.approx(energy(expected), abs=1e-8)
    np.testing.assert_allclose(forces(made), forces(expected), atol=1e-7)


def test_restricted_custom_force_keeps_its_interaction_groups():
    structure = peptide_in_water()
    whole = classical(structure, app.CutoffPeriodic)
    standard = nonbonded(whole)
    extra = openmm.CustomNonbondedForce("exp(-5*r)")
    extra.setNonbondedMethod(openmm.CustomNonbondedForce.CutoffPeriodic)
    extra.setCutoffDistance(0.7)
    for _ in range(whole.getNumParticles()):
        extra.addParticle([])
    for i in range(standard.getNumExceptions()):
        extra.addExclusion(*standard.getExceptionParameters(i)[:2])
    extra.addInteractionGroup(set(structure.peptide[:8]), set(range(whole.getNumParticles())))
    whole.addForce(extra)
    fixed = mixed_context(structure, whole, structure.peptide)
    made = mixed_context(structure, whole, structure.peptide, interpolate=True)
    assert energy(made) == pytest.approx(energy(fixed), abs=1e-7)
    made.setParameter("lambda_interpolate", 0.0)
    pure = context(whole, structure.positions)
    assert energy(made) == pytest.approx(energy(pure), abs=1e-7)


@pytest.mark.parametrize("interpolate", [False, True])
@pytest.mark.parametrize("kind", ["internal", "virtual"])
def test_one_force_with_the_box_of_the_force_field(kind, interpolate):
    """Lambda times the model is a force like the model alone."""
    structure = peptide_in_water()
    options = {"linkAtoms": kind, "interpolate": interpolate, "forceGroup": 4}
    for method, periodic in ((app.PME, True), (app.CutoffPeriodic, True), (app.NoCutoff, False)):
        system = mixed(structure, classical(structure, method), structure.side_chain, **options)
        ours = [f for f in system.getForces() if f.getName() == FORCE_NAME]
        assert len(ours) == 1
        assert isinstance(ours[0], openmm.CustomCVForce if interpolate else openmm.PythonForce)
        assert ours[0].usesPeriodicBoundaryConditions() == periodic
        assert ours[0].getForceGroup() == 4


def test_a_box_that_the_force_field_does_not_use_is_told(caplog):
    structure = peptide_in_water()
    with caplog.at_level(logging.INFO):
        mixed(structure, classical(structure, app.NoCutoff), structure.peptide)
    assert "the topology has a box, but the force field does not use it" in caplog.text


def test_dispersion_under_ljpme_is_told(caplog):
    structure = peptide_in_water()
    with caplog.at_level(logging.INFO):
        mixed(structure, classical(structure, app.LJPME), structure.peptide)
    assert caplog.text.count("LJPME: the dispersion between the ML region and its") == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"linkatoms": "virtual"},
            r"createMixedSystem: unknown argument linkatoms; did you mean li",
        ),
        ({"precison": "double"}, r"unknown argument precison; did you mean precision\?"),
        ({"mlLongRange": True}, r"unknown argument mlLongRange"),
        ({"linkAtoms": "none"}, r"linkAtoms: expected 'internal' or 'virtual', got 'none'"),
        ({"forceGroup": 40}, r"forceGroup: expected an integer from 0 to 31, got 40"),
    ],
)
def test_wrong_options(options, message):
    structure = peptide_in_water()
    with pytest.raises(InputError, match=message):
        mixed(structure, classical(structure), structure.peptide, **options)
