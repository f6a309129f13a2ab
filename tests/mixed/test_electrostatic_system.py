"""Electrostatic embedding: what the force field keeps, and what is refused."""

import copy
import dataclasses
import itertools

import numpy as np
import openmm
import pytest
import torch
from openmmml import MLPotential
from support.mixed import (
    ELECTROSTATIC,
    METHODS,
    app,
    classical,
    context,
    embedded,
    embedded_context,
    energy,
    forces,
    mixed,
    mixed_context,
    nonbonded,
    peptide,
    peptide_in_water,
)

from openmm_les import InputError, catalog
from openmm_les import artifact as artifacts
from openmm_les.electrostatics.embedding import build_coupling
from openmm_les.plugin.mixed import ElectrostaticOptions
from openmm_les.plugin.mixed.embeddings.electrostatic import scaled_pairs
from openmm_les.plugin.mixed.mm_field import read_field
from openmm_les.plugin.mixed.region import MLRegion
from openmm_les.units import ANGSTROM_PER_NM, KJ_PER_MOL_PER_EV


@pytest.mark.parametrize(
    ("method", "region"),
    # A fine mesh takes long, and treats a region with cut bonds as the other methods do.
    [(method, "peptide") for method in METHODS]
    + [(method, "side_chain") for method in METHODS if method not in (app.PME, app.LJPME)],
    ids=str,
)
def test_with_the_charges_of_the_force_field_it_is_the_force_field(method, region):
    """What electrostatic embedding removes beyond the mechanical one is the coupling of these."""
    structure = peptide_in_water()
    atoms = getattr(structure, region)
    options = {} if method is app.LJPME else {"ewaldErrorTolerance": 1e-8}
    system = classical(structure, method, **options)
    made = [
        context(made, structure.positions)
        for made in (
            mixed(structure, system, atoms),
            embedded(structure, system, atoms, boundaryCharges="none"),
        )
    ]
    found = energy(made[0], {0}) - energy(made[1], {0})

    known = artifacts.load(catalog.artifact_path("les-demo")).elements
    given = MLRegion.from_topology(structure.topology, system, atoms, known)
    field = read_field(system, given, (), ElectrostaticOptions(boundaryCharges="none"))
    force = nonbonded(system)
    charges = [force.getParticleParameters(i)[0]._value for i in range(system.getNumParticles())]
    charges = torch.tensor(charges, dtype=torch.float64)
    others = np.flatnonzero(field.charges)
    box = system.getDefaultPeriodicBoxVectors()
    cell = torch.tensor([list(v._value) for v in box], dtype=torch.float64) * ANGSTROM_PER_NM
    r = torch.tensor(structure.positions) * ANGSTROM_PER_NM
    coupling = build_coupling(
        field.method,
        cell=cell,
        cutoff=field.cutoff,
        dielectric=field.dielectric,
        tolerance=1e-10,
        images=False,
        scaled_pairs=scaled_pairs(field, atoms),
    )
    result = coupling(charges[atoms], r[atoms], charges[others], r[others], cell)
    expected = float(result.energy) * KJ_PER_MOL_PER_EV
    tolerance = 5e-2 if method is app.LJPME else 1e-4
    assert abs(expected) > 1.0
    assert found == pytest.approx(expected, abs=tolerance)


def test_lennard_jones_across_the_border_stays():
    """Also where it stands in exceptions, whose products of charges are gone."""
    structure = peptide()
    system = classical(structure, app.NoCutoff)
    atoms = set(structure.side_chain)
    made = embedded(structure, system, structure.side_chain)
    before, after = nonbonded(system), nonbonded(made)

    def across(force):
        found = {}
        for i in range(force.getNumExceptions()):
            first, second, product, sigma, epsilon = force.getExceptionParameters(i)
            if (first in atoms) != (second in atoms):
                found[first, second] = product._value, sigma._value, epsilon._value
        return found

    given, left = across(before), across(after)
    (host,) = structure.atoms("CA")
    group = sum(before.getParticleParameters(i)[0]._value for i in sorted(atoms))
    assert sum(product != 0.0 for product, *_ in given.values()) > 5
    assert {pair: (0.0, *rest) for pair, (_, *rest) in given.items()} == left
    for i in range(system.getNumParticles()):
        charge, *rest = before.getParticleParameters(i)
        expected = 0.0 if i in atoms else charge._value
        if i == host:  # takes what the methyl group has
            expected += group
        got, *got_rest = after.getParticleParameters(i)
        assert got._value == pytest.approx(expected, abs=1e-15)
        assert got_rest == rest


def test_xml_is_small():
    structure = peptide_in_water()
    system = classical(structure)
    made = embedded(structure, system, structure.peptide)
    force = next(f for f in made.getForces() if isinstance(f, openmm.PythonForce))
    # Written as hexadecimal digits.
    xml = openmm.XmlSerializer.serialize(force)
    assert len(xml) < 20_000


# ------------------------------------------------------------------ regions


def test_atoms_may_be_any_integers():
    """The whole System is the same, to the last character."""
    structure = peptide_in_water()
    system, atoms = classical(structure), structure.peptide
    assert atoms == list(range(22))
    written = {
        openmm.XmlSerializer.serialize(embedded(structure, system, given))
        for given in (atoms, tuple(atoms), range(22), np.array(atoms), list(np.array(atoms)))
    }
    assert len(written) == 1


@pytest.mark.parametrize("method", [app.NoCutoff, app.PME], ids=str)
def test_a_region_that_is_everything(method):
    """Nothing of the force field is left; in a box there are the region's images."""
    structure = peptide_in_water()
    alone = structure.only(structure.peptide)
    alone = alone.in_box(None if method is app.NoCutoff else 4.0 * np.eye(3))
    made = embedded_context(alone, classical(alone, method, cutoff=1.0), alone.peptide)
    model = MLPotential("les-demo").createSystem(
        alone.in_box(None).topology, precision="double", removeCMMotion=False
    )
    expected = context(model, alone.positions)
    tolerance = 1e-6 if method is app.NoCutoff else 0.1
    assert energy(made) == pytest.approx(energy(expected), abs=tolerance)
    np.testing.assert_allclose(forces(made), forces(expected), atol=10 * tolerance)


@pytest.mark.parametrize("method", [app.NoCutoff, app.PME], ids=str)
def test_surroundings_without_charges(method):
    """Argon and the like: the region is as alone in its box, whose images it sees."""
    structure = peptide_in_water()
    system, atoms = classical(structure, method), structure.peptide
    force = nonbonded(system)
    for i in set(range(system.getNumParticles())) - set(atoms):
        _, *rest = force.getParticleParameters(i)
        force.setParticleParameters(i, 0.0, *rest)
    made = embedded_context(structure, system, atoms)
    alone = structure.only(atoms)
    if method is app.NoCutoff:
        alone = alone.in_box(None)
    expected = embedded_context(alone, classical(alone, method), alone.peptide)
    assert energy(made, {1}) == pytest.approx(energy(expected, {1}), abs=1e-7)
    got = forces(made, {1})
    np.testing.assert_allclose(got[atoms], forces(expected, {1}), atol=1e-6)
    got[atoms] = 0.0
    assert not got.any()


@pytest.mark.parametrize("interpolate", [False, True])
def test_restraints_survive(interpolate):
    """As in mechanical embedding, which has many of them in its tests."""
    structure = peptide()
    system = classical(structure, app.NoCutoff)
    restrained = openmm.XmlSerializer.clone(system)
    restraint = openmm.CustomCentroidBondForce(2, "100*(distance(g1,g2)-0.2)^2")
    restraint.addGroup(structure.peptide[:4])
    restraint.addGroup(structure.peptide[-4:])
    restraint.addBond([0, 1])
    restrained.addForce(restraint)
    differences = [
        energy(context(make(restrained), structure.positions))
        - energy(context(make(system), structure.positions))
        for make in (
            lambda each: each,
            lambda each: embedded(structure, each, structure.peptide, interpolate=interpolate),
        )
    ]
    assert differences[1] == pytest.approx(differences[0], abs=1e-7)
    assert abs(differences[0]) > 1.0


# ------------------------------------------------------------------ the sign of latent charges


def artifact_with(path, factor, charge_sign):
    """The bundled model with its latent charges multiplied by a factor, which its energy ignores.

    A sign, or another unit: the prefactor is divided by the square.
    """
    demo = artifacts.load(catalog.artifact_path("les-demo"))
    state = copy.copy(demo.canonical.state)
    last = {}
    for name in sorted(state):
        if ".charge." in name:
            last[name.rsplit(".", 1)[0]] = name  # what makes the charges is the last matrix
    state |= {name: factor * state[name] for name in last.values()}
    les = demo.canonical.les
    les = {**les, "prefactor": les["prefactor"] / factor**2}
    canonical = dataclasses.replace(demo.canonical, state=state, les=les)
    return artifacts.save(canonical, path, charge_sign=charge_sign, module=demo.module)


def test_the_sign_of_latent_charges_comes_from_the_artifact(tmp_path):
    """It is arbitrary in a training run, and so is the unit of the charges."""
    structure = peptide_in_water()
    system = classical(structure)
    found = {}
    for sign, stated in ((1, 1), (-1, -1), (-1, 1), (-8, -1)):
        path = artifact_with(tmp_path / f"{sign}{stated}.les.pt", sign, stated)
        for embedding in ("electrostatic", "mechanical")[: 1 + (sign * stated > 0)]:
            options = ELECTROSTATIC if embedding == "electrostatic" else {}
            made = MLPotential("les", modelPath=path).createMixedSystem(
                structure.topology,
                system,
                structure.side_chain,
                forceGroup=1,
                precision="double",
                **options,
            )
            found[sign, stated, embedding] = energy(context(made, structure.positions), {1})
    for sign, embedding in itertools.product((-1, -8), ("mechanical", "electrostatic")):
        # The prefactor of this model has six figures of the physical one.
        tolerance = 1e-3 if (sign, embedding) == (-8, "electrostatic") else 1e-7
        expected = found[1, 1, embedding]
        assert found[sign, -1, embedding] == pytest.approx(expected, abs=tolerance)
    assert abs(found[-1, 1, "electrostatic"] - found[1, 1, "electrostatic"]) > 1.0


def test_a_model_whose_sign_is_not_known(tmp_path):
    structure = peptide()
    system = classical(structure, app.NoCutoff)
    potential = MLPotential("les", modelPath=artifact_with(tmp_path / "x.les.pt", 1, None))
    with pytest.raises(InputError, match=r"x\.les\.pt does not state the sign of its latent char"):
        potential.createMixedSystem(structure.topology, system, structure.peptide, **ELECTROSTATIC)
    potential.createMixedSystem(structure.topology, system, structure.peptide)


# ------------------------------------------------------------------ refusals


def two_charged(system, structure):
    system.addForce(openmm.XmlSerializer.clone(nonbonded(system)))


def no_charges(system, structure):
    force = nonbonded(system)
    for i in range(force.getNumParticles()):
        force.setParticleParameters(i, 0.0, *force.getParticleParameters(i)[1:])


def custom_coulomb(system, structure):
    force = openmm.CustomNonbondedForce("138.9*q1*q2/r")
    force.addPerParticleParameter("q")
    for _ in range(system.getNumParticles()):
        force.addParticle([0.1])
    system.addForce(force)


def offsets(system, structure):
    force = nonbonded(system)
    force.addGlobalParameter("charging", 0.0)
    force.addParticleParameterOffset("charging", structure.peptide[0], 0.1, 0.0, 0.0)


def net_charge(system, structure):
    force = nonbonded(system)
    charge, *rest = force.getParticleParameters(structure.peptide[0])
    force.setParticleParameters(structure.peptide[0], charge._value + 1.0, *rest)


def implicit_solvent(system, structure):
    force = openmm.GBSAOBCForce()
    for _ in range(system.getNumParticles()):
        force.addParticle(0.1, 0.15, 0.8)
    system.addForce(force)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (implicit_solvent, r"GBSAOBCForce cannot be combined with ML/MM: implicit solvent"),
        (two_charged, r"expected one NonbondedForce with charges, got NonbondedForce, Nonb"),
        (no_charges, r"expected one NonbondedForce with charges, got none"),
        (custom_coulomb, r"CustomNonbondedForce has charges in a custom expression"),
        (offsets, r"got offsets of charges that follow the global parameter charging"),
        (net_charge, r"expected a neutral ML region, got \+1 e \(the MM charges add up to \+1.000"),
    ],
)
def test_systems_that_cannot_be_embedded_are_refused(change, message):
    structure = peptide()
    system = classical(structure, app.NoCutoff)
    change(system, structure)
    with pytest.raises(InputError, match=message):
        embedded(structure, system, structure.peptide)


def test_net_charges_that_are_allowed():
    structure = peptide()
    system = classical(structure, app.NoCutoff)
    net_charge(system, structure)
    for options in ({"allowNetCharge": True, "chargeTolerance": 2.0}, {"charge": 0}):
        made = embedded_context(structure, system, structure.peptide, **options)
        assert np.isfinite(energy(made))


def test_charges_far_from_that_of_the_region_stop():
    structure = peptide()
    system = classical(structure, app.NoCutoff)
    options = {"embedding": "electrostatic", "charge": 1, "allowNetCharge": True}
    made = mixed_context(structure, system, structure.peptide, **options)
    message = r"add up to [+-]0.0\d+ e, expected \+1 e within 0.25 e"
    with pytest.raises(openmm.OpenMMException, match=message):
        forces(made)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"boundaryCharges": "z2"}, r"boundaryCharges: expected 'none' or 'z1' or"),
        ({"charge": 0.5}, r"charge: expected an integer number of e, got 0.5"),
        ({"charge": 1}, r"expected a neutral ML region, got \+1 e"),
        ({"allowNetCharge": 1}, r"allowNetCharge: expected True or False, got 1"),
        ({"chargeTolerance": 0}, r"chargeTolerance: expected a charge above 0 e, got 0"),
        ({"mlImages": "none"}, r"mlImages: expected 'exact' or 'native', got 'none'"),
        ({"backend": "torchforce"}, r"embedding='electrostatic' needs a PythonForce"),
        ({"ewald": "mesh"}, r"ewald='mesh' and lesCutoff='smooth' are for the periodic sum of"),
        ({"mlImage": "exact"}, r"unknown argument mlImage; did you mean mlImages\?"),
        (
            {"embedding": "mechanical", "chargeTolerance": 0.5},
            r"chargeTolerance: this option is for embedding='elect",
        ),
    ],
)
def test_wrong_options(options, message):
    structure = peptide()
    with pytest.raises(InputError, match=message):
        embedded(structure, classical(structure, app.NoCutoff), structure.peptide, **options)


def test_virtual_sites_in_the_region_are_refused():
    structure = peptide_in_water("tip4pew")
    system = classical(structure, water="tip4pew")
    with pytest.raises(InputError, match=r"expected an ML region without virtual sites, got atom"):
        embedded(structure, system, structure.waters(1))


def test_ions_in_the_region_are_refused():
    """Beside it they are welcome; the bundled model knows no sodium."""
    structure = peptide_in_water(salt=0.4)
    ion = next(a.index for a in structure.topology.atoms() if a.residue.name == "NA")
    with pytest.raises(InputError, match=r"expected elements the model knows .*, got Na in atom"):
        embedded(structure, classical(structure), [*structure.peptide, ion])


def test_small_boxes_are_refused():
    structure = peptide_in_water()
    system = classical(structure, cutoff=0.96)
    with pytest.raises(InputError, match=r"expected a box at least twice the cutoff of 0.96 nm"):
        embedded(structure, system, structure.peptide)


def test_reaction_fields_are_warned_of(caplog):
    structure = peptide()
    embedded(structure, classical(structure, app.CutoffNonPeriodic), structure.peptide)
    assert "with CutoffNonPeriodic: a reaction field ends the interaction" in caplog.text
