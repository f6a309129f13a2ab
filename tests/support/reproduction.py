"""Comparison with reference values: what the original code says of a model."""

import numpy as np
import pytest
import torch
from support.gradients import system_for
from support.helpers import atoms_of

from openmm_les import artifact as artifacts

#: Energy [eV/atom], force [eV/A] and charge [e] tolerances of the project.
TOLERANCES = {"float32": (1e-6, 1e-4, 1e-5), "float64": (1e-9, 1e-8, 1e-9)}
PRECISION = {"float32": "single", "float64": "double"}


def true_forces(reference):
    """Forces [eV/A]; MatGL's own with DGL lack the derivative of the angles."""
    return reference.get("forces_true_gradient", reference["forces"])


def true_les_energy(reference) -> float:
    """The long-range part of the energy [eV]; MatGL scales it with the rest."""
    if "les_energy" in reference:
        return float(reference["les_energy"])
    return float(reference["data_std"] * reference["les_energy_unscaled"])


def assert_reproduced(reference, energy, forces, charges, dtype) -> None:
    """Energy with isolated atoms [eV], forces [eV/A] and latent charges [e] are the reference's."""
    energy_tolerance, force_tolerance, charge_tolerance = TOLERANCES[dtype]
    n = len(reference["numbers"])
    assert abs(energy - float(reference["energy"])) / n < energy_tolerance
    np.testing.assert_allclose(forces, true_forces(reference), rtol=0, atol=force_tolerance)
    np.testing.assert_allclose(charges, reference["latent_charges"], rtol=0, atol=charge_tolerance)


#: Names of `LatentMoments`, and of reference values.
MOMENTS = {
    "charges": "latent_charges_permanent",
    "dipoles": "latent_dipoles_permanent",
    "quadrupoles": "latent_quads",
    "kappa": "latent_kappas",
    "alpha": "latent_alphas",
    "induced_charges": "induced_charges",
    "induced_dipoles": "induced_dipoles",
}


def assert_moments(reference, moments, dtype) -> None:
    """Moments and their response are the reference's; there are no others."""
    tolerance = {"float32": 1e-5, "float64": 1e-9}[dtype]
    for ours, theirs in MOMENTS.items():
        found = getattr(moments, ours)
        assert (found is None) == (theirs not in reference), ours
        if found is not None:
            atol = tolerance * np.abs(reference[theirs]).max()
            np.testing.assert_allclose(found, reference[theirs], rtol=0, atol=atol, err_msg=ours)


def portable_reproduces(path, references, dtype) -> None:
    """The TorchScript module in an artifact has the reference values."""
    module = torch.jit.load(str(path))
    for reference in references:
        energy, forces, charges = module(
            torch.tensor(reference["positions"]),
            torch.tensor(reference["numbers"]),
            torch.tensor(reference["cell"]),
            bool(reference["pbc"].any()),
        )
        assert_reproduced(reference, float(energy), forces.numpy(), charges.numpy(), dtype)


def system_model_reproduces(path, references, dtype) -> None:
    """What runs has the reference values; where they have a ``stress``, that too."""
    artifact = artifacts.load(path)
    for reference in references:
        system = system_for(artifact, atoms_of(reference), PRECISION[dtype])
        got = system.evaluate(reference["positions"])
        energy = got.energy + system.reference_energy
        assert_reproduced(reference, energy, got.forces, got.charges, dtype)
        if MOMENTS["charges"] in reference:
            assert_moments(reference, got.moments, dtype)
        atol = {"float32": 1e-6, "float64": 1e-9}[dtype] * len(reference["numbers"])
        assert got.les_energy == pytest.approx(true_les_energy(reference), abs=atol)
        if "stress" in reference:
            atol = 1e-9 if dtype == "float64" else 1e-6
            stress = got.virial / np.linalg.det(reference["cell"])
            np.testing.assert_allclose(stress, reference["stress"], rtol=0, atol=atol)
