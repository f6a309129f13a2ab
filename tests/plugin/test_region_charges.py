"""Electrostatic embedding keeps the charge of everything, whatever charge the region is given.

From afar a molecule is its charge: an ion there feels that of the force field.
"""

import logging
import re
from functools import cache
from importlib.util import find_spec

import numpy as np
import openmm
import pytest
from support.mixed import (
    NM,
    Structure,
    app,
    bare,
    classical,
    context,
    embedded,
    embedded_context,
    energy,
    nonbonded,
    peptide,
    villin,
)

from openmm_les import InputError, catalog
from openmm_les import artifact as artifacts
from openmm_les.plugin.mixed import ElectrostaticOptions
from openmm_les.plugin.mixed.links import find_links
from openmm_les.plugin.mixed.mm_field import MMField, read_field
from openmm_les.plugin.mixed.region import MLRegion

COULOMB = 138.935456  # kJ/mol nm/e^2
NEAR, FAR = 200.0, 400.0  # where the ion is [nm]
GLUTAMATE = 3  # a residue of villin
LARGE, CHANGED = "that is much for one place", "and now has"


@cache
def dodecamer() -> Structure:
    """DNA of two strands with twelve nucleotides each, and 22 phosphates."""
    package = find_spec("openmmtools")
    if package is None:
        pytest.skip("needs the data of openmmtools (`make test` installs them)")
    folder = f"{package.submodule_search_locations[0]}/data/dna_dodecamer_explicit"
    pdb = app.PDBFile(f"{folder}/minimized_dna_dodecamer.pdb")
    whole = Structure(pdb.topology, bare(pdb.positions)).in_box(None)
    return whole.only([a.index for a in whole.topology.atoms() if a.residue.name[0] == "D"])


def nucleoside(structure) -> list[int]:
    """Sugar and base of the fifth nucleotide: neutral once capped, cut at both phosphates."""
    atoms = [a for a in structure.topology.atoms() if a.residue.index == 4]
    return [a.index for a in atoms if a.name not in ("P", "OP1", "OP2")]


def with_ion(structure, distance) -> Structure:
    """The structure and a far sodium ion [nm]."""
    topology = app.Topology()
    residue = topology.addResidue("NA", topology.addChain())
    topology.addAtom("NA", app.element.sodium, residue)
    modeller = app.Modeller(structure.topology, structure.positions * NM)
    place = structure.positions.mean(axis=0) + [distance, 0.0, 0.0]
    modeller.add(topology, [openmm.Vec3(*place)] * NM)
    return Structure(modeller.topology, bare(modeller.positions))


def charge_from_afar(structure, make) -> float:
    """Charge [e] of a structure, from the work that it takes to move an ion far away [kJ/mol].

    Args:
        make: the System of a structure.
    """
    energies = []
    system = None
    for distance in (NEAR, FAR):
        placed = with_ion(structure, distance)
        system = system or make(placed)
        energies.append(energy(context(system, placed.positions)))
    return (energies[0] - energies[1]) / (COULOMB * (1 / NEAR - 1 / FAR))


def field_of(structure, atoms, **options) -> tuple[MMField, np.ndarray]:
    """What surrounds a region, and the charges of the force field [e]."""
    system = classical(structure, app.NoCutoff)
    elements = artifacts.load(catalog.artifact_path("les-demo")).elements
    region = MLRegion.from_topology(structure.topology, system, atoms, elements)
    links = find_links(region, structure.topology, (), elements)
    force = nonbonded(system)
    charges = [force.getParticleParameters(i)[0]._value for i in range(force.getNumParticles())]
    return read_field(system, region, links, ElectrostaticOptions(**options)), np.array(charges)


def total(field) -> float:
    """Of region and surroundings [e]."""
    return field.charges.sum() + sum(each.charge for each in field.on_bonds) + field.total


def cases() -> list:
    """Structure, region, options, and what is told."""
    ion = {"charge": -1, "allowNetCharge": True}
    side_chain = villin().side_chain_of(GLUTAMATE)
    return [
        pytest.param(dodecamer, nucleoside, {"charge": 0}, None, id="nucleoside"),
        pytest.param(dodecamer, nucleoside, ion, None, id="nucleoside-ion"),
        pytest.param(villin, lambda _: side_chain, {"charge": 0}, LARGE, id="glutamate"),
        pytest.param(villin, lambda _: side_chain, ion, None, id="glutamate-ion"),
        pytest.param(peptide, lambda s: s.side_chain, {}, None, id="methyl"),
    ]


@pytest.mark.parametrize("scheme", ["rcd", "shift"])
@pytest.mark.parametrize(("make", "region", "options", "told"), cases())
def test_the_charge_of_everything_is_that_of_the_force_field(
    make, region, options, told, scheme, caplog
):
    structure = make()
    field, charges = field_of(structure, region(structure), boundaryCharges=scheme, **options)
    assert total(field) == pytest.approx(charges.sum(), abs=1e-9)
    assert field.total == options.get("charge", 0)
    warned = [text for text in (LARGE, CHANGED) if text in caplog.text]
    assert warned == ([told] if told else [])


def test_each_phosphate_takes_half_of_what_the_nucleoside_has():
    """By hand: -0.6137 e of it go to the two phosphorus atoms, and on to their neighbours."""
    structure = dodecamer()
    atoms = nucleoside(structure)
    field, charges = field_of(structure, atoms, charge=0)
    assert charges[atoms].sum() == pytest.approx(-0.6137, abs=1e-4)
    hosts = sorted({each.first for each in field.on_bonds})
    assert len(hosts) == 2
    for host in hosts:
        ends = {each.second for each in field.on_bonds if each.first == host}
        around = field.charges[[host, *ends]].sum()
        moved = sum(each.charge for each in field.on_bonds if each.first == host)
        before = charges[[host, *ends]].sum()
        assert around + moved == pytest.approx(before - 0.6137 / 2, abs=1e-4)


@pytest.mark.parametrize(
    ("make", "region"),
    [(dodecamer, nucleoside), (villin, lambda s: s.side_chain_of(GLUTAMATE))],
    ids=["nucleoside", "glutamate"],
)
def test_a_far_ion_feels_the_charge_of_the_force_field(make, region):
    structure = make()
    options = {"charge": 0, "chargeTolerance": 9.0}
    expected = charge_from_afar(structure, lambda each: classical(each, app.NoCutoff))
    got = charge_from_afar(
        structure,
        lambda each: embedded(each, classical(each, app.NoCutoff), region(structure), **options),
    )
    assert abs(expected) > 1.0
    assert got == pytest.approx(expected, abs=0.05)


@pytest.mark.parametrize("scheme", ["none", "z1"])
def test_schemes_that_leave_charge_out_tell(scheme, caplog):
    structure = villin()
    atoms = structure.side_chain_of(GLUTAMATE)
    field, charges = field_of(structure, atoms, charge=0, boundaryCharges=scheme)
    lost = charges[atoms].sum() + (0.0 if scheme == "none" else charges[host_of(structure)])
    assert total(field) == pytest.approx(charges.sum() - lost, abs=1e-9)
    text = f"had a charge of +2.000 e and now has {total(field):+.3f} e: the ML region has charge=0"
    assert text in caplog.text
    assert f"boundaryCharges={scheme!r} leaves the rest out" in caplog.text


def host_of(structure) -> int:
    """The alpha carbon of the residue, which a link atom replaces."""
    atoms = (a for a in structure.topology.atoms() if a.residue.index == GLUTAMATE)
    return next(a.index for a in atoms if a.name == "CA")


def test_a_whole_molecule_with_another_charge_tells(caplog):
    """No MM atom is bonded to it that could take the difference."""
    structure = peptide()
    system = classical(structure, app.NoCutoff)
    force = nonbonded(system)
    charge, *rest = force.getParticleParameters(0)
    force.setParticleParameters(0, charge._value - 1.0, *rest)
    with caplog.at_level(logging.WARNING):
        embedded(structure, system, structure.peptide, charge=0)
    assert "the whole system had a charge of -1.000 e and now has +0.000 e" in caplog.text
    assert "no bond is cut whose MM atom could take the rest" in caplog.text
    caplog.clear()
    options = {"charge": -1, "allowNetCharge": True}
    embedded(structure, system, structure.peptide, **options)
    assert "charge of" not in caplog.text


def test_a_region_that_is_not_neutral_is_told_how_to_go_on():
    structure = villin()
    atoms = structure.side_chain_of(GLUTAMATE)
    message = r"add up to -0.882 e\).*capped, charge=0; if .* ions, allowNetCharge=True"
    with pytest.raises(InputError, match=message):
        field_of(structure, atoms)


def test_charges_that_the_model_misses_are_told_how_to_go_on():
    """The number that the message gives is one that works."""
    structure = peptide()
    system = classical(structure, app.NoCutoff)
    made = embedded_context(structure, system, structure.peptide, chargeTolerance=1e-6)
    message = r" e, expected \+0 e within 1e-06 e \(chargeTol.* give chargeTolerance=(\S+); "
    with pytest.raises(openmm.OpenMMException, match=message) as raised:
        energy(made)
    enough = float(re.search(message, str(raised.value))[1])
    made = embedded(structure, system, structure.peptide, chargeTolerance=enough)
    assert np.isfinite(energy(context(made, structure.positions)))
