"""`openmm-les train`: mace-torch's trainer with our LES energy, up to a model that runs."""

import json
import logging
import os
import shlex
import shutil
import subprocess
import sys

import ase.io
import numpy as np
import pytest
import torch
from ase.build import molecule
from openmm import app, unit
from openmm_les_export import read_model
from support.helpers import ROOT, topology_from_atoms

import openmm_les
from openmm_les import artifact as artifacts
from openmm_les import catalog
from openmm_les.ase import LESCalculator
from openmm_les.cli import main
from openmm_les.errors import InputError
from openmm_les.evaluation.options import EvaluationOptions
from openmm_les.evaluation.system_model import SystemModel
from openmm_les.learning import LES
from openmm_les.learning.losses import NetChargeLoss
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


#: What `trained` runs: the command line several times, then mace-torch's own evaluation.
PROGRAM = """
import json, sys, torch, ase.io, numpy as np
from openmm_les.cli import main
for arguments in json.loads(sys.argv[1]):
    try:
        main(["train", *arguments])
    except SystemExit as stop:
        assert not stop.code, arguments
torch.save(torch.nn.Linear(1, 1), "other.model")
rounded = torch.load("tiny.model", weights_only=False)
rounded.r_max.fill_(3.1)
torch.save(rounded, "rounded.model")
for arguments in json.loads(sys.argv[2]):
    try:
        main(["train", *arguments])
    except SystemExit as stop:
        assert stop.code == 2, arguments
from openmm_les.errors import InputError
from openmm_les.learning.trainer import Training
for arguments, expected in json.loads(sys.argv[3]):
    try:
        Training(arguments).take_constants()
    except InputError as error:
        assert expected in str(error), error
    else:
        assert not expected, arguments
from mace.calculators import MACECalculator
found = {}
for name in ("plain", "neutral"):
    model = torch.load(f"{name}.model", weights_only=False)
    calculator = MACECalculator(models=[model], device="cpu", default_dtype="float64")
    for i, atoms in enumerate(ase.io.read("train.xyz", ":")):
        batch = calculator._atoms_to_batch(atoms).to_dict()
        result = calculator.models[0](batch, compute_bec=True)
        found[f"{name} charges {i}"] = result["latent_charges"].detach().numpy()
        found[f"{name} born {i}"] = result["BEC"].detach().numpy()
np.savez("evaluated.npz", **found)
"""
#: The options of mace-torch for a second training, which starts from the first, in a file.
TUNE = {
    **{name: SMALL[name] for name in SMALL if name not in ("les_arguments", "name")},
    "foundation_model": "tiny.model",
    "max_num_epochs": 10,
    "lr": 0.05,
}
#: And of one of a model that takes the total charge.
OTHER = {"name": "embedded", "config": "embedded.yaml"}
#: A training that changes the first by nothing but energies of isolated atoms.
SHIFT = {"name": "shifted", "lr": 1e-30, "E0s": "{1: -1.0, 8: -5.0}", "max_num_epochs": 1}
EMBEDDED = """
embedding_specs:
  total_charge: {type: continuous, per: graph, in_dim: 1, emb_dim: 2}
"""


def options(values) -> list[str]:
    return [f"--{name}={value}" for name, value in values.items()]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The directory of four small trainings in one process, and what it printed."""
    folder, random = tmp_path_factory.mktemp("training"), np.random.default_rng(0)
    frames = []
    for i in range(8):
        atoms = molecule("H2O") + molecule("H2O")
        atoms.positions[3:] += [3.0, 0.2, 0.1]
        atoms.rattle(0.05, seed=i)
        if i % 2:
            atoms.set_cell([[7.3, 0.0, 0.0], [1.0, 6.9, 0.0], [0.5, -0.8, 6.1]])
            atoms.pbc = True
        atoms.info["REF_energy"] = -10.0 + 0.1 * random.normal()
        atoms.info["total_charge"] = 0
        atoms.arrays["REF_forces"] = random.normal(0.0, 0.5, (6, 3))
        frames.append(atoms)
    ase.io.write(folder / "train.xyz", frames)
    (folder / "les.yaml").write_text("sigma: 1.1\n")
    (folder / "tune.yaml").write_text("".join(f"{k}: {v}\n" for k, v in TUNE.items()))
    (folder / "embedded.yaml").write_text(EMBEDDED)
    runs = [
        ["--", *options(SMALL)],
        ["--", "--config=tune.yaml", "--name=plain"],
        ["--net-charge-weight=100", "--", "--config=tune.yaml", "--name=neutral"],
        ["--net-charge-weight=1", "--", *options(SMALL | OTHER)],
        ["--", *options(TUNE | SHIFT)],
    ]
    start = ["--", "--config=tune.yaml", "--name=refused"]
    others = ("small", "other.model", "les.yaml", "exported.les.pt", "state.pt")
    shutil.copy(catalog.artifact_path("les-demo"), folder / "exported.les.pt")
    torch.save({"epoch": 3}, folder / "state.pt")
    refused = [[*start, f"--foundation_model={name}"] for name in others]
    # Several heads, and data without energies.
    heads = ["--pt_train_file=train.xyz", "--E0s={1: -1.0, 8: -5.0}"]
    late = ["--", "--config=tune.yaml", "--name=late", "--foundation_model=tiny.model"]
    refused += [[*late, *heads], [*late, *heads[:1]]]
    refused.append(["--", *options(SMALL | {"name": "late", "energy_key": "none"})])
    page = (ROOT / "docs" / "howto" / "learning.md").read_text()
    lines = page[page.index("openmm-les train --net") :].partition("\n```")[0]
    of_page = shlex.split(lines.replace("\\\n", " "))
    said_early = [
        (of_page[of_page.index("--") + 1 :], ""),
        (["--name=x", "--net-charge-weight=1"], "before `--`"),
        ([*start[1:], "--foundation_model=rounded.model", "--default_dtype=float32"], "3.1 A"),
    ]
    for i, (text, expected) in enumerate(
        [("sigma: 1e0", "in YAML write 1.0"), ("- 3", "expected names"), ("dl: .nan", "> 0")]
    ):
        (folder / f"bad{i}.yaml").write_text(text)
        said_early.append((["--name=x", f"--les_arguments=bad{i}.yaml"], expected))
    path = os.pathsep.join((str(ROOT), str(ROOT / "export"), *filter(None, sys.path)))
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *map(json.dumps, (runs, refused, said_early))],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return folder, done.stderr


def command(*words) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([str(word) for word in words])
    assert stopped.value.code == 0


@pytest.fixture
def _logging():
    """The command line configures logging; leave pytest's as it was."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.mark.mace
@pytest.mark.usefixtures("_logging")
def test_from_an_xyz_file_to_a_simulation(trained, tmp_path, capsys):
    """train, export, validate, run: the commands of docs/howto/learning.md."""
    folder, said = trained
    assert "LES energy of openmm-les (MIT)" in said
    model = tmp_path / "tiny.les.pt"
    command("export", folder / "tiny.model", "-o", model, "--licence", "MIT")
    artifact = openmm_les.load_model(model)
    assert artifact.metadata["verification"]["status"] == "verified"
    assert artifact.metadata["les"]["sigma"] == 1.1
    capsys.readouterr()
    command("validate", model, folder / "train.xyz", "--json")
    rows = json.loads(capsys.readouterr().out)
    atoms = ase.io.read(folder / "train.xyz", "1")
    found = LESCalculator(model).get_forces(atoms)
    assert np.isfinite(found).all()
    assert "forces" in json.dumps(rows)
    with open(tmp_path / "start.pdb", "w") as file:
        app.PDBFile.writeFile(topology_from_atoms(atoms), atoms.positions * unit.angstrom, file)
    settings = ["--minimise-iterations", 0, "--equilibration-steps", 0, "--report-interval", 2]
    words = ["--structure", tmp_path / "start.pdb", "--model", model, "--output", tmp_path / "run"]
    command("run", *words, "--steps", 4, *settings)
    assert any((tmp_path / "run").iterdir())


@pytest.mark.mace
def test_a_second_training_takes_the_constants_of_the_first(trained):
    """Named in a file of options; mace-torch alone would take sigma 1."""
    folder, said = trained
    assert "starts from tiny.model" in said
    assert "unknown to openmm-les" in said
    assert "takes from it what --les_arguments does not name: sigma 1.1" in said
    for name in ("plain", "neutral"):
        assert read_model(folder / f"{name}.model").les["sigma"] == 1.1


@pytest.mark.mace
def test_models_without_latent_charges_are_no_start(trained):
    """Before training: mace-torch would end in a KeyError, after it has read all data."""
    folder, said = trained
    assert "expected the file of a MACE-LES model, got small, which is no file" in said
    assert "expected a MACE-LES model, got other.model, which has no latent charges" in said
    assert "expected a model that mace-torch wrote, got les.yaml (" in said
    assert not list(folder.rglob("refused*"))
    assert "got exported.les.pt, which is an exported model; give the .model file" in said
    assert "got state.pt, which is a checkpoint; give the .model file" in said
    assert "expected latent charges of the same number of heads" in said
    assert "train: average atomic energies cannot be used for multiheads" in said
    assert "a model whose weights are not numbers; do not use late.model" in said


@pytest.mark.mace
def test_a_second_training_starts_from_the_charges_of_the_first(trained):
    """And with the energies of isolated atoms that it was given."""
    folder, _ = trained
    first, second = (read_model(folder / f"{name}.model") for name in ("tiny", "shifted"))
    for name in ("layers.0.charge.0", "layers.0.energy.0"):
        np.testing.assert_array_equal(second.state[name], first.state[name])
    np.testing.assert_array_equal(second.state["reference_energies"], [-1.0, -5.0])


@pytest.mark.mace
def test_the_penalty_makes_net_charges_smaller(trained):
    folder, _ = trained
    found = np.load(folder / "evaluated.npz")
    net = {
        name: np.sqrt(np.mean([found[f"{name} charges {i}"].sum() ** 2 for i in range(8)]))
        for name in ("plain", "neutral")
    }
    assert net["neutral"] < 0.3 * net["plain"]


@pytest.mark.mace
def test_born_charges_are_those_of_simulations(trained):
    """In an open and a triclinic structure, by another implementation, with derivatives by hand."""
    folder, _ = trained
    found = np.load(folder / "evaluated.npz")
    artifacts.save(read_model(folder / "plain.model"), folder / "plain.les.pt", dtype="float64")
    artifact = artifacts.load(folder / "plain.les.pt")
    for i, atoms in enumerate(ase.io.read(folder / "train.xyz", ":2")):
        cell = atoms.cell.array if atoms.pbc.all() else None
        system = SystemModel(
            artifact,
            atoms.numbers,
            EvaluationOptions(precision="double"),
            periodic=cell is not None,
            cell=cell,
        )
        response = system.response(atoms.positions, cell)
        charges = found[f"plain charges {i}"]
        sign = np.sign((charges - charges.mean()) @ response.charges)
        born = found[f"plain born {i}"]
        assert np.abs(born).max() > 1e-3
        np.testing.assert_allclose(sign * response.born_charges, born, rtol=0, atol=1e-9)


@pytest.mark.mace
def test_a_model_that_takes_the_total_charge(trained):
    """What mace-torch calls embedding_specs passes through the trainer and the reader."""
    folder, _ = trained
    model = read_model(folder / "embedded.model")
    assert [condition["name"] for condition in model.hyper["conditions"]] == ["total_charge"]


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


def test_born_charges_need_autograd():
    """Without it they would be charges on a diagonal."""
    r = 3.0 * torch.randn(4, 3)
    charges = r.requires_grad_().sum(dim=1)
    module, rest = Les(), {"cell": torch.zeros(1, 3, 3), "compute_bec": True}
    assert module(charges, r, **rest)["BEC"].shape == (4, 3, 3)
    with torch.no_grad(), pytest.raises(InputError, match=r"without torch\.no_grad"):
        module(charges, r, **rest)
    with pytest.raises(InputError, match="requires_grad_"):
        module(charges, r.detach(), **rest)


def test_what_is_registered_is_a_package(tmp_path):
    """And a folder named les does not count as the les package."""
    (tmp_path / "les").mkdir()
    program = (
        "from openmm_les.learning.stand_in import register\n"
        "from importlib.util import find_spec\n"
        "assert register() and register() and find_spec('les') and find_spec('les.module.bec')\n"
        "import les.module.ewald\n"
        "assert les.Les.__module__ == 'les.les'\n"
    )
    path = os.pathsep.join((str(ROOT), *filter(None, sys.path)))
    subprocess.run(
        [sys.executable, "-c", program],
        check=True,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": path},
    )


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"sigmma": 1.0}, "got sigmma"),
        ({"use_dipole": True}, "use_dipole: not available"),
        ({"use_quads": True}, "no readouts for latent moments"),
        ({"is_periodic": "yes"}, "expected true or false, got 'yes'"),
        ({"is_periodic": True, "N_max": 0}, "expected an integer of 1 to 50, got 0"),
        ({"sigma": -1.0}, "expected a number > 0, got -1.0"),
        ({"epsilon_factor": -1}, "expected a number > 0, got -1"),
        ({"remove_mean": "no"}, "expected true or false, got 'no'"),
        ({"sigma": True}, "expected a number, got True"),
        ([1.0], r"expected names with values, such as `sigma: 1.0`, got \[1.0\]"),
        ({"compute_bec": True, "bec_output_index": 0}, "expected none, for all"),
    ],
)
def test_arguments_that_change_the_energy_unseen_are_refused(arguments, expected):
    with pytest.raises(InputError, match=expected):
        Les(arguments)


def test_options_that_are_off_change_nothing():
    off = {"use_dipole": False, "compute_bec": None, "is_periodic": None, "N_max": 6}
    idle = {"charge_dict": {1: 0.4}, "use_fixed_atomic_charges": False, "alpha_dict": {8: 1.0}}
    assert vars(Les(off | idle).ewald) == vars(Les().ewald)


def test_structures_have_to_agree_with_is_periodic():
    """Then the sum is that of `LES`, with the range of vectors that newer files have."""
    random = torch.Generator().manual_seed(0)
    q, r = torch.randn(7, generator=random), 3.0 * torch.randn(7, 3, generator=random)
    batch = torch.tensor([0, 0, 0, 1, 1, 1, 1])
    boxes, none = torch.stack([8.0 * torch.eye(3), 9.0 * torch.eye(3)]), torch.zeros(2, 3, 3)
    short = Les({"is_periodic": True, "N_max": 2})
    found = short(q, r, boxes, batch)["E_lr"]
    torch.testing.assert_close(found, LES(n_max=2)(q, r, batch, boxes))
    assert (found - LES()(q, r, batch, boxes)).abs().min() > 1e-4
    torch.testing.assert_close(
        Les({"is_periodic": False})(q, r, none, batch)["E_lr"], LES()(q, r, batch, none)
    )
    mixed = torch.stack([boxes[0], none[0]])
    with pytest.raises(InputError, match=r"is_periodic: True, got 1 of 2 .* number 1\)"):
        short(q, r, mixed, batch)
    with pytest.raises(InputError, match=r"is_periodic: False, got 1 of 2 .* number 0\)"):
        Les({"is_periodic": False})(q, r, mixed, batch)


def test_the_range_of_vectors_is_kept_as_in_newer_files():
    """Half of all vectors, each of which but the origin counts for its opposite, too."""
    short = Les({"is_periodic": True, "N_max": 2}).ewald
    assert short.nvec_all.shape == (125, 3)
    half = short.nvec_all[short.hemisphere_mask].tolist()
    assert len(half) == 63
    assert sorted(half + [[-x for x in k] for k in half if any(k)]) == short.nvec_all.tolist()
    assert short.factors.tolist() == [1.0 + any(k) for k in short.nvec_all.tolist()]


def test_total_charges_in_the_data_are_what_net_charges_are_held_to():
    class Nothing(torch.nn.Module):
        def forward(self, ref, pred, ddp=None):
            return pred["latent_charges"].new_zeros([])

    ref = {"batch": torch.tensor([0, 0, 1]), "total_charge": torch.tensor([0.0, -1.0])}
    loss = NetChargeLoss(Nothing(), 3.0)
    charges = torch.tensor([0.2, 0.1, -0.5])
    found = loss(pred={"latent_charges": charges}, ref=ref)
    torch.testing.assert_close(found, torch.tensor(3.0 * (0.3**2 + 0.5**2) / 2))


def test_licences_of_starting_weights(tmp_path):
    """By content for published files, and by what was exported from a file."""
    weights = ROOT / "training" / "les_demo" / "les-demo.model"
    assert catalog.licence_of(weights) == "MIT"
    copy = tmp_path / "changed.model"
    copy.write_bytes(weights.read_bytes() + b" ")
    assert catalog.licence_of(copy) is None
    assert catalog.licence_of("small") is None  # no file
