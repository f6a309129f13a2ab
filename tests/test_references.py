"""Artifacts against what the original code says of real trained models, and against DFT labels."""

import ase.io
import numpy as np
import pytest
import torch
from helpers import (
    DATA,
    DIPEPTIDE_MODEL,
    MACE_MODELS,
    WATER_MODEL,
    references,
    shared_file,
)

from openmm_les import artifact as artifacts
from openmm_les.system_model import SystemModel

#: Energy [eV/atom], force [eV/A] and charge [e] tolerances of the project.
TOLERANCES = {"float32": (1e-6, 1e-4, 1e-5), "float64": (1e-9, 1e-8, 1e-9)}
PRECISION = {"float32": "single", "float64": "double"}


def assert_reproduced(reference, energy, forces, charges, dtype):
    energy_tolerance, force_tolerance, charge_tolerance = TOLERANCES[dtype]
    n = len(reference["numbers"])
    assert abs(energy - float(reference["energy"])) / n < energy_tolerance
    np.testing.assert_allclose(forces, reference["forces"], rtol=0, atol=force_tolerance)
    np.testing.assert_allclose(charges, reference["latent_charges"], rtol=0, atol=charge_tolerance)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("model", MACE_MODELS)
def test_portable_module_reproduces_the_original_code(exported, model, dtype):
    module = torch.jit.load(str(exported(model, dtype)))
    for reference in references(model):
        energy, forces, charges = module(
            torch.tensor(reference["positions"]),
            torch.tensor(reference["numbers"]),
            torch.tensor(reference["cell"]),
            bool(reference["pbc"].any()),
        )
        assert_reproduced(reference, float(energy), forces.numpy(), charges.numpy(), dtype)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("model", MACE_MODELS)
def test_system_model_reproduces_the_original_code(exported, model, dtype):
    artifact = artifacts.load(exported(model))
    for reference in references(model):
        periodic = bool(reference["pbc"].any())
        system = SystemModel(
            artifact,
            reference["numbers"],
            periodic=periodic,
            cell=reference["cell"] if periodic else None,
            positions=reference["positions"],
            precision=PRECISION[dtype],
        )
        got = system.evaluate(reference["positions"])
        energy = got.energy + system.reference_energy
        assert_reproduced(reference, energy, got.forces, got.charges, dtype)
        if periodic and "stress_true" in reference:
            stress = got.virial / np.linalg.det(reference["cell"])
            atol = 1e-9 if dtype == "float64" else 1e-6
            np.testing.assert_allclose(stress, reference["stress_true"], rtol=0, atol=atol)


def force_rmse(artifact, frames, label):
    """Force RMSE [meV/A] over frames of one composition or many."""
    squares, models = [], {}
    for atoms in frames:
        key = (tuple(atoms.numbers), tuple(atoms.cell.array.ravel()))
        periodic = bool(atoms.pbc.any())
        if key not in models:
            cell = atoms.cell.array if periodic else None
            models[key] = SystemModel(artifact, atoms.numbers, periodic=periodic, cell=cell)
        squares.append(
            ((models[key].evaluate(atoms.positions).forces - atoms.arrays[label]) ** 2).ravel()
        )
    return 1e3 * np.sqrt(np.concatenate(squares).mean()), 1e3 * np.sqrt(squares[0].mean())


def labelled(name):
    frames = ase.io.read(shared_file(DATA / name), index=":")
    for atoms in frames:
        for label in ("forces", "force"):
            if atoms.calc is not None and label in atoms.calc.results:
                atoms.arrays["label"] = atoms.calc.results[label]
            elif label in atoms.arrays:
                atoms.arrays["label"] = atoms.arrays[label]
    return frames


def test_water_model_has_the_published_error(exported):
    total, first = force_rmse(
        artifacts.load(exported(WATER_MODEL)), labelled("water_rpbe_d3_test.xyz"), "label"
    )
    assert first == pytest.approx(10.9, abs=0.1)
    assert total == pytest.approx(10.3, abs=0.2)


def test_dipeptide_model_has_the_published_error(exported):
    total, _ = force_rmse(
        artifacts.load(exported(DIPEPTIDE_MODEL)), labelled("spice_dipeptides_val.xyz"), "label"
    )
    assert total == pytest.approx(43.5, abs=0.5)
