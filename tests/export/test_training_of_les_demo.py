"""What `training/les_demo` does to weights, compared with mace-torch."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

TRAINING = Path(__file__).parents[2] / "training" / "les_demo"


@pytest.fixture
def train(monkeypatch):
    """The program; it registers names of the les package, which are taken back."""
    pytest.importorskip("mace", reason="needs mace-torch")
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(TRAINING))
    import train

    yield train
    for name in set(sys.modules) - before:
        if name.partition(".")[0] in {"les", "train"}:
            del sys.modules[name]


@pytest.fixture
def model(train):
    train.build(1.0, 1.0)  # imports mace, without its warnings
    return torch.load(TRAINING / "les-demo.model", weights_only=False)


@pytest.fixture
def batch(train):
    generator = np.random.default_rng(3)
    numbers = np.array([6, 1, 1, 8, 7, 1, 6, 1])
    r = generator.normal(scale=1.5, size=(8, 3)).astype(np.float32)
    from dataset import row_of

    row = row_of("", numbers, r, np.zeros_like(r), 0.0)
    return train.collate([row], np.zeros(len(train.ELEMENTS)))


def test_a_wider_network_gives_the_same(train, model, batch, monkeypatch):
    monkeypatch.setattr(train, "CHANNELS", 56)
    monkeypatch.setattr(train, "RADIAL", 52)
    monkeypatch.setattr(train, "READOUT", 36)
    wider = train.build(1.0, 1.0)
    train.take_weights(wider, model)
    block = wider.atomic_energies_fn
    block.atomic_energies = model.atomic_energies_fn.atomic_energies
    expected = model(batch, compute_force=True)
    found = wider(batch, compute_force=True)
    assert expected["forces"].abs().max() > 0.1
    for name in ("energy", "forces", "latent_charges"):
        torch.testing.assert_close(found[name], expected[name], rtol=1e-4, atol=1e-4)


def test_energies_relative_to_other_references(train, model, batch):
    expected = model(batch, compute_force=True)
    references = np.array([-13.0, -55.0, -80.0, -110.0])
    train.take_references(model, references)
    found = model(batch, compute_force=True)
    difference = (expected["energy"] - found["energy"]).item()
    assert difference == pytest.approx(references[batch["node_attrs"].argmax(1)].sum(), abs=1e-3)
    for name in ("forces", "latent_charges"):
        torch.testing.assert_close(found[name], expected[name], rtol=1e-4, atol=1e-4)
