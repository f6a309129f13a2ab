"""The polarizable model of ``training/les_demo_x``: what was trained is what runs."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from openmm import app
from openmm_les_export import read_model
from support.conditions import artifact_of

from openmm_les.evaluation.system_model import SystemModel

TRAINING = Path(__file__).parents[2] / "training" / "les_demo_x"
MODEL = TRAINING / "les-demo-x.model"
PEPTIDE = Path(__file__).parents[2] / "examples" / "alanine_dipeptide.pdb"


@pytest.fixture
def network(monkeypatch):
    """The module of the training; it registers names of the les package, which are taken back."""
    pytest.importorskip("mace", reason="needs mace-torch")
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(TRAINING))
    import network

    yield network
    for name in set(sys.modules) - before:
        if name.partition(".")[0] in {"les", "network", "train"}:
            del sys.modules[name]


def test_the_energy_that_was_trained_is_the_one_that_runs(network):
    artifact = artifact_of(read_model(MODEL), MODEL)
    pdb = app.PDBFile(str(PEPTIDE))
    numbers = [atom.element.atomic_number for atom in pdb.topology.atoms()]
    r = 10.0 * np.array(pdb.getPositions(asNumpy=True)._value)
    found = SystemModel(artifact, numbers, periodic=False, precision="double").evaluate(r)

    model = network.load(MODEL)
    row = network.dataset.row_of("", np.array(numbers), r, np.zeros_like(r), 0.0)
    batch = network.dataset.collate([row], np.zeros(len(network.ELEMENTS)))
    batch = {name: x.double() if x.is_floating_point() else x for name, x in batch.items()}
    batch["positions"] = torch.tensor(r, requires_grad=True)
    energy = model.energies(batch)[0].sum()
    (gradient,) = torch.autograd.grad(energy, batch["positions"])
    _, charges, alphas = model.latents(batch)
    assert found.energy == pytest.approx(energy.item(), abs=1e-9 * len(numbers))
    np.testing.assert_allclose(found.forces, -gradient.numpy(), atol=1e-8)
    np.testing.assert_allclose(found.moments.charges, charges.detach(), atol=1e-9)
    np.testing.assert_allclose(found.moments.alpha, alphas.detach(), atol=1e-9)
    assert (found.moments.alpha > 0).all()
    assert np.abs(found.moments.induced_dipoles).max() > 1e-3
