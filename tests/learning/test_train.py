"""`openmm-les train`: mace-torch's trainer with our LES energy, up to a model that runs."""

import os
import subprocess
import sys

import ase.io
import numpy as np
import pytest
import torch
from ase.build import molecule
from support.helpers import ROOT

import openmm_les
from openmm_les.errors import InputError
from openmm_les.evaluation.system_model import SystemModel
from openmm_les.learning import LES
from openmm_les.learning.stand_in import Les

SMALL = {
    "hidden_irreps": "4x0e",
    "MLP_irreps": "4x0e",
    "num_interactions": 1,
    "correlation": 1,
    "max_ell": 1,
    "num_radial_basis": 4,
    "r_max": 3,
    "max_num_epochs": 1,
    "batch_size": 4,
    "device": "cpu",
    "default_dtype": "float64",
    "seed": 1,
    "plot": False,
    "energy_key": "REF_energy",
    "forces_key": "REF_forces",
    "valid_fraction": 0.25,
    "E0s": "average",
    "train_file": "train.xyz",
    "les_arguments": "les.yaml",
    "name": "tiny",
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The directory of a training of one epoch, and what it printed."""
    folder, random = tmp_path_factory.mktemp("training"), np.random.default_rng(0)
    frames = []
    for i in range(8):
        atoms = molecule("H2O") + molecule("H2O")
        atoms.positions[3:] += [3.0, 0.2, 0.1]
        atoms.rattle(0.05, seed=i)
        if i % 2:
            atoms.set_cell([7.3, 6.9, 6.1])
            atoms.pbc = True
        atoms.info["REF_energy"] = -10.0 + 0.1 * random.normal()
        atoms.arrays["REF_forces"] = random.normal(0.0, 0.5, (6, 3))
        frames.append(atoms)
    ase.io.write(folder / "train.xyz", frames)
    (folder / "les.yaml").write_text("sigma: 1.1\n")
    command = [sys.executable, "-m", "openmm_les", "train", "--"]
    command += [f"--{name}={value}" for name, value in SMALL.items()]
    path = os.pathsep.join((str(ROOT), str(ROOT / "export"), *filter(None, sys.path)))
    done = subprocess.run(
        command,
        cwd=folder,
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return folder, done.stderr


@pytest.mark.mace
def test_the_model_of_a_training_runs(trained):
    """Its file passes the strict reader and the verification, and runs in a box and without."""
    folder, said = trained
    assert "LES energy of openmm-les (MIT)" in said
    openmm_les.export(folder / "tiny.model", folder / "tiny.les.pt", licence="MIT")
    artifact = openmm_les.load_model(folder / "tiny.les.pt")
    assert artifact.metadata["verification"]["status"] == "verified"
    assert artifact.metadata["les"]["sigma"] == 1.1
    for atoms in ase.io.read(folder / "train.xyz", ":2"):
        periodic = bool(atoms.pbc.all())
        cell = atoms.cell.array if periodic else None
        model = SystemModel(artifact, atoms.numbers, periodic=periodic, cell=cell)
        found = model.evaluate(atoms.positions, cell)
        assert np.isfinite(found.energy)
        assert np.abs(found.charges).max() > 1e-4


def test_energies_are_those_of_les():
    random = torch.Generator().manual_seed(0)
    q, r = torch.randn(7, generator=random), 3.0 * torch.randn(7, 3, generator=random)
    batch = torch.tensor([0, 0, 0, 1, 1, 1, 1])
    cell = torch.stack([8.0 * torch.eye(3), torch.zeros(3, 3)])
    found = Les({"sigma": 1.1, "remove_self_interaction": False})(
        latent_charges=q,
        positions=r,
        cell=cell,
        batch=batch,
        compute_energy=True,
        compute_bec=False,
        bec_output_index=None,
    )
    want = LES(sigma=1.1, remove_self_interaction=False)(q, r, batch, cell)
    torch.testing.assert_close(found["E_lr"], want)
    assert found["BEC"] is None
    with pytest.raises(InputError, match="computed by exported models"):
        Les()(q, r, cell, batch, compute_bec=True)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"sigmma": 1.0}, "got sigmma"),
        ({"use_dipole": True}, "use_dipole: not available"),
        ({"is_periodic": False}, "is_periodic: not available"),
        ({"sigma": -1.0}, "expected lengths > 0 A"),
    ],
)
def test_arguments_that_change_the_energy_unseen_are_refused(arguments, expected):
    with pytest.raises(InputError, match=expected):
        Les(arguments)


def test_options_that_are_off_change_nothing():
    off = Les({"use_dipole": False, "compute_bec": None, "is_periodic": None, "N_max": 6})
    assert vars(off.ewald) == vars(Les().ewald)
