"""Dipoles, polarization and Born effective charges of models."""

import dataclasses
import logging

import ase.io
import numpy as np
import pytest
import torch
from ase.calculators.calculator import PropertyNotImplementedError
from support.gradients import system_for
from support.helpers import DATA, DIPEPTIDE_MODEL, WATER_MODEL, shared_file
from support.response import SKEWED, artifact_with, finite_differences, peptide

from openmm_les import InputError, SimulationError, catalog
from openmm_les import artifact as artifacts
from openmm_les.ase import LESCalculator
from openmm_les.electrostatics.embedding import Surroundings
from openmm_les.evaluation.response import polarization_change
from openmm_les.evaluation.system_model import SystemModel


@pytest.fixture(scope="module")
def demo():
    return artifacts.load(catalog.artifact_path("les-demo"))


# ------------------------------------------------------------------ against finite differences


@pytest.mark.parametrize("remove_mean", [True, False])
@pytest.mark.parametrize("periodic", [False, True])
def test_born_charges_are_derivatives_of_the_polarization(demo, tmp_path, periodic, remove_mean):
    les = {"bec_remove_mean": remove_mean, "bec_epsilon_factor": 1.8}
    artifact = artifact_with(demo, tmp_path / "x.les.pt", **les)
    structure = peptide(periodic)
    structure.positions += 5.0  # without a mean removed, the dipole depends on the origin
    model = system_for(artifact, structure)
    got = model.response(structure.positions)
    for atom in (0, 7, 21):
        expected = finite_differences(model, structure, atom)
        np.testing.assert_allclose(got.born_charges[atom], expected, rtol=0, atol=1e-6)
    assert np.abs(got.born_charges - got.born_charges.transpose(0, 2, 1)).max() > 0.01


def test_dipole_and_charges_of_an_open_system(demo, tmp_path):
    """Sign, permittivity and removed mean, as the artifact states them."""
    structure = peptide()
    latent = system_for(demo, structure).evaluate(structure.positions).charges
    for sign, epsilon, remove in ((1, 1.0, True), (-1, 2.25, True), (-1, 4.0, False)):
        les = {"bec_remove_mean": remove, "bec_epsilon_factor": epsilon}
        artifact = artifact_with(demo, tmp_path / f"{epsilon}.les.pt", sign, **les)
        got = system_for(artifact, structure).response(structure.positions)
        expected = sign * np.sqrt(epsilon) * (latent - remove * latent.mean())
        np.testing.assert_allclose(got.charges, expected, atol=1e-12)
        np.testing.assert_allclose(got.dipole, expected @ structure.positions, atol=1e-11)
        # A translation carries the charges with it.
        total = got.charges.sum() * np.eye(3)
        np.testing.assert_allclose(got.acoustic_sum, total, atol=1e-11)


def test_dipoles_and_born_charges_are_those_of_dft(exported):
    """In sign, size and order of the axes: the file has the transpose of DFT's response."""
    file = shared_file(DATA / "spice_dipeptides_val.xyz")
    artifact = artifacts.load(exported(DIPEPTIDE_MODEL))
    for atoms in ase.io.read(file, index=":3"):
        got = system_for(artifact, atoms, "single").response(atoms.positions)
        dft = atoms.arrays["bec"].reshape(-1, 3, 3)
        right, wrong = (
            np.corrcoef(got.born_charges.ravel(), z.ravel())[0, 1]
            for z in (dft.transpose(0, 2, 1), dft)
        )
        assert right > 0.96
        assert wrong < right - 0.01
        assert np.abs(got.dipole - atoms.calc.results["dipole"][0]).max() < 0.25


# ------------------------------------------------------------------ symmetries, periodic systems


def test_translation_rotation_order_and_images_do_not_matter(demo):
    structure = peptide(periodic=True)
    r, cell = structure.positions, structure.cell.array
    expected = system_for(demo, structure).response(r).born_charges
    moved = system_for(demo, structure).response(r + [3.0, -40.0, 0.7]).born_charges
    np.testing.assert_allclose(moved, expected, atol=1e-10)

    images = np.random.default_rng(0).integers(-2, 3, r.shape) @ cell
    shifted = system_for(demo, structure).response(r + images).born_charges
    np.testing.assert_allclose(shifted, expected, atol=1e-10)

    turned = structure.copy()
    turned.rotate(77, (1, 2, 3), rotate_cell=True)
    rotation = np.linalg.solve(cell, turned.cell.array).T
    got = system_for(demo, turned).response(turned.positions).born_charges
    np.testing.assert_allclose(got, rotation @ expected @ rotation.T, atol=1e-10)

    order = np.random.default_rng(1).permutation(len(r))
    got = system_for(demo, structure[order]).response(r[order]).born_charges
    np.testing.assert_allclose(got, expected[order], atol=1e-10)


def test_a_large_box_is_an_open_system(demo):
    """The periodic formula replaces r by L sin(2 pi r / L) / 2 pi: an error of order 1 / L^2."""
    structure = peptide()
    expected = system_for(demo, structure).response(structure.positions).born_charges
    errors = []
    for scale in (4.0, 8.0):
        structure.set_cell(SKEWED * scale)
        structure.pbc = True
        # The latent charges are those of the network, which sees no images here.
        got = system_for(demo, structure).response(structure.positions).born_charges
        errors.append(np.abs(got - expected).max())
    assert errors[1] < 0.03
    assert errors[0] / errors[1] == pytest.approx(4.0, rel=0.2)


def test_acoustic_sum_of_a_liquid(exported):
    """As cells grow, it becomes minus the strain derivative of the sum of latent charges."""
    frame = ase.io.read(shared_file(DATA / "water_rpbe_d3_test.xyz"))
    artifact, n = artifacts.load(exported(WATER_MODEL)), len(frame)
    sums = []
    for repeats in (1, 2):
        water = frame.repeat(repeats)
        got = system_for(artifact, water, "single").response(water.positions)
        sums.append(got.acoustic_sum[0, 0] / len(water))
    model, ends = system_for(artifact, frame), []
    for strain in (1e-4, -1e-4):
        stretch = np.diag([1.0 + strain, 1.0, 1.0])
        charges = model.evaluate(frame.positions @ stretch, frame.cell.array @ stretch).charges
        ends.append(artifact.metadata["charge_sign"] * charges.sum() / n)
    limit = -(ends[0] - ends[1]) / 2e-4
    extrapolated = sums[1] + (sums[1] - sums[0]) / 3  # of errors as 1 / L^2
    assert sums[0] > 10 * limit
    assert extrapolated == pytest.approx(limit, abs=0.1 * sums[0])


# ------------------------------------------------------------------ ways of running


@pytest.mark.parametrize("periodic", [False, True])
def test_single_precision_and_static_shapes(demo, periodic):
    structure = peptide(periodic)
    expected = system_for(demo, structure).response(structure.positions)
    got = system_for(demo, structure, "single", static_shapes=True, to_gpu=True)
    for _ in range(3):  # TorchScript optimises what it has seen
        again = got.response(structure.positions)
    np.testing.assert_allclose(again.born_charges, expected.born_charges, atol=2e-5)
    np.testing.assert_allclose(again.charges, expected.charges, atol=1e-6)


def test_buffers_grow(demo):
    structure = peptide(periodic=True)
    expected = system_for(demo, structure).response(structure.positions).born_charges
    model = system_for(demo, structure, max_neighbors=2)
    np.testing.assert_allclose(model.response(structure.positions).born_charges, expected)
    assert model.capacity > 2
    # Far beyond the box that the buffers were made for, and back.
    compressed = structure.copy()
    compressed.set_cell(SKEWED * 0.5)  # atoms stay where they are, images come near
    fresh = system_for(demo, compressed).response(compressed.positions).born_charges
    got = model.response(structure.positions, compressed.cell.array).born_charges
    np.testing.assert_allclose(got, fresh, atol=1e-10)
    got = model.response(structure.positions, SKEWED).born_charges
    np.testing.assert_allclose(got, expected, atol=1e-10)


def test_response_leaves_energies_alone(demo):
    structure = peptide(periodic=True)
    model = system_for(demo, structure)
    before = model.evaluate(structure.positions)
    model.response(structure.positions)
    after = model.evaluate(structure.positions)
    assert after.energy == before.energy
    np.testing.assert_array_equal(after.forces, before.forces)


# ------------------------------------------------------------------ paths


def test_polarization_along_a_path_of_a_molecule(demo):
    """Born charges integrate to the difference of dipoles, with an error of second order."""
    start = peptide()
    model = system_for(demo, start, max_neighbors=30)
    way = np.random.default_rng(0).normal(0, 0.1, start.positions.shape)
    errors = []
    for steps in (6, 12):
        path = [start.positions + way * x for x in np.linspace(0, 1, steps + 1)]
        responses = [model.response(r) for r in path]
        expected = np.array([x.dipole - responses[0].dipole for x in responses])
        np.testing.assert_allclose(polarization_change(responses, path), expected, atol=1e-12)
        as_periodic = [dataclasses.replace(x, dipole=None) for x in responses]
        got = polarization_change(as_periodic, path)
        assert not got[0].any()
        errors.append(np.abs(got[-1] - expected[-1]).max())
    assert errors[0] < 0.01 * np.abs(expected[-1]).max()
    assert errors[0] / errors[1] == pytest.approx(4.0, rel=0.1)


def test_translated_crystal(demo):
    structure = peptide(periodic=True)
    model = system_for(demo, structure)
    path = [structure.positions + [0.4 * i, 0.0, -0.3 * i] for i in range(3)]
    responses = [model.response(r) for r in path]
    got = polarization_change(responses, path)
    np.testing.assert_allclose(got[2], responses[0].acoustic_sum @ [0.8, 0.0, -0.6], atol=1e-9)


@pytest.mark.parametrize("lengths", [(0, 0), (1, 2), (2, 1)])
def test_paths_that_do_not_fit(demo, lengths):
    structure = peptide()
    response = system_for(demo, structure).response(structure.positions)
    responses, path = (
        [x] * n for x, n in zip((response, structure.positions), lengths, strict=True)
    )
    with pytest.raises(InputError, match="positions: expected one array of shape"):
        polarization_change(responses, path)
    with pytest.raises(InputError, match="positions: expected one array of shape"):
        polarization_change([response], [structure.positions[:3]])


# ------------------------------------------------------------------ what is refused, what is told


def test_sign_that_is_not_known_is_told_once(demo, tmp_path, caplog):
    structure = peptide()
    model = system_for(artifact_with(demo, tmp_path / "x.les.pt", None), structure)
    with caplog.at_level(logging.WARNING, "openmm_les"):
        got = [model.response(structure.positions) for _ in range(2)]
    assert [r.message.count("does not state the sign") for r in caplog.records] == [1]
    latent = model.evaluate(structure.positions).charges
    np.testing.assert_allclose(got[0].charges, latent - latent.mean(), atol=1e-12)


def test_mm_charges_are_refused(demo):
    structure = peptide()
    around = Surroundings([0.5], "NoCutoff", total=0.0, sign=1.0)
    positions = np.concatenate([structure.positions, [[0.0, 0.0, 30.0]]])
    model = SystemModel(demo, structure.numbers, periodic=False, surroundings=around)
    with pytest.raises(InputError, match=r"surroundings: expected none .* got 1 MM charges"):
        model.response(positions)


def test_structures_without_a_response(demo):
    structure = peptide(periodic=True)
    model, r = system_for(demo, structure), structure.positions
    with pytest.raises(SimulationError, match="positions or box vectors are NaN"):
        model.response(r * np.nan)
    with pytest.raises(SimulationError, match="two atoms are at the same place"):
        model.response(r[[0, *range(21)]])
    with pytest.raises(InputError, match=r"positions: expected shape \(22, 3\), got \(3, 3\)"):
        model.response(r[:3])
    for method in (model.response, model.evaluate):
        with pytest.raises(InputError, match=r"cell: expected box vectors of shape \(3, 3\)"):
            method(r, [11.0, 11.0, 11.0])


# ------------------------------------------------------------------ ASE


def test_ase_calculator(demo):
    structure = peptide()
    structure.calc = LESCalculator(demo.path)
    expected = system_for(demo, structure).response(structure.positions)
    forces = structure.get_forces()
    kept = structure.calc.results["forces"]
    assert not {"dipole", "born_effective_charges"} & set(structure.calc.results)
    np.testing.assert_allclose(structure.get_dipole_moment(), expected.dipole, atol=1e-10)
    born = structure.calc.get_property("born_effective_charges", structure)
    np.testing.assert_allclose(born, expected.born_charges, atol=1e-10)
    # Neither computed anything a second time.
    assert structure.calc.results["forces"] is kept
    structure.positions[0] += 0.1
    moved = structure.calc.get_property("born_effective_charges", structure)
    assert np.abs(moved - born).max() > 1e-4
    assert np.abs(structure.get_forces() - forces).max() > 1e-3


def test_ase_calculator_of_a_periodic_structure(demo):
    structure = peptide(periodic=True)
    structure.calc = LESCalculator(demo.path)
    with pytest.raises(PropertyNotImplementedError, match="dipole: that of a periodic structure"):
        structure.get_dipole_moment()
    born = structure.calc.get_property("born_effective_charges", structure)
    expected = system_for(demo, structure).response(structure.positions).born_charges
    np.testing.assert_allclose(born, expected, atol=1e-10)
    assert np.isfinite(structure.get_potential_energy())


def test_scripted_module_can_be_saved(demo, tmp_path):
    """It is plain TorchScript: no Python is left in it."""
    structure = peptide(periodic=True)
    model = system_for(demo, structure)
    expected = model.response(structure.positions)
    torch.jit.save(model._response_module, tmp_path / "x.pt")
    loaded = torch.jit.load(tmp_path / "x.pt")
    with torch.no_grad():
        _, born, _, _, status = loaded(torch.tensor(structure.positions), torch.tensor(SKEWED))
    assert int(status) == 0
    np.testing.assert_allclose(born, expected.born_charges, atol=1e-12)
