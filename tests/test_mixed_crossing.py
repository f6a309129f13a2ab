"""Taking charges out of a force field and putting them back pair by pair changes nothing."""

from itertools import combinations

import numpy as np
import openmm
import pytest
from mixed import app, classical, context, energy, nonbonded, peptide, peptide_in_water

from openmm_les.mlmm.crossing import scaled_pairs, silence
from openmm_les.mlmm.region import MLRegion

REGIONS = {
    "one cut": ("CB", "HB1", "HB2", "HB3"),
    "two cuts": ("N", "H", "CA", "HA", "CB", "HB1", "HB2", "HB3"),
    "three cuts": ("CA", "HA"),
}


def region_of(structure, system, atoms):
    return MLRegion.from_topology(structure.topology, system, atoms, (1, 6, 7, 8))


def charges_of(force) -> np.ndarray:
    return np.array(
        [force.getParticleParameters(i)[0]._value for i in range(force.getNumParticles())]
    )


def only_nonbonded(system) -> openmm.System:
    kept = openmm.XmlSerializer.clone(system)
    for index in reversed(range(kept.getNumForces())):
        if not isinstance(kept.getForce(index), openmm.NonbondedForce):
            kept.removeForce(index)
    return kept


def coulomb_constant() -> float:
    """OpenMM's, in kJ/mol nm/e^2: the energy of two unit charges, 1 nm apart."""
    system, force = openmm.System(), openmm.NonbondedForce()
    for _ in range(2):
        system.addParticle(1.0)
        force.addParticle(1.0, 1.0, 0.0)
    system.addForce(force)
    return energy(context(system, np.array([[0.0, 0, 0], [1.0, 0, 0]])))


@pytest.mark.parametrize("name", REGIONS)
@pytest.mark.parametrize("water", [None, "tip4pew"])
def test_what_is_taken_out_is_what_can_be_put_back(name, water):
    """Full Coulomb energy = that without the region's charges + pairs with their factors."""
    structure = peptide() if water is None else peptide_in_water(water)
    system = only_nonbonded(classical(structure, app.NoCutoff, water or "tip3p"))
    atoms = structure.atoms(*REGIONS[name])
    if water is not None:
        atoms = atoms + [a for a in structure.waters(1) if not system.isVirtualSite(a)]
    region = region_of(structure, system, atoms)
    force = nonbonded(system)
    factors = {(region.atoms[i], j): factor for i, j, factor in scaled_pairs(force, region)}
    charges = charges_of(force)
    products = {
        frozenset(force.getExceptionParameters(i)[:2]): force.getExceptionParameters(i)[2]._value
        for i in range(force.getNumExceptions())
    }
    made = context(system, structure.positions)
    positions = made.getState(positions=True).getPositions(asNumpy=True)._value
    full = energy(made)
    silence(force, region)
    assert not charges_of(force)[sorted(region.particles)].any()
    silent = energy(context(system, structure.positions))

    def over_distance(first, others):
        return 1.0 / np.linalg.norm(positions[others] - positions[first], axis=1)

    outside = np.array(sorted(set(range(len(charges))) - region.particles))
    expected = 0.0
    for atom in region.atoms:
        scale = np.array([factors.get((atom, int(j)), 1.0) for j in outside])
        expected += charges[atom] * (charges[outside] * scale * over_distance(atom, outside)).sum()
    for site in region.sites:
        expected += charges[site] * (charges[outside] * over_distance(site, outside)).sum()
    for first, second in combinations(sorted(region.particles), 2):
        product = products.get(frozenset((first, second)), charges[first] * charges[second])
        expected += product * over_distance(first, [second])[0]
    assert full - silent == pytest.approx(coulomb_constant() * expected, abs=1e-6)
    assert {round(f, 4) for f in factors.values()} == {0.0, round(1 / 1.2, 4)}


def test_lennard_jones_terms_stay():
    structure = peptide()
    system = only_nonbonded(classical(structure, app.NoCutoff))
    force = nonbonded(system)
    region = region_of(structure, system, structure.side_chain)

    def parameters():
        particles = [force.getParticleParameters(i)[1:] for i in range(force.getNumParticles())]
        return particles, [
            force.getExceptionParameters(i)[3:] for i in range(force.getNumExceptions())
        ]

    before = parameters()
    silence(force, region)
    assert parameters() == before


def test_charges_that_follow_a_parameter():
    """Offsets inside the region and across the border go, others stay."""
    structure = peptide()
    system = only_nonbonded(classical(structure, app.NoCutoff))
    force = nonbonded(system)
    region = region_of(structure, system, structure.side_chain)
    force.addGlobalParameter("charging", 1.0)
    inside, outside = structure.side_chain[0], structure.atoms("O")[0]
    for atom in (inside, outside):
        force.addParticleParameterOffset("charging", atom, 0.2, 0.0, 0.0)
    exceptions = [set(force.getExceptionParameters(i)[:2]) for i in range(force.getNumExceptions())]
    crossing = next(i for i, pair in enumerate(exceptions) if len(pair & region.inside) == 1)
    far = next(i for i, pair in enumerate(exceptions) if not pair & region.inside)
    for index in (crossing, far):
        force.addExceptionParameterOffset("charging", index, 0.3, 0.0, 0.1)
    silence(force, region)
    assert [force.getParticleParameterOffset(i)[2] for i in range(2)] == [0.0, 0.2]
    assert [force.getExceptionParameterOffset(i)[2:] for i in range(2)] == [
        [0.0, 0.0, 0.1],
        [0.3, 0.0, 0.1],
    ]


def test_an_atom_without_a_charge_in_the_force_field():
    """Its 1-4 neighbours get the factor of all others, not 0/0."""
    structure = peptide()
    system = only_nonbonded(classical(structure, app.NoCutoff))
    force = nonbonded(system)
    region = region_of(structure, system, structure.side_chain)
    usual = {(i, j): f for i, j, f in scaled_pairs(force, region)}
    for atom in structure.side_chain:
        _, sigma, epsilon = force.getParticleParameters(atom)
        force.setParticleParameters(atom, 0.0, sigma, epsilon)
    for i in range(force.getNumExceptions()):
        first, second, _, sigma, epsilon = force.getExceptionParameters(i)
        if {first, second} & region.inside:
            force.setExceptionParameters(i, first, second, 0.0, sigma, epsilon)
    neutral = {(i, j): f for i, j, f in scaled_pairs(force, region)}
    assert neutral == pytest.approx(usual, abs=1e-5)
