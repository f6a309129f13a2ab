"""Electrostatic embedding: energies and forces of a real model among the charges of water."""

from typing import get_args

import numpy as np
import openmm
import pytest
from support.contexts import in_fresh_process
from support.mixed import (
    METHODS,
    PHENYLALANINE,
    PLATFORMS,
    app,
    assert_forces_are_gradients,
    bare,
    classical,
    context,
    embedded,
    embedded_context,
    energy,
    forces,
    mixed_context,
    nonbonded,
    peptide_in_water,
    villin,
    villin_by_charmm,
)

from openmm_les.plugin.mixed.boundary_charges import Scheme
from openmm_les.units import KJ_PER_MOL_PER_EV

TOLERANCE = {"Reference": (1e-7, 1e-6), "CPU": (0.1, 1.0)}
METHODS_OF_NOTE = [app.NoCutoff, app.CutoffPeriodic, app.PME]


@pytest.mark.parametrize("water", ["tip3p", "tip4pew"])
@pytest.mark.parametrize("images", ["exact", "native"])
def test_forces_are_gradients(water, images):
    """On ML atoms, MM atoms and atoms that carry charge sites, for a whole molecule."""
    structure = peptide_in_water(water)
    system = classical(structure, app.PME, water)
    made = embedded_context(structure, system, structure.peptide, mlImages=images)
    # OpenMM's own forces have steps where a pair crosses the cutoff.
    probed = [*structure.atoms("N", "CA", "HB1", "O"), *structure.waters(1)[:2]]
    assert_forces_are_gradients(made, structure.positions, probed, groups={1})
    # Virtual sites have handed their forces on, and report them nevertheless.
    real = [i for i in range(system.getNumParticles()) if not system.isVirtualSite(i)]
    np.testing.assert_allclose(forces(made, {1})[real].sum(axis=0), 0.0, atol=1e-7)


@pytest.mark.parametrize("scheme", get_args(Scheme))
def test_forces_are_gradients_at_cut_bonds(scheme):
    """On L1, M1 and M2, whatever becomes of the charge of M1."""
    structure = peptide_in_water()
    system = classical(structure)
    made = embedded_context(structure, system, structure.side_chain, boundaryCharges=scheme)
    probed = structure.atoms("CB", "HB1", "CA", "N", "C", "HA")
    assert_forces_are_gradients(made, structure.positions, probed, groups={1})
    np.testing.assert_allclose(forces(made, {1}).sum(axis=0), 0.0, atol=1e-7)


@pytest.mark.parametrize("interpolate", [False, True])
@pytest.mark.parametrize("platform", PLATFORMS)
def test_virtual_link_atoms_are_where_the_internal_ones_are(platform, interpolate):
    structure = peptide_in_water()
    system = classical(structure)
    nonbonded(system).setUseDispersionCorrection(False)  # an average over all particles
    atoms = structure.side_chain
    internal, virtual = (
        embedded_context(
            structure, system, atoms, platform, linkAtoms=kind, interpolate=interpolate
        )
        for kind in ("internal", "virtual")
    )
    number = structure.topology.getNumAtoms()
    site = bare(virtual.getState(positions=True).getPositions())[number:]
    first, second = structure.positions[structure.atoms("CB", "CA")]
    expected = first + 0.107 * (second - first) / np.linalg.norm(second - first)
    np.testing.assert_allclose(site, [expected], atol=1e-6)
    per_energy, per_force = TOLERANCE[platform]
    for value in (1.0, 0.4) if interpolate else (None,):
        if value is not None:
            for made in (internal, virtual):
                made.setParameter("lambda_interpolate", value)
        assert energy(virtual) == pytest.approx(energy(internal), abs=per_energy)
        np.testing.assert_allclose(forces(virtual)[:number], forces(internal), atol=per_force)
    assert len(virtual.getMolecules()) == len(internal.getMolecules())


@pytest.mark.parametrize("method", METHODS_OF_NOTE, ids=str)
def test_without_charges_it_is_the_mechanical_embedding(method):
    """With the model's own images: those of corrected charges would differ."""
    structure = peptide_in_water()
    system = classical(structure, method)
    force = nonbonded(system)
    inside = set(structure.peptide)
    for i in range(force.getNumParticles()):
        charge, *rest = force.getParticleParameters(i)
        force.setParticleParameters(i, charge if i in inside else 0.0, *rest)
    bare_system = openmm.XmlSerializer.clone(system)
    force = nonbonded(bare_system)
    for i in inside:
        _, *rest = force.getParticleParameters(i)
        force.setParticleParameters(i, 0.0, *rest)
    for i in range(force.getNumExceptions()):
        first, second, _, *rest = force.getExceptionParameters(i)
        force.setExceptionParameters(i, first, second, 0.0, *rest)
    made = embedded_context(structure, system, structure.peptide, mlImages="native")
    expected = mixed_context(structure, bare_system, structure.peptide)
    assert energy(made) == pytest.approx(energy(expected), abs=1e-6)
    np.testing.assert_allclose(forces(made), forces(expected), atol=1e-5)


@pytest.mark.parametrize(
    ("method", "platform"), [*((method, "Reference") for method in METHODS), (app.PME, "CPU")]
)
def test_lambda_leads_from_the_force_field_to_the_embedding(method, platform):
    structure = peptide_in_water()
    whole = classical(structure, method)
    atoms = structure.side_chain
    fixed = embedded_context(structure, whole, atoms, platform)
    made = embedded_context(structure, whole, atoms, platform, interpolate=True)
    pure = context(whole, structure.positions, platform)
    per_energy, per_force = TOLERANCE[platform]
    ends = {}
    for value, expected in ((1.0, fixed), (0.0, pure)):
        made.setParameter("lambda_interpolate", value)
        ends[value] = energy(made), forces(made)
        assert ends[value][0] == pytest.approx(energy(expected), abs=per_energy)
        np.testing.assert_allclose(ends[value][1], forces(expected), atol=per_force)
    for value in (0.25, 0.7):
        made.setParameter("lambda_interpolate", value)
        expected = (1 - value) * ends[0.0][0] + value * ends[1.0][0]
        assert energy(made) == pytest.approx(expected, abs=per_energy)
        expected = (1 - value) * ends[0.0][1] + value * ends[1.0][1]
        np.testing.assert_allclose(forces(made), expected, atol=per_force)


def test_force_field_with_custom_forces():
    """CHARMM36: charges in the NonbondedForce, Lennard-Jones and its 1-4 terms in custom forces."""
    structure, whole = villin(), villin_by_charmm()
    chosen = structure.side_chain_of(PHENYLALANINE)
    fixed, made = (
        embedded_context(structure, whole, chosen, "CPU", interpolate=wanted, chargeTolerance=1.0)
        for wanted in (False, True)
    )
    per_energy, per_force = TOLERANCE["CPU"]
    assert energy(made) == pytest.approx(energy(fixed), abs=per_energy)
    np.testing.assert_allclose(forces(made), forces(fixed), atol=per_force)
    made.setParameter("lambda_interpolate", 0.0)
    pure = context(whole, structure.positions, "CPU")
    assert energy(made) == pytest.approx(energy(pure), abs=per_energy)
    np.testing.assert_allclose(forces(made), forces(pure), atol=per_force)
    mechanical = mixed_context(structure, whole, chosen, "CPU")
    assert abs(energy(mechanical) - energy(fixed)) > 1.0


def test_order_images_and_edges_do_not_matter():
    """Permuted regions, atoms in any image each, a region across the edge of the box."""
    structure = peptide_in_water()
    whole = classical(structure)
    atoms = structure.peptide
    made = embedded_context(structure, whole, atoms)
    before = energy(made, {1}), forces(made, {1})
    random = np.random.default_rng(1)
    order = random.permutation(atoms).tolist()
    made = embedded_context(structure, whole, order)
    assert energy(made, {1}) == pytest.approx(before[0], abs=1e-7)
    np.testing.assert_allclose(forces(made, {1}), before[1], atol=1e-6)

    box = bare(structure.topology.getPeriodicBoxVectors())
    torn = structure.positions + random.integers(-2, 3, structure.positions.shape) @ box
    made.setPositions(torn)
    assert energy(made, {1}) == pytest.approx(before[0], abs=1e-7)
    np.testing.assert_allclose(forces(made, {1}), before[1], atol=1e-6)

    made.setPositions(structure.positions - structure.positions[atoms].mean(axis=0))
    wrapped = made.getState(positions=True, enforcePeriodicBox=True).getPositions()
    made.setPositions(wrapped)
    assert energy(made, {1}) == pytest.approx(before[0], abs=1e-7)
    np.testing.assert_allclose(forces(made, {1}), before[1], atol=1e-6)


def test_triclinic_box():
    """The same lattice by other vectors: (0, b, 0) + 2 (a, 0, 0) is another way to write b."""
    structure = peptide_in_water().in_box([[2.1, 0, 0], [0.7, 2.1, 0], [-0.7, 0.7, 2.1]])
    made = embedded_context(structure, classical(structure), structure.peptide)
    before = energy(made, {1}), forces(made, {1})
    moved = structure.positions.copy()
    moved[::3] += np.array([-0.7, 0.7, 2.1]) - 2 * np.array([0.7, 2.1, 0])
    made.setPositions(moved)
    assert energy(made, {1}) == pytest.approx(before[0], abs=1e-7)
    np.testing.assert_allclose(forces(made, {1}), before[1], atol=1e-6)


def test_large_boxes_tend_to_no_box():
    """A few waters around the peptide: the error of a box falls with its volume."""
    structure = peptide_in_water()
    few = structure.only(structure.peptide + structure.waters(6)).in_box(None)
    alone = embedded_context(few, classical(few, app.NoCutoff), few.peptide)
    errors = []
    for edge in (8.0, 16.0):
        boxed = few.in_box(edge * np.eye(3))
        made = embedded_context(
            boxed,
            classical(boxed, app.PME, ewaldErrorTolerance=1e-3),
            boxed.peptide,
            "CPU",
        )
        errors.append(abs(energy(made, {1}) - energy(alone, {1})))
    assert errors[0] < 0.2
    assert errors[1] == pytest.approx(errors[0] / 8, rel=0.2)


@pytest.mark.parametrize("interpolate", [False, True])
def test_saved_systems(tmp_path, interpolate):
    structure = peptide_in_water("tip4pew")
    system = classical(structure, water="tip4pew")
    made = embedded(structure, system, structure.side_chain, interpolate=interpolate)
    here = context(made, structure.positions, "CPU")
    xml = openmm.XmlSerializer.serialize(made)
    positions = bare(
        here.getState(positions=True).getPositions()
    )  # virtual sites where they belong
    got = in_fresh_process(tmp_path, xml, positions * 10)[0]
    assert got * KJ_PER_MOL_PER_EV == pytest.approx(energy(here), abs=1e-3)


def test_several_molecules():
    """Waters in any image make up the same cluster as the same waters side by side."""
    structure = peptide_in_water()
    whole = classical(structure)
    atoms = structure.waters(2) + structure.peptide
    made = embedded_context(structure, whole, atoms)
    before = energy(made, {1}), forces(made, {1})
    box = bare(structure.topology.getPeriodicBoxVectors())
    moved = structure.positions.copy()
    moved[structure.waters(1)] += box[0] - 2 * box[1]
    made.setPositions(moved)
    assert energy(made, {1}) == pytest.approx(before[0], abs=1e-7)
    np.testing.assert_allclose(forces(made, {1}), before[1], atol=1e-6)
