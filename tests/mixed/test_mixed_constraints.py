"""Constraints and virtual sites of a System with a region of the model."""

import numpy as np
import pytest
from support.mixed import (
    app,
    classical,
    context,
    energy,
    mixed,
    mixed_context,
    peptide,
    peptide_in_water,
)

from openmm_les import InputError


class Once:
    """No iterator itself, but whoever reads it takes from the same one."""

    def __init__(self, atoms):
        self._left = iter(atoms)

    def __iter__(self):
        return self._left


KINDS = {
    "list": list,
    "tuple": tuple,
    "array": np.array,
    "set": set,
    "range": lambda atoms: range(atoms[0], atoms[-1] + 1),
    "keys": lambda atoms: dict.fromkeys(atoms).keys(),
    "values": lambda atoms: {str(atom): atom for atom in atoms}.values(),
}


@pytest.mark.parametrize("kind", KINDS)
def test_constraints_inside_the_region_go(kind):
    structure = peptide_in_water()
    system = classical(structure, constraints=app.HBonds, rigidWater=True)
    left = mixed(structure, system, KINDS[kind](structure.peptide))
    inside = sum(
        set(system.getConstraintParameters(i)[:2]) <= set(structure.peptide)
        for i in range(system.getNumConstraints())
    )
    assert inside == 12
    for i in range(left.getNumConstraints()):
        assert not set(left.getConstraintParameters(i)[:2]) <= set(structure.peptide)
    assert left.getNumConstraints() == system.getNumConstraints() - inside
    kept = mixed(structure, system, structure.peptide, removeConstraints=False)
    assert kept.getNumConstraints() == system.getNumConstraints()


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (lambda atoms: (atom for atom in atoms), "generator"),
        (lambda atoms: map(int, atoms), "map"),
        (lambda atoms: filter(lambda atom: atom >= 0, atoms), "filter"),
        (iter, "list_iterator"),
        (Once, "Once"),
    ],
    ids=["generator", "map", "filter", "iterator", "object"],
)
@pytest.mark.parametrize("embedding", ["mechanical", "electrostatic"])
def test_atoms_that_can_be_read_only_once_are_refused(kind, name, embedding):
    """openmm-ml reads them again after this package, and would leave all constraints."""
    structure = peptide()
    system = classical(structure, app.NoCutoff, constraints=app.HBonds)
    with pytest.raises(InputError, match=rf"expected a list of indices, got a {name}, which "):
        mixed(structure, system, kind(structure.peptide), embedding=embedding)


@pytest.mark.parametrize("rigid", [False, True])
def test_interpolation_needs_terms_in_place_of_constraints(rigid):
    """Else, at lambda = 0, nothing holds the hydrogen atoms once openmm-ml removed constraints."""
    structure = peptide_in_water()
    atoms = structure.waters(1) if rigid else structure.peptide
    options = {"rigidWater": True} if rigid else {"constraints": app.HBonds}
    system = classical(structure, **options)
    with pytest.raises(
        InputError, match=r"interpolate: expected bond and angle terms.*flexibleConstraints=True"
    ):
        mixed(structure, system, atoms, interpolate=True)
    flexible = classical(structure, flexibleConstraints=True, **options)
    made = mixed_context(structure, flexible, atoms, interpolate=True)
    made.setParameter("lambda_interpolate", 0.0)
    expected = energy(context(flexible, structure.positions))
    assert energy(made) == pytest.approx(expected, abs=1e-7)


# ------------------------------------------------------------------ virtual sites


def test_sites_go_with_their_water():
    structure = peptide_in_water("tip4pew")
    system = classical(structure, water="tip4pew")
    whole = structure.waters(1)
    without = [atom for atom in whole if not system.isVirtualSite(atom)]
    assert (len(whole), len(without)) == (4, 3)
    energies = [energy(mixed_context(structure, system, atoms)) for atoms in (whole, without)]
    assert energies[0] == energies[1]


@pytest.mark.parametrize("chosen", [[0], [0, 1], [3], [3, 0]])
def test_sites_between_ml_and_mm_atoms_are_refused(chosen):
    structure = peptide_in_water("tip4pew")
    system = classical(structure, water="tip4pew")
    water = structure.waters(1)
    with pytest.raises(InputError, match=r"expected (virtual sites on atoms|at least one atom)"):
        mixed(structure, system, [water[i] for i in chosen])
