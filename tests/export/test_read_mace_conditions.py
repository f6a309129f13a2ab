"""MACE files with `embedding_specs`: total charge, spin and other inputs of a model."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from openmm_les_export import read_model
from openmm_les_export.checkpoints.unpickle import open_model
from openmm_les_export.families.dispatch import canonical_model, reference_model
from openmm_les_export.options import ModelOptions
from openmm_les_export.verification.compare import TOLERANCES, system_paths
from openmm_les_export.verification.probes import probes_for
from oracles.models import needs_mace
from support.conditions import IN_CONDITIONS, MODEL, artifact_of

from openmm_les.errors import LESError, UnsupportedModelError, VerificationError
from openmm_les.evaluation.options import EvaluationOptions
from openmm_les.evaluation.systems import SystemModels
from openmm_les.networks.conditions import neutral_conditions

pytestmark = needs_mace(pytest.mark.filterwarnings("default"))


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    from oracles.mace_models import synthetic_model

    return synthetic_model(tmp_path_factory.mktemp("conditions"), **MODEL)


def test_energies_forces_and_charges_are_those_of_mace_torch(file):
    """Of its whole model without LES, and of its blocks with it."""
    from oracles.mace_models import original_short_range

    opened = open_model(file)
    canonical = canonical_model(opened, ModelOptions())
    reference = reference_model(opened, canonical)
    models = SystemModels(artifact_of(canonical, file), EvaluationOptions("double"))
    energies = []
    for atoms, conditions in IN_CONDITIONS:
        cell = atoms.cell.array if atoms.pbc.all() else None
        model = models.model_for(atoms.numbers, atoms.positions, cell, conditions)
        got = model.evaluate(atoms.positions, cell)
        energy = got.energy + model.reference_energy
        where = atoms.positions, atoms.numbers, cell
        every = np.ones(len(atoms))
        given = neutral_conditions(canonical.hyper) | conditions
        given |= {name: given[name] * every for name in ("label", "charges")}
        short_range, charges = original_short_range(MODEL, *where, **given)
        assert energy - got.les_energy == pytest.approx(short_range, abs=1e-9 * len(atoms))
        np.testing.assert_allclose(got.charges, charges, atol=1e-9)
        expected = reference.under(given).evaluate(*where)
        assert energy == pytest.approx(expected.energy, abs=1e-9 * len(atoms))
        np.testing.assert_allclose(got.forces, expected.forces, atol=1e-8)
        energies.append(energy)
    of_one_structure = np.array(energies[:-1])
    apart = np.abs(of_one_structure[:, None] - of_one_structure)[
        np.triu_indices(len(energies) - 1, 1)
    ]
    assert apart.min() > 1e-3


def test_verification_sees_a_wrong_state(file):
    """A table that is wrong for one class alone, which is not the default."""
    opened = open_model(file)
    canonical = canonical_model(opened, ModelOptions())
    reference = reference_model(opened, canonical)
    probes = [probe for probe in probes_for(canonical) if probe.conditions]
    assert len({probe.conditions["total_charge"] for probe in probes}) == 2
    expected = [
        (
            probe,
            reference.under(probe.conditions).evaluate(probe.positions, probe.numbers, probe.cell),
        )
        for probe in probes[:1]
    ]
    table = canonical.state["conditions.0.table"].clone()
    table[int(probes[0].conditions["total_charge"]) + 3] += 1e-3
    wrong = dataclasses.replace(canonical, state={**canonical.state, "conditions.0.table": table})
    for model, fails in ((canonical, False), (wrong, True)):
        (path,) = (p for p in system_paths(artifact_of(model, file)) if p.name == "double direct")
        if fails:
            with pytest.raises(VerificationError, match="in other conditions' differs by"):
                path.largest_errors(expected, canonical.les)
        else:
            errors = path.largest_errors(expected, canonical.les)
            assert errors["force"] < TOLERANCES["float64"].force


def test_form_of_conditions(file):
    model = read_model(file)
    assert model.hyper["conditions"] == [
        {"name": "total_charge", "per": "system", "classes": 7, "lowest": -3, "default": 0.0},
        {"name": "total_spin", "per": "system", "classes": 4, "lowest": 0, "default": 1.0},
        {"name": "elec_temp", "per": "system", "default": 0.0},
        {"name": "charges", "per": "atom", "default": 0.0},
        {"name": "label", "per": "atom", "classes": 3, "lowest": 0, "key": "my_label"},
    ]
    shapes = {name: tuple(each.shape) for name, each in model.state.items() if "condition" in name}
    assert shapes == {
        "conditions.0.table": (7, 2),
        "conditions.1.table": (4, 2),
        "conditions.4.table": (3, 2),
        "conditions.2.0.weight": (1, 3),
        "conditions.2.0.bias": (3,),
        "conditions.2.1.weight": (3, 2),
        "conditions.2.1.bias": (2,),
        "conditions.3.0.weight": (1, 2),
        "conditions.3.0.bias": (2,),
        "conditions.3.1.weight": (2, 2),
        "conditions.3.1.bias": (2,),
        "condition_energy": (2, 1),
    }
    model.check()


@pytest.mark.parametrize(
    ("name", "change", "named"),
    [
        ("elec_temp", {"in_dim": 3}, "specs.elec_temp.in_dim: expected 1, got 3"),
        ("total_charge", {"per": "edge"}, "expected 'graph' or 'atom', got 'edge'"),
        ("total_charge", {"offset": 0.5}, "offset: expected an integer, got 0.5"),
        ("total_charge", {"scaled": True}, "specs.total_charge.scaled"),
    ],
)
def test_what_is_not_known_is_refused_by_name(file, name, change, named):
    opened = open_model(file)
    specs = opened.root.module("joint_embedding").state["specs"]
    specs[name] = specs[name] | change
    with pytest.raises(UnsupportedModelError) as caught:
        canonical_model(opened, ModelOptions())
    assert named in str(caught.value)


def test_weights_that_do_not_fit(file):
    opened = open_model(file)
    embedder = opened.root.module("joint_embedding.embedders.total_charge")
    embedder.state["_parameters"]["weight"] = torch.zeros(7, 4)
    with pytest.raises(LESError, match=r"joint_embedding.project: expected a map from 13 numbers"):
        canonical_model(opened, ModelOptions())
