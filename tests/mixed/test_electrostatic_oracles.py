"""Electrostatic embedding, end to end, against sums that know nothing of it: OpenMM's own over the
latent charges, brute force, and the response of a dipole moment.
"""

import copy
from collections import defaultdict
from itertools import combinations

import numpy as np
import openmm
import pytest
from oracles.coupling import cross_potential, image_potential
from scipy.special import erfc
from support.charges import slope
from support.mixed import (
    Structure,
    app,
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
)

from openmm_les import artifact as artifacts
from openmm_les import catalog
from openmm_les.evaluation.system_model import SystemModel
from openmm_les.units import COULOMB_CONSTANT, FORCE_PER_EV_PER_ANGSTROM, KJ_PER_MOL_PER_EV

#: Net charges of the region and of its surroundings, and the options that accept the former.
NEUTRAL = (0, 0, {})
CHARGED = (1, -2, {"charge": 1, "allowNetCharge": True, "chargeTolerance": 2.0})

METHODS = [app.NoCutoff, app.CutoffNonPeriodic, app.CutoffPeriodic, app.PME]
ALL_METHODS = [(method, NEUTRAL) for method in METHODS]


class Fragment:
    """Atoms of the model by themselves, link atoms included: energy and latent charges.

    Args:
        structure: where they are.
        atoms: the ML atoms.
        total: net charge [e].
        links: pairs of an ML and an MM atom; the link atom is 1.07 A away from the former.
    """

    def __init__(self, structure, atoms, total=0, links=()) -> None:
        everything = list(structure.topology.atoms())
        numbers = [everything[i].element.atomic_number for i in atoms] + [1] * len(links)
        self.structure, self.atoms, self.total, self.links = structure, list(atoms), total, links
        self.positions = self.with_caps(structure.positions)
        artifact = artifacts.load(catalog.artifact_path("les-demo"))
        self.sign = artifact.metadata["charge_sign"]
        self.width = artifact.canonical.les["sigma"]
        self.model = SystemModel(
            artifact, numbers, periodic=False, positions=self.positions, precision="double"
        )

    def with_caps(self, positions) -> np.ndarray:
        """Positions of the model's atoms [A], from those of all [nm]."""
        caps = []
        for inner, outer in self.links:
            bond = positions[outer] - positions[inner]
            caps.append(positions[inner] + 0.107 * bond / np.linalg.norm(bond))
        return 10 * np.array([*positions[self.atoms], *caps])

    @property
    def energy(self) -> float:
        """Without surroundings and images [kJ/mol]."""
        return self.model.evaluate(self.positions).energy * KJ_PER_MOL_PER_EV

    def charges(self, positions=None) -> np.ndarray:
        """Charges of the ML atoms as the surroundings see them [e]."""
        latent = self.model.evaluate(self.positions if positions is None else positions).charges
        charges = self.sign * latent[: len(self.atoms)]
        for (inner, _), cap in zip(self.links, latent[len(self.atoms) :], strict=True):
            charges[self.atoms.index(inner)] += self.sign * cap
        return charges - (charges.sum() - self.total) / len(charges)


def interaction(fragment, method, around, factors=None, middles=()) -> float:
    """Energy of a fragment's charges among others and their images, by OpenMM [kJ/mol].

    Args:
        fragment: the region.
        method: of OpenMM's `NonbondedForce`.
        around: charges of all particles [e]; those of the region do not matter.
        factors: by pairs of an ML atom and a particle that interact in part; the particles after
            those of the structure are the `middles`.
        middles: (first, second, charge) of charges halfway between two particles.
    """
    structure, atoms = fragment.structure, fragment.atoms
    factors = factors or {}
    number = len(around)
    others = np.setdiff1d(np.arange(number + len(middles)), atoms)
    everything = np.array([*around, *(charge for *_, charge in middles)])
    r = [*structure.positions]
    r += [(structure.positions[i] + structure.positions[j]) / 2 for i, j, _ in middles]
    boxed = structure.topology.getPeriodicBoxVectors()

    def summed(charges) -> float:
        everything[atoms] = charges
        system, force = openmm.System(), openmm.NonbondedForce()
        if boxed is not None:
            system.setDefaultPeriodicBoxVectors(*boxed)
        for charge in everything:
            system.addParticle(1.0)
            force.addParticle(charge, 1.0, 0.0)
        for first, second in combinations(atoms, 2):
            force.addException(first, second, 0.0, 1.0, 0.0)
        for (first, second), factor in factors.items():
            product = factor * everything[first] * everything[second]
            force.addException(first, second, product, 1.0, 0.0)
        exact = app.Ewald if method is app.PME else method
        force.setNonbondedMethod(getattr(openmm.NonbondedForce, str(exact)))
        force.setCutoffDistance(0.7)
        force.setEwaldErrorTolerance(1e-9)
        system.addForce(force)
        return energy(context(system, np.array(r)))

    charges = fragment.charges()
    total = summed(charges) - summed(0.0)

    # The model's charges are clouds, which close by interact less than points do.
    d = np.array(r)[atoms][:, None] - np.array(r)[others]
    if method in (app.CutoffPeriodic, app.PME):
        edges = np.diag(bare(boxed))
        d -= np.round(d / edges) * edges
    distance = 10 * np.linalg.norm(d, axis=2)
    missing = erfc(distance / fragment.width) / distance
    for (atom, particle), factor in factors.items():
        missing[atoms.index(atom), np.searchsorted(others, particle)] *= factor
    lost = COULOMB_CONSTANT * KJ_PER_MOL_PER_EV * charges @ missing @ everything[others]
    return float(total - lost)


def charges_of(system) -> np.ndarray:
    force = nonbonded(system)
    number = force.getNumParticles()
    return np.array([force.getParticleParameters(i)[0]._value for i in range(number)])


def recharge(system, atoms, net) -> None:
    """Give all but `atoms` a net charge [e], in place."""
    force, charges = nonbonded(system), charges_of(system)
    others = np.setdiff1d(np.arange(len(charges)), atoms)
    charges[others] += (net - charges[others].sum()) / len(others)
    for i in others.tolist():
        _, *rest = force.getParticleParameters(i)
        force.setParticleParameters(i, charges[i], *rest)


@pytest.mark.parametrize(
    ("method", "net"), [*ALL_METHODS, (app.NoCutoff, CHARGED), (app.PME, CHARGED)]
)
def test_latent_charges_interact_as_those_of_a_force_field_do(method, net):
    """OpenMM sums the same charges, ions among them: no pair, image or background is missing.

    In the charged case the background across the border alone is some kJ/mol.
    """
    total, around, options = net
    structure = peptide_in_water(salt=0.4)
    assert "NA" in {residue.name for residue in structure.topology.residues()}
    atoms = structure.peptide
    system = classical(structure, method)
    recharge(system, atoms, around)
    made = embedded_context(structure, system, atoms, **options)
    fragment = Fragment(structure, atoms, total)
    expected = interaction(fragment, method, charges_of(system))
    assert energy(made, {1}) - fragment.energy == pytest.approx(expected, abs=1e-3)
    assert abs(expected) > 1.0


def separations(structure, atom) -> dict[int, int]:
    """How many bonds away other atoms are, up to three."""
    bonded = defaultdict(set)
    for bond in structure.topology.bonds():
        bonded[bond.atom1.index].add(bond.atom2.index)
        bonded[bond.atom2.index].add(bond.atom1.index)
    found, front = {atom: 0}, {atom}
    for bonds in (1, 2, 3):
        front = {n for a in front for n in bonded[a]} - set(found)
        found |= dict.fromkeys(front, bonds)
    return found


@pytest.mark.parametrize("scheme", ["none", "z1", "rcd"])
@pytest.mark.parametrize("method", [app.NoCutoff, app.PME], ids=str)
def test_latent_charges_at_a_cut_bond(method, scheme):
    """Amber scales 1-4 interactions by 1/1.2; what is at M2 or moved there is as far away as M2."""
    structure = peptide_in_water()
    atoms = structure.side_chain
    system = classical(structure, method)
    made = embedded_context(structure, system, atoms, boundaryCharges=scheme)
    host, *receivers = structure.atoms("CA", "N", "C", "HA")
    fragment = Fragment(structure, atoms, links=[(atoms[0], host)])

    around, middles = charges_of(system), []
    given = around[host] + around[atoms].sum()  # the region has none of its own
    if scheme != "none":
        around[host] = 0.0
    if scheme == "rcd":
        around[receivers] -= given / 3
        middles = [(host, receiver, 2 * given / 3) for receiver in receivers]
    factors = {}
    for atom in atoms:
        for other, bonds in separations(structure, atom).items():
            if other in atoms:
                continue
            like = [other]
            if scheme == "rcd" and other in receivers:
                like.append(len(around) + receivers.index(other))
            factors |= dict.fromkeys([(atom, i) for i in like], 1 / 1.2 if bonds == 3 else 0.0)
    expected = interaction(fragment, method, around, factors, middles)
    assert energy(made, {1}) - fragment.energy == pytest.approx(expected, abs=1e-3)
    assert abs(expected) > 1.0


@pytest.mark.parametrize(("interpolate", "net"), [(False, CHARGED), (True, NEUTRAL)])
def test_brute_force(net, interpolate):
    """Periodic potentials summed term by term, for a few molecules and with any splitting."""
    total, around, options = net
    structure = peptide_in_water()
    few = structure.only(structure.peptide + structure.waters(6)).in_box(2.0 * np.eye(3))
    atoms, system = few.peptide, classical(few)
    recharge(system, atoms, around)
    made = embedded_context(few, system, atoms, interpolate=interpolate, **options)
    fragment = Fragment(few, atoms, total)
    found = energy(made, {1}) - fragment.energy
    charges, r, cell = fragment.charges(), 10 * few.positions, 20.0 * np.eye(3)
    others = np.setdiff1d(np.arange(len(r)), atoms)
    mm_charges = charges_of(system)[others]
    for alpha in (0.3, 0.4):
        potential = cross_potential(
            r[atoms], mm_charges, r[others], cell, alpha, fragment.width
        ) + 0.5 * image_potential(charges, r[atoms], cell, alpha)
        expected = COULOMB_CONSTANT * KJ_PER_MOL_PER_EV * float(charges @ potential)
        assert found == pytest.approx(expected, abs=1e-5)
    assert abs(expected) > 1.0


# ------------------------------------------------------------------ fields from far away


def between_ions(charges, distance):
    """The dipeptide in vacuum between two point charges far away on a line, and its System."""
    alone = peptide()
    topology = copy.deepcopy(alone.topology)
    system = classical(alone, app.NoCutoff)
    chain = topology.addChain()
    for charge in charges:
        topology.addAtom("ION", app.element.sodium, topology.addResidue("ION", chain))
        system.addParticle(0.0)
        nonbonded(system).addParticle(charge, 1.0, 0.0)
    middle, direction = alone.positions.mean(axis=0), np.array([0.5, -0.7, 0.3])
    direction /= np.linalg.norm(direction)
    ions = [middle - distance * direction, middle + distance * direction]
    return Structure(topology, np.array([*alone.positions, *ions])), system, direction


@pytest.mark.parametrize(("platform", "net"), [("Reference", NEUTRAL), ("CPU", CHARGED)])
def test_a_uniform_field_pulls_on_born_effective_charges(net, platform):
    """F_ia = sum_b Z*_iab E_b, with Z* = dP_b/dr_ia of the dipole P by finite differences."""
    total, _, options = net
    strength, distance = 0.01, 1e4  # e/A^2 of a unit charge's field, nm
    charge = 0.5 * strength * (10 * distance) ** 2
    structure, system, direction = between_ions([charge, -charge], distance)
    field = COULOMB_CONSTANT * strength * direction  # [eV/(e A)]
    pulled = []
    for each in (system, uncharged(system, structure)):
        made = embedded(structure, each, structure.peptide, **options)
        pulled.append(forces(context(made, structure.positions, platform), {1}))
    probed = [0, 4, 5, 8]
    got = (pulled[0] - pulled[1])[np.array(structure.peptide)[probed]] / FORCE_PER_EV_PER_ANGSTROM

    fragment = Fragment(structure, structure.peptide, total)
    born = np.zeros((len(probed), 3, 3))
    for row, a in np.ndindex(len(probed), 3):
        along = np.zeros_like(fragment.positions)
        along[probed[row], a] = 1.0
        born[row, a] = slope(lambda r: fragment.charges(r) @ r, fragment.positions, along, 1e-3)
    size = np.linalg.norm(born @ field)
    np.testing.assert_allclose(got, born @ field, rtol=0, atol=1e-6 * size)
    transposed = np.einsum("iba,b->ia", born, field)
    fixed = fragment.charges()[probed, None] * field
    assert np.linalg.norm(got - transposed) > 0.02 * size
    assert np.linalg.norm(got - fixed) > 0.1 * size


def uncharged(system, structure) -> openmm.System:
    """The System without the charges of the two ions."""
    bare_system = openmm.XmlSerializer.clone(system)
    for i in range(len(structure.positions) - 2, len(structure.positions)):
        nonbonded(bare_system).setParticleParameters(i, 0.0, 1.0, 0.0)
    return bare_system


def test_a_constant_potential_pulls_on_nothing():
    """It is the net charge times the potential, whatever the model's charges add up to."""
    total, _, options = CHARGED
    distance, potential = 1e7, 50.0  # nm, kJ/mol/e
    charge = 0.5 * potential * 10 * distance / (COULOMB_CONSTANT * KJ_PER_MOL_PER_EV)
    structure, system, _ = between_ions([charge, charge], distance)
    made = [
        embedded_context(structure, each, structure.peptide, **options)
        for each in (system, uncharged(system, structure))
    ]
    difference = energy(made[0], {1}) - energy(made[1], {1})
    assert difference == pytest.approx(potential * total, abs=1e-5)
    np.testing.assert_allclose(forces(made[0], {1}), forces(made[1], {1}), atol=1e-4)


# ------------------------------------------------------------------ precision


@pytest.mark.parametrize(
    ("method", "region"),
    [(app.PME, "peptide"), (app.PME, "side_chain"), (app.CutoffPeriodic, "side_chain")],
    ids=str,
)
def test_single_precision(method, region):
    """1e-6 eV for an atom and 1e-4 eV/A, as without surroundings."""
    structure = peptide_in_water()
    system, atoms = classical(structure, method), getattr(structure, region)
    single, double = (
        embedded_context(structure, system, atoms, precision=precision)
        for precision in ("single", "double")
    )
    tolerance = 1e-6 * KJ_PER_MOL_PER_EV * (len(atoms) + 1)
    assert energy(single, {1}) == pytest.approx(energy(double, {1}), abs=tolerance)
    difference = (forces(single, {1}) - forces(double, {1})) / FORCE_PER_EV_PER_ANGSTROM
    assert 0.0 < np.abs(difference).max() < 1e-4
