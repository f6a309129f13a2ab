"""The coupling of a real model: charges that respond when atoms move."""

import numpy as np
import pytest
import torch
from support.charges import DOUBLE, slope, tensor
from support.helpers import dipeptide

from openmm_les import artifact as artifacts
from openmm_les.electrostatics.embedding import build_coupling
from openmm_les.electrostatics.embedding.charges import ChargeCorrection
from openmm_les.evaluation.system_model import SystemModel
from openmm_les.units import COULOMB_CONSTANT


class Molecule:
    """A dipeptide around the origin, with the charges of a model."""

    def __init__(self, path, charge: float) -> None:
        atoms = dipeptide(0)
        self.positions = atoms.positions - atoms.positions.mean(axis=0)
        artifact = artifacts.load(path)
        self.model = SystemModel(
            artifact, atoms.numbers, periodic=False, positions=self.positions, precision="double"
        )
        self.correction = ChargeCorrection(charge)

    def charges(self, positions) -> torch.Tensor:
        """q' of a structure [e]."""
        return self.correction(tensor(self.model.evaluate(positions).charges))

    def gradient(self, coupling, *surroundings) -> np.ndarray:
        """dE/dr of the molecule's atoms, with the response of its charges [eV/A]."""
        module, r = self.model.module, tensor(self.positions)
        result = coupling(self.charges(self.positions), r, *surroundings)
        potential = self.correction.pull_back(result.potential).index_select(0, module.order)
        r = r.index_select(0, module.order)
        matrix = module.neighbors(r, torch.eye(3, dtype=DOUBLE))
        energies, _, tape = module.network.short_range(r, matrix, module.species, module.counts)
        nothing = torch.zeros_like(energies)
        pulled, _ = module.network.pull_back(nothing, potential, tape, module.counts)
        return (result.gradient + pulled.index_select(0, module.conclusion.original)).numpy()


@pytest.fixture(scope="module", params=[0.0, 1.0])
def molecule(request, dipeptide_artifact) -> Molecule:
    return Molecule(dipeptide_artifact, request.param)


def test_far_field_acts_on_born_effective_charges(molecule):
    """F_ia = sum_b Z*_iab E_b, with Z* = dP_b/dr_ia of the dipole P by finite differences."""
    field = np.array([0.006, -0.009, 0.004])  # eV / (e A)
    strength, distance = np.linalg.norm(field), 1e5
    place = tensor(field / strength * distance)
    charge = strength * distance**2 / (2 * COULOMB_CONSTANT)
    # A charge on either side, so that the field is even and has no gradient.
    surroundings = (tensor([charge, -charge]), torch.stack([-place, place]), torch.eye(3))
    forces = -molecule.gradient(build_coupling("NoCutoff"), *surroundings)

    def dipole(r):
        return molecule.charges(r).numpy() @ r

    forces = forces[:5]  # enough; every entry takes six evaluations of the model
    born = np.zeros((len(forces), 3, 3))
    for i, a in np.ndindex(len(forces), 3):
        direction = np.zeros_like(molecule.positions)
        direction[i, a] = 1.0
        born[i, a] = slope(dipole, molecule.positions, direction, 1e-3)
    np.testing.assert_allclose(forces, born @ field, rtol=0, atol=1e-7 * abs(forces).max())

    size = np.linalg.norm(forces)
    transposed = np.einsum("iba,b->ia", born, field)
    fixed = molecule.charges(molecule.positions).numpy()[:5, None] * field
    assert np.linalg.norm(forces - transposed) > 0.05 * size
    assert np.linalg.norm(forces - fixed) > 0.1 * size


@pytest.mark.parametrize("method", ["NoCutoff", "CutoffPeriodic", "PME"])
def test_forces_are_the_gradient_of_the_coupling(molecule, method):
    random = np.random.default_rng(0)
    cell = np.array([[26.0, 0, 0], [4.0, 25.0, 0], [-6.0, 7.0, 24.0]])
    mm_r = random.uniform(0, 1, (400, 3)) @ cell
    d = molecule.positions[:, None] - mm_r
    d -= np.round(d @ np.linalg.inv(cell)) @ cell
    distance = np.linalg.norm(d, axis=2)
    apart = (distance > 1.5).all(axis=0) & (abs(distance - 9.0) > 0.02).all(axis=0)
    mm_r, cell = tensor(mm_r[apart]), tensor(cell)
    mm_q = tensor(random.normal(-0.02, 0.5, len(mm_r)))
    coupling = build_coupling(method, cell=cell, cutoff=9.0, width=1.0, tolerance=1e-12)
    surroundings = (mm_q, mm_r, cell)

    def energy(r):
        return float(coupling(molecule.charges(r), tensor(r), *surroundings).energy)

    gradient = molecule.gradient(coupling, *surroundings)
    for _ in range(3):
        direction = random.uniform(-1, 1, gradient.shape)
        expected = slope(energy, molecule.positions, direction, 1e-3)
        assert float((gradient * direction).sum()) == pytest.approx(expected, abs=1e-7)
