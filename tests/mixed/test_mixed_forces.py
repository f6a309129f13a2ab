"""Which forces of a System are replaced by the model, kept as restraints, or refused by name."""

import logging
from itertools import combinations

import numpy as np
import openmm
import pytest
from openmmml.embeddings.utilities import removeBonds
from support.mixed import (
    PHENYLALANINE,
    Structure,
    app,
    classical,
    context,
    energy,
    forces,
    mixed,
    mixed_context,
    peptide,
    terms,
    villin,
    villin_by_charmm,
)

from openmm_les import InputError

# ------------------------------------------------------------------ restraints that have to survive


def distance(atoms):
    force = openmm.CustomBondForce("100*(r-0.2)^2")
    force.addBond(atoms[0], atoms[-1])
    return force


def harmonic_distance(atoms):
    force = openmm.HarmonicBondForce()
    force.addBond(atoms[0], atoms[-1], 0.3, 100.0)
    return force


def angle(atoms):
    force = openmm.CustomAngleForce("10*(theta-2)^2")
    force.addAngle(atoms[0], atoms[5], atoms[-1])
    return force


def torsion_along_bonds(_):
    """Phi, which the force field has a term for."""
    force = openmm.CustomTorsionForce("50*(1-cos(theta-1))")
    carbon = peptide().atoms("C", residue="ACE")
    force.addTorsion(*carbon, *peptide().atoms("N", "CA", "C"))
    return force


def chirality(_):
    """An improper torsion at a tetrahedral carbon atom, as no force field has one."""
    force = openmm.CustomTorsionForce("50*(theta-0.6)^2")
    force.addTorsion(*peptide().atoms("CA", "N", "C", "CB"))
    return force


def bond_length(_):
    """Of a bond that has its own term in the force field."""
    force = openmm.CustomBondForce("1000*(r-0.15)^2")
    force.addBond(*peptide().atoms("CA", "CB"))
    return force


def position(atoms):
    force = openmm.CustomExternalForce("5*(x^2+y^2+z^2)")
    for atom in atoms:
        force.addParticle(atom)
    return force


def centroids(atoms):
    force = openmm.CustomCentroidBondForce(2, "10*(distance(g1,g2)-0.5)^2")
    force.addGroup(atoms[:4])
    force.addGroup(atoms[-4:])
    force.addBond([0, 1])
    return force


def compound(atoms):
    force = openmm.CustomCompoundBondForce(3, "10*(distance(p1,p3)-distance(p2,p3))^2")
    force.addBond([atoms[0], atoms[9], atoms[-1]])
    return force


def root_mean_square(atoms):
    bias = openmm.CustomCVForce("20*deviation^2")
    bias.addCollectiveVariable("deviation", openmm.RMSDForce(peptide().positions * 1.1, atoms))
    return bias


def collective_torsion(_):
    bias = openmm.CustomCVForce("20*phi^2")
    bias.addCollectiveVariable("phi", torsion_along_bonds(None))
    return bias


RESTRAINTS = [
    distance,
    harmonic_distance,
    angle,
    torsion_along_bonds,
    chirality,
    bond_length,
    position,
    centroids,
    compound,
    root_mean_square,
    collective_torsion,
]


@pytest.mark.parametrize(
    ("restraint", "interpolate"),
    [*((restraint, False) for restraint in RESTRAINTS), (distance, True), (compound, True)],
)
def test_restraints_survive(restraint, interpolate):
    """The same energy and forces on top of the mixed System as on top of the force field."""
    structure = peptide()
    plain = classical(structure, app.NoCutoff)
    atoms = structure.peptide
    restrained = classical(structure, app.NoCutoff)
    restrained.addForce(restraint(atoms))
    differences = []
    for make in (lambda s: s, lambda s: mixed(structure, s, atoms, interpolate=interpolate)):
        made = [context(make(system), structure.positions) for system in (restrained, plain)]
        differences.append(energy(made[0]) - energy(made[1]))
        differences.append(forces(made[0]) - forces(made[1]))
    assert differences[2] == pytest.approx(differences[0], abs=1e-8)
    np.testing.assert_allclose(differences[3], differences[1], atol=1e-7)
    assert abs(differences[0]) > 1e-3


def test_what_is_decided_is_logged(caplog):
    structure = peptide()
    system = classical(structure, app.NoCutoff)
    system.addForce(torsion_along_bonds(None))
    with caplog.at_level(logging.INFO):
        mixed(structure, system, structure.peptide)
    message = "CustomTorsionForce: 1 terms inside the ML region are taken for restraints and kept"
    assert message in caplog.text


# ------------------------------------------------------------------ force fields with custom forces


def test_custom_forces_of_charmm_are_replaced(caplog):
    """Nothing of a side chain is left in impropers and 1-4 terms, and nothing else is missing."""
    structure = villin()
    system = villin_by_charmm()
    chosen = structure.side_chain_of(PHENYLALANINE)
    with caplog.at_level(logging.INFO):
        left = mixed(structure, system, chosen)
    assert "LennardJones14: 25 terms inside the ML region are taken for the force" in caplog.text
    inside = set(chosen)
    for kind in ("CustomBondForce", "CustomTorsionForce"):
        before, after = terms(system, kind), terms(left, kind)
        gone = [term for term in before if term not in after]
        assert len(gone) == len(before) - len(after)
        assert all(inside >= set(term) for term in gone)
        assert not any(inside >= set(term) for term in after)

    bonded = {frozenset((b.atom1.index, b.atom2.index)) for b in structure.topology.bonds()}
    arginine = structure.side_chain_of(13)

    def centred_inside(system):
        return sum(
            all(frozenset((atom, other)) in bonded for other in set(term) - {atom})
            for term in terms(system, "CustomTorsionForce")
            for atom in set(term) & set(arginine)
        )

    assert centred_inside(system) == 3  # the guanidinium group
    assert centred_inside(mixed(structure, system, arginine)) == 0


def test_a_force_field_of_custom_forces_alone():
    """Bonds and angles that only custom forces describe are the force field's."""
    structure = peptide()
    usual = classical(structure, app.NoCutoff)
    custom = classical(structure, app.NoCutoff)
    names = [type(force).__name__ for force in custom.getForces()]
    bonds, angles = openmm.CustomBondForce("k*(r-r0)^2"), openmm.CustomAngleForce("k*(theta-t)^2")
    for name in ("k", "r0"):
        bonds.addPerBondParameter(name)
    for name in ("k", "t"):
        angles.addPerAngleParameter(name)
    source = custom.getForce(names.index("HarmonicBondForce"))
    for i in range(source.getNumBonds()):
        first, second, length, constant = source.getBondParameters(i)
        bonds.addBond(first, second, [constant / 2, length])
    source = custom.getForce(names.index("HarmonicAngleForce"))
    for i in range(source.getNumAngles()):
        *atoms, value, constant = source.getAngleParameters(i)
        angles.addAngle(*atoms, [constant / 2, value])
    for name in ("HarmonicBondForce", "HarmonicAngleForce"):
        custom.removeForce([type(f).__name__ for f in custom.getForces()].index(name))
    custom.addForce(bonds)
    custom.addForce(angles)
    results = [
        energy(mixed_context(structure, system, structure.side_chain)) for system in (usual, custom)
    ]
    assert results[0] == pytest.approx(results[1], abs=1e-6)


def test_cmap_and_urey_bradley():
    """A CMAP term goes when both its bonds are inside, a 1-3 term with the angle it belongs to."""
    structure = peptide()
    system = classical(structure, app.NoCutoff)
    backbone = [
        *structure.atoms("C", residue="ACE"),
        *structure.atoms("N", "CA", "C"),
        *structure.atoms("N", residue="NME"),
    ]
    cmap = openmm.CMAPTorsionForce()
    cmap.addMap(4, np.arange(16.0))
    cmap.addTorsion(0, *backbone[:4], *backbone[1:])
    urey_bradley = openmm.HarmonicBondForce()
    urey_bradley.addBond(*structure.atoms("N", "C"), 0.25, 100.0)  # the angle at CA
    system.addForce(cmap)
    system.addForce(urey_bradley)
    bonds = len(terms(system, "HarmonicBondForce"))

    def left(*names):
        made = mixed(structure, system, structure.atoms(*names))
        kinds = [type(force).__name__ for force in made.getForces()]
        pair = structure.atoms("N", "C") in terms(made, "HarmonicBondForce")
        return made.getForce(kinds.index("CMAPTorsionForce")).getNumTorsions(), pair

    methyl = ("CB", "HB1", "HB2", "HB3")
    assert left(*methyl) == (1, True)
    assert left("CA", "HA") == (1, False)
    assert left("CA", "HA", *methyl, "N", "H") == (1, False)
    assert left("CA", "HA", *methyl, "N", "H", "C", "O") == (0, False)
    assert len(terms(system, "HarmonicBondForce")) == bonds  # the given System is as it was


@pytest.mark.parametrize("seed", range(8))
def test_bonded_terms_are_split_as_openmmml_splits_them(seed):
    """All bonds, angles, torsions and CMAP terms of a random tree with a random region."""
    random = np.random.default_rng(seed)
    number = 24
    topology = app.Topology()
    residue = topology.addResidue("TREE", topology.addChain())
    atoms = [topology.addAtom(f"C{i}", app.element.carbon, residue) for i in range(number)]
    neighbors = [[] for _ in range(number)]
    for i in range(1, number):
        free = [j for j in range(i) if len(neighbors[j]) < 4]
        j = int(random.choice(free))
        topology.addBond(atoms[i], atoms[j])
        neighbors[i].append(j)
        neighbors[j].append(i)
    # No MM atom may have two ML neighbours.
    inside = set(range(number)) - set(random.choice(number, 6, replace=False).tolist())
    while crowded := [
        i for i in range(number) if i not in inside and len(inside & set(neighbors[i])) > 1
    ]:
        inside.add(crowded[0])
    system = every_term(neighbors)

    def all_terms(of):
        kinds = ("HarmonicBondForce", "HarmonicAngleForce", "PeriodicTorsionForce")
        found = [terms(of, kind) for kind in kinds]
        cmap = next(f for f in of.getForces() if isinstance(f, openmm.CMAPTorsionForce))
        return [*found, [cmap.getTorsionParameters(i) for i in range(cmap.getNumTorsions())]]

    expected = all_terms(removeBonds(system, topology, sorted(inside), True))
    structure = Structure(topology, np.zeros((number, 3)))
    assert all_terms(mixed(structure, system, sorted(inside))) == expected
    assert expected != all_terms(system)


def every_term(neighbors) -> openmm.System:
    """A System with a term for everything that is joined by bonds."""
    system = openmm.System()
    bonds, angles = openmm.HarmonicBondForce(), openmm.HarmonicAngleForce()
    torsions, cmap = openmm.PeriodicTorsionForce(), openmm.CMAPTorsionForce()
    cmap.addMap(4, np.zeros(16))
    chains = [(i,) for i in range(len(neighbors))]
    for length in range(2, 6):
        chains = [(*c, n) for c in chains for n in neighbors[c[-1]] if n not in c]
        for chain in (c for c in chains if c[0] < c[-1]):
            if length == 2:
                bonds.addBond(*chain, 0.1, 1.0)
            elif length == 3:
                angles.addAngle(*chain, 1.0, 1.0)
            elif length == 4:
                torsions.addTorsion(*chain, 1, 0.0, 1.0)
            else:
                cmap.addTorsion(0, *chain[:4], *chain[1:])
    for centre, around in enumerate(neighbors):
        system.addParticle(12.0)
        for others in combinations(around, 3):
            torsions.addTorsion(centre, *others, 1, 0.0, 1.0)
            torsions.addTorsion(*others[:2], centre, others[2], 1, 0.0, 1.0)
    for force in (bonds, angles, torsions, cmap):
        system.addForce(force)
    return system


# ------------------------------------------------------------------ what the user says


def ambiguous():
    """A chain torsion that is described already, and an improper one that is not."""
    structure = peptide()
    system = classical(structure, app.NoCutoff)
    kinds = [type(force).__name__ for force in system.getForces()]
    torsions = system.getForce(kinds.index("PeriodicTorsionForce"))
    system.removeForce(kinds.index("PeriodicTorsionForce"))
    assert torsions is not None
    standard = openmm.PeriodicTorsionForce()
    carbon = structure.atoms("C", residue="ACE")
    standard.addTorsion(*carbon, *structure.atoms("N", "CA", "C"), 1, 0.0, 1.0)
    system.addForce(standard)
    force = openmm.CustomTorsionForce("5*theta^2")
    force.setName("mixture")
    force.addTorsion(*carbon, *structure.atoms("N", "CA", "CB"))
    force.addTorsion(*structure.atoms("C", "CA", "O"), *structure.atoms("N", residue="NME"))
    system.addForce(force)
    return structure, system


def test_what_cannot_be_told_is_asked():
    structure, system = ambiguous()
    with pytest.raises(
        InputError,
        match=r"cannot be told whether mixture belongs to the force field or restrains the ML reg"
        r"ion, where it has 2 terms.*replaceForces=\[\.\.\.\] or keepForces",
    ):
        mixed(structure, system, structure.peptide)
    kept, replaced = (
        terms(
            mixed(structure, system, structure.peptide, **{option: ["mixture"]}),
            "CustomTorsionForce",
        )
        for option in ("keepForces", "replaceForces")
    )
    assert (len(kept), len(replaced)) == (2, 0)


def test_a_standard_force_that_repeats_another_is_asked_for():
    """Phi restrained by a force of the class that the force field has its torsions in."""
    structure = peptide()
    system = classical(structure, app.NoCutoff)
    carbon = structure.atoms("C", residue="ACE")
    for name, atoms in (("phi", structure.atoms("C", "CA", "N")), ("psi", None)):
        force = openmm.PeriodicTorsionForce()
        force.setName(name)
        if atoms is not None:
            force.addTorsion(*atoms, *carbon, 1, 1.0, 50.0)
        system.addForce(force)
    with pytest.raises(InputError, match=r"cannot be told whether phi belongs to"):
        mixed(structure, system, structure.peptide)
    count = len(terms(system, "PeriodicTorsionForce"))
    kept, replaced = (
        len(terms(mixed(structure, system, structure.peptide, **option), "PeriodicTorsionForce"))
        for option in ({"keepForces": ["phi"]}, {"replaceForces": ["phi"]})
    )
    assert (kept, replaced) == (1, 0)
    assert count > 20


def test_compound_terms_along_bonds_are_asked_for():
    structure = peptide()
    system = classical(structure, app.NoCutoff)
    force = openmm.CustomCompoundBondForce(3, "distance(p1,p2)*distance(p2,p3)")
    force.addBond(structure.atoms("N", "CA", "C"))
    system.addForce(force)
    with pytest.raises(InputError, match=r"cannot be told whether CustomCompoundBondForce"):
        mixed(structure, system, structure.peptide)
    assert mixed(structure, system, structure.peptide, keepForces=["CustomCompoundBondForce"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"keepForces": ["phi"]},
            r"keepForces and replaceForces: expected names of forces \(.*Har",
        ),
        ({"keepForces": "phi"}, r"keepForces: expected a list of names of forces, got 'phi'"),
        ({"replaceForces": [3]}, r"replaceForces: expected a list of names of forces, got \[3\]"),
        ({"replaceForces": None}, r"replaceForces: expected a list of names of forces, got None"),
        (
            {"keepForces": ["HarmonicBondForce"], "replaceForces": ["HarmonicBondForce"]},
            r"got 'HarmonicBondForce' in both",
        ),
        (
            {"keepForces": ["NonbondedForce"]},
            r"keepForces: NonbondedForce is a nonbonded force, of which",
        ),
    ],
)
def test_wrong_names_of_forces(options, message):
    structure = peptide()
    with pytest.raises(InputError, match=message):
        mixed(structure, classical(structure, app.NoCutoff), structure.peptide, **options)


def test_options_may_be_read_once():
    """Names of forces, which this package alone reads."""
    structure = peptide()
    system = classical(structure, app.NoCutoff)
    system.addForce(bond_length(None))
    system.getForce(system.getNumForces() - 1).setName("length")
    for option, left in (("replaceForces", 0), ("keepForces", 1)):
        for kind in (list, iter, set):
            made = mixed(structure, system, structure.peptide, **{option: kind(["length"])})
            assert len(terms(made, "CustomBondForce")) == left


# ------------------------------------------------------------------ refusals


def born(system):
    force = openmm.GBSAOBCForce()
    for _ in range(system.getNumParticles()):
        force.addParticle(0.1, 0.15, 0.8)
    return force


def drude(_):
    force = openmm.DrudeForce()
    force.addParticle(1, 0, -1, -1, -1, -1.0, 0.001, 1.0, 1.0)
    return force


def unknown(_):
    return openmm.CustomManyParticleForce(3, "r; r=distance(p1,p2)")


def hidden_energy(system):
    """A force field's energy inside another force."""
    bias = openmm.CustomCVForce("0.5*energy")
    inner = openmm.NonbondedForce()
    for _ in range(system.getNumParticles()):
        inner.addParticle(0.0, 0.1, 0.0)
    bias.addCollectiveVariable("energy", inner)
    return bias


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            born,
            r"system: GBSAOBCForce cannot be combined with ML/MM: implicit solvent has no share",
        ),
        (lambda _: openmm.CustomGBForce(), r"CustomGBForce cannot .*: implicit solvent"),
        (drude, r"DrudeForce cannot be combined with ML/MM: polarizable force fields"),
        (lambda _: openmm.AmoebaMultipoleForce(), r"AmoebaMultipoleForce cannot .*: polarizable"),
        (lambda _: openmm.AmoebaVdwForce(), r"AmoebaVdwForce cannot .*: polarizable"),
        (lambda _: openmm.ATMForce("u0"), r"ATMForce cannot .*: it holds forces of its own"),
        (
            unknown,
            r"what it does inside .* is not known; .*keepForces=\['CustomManyParticleForce'\]",
        ),
        (hidden_energy, r"CustomCVForce cannot .*keepForces=\['CustomCVForce'\]"),
    ],
)
def test_forces_that_cannot_be_taken_apart_are_refused(make, message):
    structure = peptide()
    system = classical(structure, app.NoCutoff)
    system.addForce(make(system))
    with pytest.raises(InputError, match=message):
        mixed(structure, system, structure.peptide)


def test_an_unknown_force_can_be_kept():
    structure = peptide()
    system = classical(structure, app.NoCutoff)
    force = unknown(system)
    force.setName("three")
    system.addForce(force)
    with pytest.raises(InputError, match=r"CustomManyParticleForce 'three' cannot"):
        mixed(structure, system, structure.peptide)
    kept = mixed(structure, system, structure.peptide, keepForces=["three"])
    assert "three" in [f.getName() for f in kept.getForces()]


def test_topology_without_the_bonds_of_the_force_field():
    """All terms would pass for restraints, and cut bonds would not be found."""
    structure = peptide()
    system = classical(structure, app.NoCutoff)
    bare = app.Topology()
    chain = bare.addChain()
    residues = {r: bare.addResidue(r.name, chain) for r in structure.topology.residues()}
    copies = [
        bare.addAtom(a.name, a.element, residues[a.residue]) for a in structure.topology.atoms()
    ]
    without = Structure(bare, structure.positions)
    for atoms in (structure.peptide, structure.side_chain):
        with pytest.raises(
            InputError, match=r"expected the bonds of the ML region, got none between"
        ):
            mixed(without, system, atoms)
    # A single bond that is missing, as between residues.
    missing = {*structure.atoms("C", residue="ACE"), *structure.atoms("N")}
    for bond in structure.topology.bonds():
        pair = bond.atom1.index, bond.atom2.index
        if set(pair) != missing:
            bare.addBond(copies[pair[0]], copies[pair[1]])
    with pytest.raises(InputError, match=r"between atom 4 \(C of ACE \w:1\) and atom 6 \(N of"):
        mixed(without, system, structure.atoms())
