"""Specialisation to one system: capacities, boxes, statuses, errors."""

import numpy as np
import pytest
import torch
from support.helpers import dipeptide, water_frame
from support.structures import waters

from openmm_les import artifact as artifacts
from openmm_les.errors import InputError, SimulationError
from openmm_les.evaluation import checks
from openmm_les.evaluation.diagnosis import coincident_pair
from openmm_les.evaluation.status import (
    STATUS_BOX,
    STATUS_COINCIDENT,
    STATUS_OVERFLOW,
    STATUS_POSITIONS,
    describe_status,
)
from openmm_les.evaluation.system_model import SystemModel


def water_model(path, atoms=None, **options) -> tuple[SystemModel, np.ndarray, np.ndarray]:
    atoms = water_frame(0) if atoms is None else atoms
    options = {"positions": atoms.positions, "precision": "double"} | options
    model = SystemModel(
        artifacts.load(path), atoms.numbers, periodic=True, cell=atoms.cell.array, **options
    )
    return model, atoms.positions, atoms.cell.array


def raw(model, positions, cell):
    return model.module(torch.tensor(positions), torch.tensor(cell))


def test_overflow_is_flagged_never_truncated_and_evaluate_grows(water_artifact):
    expected, r, cell = water_model(water_artifact)
    small, _, _ = water_model(water_artifact, max_neighbors=20)
    energy, forces, _, _, status = raw(small, r, cell)
    assert int(status) == STATUS_OVERFLOW
    assert torch.isnan(energy)
    assert torch.isnan(forces).all()
    assert "maxNeighbors" in describe_status(int(status))
    assert small.evaluate(r).energy == pytest.approx(expected.evaluate(r).energy, abs=1e-10)
    assert small.capacity > 20


def test_capacity_without_positions_grows_to_the_same_result(water_artifact):
    expected, r, _ = water_model(water_artifact)
    blind, _, _ = water_model(water_artifact, positions=None)
    np.testing.assert_allclose(blind.evaluate(r).forces, expected.evaluate(r).forces, atol=1e-11)


def test_capacity_grows_with_what_a_shrinking_box_brings_near(water_artifact):
    """A barostat may add neighbours without moving an atom: they are images of the new box."""
    artifact, r, cell = artifacts.load(water_artifact), np.zeros((1, 3)), np.eye(3) * 4.6
    model = SystemModel(artifact, [8], periodic=True, cell=cell, positions=r)
    model.evaluate(r)
    assert model.capacity < 6
    forces = model.evaluate(r, cell * 0.96).forces  # six images are inside the cutoff now
    np.testing.assert_allclose(forces, 0, atol=1e-5)
    assert model.capacity >= 6


@pytest.mark.parametrize("factor", [0.87, 0.97, 1.03, 1.14])
def test_box_changes_within_the_margin_need_no_new_buffers(water_artifact, factor):
    model, r, cell = water_model(water_artifact, max_neighbors=80)
    scale = factor ** (1 / 3)
    module = model.module
    got = model.evaluate(r * scale, cell * scale)
    assert model.module is module
    fresh = SystemModel(
        model.artifact, model.numbers, periodic=True, cell=cell * scale, precision="double"
    )
    assert got.energy == pytest.approx(fresh.evaluate(r * scale).energy, abs=1e-9)


@pytest.mark.parametrize("factor", [0.3, 2.0])
def test_box_changes_beyond_the_margin_make_new_buffers(water_artifact, factor):
    atoms = waters(4, 4, 4)  # in a box whose images begin to count when it shrinks
    model, r, cell = water_model(water_artifact, atoms, max_neighbors=190)
    scale = factor ** (1 / 3)
    energy, _, _, _, status = raw(model, r * scale, cell * scale)
    assert int(status) & STATUS_BOX
    assert torch.isnan(energy)
    got = model.evaluate(r * scale, cell * scale)
    fresh = SystemModel(
        model.artifact, model.numbers, periodic=True, cell=cell * scale, precision="double"
    )
    assert got.energy == pytest.approx(fresh.evaluate(r * scale).energy, abs=1e-9)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_positions_that_are_not_finite_stop(water_artifact, value):
    model, r, cell = water_model(water_artifact)
    r = r.copy()
    r[5, 1] = value
    assert int(raw(model, r, cell)[4]) & STATUS_POSITIONS
    with pytest.raises(SimulationError, match="NaN or infinite"):
        model.evaluate(r)


def test_box_vectors_that_are_not_finite_stop(water_artifact):
    model, r, cell = water_model(water_artifact)
    with pytest.raises(SimulationError, match="NaN or infinite"):
        model.evaluate(r, cell * np.nan)


def test_two_atoms_at_one_place_stop(dipeptide_artifact):
    atoms = dipeptide(0)
    model = SystemModel(artifacts.load(dipeptide_artifact), atoms.numbers, periodic=False)
    r = atoms.positions.copy()
    r[3] = r[8]
    status = raw(model, r, np.zeros((3, 3)))[4]
    assert int(status) & STATUS_COINCIDENT
    with pytest.raises(SimulationError, match="two atoms are at the same place"):
        model.evaluate(r)
    assert np.isfinite(model.evaluate(atoms.positions).energy)  # the model still works


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"numbers": []}, "at least one atom"),
        ({"numbers": [8, 79, 1, 79]}, r"knows H, C, N, O, but the structure has Au \(atoms 1, 3\)"),
        ({"precision": "half"}, "precision: expected 'single' or 'double', got 'half'"),
        ({"max_neighbors": 0}, "maxNeighbors: expected an integer of at least 1, got 0"),
        ({"periodic": True, "cell": None}, "three finite box vectors"),
        ({"periodic": True, "cell": np.eye(2)}, "three finite box vectors"),
        ({"periodic": True, "cell": np.diag([9.0, 9.0, np.nan])}, "three finite box vectors"),
        ({"periodic": True, "cell": np.diag([9.0, 9.0, -9.0])}, "right-handed box"),
        ({"periodic": True, "cell": np.zeros((3, 3))}, "right-handed box"),
        ({"periodic": True, "cell": np.diag([9.0, 9.0, 1.0])}, "faces are 1.000 A apart"),
        ({"positions": np.zeros((2, 3))}, r"positions: expected shape \(3, 3\), got \(2, 3\)"),
    ],
)
def test_arguments_that_cannot_be_used(water_artifact, arguments, message):
    options = {"numbers": [8, 1, 1], "periodic": False} | arguments
    with pytest.raises(InputError, match=message):
        SystemModel(artifacts.load(water_artifact), options.pop("numbers"), **options)


def test_box_that_shrinks_below_the_limit_is_an_error(water_artifact):
    model, r, _ = water_model(water_artifact)
    with pytest.raises(InputError, match="the box is too small"):
        model.evaluate(r, np.diag([12.4, 12.4, 1.0]))


@pytest.mark.parametrize("precision", ["single", "double"])
def test_box_far_larger_than_its_atoms_is_refused(water_artifact, precision):
    """Not with an error of the allocator; also where a box grows to that."""
    artifact, r = artifacts.load(water_artifact), [[0.0, 0, 0], [0.96, 0, 0], [0, 0.96, 0]]
    message = r"the box of .* A is too large for a periodic sum over 3 atoms.*leave the box out"
    for edge in (400.0, 2000.0):
        with pytest.raises(InputError, match=message):
            SystemModel(
                artifact, [8, 1, 1], periodic=True, cell=np.eye(3) * edge, precision=precision
            )
    model = SystemModel(artifact, [8, 1, 1], periodic=True, cell=np.eye(3) * 13.0)
    model.evaluate(r)
    with pytest.raises(InputError, match=message):
        model.evaluate(r, np.eye(3) * 400.0)


def test_edges_on_the_cutoff_are_told_once(water_artifact, caplog, monkeypatch):
    """There the stress is not what a difference of energies gives, and elsewhere it is."""
    monkeypatch.setattr(checks, "_warned_edges", set())
    artifact, atoms = artifacts.load(water_artifact), water_frame(0)[:15]
    r = atoms.positions
    dl = artifact.canonical.les["dl"]

    def agrees(edge):
        model = SystemModel(
            artifact,
            atoms.numbers,
            periodic=True,
            cell=np.eye(3) * edge,
            precision="double",
        )
        slope = np.trace(model.evaluate(r * edge / 12.4).virial)
        energies = [
            model.evaluate(r * edge / 12.4 * scale, np.eye(3) * edge * scale).energy
            for scale in (1 + 1e-5, 1 - 1e-5)
        ]
        return slope == pytest.approx((energies[0] - energies[1]) / 2e-5, rel=1e-3)

    assert not agrees(6 * dl)
    assert caplog.text.count("put reciprocal vectors on the cutoff of the model") == 1
    assert not agrees(6 * dl)
    assert caplog.text.count("put reciprocal vectors") == 1
    assert agrees(6 * dl * 1.002)
    SystemModel(
        artifact,
        [8, 1, 1],
        periodic=True,
        cell=np.eye(3) * 5 * dl,
        lesCutoff="smooth",
    )
    assert caplog.text.count("put reciprocal vectors") == 1


def test_atoms_at_fault_are_named(dipeptide_artifact):
    atoms = dipeptide(0)
    model = SystemModel(artifacts.load(dipeptide_artifact), atoms.numbers, periodic=False)
    r = atoms.positions.copy()
    r[3] = r[8]
    with pytest.raises(SimulationError, match=r"counted from 0: 3, 8\)") as raised:
        model.evaluate(r)
    assert raised.value.atoms == (3, 8)
    r[[2, 5], 1] = np.nan
    with pytest.raises(SimulationError, match=r"counted from 0: 2, 5\)") as raised:
        model.evaluate(r)
    assert raised.value.atoms == (2, 5)
    with pytest.raises(SimulationError, match=r"counted from 0: 0, 1, 2, 3, 4 and 17 more\)"):
        model.evaluate(r * np.nan)


@pytest.mark.parametrize("cell", [None, [[9.0, 0, 0], [4, 8, 0], [-3, 2, 7]]])
def test_coincident_pairs_are_found(cell):
    """In any order, over the faces of the box, not where atoms agree in one coordinate alone."""
    random = np.random.default_rng(0)
    box = None if cell is None else np.array(cell)
    for _ in range(20):
        r = random.uniform(-20.0, 20.0, (200, 3))
        r[:100, 0] = 1.0
        if box is not None:
            r[:50] = r[:50] @ np.linalg.inv(box)
            r[:100, 0] = 1e-9
            r[:50] = r[:50] @ box
        assert coincident_pair(r, box) == []
        one, other = sorted(random.choice(200, 2, replace=False).tolist())
        r[other] = r[one] + random.uniform(-4e-4, 4e-4, 3)
        if box is not None:
            r[other] += random.integers(-2, 3, 3) @ box
        assert coincident_pair(r, box) == [one, other]


def test_charges_do_not_depend_on_order_and_forces_sum_to_zero(water_artifact):
    model, r, _ = water_model(water_artifact)
    got = model.evaluate(r)
    assert np.abs(got.forces.sum(0)).max() < 1e-10
    oxygen = np.array(model.numbers) == 8
    assert (got.charges[oxygen].mean()) * (got.charges[~oxygen].mean()) < 0


def test_status_names_the_basic_cause_first():
    text = describe_status(STATUS_OVERFLOW | STATUS_POSITIONS)
    assert text.index("NaN") < text.index("maxNeighbors")
    assert describe_status(0) == "no error"
