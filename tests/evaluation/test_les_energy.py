"""The part of the energy that latent charges have, against sums written down on their own."""

import dataclasses

import numpy as np
import pytest
import torch
from ase import Atoms
from oracles import ewald

from openmm_les import catalog
from openmm_les.artifact import load
from openmm_les.ase import LESCalculator
from openmm_les.electrostatics.embedding import Surroundings
from openmm_les.evaluation.system_model import SystemModel

#: Edges [A] that are no multiples of dl, so that no vector lies on the sphere.
EDGES = [9.1, 9.7, 10.3]


@pytest.fixture(scope="module")
def artifact():
    return load(catalog.artifact_path("les-demo"))


def waters(periodic: bool) -> Atoms:
    one = np.array([[0.0, 0.0, 0.0], [0.76, 0.59, 0.0], [-0.76, 0.59, 0.0]])
    positions = np.concatenate([one, one[:, [1, 2, 0]] + [2.9, 0.3, -0.4]])
    return Atoms("OHHOHH", positions, cell=EDGES if periodic else None, pbc=periodic)


def model_of(artifact, atoms: Atoms, **options) -> SystemModel:
    cell = atoms.cell.array if atoms.pbc.all() else None
    options = {"precision": "double", "positions": atoms.positions} | options
    return SystemModel(artifact, atoms.numbers, periodic=cell is not None, cell=cell, **options)


def by_the_oracle(artifact, atoms: Atoms, charges) -> float:
    les = artifact.canonical.les
    names = [f.name for f in dataclasses.fields(ewald.Parameters) if f.name in les]
    parameters = ewald.Parameters(**{name: les[name] for name in names})
    make = ewald.k_sum if atoms.pbc.all() else ewald.pair_sum
    structure = (torch.tensor(each) for each in (charges, atoms.positions, atoms.cell.array))
    return float(make(parameters)(*structure))


@pytest.mark.parametrize("periodic", [False, True])
@pytest.mark.parametrize(("precision", "tolerance"), [("single", 2e-5), ("double", 1e-9)])
def test_it_is_the_sum_over_the_charges(artifact, periodic, precision, tolerance):
    atoms = waters(periodic)
    model = model_of(artifact, atoms, precision=precision)
    result = model.evaluate(atoms.positions)
    expected = by_the_oracle(artifact, atoms, result.charges)
    assert abs(expected) > 0.05
    assert result.les_energy == pytest.approx(expected, abs=tolerance)
    response = model.response(atoms.positions)
    assert response.les_energy == pytest.approx(expected, abs=tolerance)
    atoms.calc = LESCalculator(artifact.path, precision=precision)
    assert atoms.calc.get_property("les_energy", atoms) == pytest.approx(expected, abs=tolerance)


def test_the_rest_is_short_range(artifact):
    """Molecules that are far apart have it on their own."""
    atoms = waters(periodic=False)
    atoms.positions[3:] += [15.0, 0.0, 0.0]
    both = model_of(artifact, atoms).evaluate(atoms.positions)
    alone = [model_of(artifact, part).evaluate(part.positions) for part in (atoms[:3], atoms[3:])]
    rest = sum(part.energy - part.les_energy for part in alone)
    assert both.energy - both.les_energy == pytest.approx(rest, abs=1e-10)
    assert both.les_energy != pytest.approx(sum(part.les_energy for part in alone), abs=1e-6)


def test_what_surrounds_the_charges_belongs_to_it(artifact):
    """MM charges and a field: the short-range part does not know them."""
    atoms = waters(periodic=False)
    free = model_of(artifact, atoms).evaluate(atoms.positions)
    around = Surroundings([0.5, -0.5], "NoCutoff", total=0.0, sign=1.0)
    positions = np.concatenate([atoms.positions, [[0.0, -4.0, 1.0], [0.0, -6.0, 1.0]]])
    embedded = model_of(artifact, atoms, surroundings=around, positions=positions)
    in_field = model_of(artifact, atoms, electric_field=True)
    field = np.array([0.1, -0.2, 0.05])
    for result in embedded.evaluate(positions), in_field.evaluate(atoms.positions, None, field):
        assert abs(result.les_energy - free.les_energy) > 1e-3
        rest = result.energy - result.les_energy
        assert rest == pytest.approx(free.energy - free.les_energy, abs=1e-10)
    charges = in_field.physical_charges(free.charges)
    moved = in_field.evaluate(atoms.positions, None, field).les_energy - free.les_energy
    assert moved == pytest.approx(-field @ (charges @ atoms.positions), abs=1e-10)


def test_it_is_no_number_where_there_is_no_energy(artifact):
    atoms = waters(periodic=False)
    model = model_of(artifact, atoms)
    positions = atoms.positions.copy()
    positions[1] = positions[0]
    *_, les_energy, status = model.module.evaluate(torch.tensor(positions), torch.zeros(3, 3))
    assert int(status) != 0
    assert torch.isnan(les_energy)
