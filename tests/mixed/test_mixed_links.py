"""Link atoms: where they are, what the force field keeps around them, and where forces go."""

import logging

import numpy as np
import openmm
import pytest
from openmm import Vec3
from openmmml.embeddings.mechanicalembedding import MechanicalEmbedding
from openmmml.embeddings.utilities import removeBonds
from support.mixed import (
    PLATFORMS,
    Structure,
    app,
    assert_forces_are_gradients,
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
    place,
    terms,
    unit,
)

from openmm_les import InputError, catalog
from openmm_les.plugin.factory import LESPotentialImplFactory
from openmm_les.plugin.mixed.links import find_links
from openmm_les.plugin.mixed.region import MLRegion

KINDS = ["internal", "virtual"]

# A methyl group; two halves of a peptide bond's neighbours; one carbon atom with three cuts.
REGIONS = {
    "side chain": ("CB", "HB1", "HB2", "HB3"),
    "carbon": ("CA", "HA"),
    "two cuts": ("N", "H", "CA", "HA", "CB", "HB1", "HB2", "HB3"),
}


def region_of(structure, name):
    return structure.atoms(*REGIONS[name])


def upstream(structure, system, atoms, **options) -> openmm.System:
    """The mixed System by openmm-ml's embedding, which can cut bonds without a cutoff."""
    impl = LESPotentialImplFactory().createImpl("les", modelPath=catalog.artifact_path("les-demo"))
    return MechanicalEmbedding().createMixedSystem(
        impl, structure.topology, system, atoms, 1, False, precision="double", **options
    )


# ------------------------------------------------------------------ energies


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("region", REGIONS)
@pytest.mark.parametrize("platform", PLATFORMS)
def test_without_cutoff_it_is_the_system_of_openmmml(platform, region, kind):
    """The same terms and the same link atoms, one atom at 0.12 nm."""
    structure = peptide()
    atoms = region_of(structure, region)
    options = {"linkAtomDistances": [(*structure.atoms("CA", "C"), 0.12)]}
    if region == "side chain":
        options = {}
    system = classical(structure, app.NoCutoff)
    ours = mixed_context(structure, system, atoms, platform, linkAtoms=kind, **options)
    theirs = context(upstream(structure, system, atoms, **options), structure.positions, platform)
    for groups in ({0}, {1}):
        assert energy(ours, groups) == pytest.approx(energy(theirs, groups), abs=1e-4)
        number = structure.topology.getNumAtoms()
        np.testing.assert_allclose(
            forces(ours, groups)[:number], forces(theirs, groups)[:number], atol=2e-3
        )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", [app.PME, app.LJPME, app.CutoffPeriodic], ids=str)
def test_what_is_left_of_the_force_field(method, kind):
    """All but the terms of the region, of which a System of its own has the nonbonded ones."""
    structure = peptide_in_water()
    system = classical(structure, method)
    nonbonded(system).setUseDispersionCorrection(False)
    atoms = region_of(structure, "two cuts")
    made = mixed_context(structure, system, atoms, linkAtoms=kind)

    inside = removeBonds(system, structure.topology, atoms, False)  # openmm-ml's bonded terms
    while any(isinstance(f, openmm.NonbondedForce) for f in inside.getForces()):
        kinds = [isinstance(f, openmm.NonbondedForce) for f in inside.getForces()]
        inside.removeForce(kinds.index(True))
    alone = alone_in_the_box(system, atoms)
    expected = energy(context(system, structure.positions))
    expected -= energy(context(inside, structure.positions))
    expected -= energy(context(alone, structure.positions[atoms]))
    assert energy(made, {0}) == pytest.approx(expected, abs=1e-6)


def alone_in_the_box(system, atoms) -> openmm.System:
    """Nonbonded interactions of some particles, written down anew."""
    source, alone = nonbonded(system), openmm.NonbondedForce()
    small = openmm.System()
    small.setDefaultPeriodicBoxVectors(*system.getDefaultPeriodicBoxVectors())
    for atom in atoms:
        small.addParticle(1.0)
        alone.addParticle(*source.getParticleParameters(atom))
    for i in range(source.getNumExceptions()):
        first, second, *parameters = source.getExceptionParameters(i)
        if first in atoms and second in atoms:
            alone.addException(atoms.index(first), atoms.index(second), *parameters)
    alone.setNonbondedMethod(source.getNonbondedMethod())
    alone.setCutoffDistance(source.getCutoffDistance())
    alone.setEwaldErrorTolerance(source.getEwaldErrorTolerance())
    alone.setUseDispersionCorrection(False)
    small.addForce(alone)
    return small


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("platform", PLATFORMS)
def test_lambda_with_cut_bonds(platform, kind):
    structure = peptide_in_water()
    system = classical(structure)
    # This average over all pairs of particles depends on how many there are.
    nonbonded(system).setUseDispersionCorrection(False)
    atoms = region_of(structure, "two cuts")
    options = {"linkAtoms": kind}
    made = mixed_context(structure, system, atoms, platform, interpolate=True, **options)
    fixed = mixed_context(structure, system, atoms, platform, **options)
    pure = context(system, structure.positions, platform)
    tolerance = {"Reference": 1e-7, "CPU": 0.1}[platform]
    ends = energy(pure), energy(fixed)
    for value in (0.0, 0.3, 1.0):
        made.setParameter("lambda_interpolate", value)
        expected = (1 - value) * ends[0] + value * ends[1]
        assert energy(made) == pytest.approx(expected, abs=tolerance)


def test_bonded_terms_around_a_cut():
    """What goes is inside the region or centred on it; the cut bond and what turns around stays."""
    structure = peptide()
    names = [atom.name for atom in structure.topology.atoms()]
    system = classical(structure, app.NoCutoff)

    def missing(atoms, kind):
        left = terms(mixed(structure, system, atoms), kind)
        return {
            "-".join(names[i] for i in term) for term in terms(system, kind) if term not in left
        }

    methyl = structure.side_chain
    assert missing(methyl, "HarmonicBondForce") == {f"CB-HB{i}" for i in (1, 2, 3)}
    assert missing(methyl, "HarmonicAngleForce") == {
        *("CA-CB-HB1", "CA-CB-HB2", "CA-CB-HB3"),
        *("HB1-CB-HB2", "HB1-CB-HB3", "HB2-CB-HB3"),
    }
    assert missing(methyl, "PeriodicTorsionForce") == set()
    amine = structure.atoms("N", "H", "CA", "HA")
    assert missing(amine, "HarmonicBondForce") == {"H-N", "CA-N", "CA-HA"}
    torsions = missing(amine, "PeriodicTorsionForce")
    around = {term for term in torsions if term.split("-")[1:3] == ["N", "CA"]}
    # Beside those around N-CA the improper torsion centred on N.
    assert len(around) >= 2
    assert [sorted(term.split("-")) for term in torsions - around] == [["C", "CA", "H", "N"]]


# ------------------------------------------------------------------ forces


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("region", REGIONS)
def test_forces_are_gradients(region, kind):
    """On both ends of cut bonds, inside the region, and next to it."""
    structure = peptide()
    atoms = region_of(structure, region)
    made = mixed_context(structure, classical(structure, app.NoCutoff), atoms, linkAtoms=kind)
    assert_forces_are_gradients(made, structure.positions, structure.atoms())


def test_forces_are_gradients_in_water():
    """Under PME, also on atoms that carry virtual sites, of the region and around it."""
    structure = peptide_in_water("tip4pew")
    # Pairs that cross the cutoff would show up in differences of the energy.
    system = classical(structure, app.PME, "tip4pew", ewaldErrorTolerance=1e-5)
    nonbonded(system).setUseSwitchingFunction(True)
    nonbonded(system).setSwitchingDistance(0.6)
    inner, outer = structure.waters(1), structure.waters(2)[4:]
    made = mixed_context(structure, system, region_of(structure, "two cuts") + inner)
    probed = [*structure.atoms("N", "CA", "CB", "C"), *inner[:2], *outer[:2]]
    assert_forces_are_gradients(made, structure.positions, probed)


@pytest.mark.parametrize("region", REGIONS)
def test_forces_of_the_model_add_up_to_nothing(region):
    structure = peptide()
    system = classical(structure, app.NoCutoff)
    made = mixed_context(structure, system, region_of(structure, region))
    got = forces(made, {1})
    assert np.abs(got).max() > 100.0
    np.testing.assert_allclose(got.sum(axis=0), 0.0, atol=1e-8)
    torque = np.cross(structure.positions, got).sum(axis=0)
    np.testing.assert_allclose(torque, 0.0, atol=1e-8)


def test_a_bond_across_the_edge_of_the_box():
    """M1 in another image than L1: the link atom is still between them."""
    structure = peptide_in_water()
    system = mixed(structure, classical(structure), structure.side_chain)
    made = context(system, structure.positions)
    before = energy(made, {1}), forces(made, {1})
    box = bare(structure.topology.getPeriodicBoxVectors())
    moved = structure.positions.copy()
    moved[structure.atoms("CA")] += box[1]
    made.setPositions(moved)
    assert energy(made, {1}) == pytest.approx(before[0], abs=1e-8)
    np.testing.assert_allclose(forces(made, {1}), before[1], atol=1e-6)


# ------------------------------------------------------------------ particles and topologies


def test_virtual_link_atoms_are_appended():
    structure = peptide_in_water()
    number = structure.topology.getNumAtoms()
    atoms = region_of(structure, "two cuts")
    given = list(structure.topology.atoms())
    info = mixed(structure, classical(structure), atoms, linkAtoms="virtual", returnInfo=True)
    assert sorted(info) == ["oldToNew", "system", "topology"]
    assert info["oldToNew"] == list(range(number))
    added = list(info["topology"].atoms())[number:]
    assert [atom.element.symbol for atom in added] == ["H", "H"]
    assert info["system"].getNumParticles() == number + 2
    assert all(info["system"].isVirtualSite(number + i) for i in range(2))
    assert list(structure.topology.atoms()) == given
    made = context(info["system"], structure.positions)
    positions = bare(made.getState(positions=True).getPositions())
    ends = structure.atoms("N", "CA")
    distances = [
        min(np.linalg.norm(positions[number + i] - positions[end]) for end in ends)
        for i in range(2)
    ]
    assert sorted(distances) == pytest.approx([0.103, 0.107], abs=1e-6)


@pytest.mark.parametrize("platform", PLATFORMS)
def test_virtual_link_atoms_beside_a_custom_nonbonded_force(platform):
    """They take no part in it, whatever it makes of parameters that are 0."""
    structure = peptide_in_water()
    system = classical(structure, app.CutoffPeriodic)
    nonbonded(system).setUseDispersionCorrection(False)  # depends on the number of particles
    extra = openmm.CustomNonbondedForce("exp(-10*r)")
    extra.setNonbondedMethod(openmm.CustomNonbondedForce.CutoffPeriodic)
    extra.setCutoffDistance(0.7)
    for _ in range(system.getNumParticles()):
        extra.addParticle([])
    for i in range(nonbonded(system).getNumExceptions()):
        extra.addExclusion(*nonbonded(system).getExceptionParameters(i)[:2])
    system.addForce(extra)
    internal, virtual = (
        mixed_context(structure, system, structure.side_chain, platform, linkAtoms=kind)
        for kind in KINDS
    )
    tolerance = {"Reference": 1e-6, "CPU": 0.1}[platform]
    assert energy(virtual, {0}) == pytest.approx(energy(internal, {0}), abs=tolerance)
    extra = next(f for f in system.getForces() if f.getName() == "CustomNonbondedForce")
    extra.setUseLongRangeCorrection(True)
    with pytest.raises(
        InputError, match=r"the long-range correction of CustomNonbondedForce would"
    ):
        mixed(structure, system, structure.side_chain, linkAtoms="virtual")
    assert mixed(structure, system, structure.side_chain)


def test_internal_link_atoms_are_no_particles():
    structure = peptide_in_water()
    info = mixed(structure, classical(structure), structure.side_chain, returnInfo=True)
    assert info["topology"] is structure.topology
    assert info["oldToNew"] == list(range(structure.topology.getNumAtoms()))
    assert info["system"].getNumParticles() == structure.topology.getNumAtoms()


@pytest.mark.parametrize(
    "distance", [0.115, 1.15 * unit.angstrom, np.float32(0.115)], ids=["nm", "quantity", "numpy"]
)
@pytest.mark.parametrize("kind", KINDS)
def test_distance_of_a_link_atom(kind, distance):
    structure = peptide()
    system = classical(structure, app.NoCutoff)
    pair = structure.atoms("CA", "CB")
    usual = mixed_context(structure, system, structure.side_chain)
    results = [
        mixed_context(
            structure,
            system,
            structure.side_chain,
            linkAtoms=kind,
            linkAtomDistances=[(*order, distance)],
        )
        for order in (pair, pair[::-1])
    ]
    first, second = (energy(made, {1}) for made in results)
    assert first == second
    assert abs(first - energy(usual, {1})) > 1.0


# ------------------------------------------------------------------ refusals


def ring_topology(bond_type=None) -> app.Topology:
    """A six-membered ring with a chain of three carbon atoms on it."""
    topology = app.Topology()
    residue = topology.addResidue("LIG", topology.addChain())
    carbons = [topology.addAtom(f"C{i}", app.element.carbon, residue) for i in range(9)]
    for i in range(6):
        topology.addBond(carbons[i], carbons[(i + 1) % 6])
    topology.addBond(carbons[0], carbons[6])
    topology.addBond(carbons[6], carbons[7], type=bond_type)
    topology.addBond(carbons[7], carbons[8])
    for i, number in ((0, 1), (6, 2), (7, 2), (8, 3), *((i, 2) for i in range(1, 6))):
        for k in range(number):
            hydrogen = topology.addAtom(f"H{i}{k}", app.element.hydrogen, residue)
            topology.addBond(carbons[i], hydrogen)
    return topology


def mix(topology, atoms, **options):
    """A mixed System of particles without a force field."""
    system = openmm.System()
    for atom in topology.atoms():
        system.addParticle(atom.element.mass)
    return mixed(
        Structure(topology, np.zeros((system.getNumParticles(), 3))), system, atoms, **options
    )


def group(topology, *carbons) -> list[int]:
    """Carbon atoms with their hydrogens."""
    names = {f"C{c}" for c in carbons}
    prefixes = tuple(f"H{c}" for c in carbons)
    return [a.index for a in topology.atoms() if a.name in names or a.name.startswith(prefixes)]


@pytest.mark.parametrize(
    ("chosen", "bond_type", "message"),
    [
        ((0, 1), None, r"atom . \(C. of LIG \S*1\) is part of a ring of 6 atoms"),
        ((8,), None, None),
        ((8, 6), None, r"at most one cut bond at an MM atom, got several at atom 7 \(C7"),
        ((7, 8), app.Double, r"C6 of LIG \S*1\) is a multiple bond; move the border"),
        ((7, 8), app.Single, None),
    ],
)
def test_cuts_that_hydrogen_cannot_cap(chosen, bond_type, message):
    topology = ring_topology(bond_type)
    if message is None:
        assert mix(topology, group(topology, *chosen)).getNumParticles() == topology.getNumAtoms()
        return
    with pytest.raises(InputError, match=message):
        mix(topology, group(topology, *chosen))


def test_hydrogen_cannot_be_cut_off():
    structure = peptide()
    system = classical(structure, app.NoCutoff)
    for atoms in (structure.atoms("CB", "HB1", "HB2"), structure.atoms("HB3")):
        with pytest.raises(InputError, match=r"cuts off a hydrogen atom; move the border"):
            mixed(structure, system, atoms)


def test_double_bond_is_seen_without_orders():
    structure = peptide()
    system = classical(structure, app.NoCutoff)
    atoms = [atom for atom in structure.peptide if atom not in structure.atoms("O")]
    with pytest.raises(InputError, match=r"to atom \d+ \(O of ALA \S*2\) is a multiple bond"):
        mixed(structure, system, atoms)


@pytest.mark.parametrize(
    ("region", "warning"), [("side chain", None), ("two cuts", "is polar: hydrogen is a poor cap")]
)
def test_polar_bonds_are_warned_of(region, warning, caplog):
    structure = peptide()
    with caplog.at_level(logging.WARNING):
        mixed(structure, classical(structure, app.NoCutoff), region_of(structure, region))
    assert (warning in caplog.text) if warning else not caplog.records


def test_bond_that_may_be_multiple_is_warned_of(caplog):
    """Two planar carbon atoms: of butadiene's middle bond nobody knows the order."""
    topology = app.Topology()
    residue = topology.addResidue("BUT", topology.addChain())
    carbons = [topology.addAtom(f"C{i}", app.element.carbon, residue) for i in range(4)]
    for i, number in enumerate((2, 1, 1, 2)):
        for k in range(number):
            hydrogen = topology.addAtom(f"H{i}{k}", app.element.hydrogen, residue)
            topology.addBond(carbons[i], hydrogen)
    for i in range(3):
        topology.addBond(carbons[i], carbons[i + 1])
    with caplog.at_level(logging.WARNING):
        mix(topology, group(topology, 0, 1))
    assert "may be a multiple or conjugated bond" in caplog.text


@pytest.mark.parametrize(
    ("distances", "message"),
    [
        ([(0, 1, 0.1)], r"expected bonds between the ML region and the rest, got 0 and 1"),
        ([(8, 10, -0.1)], r"expected distances above 0 nm, got -0\.1"),
        ([(8, 10)], r"expected a list of \(atom, atom, distance\)"),
        ([(8, 10, "far")], r"expected a list of \(atom, atom, distance\)"),
        (0.1, r"expected a list of \(atom, atom, distance\)"),
        ([(8, 10, 1.0 * unit.kelvin)], r"expected a list of \(atom, atom, distance\)"),
    ],
)
def test_wrong_distances(distances, message):
    structure = peptide()
    system = classical(structure, app.NoCutoff)
    with pytest.raises(InputError, match=r"linkAtomDistances: " + message):
        mixed(structure, system, structure.side_chain, linkAtomDistances=distances)


def test_element_without_a_known_radius():
    topology = app.Topology()
    residue = topology.addResidue("BOR", topology.addChain())
    boron = topology.addAtom("B", app.element.boron, residue)
    carbon = topology.addAtom("C", app.element.carbon, residue)
    topology.addBond(boron, carbon)
    system = openmm.System()
    for atom in topology.atoms():
        system.addParticle(atom.element.mass)
    region = MLRegion.from_topology(topology, system, [0], (1, 5))
    with pytest.raises(InputError, match=r"none is known for B; give linkAtomDistances=\[\(0, 1, "):
        find_links(region, topology, [], (1, 5))
    (link,) = find_links(region, topology, [(0, 1, 0.117)], (1, 5))
    assert link.distance == pytest.approx(1.17)


def test_model_without_hydrogen():
    structure = peptide()
    system = classical(structure, app.NoCutoff)
    carbonyl = structure.atoms("C", "O")
    region = MLRegion.from_topology(structure.topology, system, carbonyl, (6, 8))
    with pytest.raises(InputError, match=r"the model has no hydrogen for link atoms"):
        find_links(region, structure.topology, [], (6, 8))
    assert len(find_links(region, structure.topology, [], (1, 6, 8))) == 2


def test_virtual_link_atoms_need_their_positions():
    """Without `computeVirtualSites` virtual link atoms would be where they were put."""
    structure = peptide()
    system = mixed(
        structure, classical(structure, app.NoCutoff), structure.side_chain, linkAtoms="virtual"
    )
    made = context(system, structure.positions)
    expected = energy(made)
    made.setPositions([Vec3(*row) for row in structure.positions] + [Vec3(9, 9, 9)])
    assert energy(made) != pytest.approx(expected)
    place(made, structure.positions)
    assert energy(made) == expected
