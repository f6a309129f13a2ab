"""Which atoms a force that fails blames, by their numbers in the System."""

import numpy as np
import openmm
import pytest
from support.mixed import app, classical, context, embedded, energy, forces, mixed, peptide


def blamed(system, positions) -> str:
    """What is said at these positions [nm]."""
    with pytest.raises(openmm.OpenMMException) as raised:
        energy(context(system, positions), {1})
    return str(raised.value)


@pytest.mark.parametrize("interpolate", [False, True])
@pytest.mark.parametrize("make", [mixed, embedded])
@pytest.mark.parametrize("region", ["peptide", "side_chain", "reversed"])
def test_atoms_at_the_same_place(region, make, interpolate):
    """Regions of all atoms, of some, and of some in another order."""
    structure = peptide()
    chosen = structure.side_chain if region == "side_chain" else structure.peptide
    chosen = chosen[::-1] if region == "reversed" else chosen
    system = make(structure, classical(structure, app.NoCutoff), chosen, interpolate=interpolate)
    one, other = structure.atoms("HB1", "HB3")
    together = structure.positions.copy()
    together[one] = together[other]
    text = blamed(system, together)
    first, second = sorted((one, other), key=chosen.index)
    pair = f"atom {first} (of the System), atom {second} (of the System)"
    assert f"two atoms are at the same place; check the input structure: {pair}" in text


@pytest.mark.parametrize("make", [mixed, embedded])
def test_a_link_atom_at_the_place_of_an_atom(make):
    structure = peptide()
    system = make(structure, classical(structure, app.NoCutoff), structure.side_chain)
    first, second, hydrogen = structure.atoms("CB", "CA", "HB1")
    together = structure.positions.copy()
    bond = together[second] - together[first]
    together[hydrogen] = together[first] + 0.107 * bond / np.linalg.norm(bond)
    text = blamed(system, together)
    assert f"atom {hydrogen} (of the System), the link atom between atom {first} (of" in text
    assert f"and atom {second} (of the System)" in text


def test_positions_that_are_no_numbers():
    structure = peptide()
    system = mixed(structure, classical(structure, app.NoCutoff), structure.side_chain)
    made = context(system, structure.positions)
    broken = structure.positions.copy()
    broken[structure.side_chain[1]] = np.nan
    made.setPositions(broken)
    with pytest.raises(openmm.OpenMMException, match=rf": atom {structure.side_chain[1]} \(of the"):
        forces(made, {1})
