"""What `training` makes of the demonstration models, beside mace-torch and what runs."""

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


@pytest.fixture
def model(network):
    return torch.load(network.demo.HERE / "les-demo.model", weights_only=False)


@pytest.fixture
def batch(network):
    generator = np.random.default_rng(3)
    numbers = np.array([6, 1, 1, 8, 7, 1, 6, 1])
    r = generator.normal(scale=1.5, size=(8, 3)).astype(np.float32)
    row = network.dataset.row_of("", numbers, r, np.zeros_like(r), 0.0)
    return network.dataset.collate([row], np.zeros(len(network.ELEMENTS)))


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


def test_a_wider_network_gives_the_same(network, model, batch, monkeypatch):
    monkeypatch.setattr(network.demo, "CHANNELS", 56)
    monkeypatch.setattr(network.demo, "RADIAL", 52)
    monkeypatch.setattr(network.demo, "READOUT", 36)
    wider = network.demo.build(1.0, 1.0)
    network.demo.take_weights(wider, model)
    block = wider.atomic_energies_fn
    block.atomic_energies = model.atomic_energies_fn.atomic_energies
    expected = model(batch, compute_force=True)
    found = wider(batch, compute_force=True)
    assert expected["forces"].abs().max() > 0.1
    for name in ("energy", "forces", "latent_charges"):
        torch.testing.assert_close(found[name], expected[name], rtol=1e-4, atol=1e-4)


def test_energies_relative_to_other_references(network, model, batch):
    expected = model(batch, compute_force=True)
    references = np.array([-13.0, -55.0, -80.0, -110.0])
    network.demo.take_references(model, references)
    found = model(batch, compute_force=True)
    difference = (expected["energy"] - found["energy"]).item()
    assert difference == pytest.approx(references[batch["node_attrs"].argmax(1)].sum(), abs=1e-3)
    for name in ("forces", "latent_charges"):
        torch.testing.assert_close(found[name], expected[name], rtol=1e-4, atol=1e-4)
