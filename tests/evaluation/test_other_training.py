"""What a model says of the sum that it was trained with, and systems that are different."""

import dataclasses
import logging

import numpy as np
import pytest
import torch
from oracles import ewald
from support.evaluation import eager, of_module
from support.gradients import system_for
from support.structures import sheared, waters

from openmm_les import catalog
from openmm_les.artifact import Artifact, load, save
from openmm_les.errors import InputError


def artifact_with(folder, **les) -> Artifact:
    """The demonstration model with other LES parameters, in a file of its own."""
    canonical = load(catalog.artifact_path("les-demo")).canonical
    changed = dataclasses.replace(canonical, les=canonical.les | les)
    return load(save(changed, folder / "changed.les.pt"))


@pytest.mark.parametrize("method", ["direct", "mesh"])
def test_a_truncated_sum(tmp_path, method, caplog):
    """In a box of about 9 A, which coordinates up to 2 do not cover."""
    atoms = sheared(waters(3, 3, 3))
    artifact = artifact_with(tmp_path, n_max=2)
    options = {"ewald": method, "ewaldTolerance": 1e-7}
    model = system_for(artifact, atoms, **options)
    found = model.evaluate(atoms.positions)
    les = artifact.canonical.les
    names = [f.name for f in dataclasses.fields(ewald.Parameters) if f.name in les]
    parameters = ewald.Parameters(**{name: les[name] for name in names})
    structure = [torch.tensor(x) for x in (found.charges, atoms.positions, atoms.cell.array)]
    bound, whole = (
        float(ewald.k_sum(dataclasses.replace(parameters, n_max=n))(*structure)) for n in (2, None)
    )
    assert abs(bound - whole) > 1e-3
    assert found.les_energy == pytest.approx(bound, abs=1e-9 if method == "direct" else 1e-6)
    if method == "direct":
        portable = eager(artifact.canonical)
        energy, forces, _ = of_module(portable, atoms.positions, atoms.numbers, atoms.cell.array)
        assert energy == pytest.approx(found.energy + model.reference_energy, abs=1e-9)
        np.testing.assert_allclose(forces, found.forces, atol=1e-8)

    said = f"{artifact.path} leaves reciprocal vectors with a coordinate above n_max = 2 out"
    assert caplog.text.count(said) == 1
    assert "boxes up to 6 A have none" in caplog.text
    system_for(artifact, atoms, **options)
    assert caplog.text.count(said) == 1


@pytest.mark.parametrize("is_periodic", [True, False])
def test_the_other_periodicity_is_warned_of_once(tmp_path, is_periodic, caplog):
    artifact = artifact_with(tmp_path, is_periodic=is_periodic, n_max=10)
    structures = {periodic: waters(2, 2, 2, periodic=periodic) for periodic in (True, False)}
    with caplog.at_level(logging.WARNING):
        system_for(artifact, structures[is_periodic])
        assert str(artifact.path) not in caplog.text
        for _ in range(2):
            system_for(artifact, structures[not is_periodic])
    kinds = ["periodic systems", "systems that are not periodic"]
    trained, used = kinds if is_periodic else reversed(kinds)
    said = f"was trained for the long-range energy of {trained} (is_periodic), and is used for "
    assert caplog.text.count(f"{said}{used}") == 1


@pytest.mark.parametrize("les", [{"n_max": 0}, {"n_max": 2.0}, {"is_periodic": 1}])
def test_wrong_values_are_refused(tmp_path, les):
    with pytest.raises(InputError, match=rf"les.{next(iter(les))}: "):
        artifact_with(tmp_path, **les)
