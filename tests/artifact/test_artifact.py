"""The artifact file: complete by itself, checked before use, written whole or not at all."""

import os
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import torch
from support.helpers import DIPEPTIDE_MODEL, dipeptide
from support.hostile import rewrite

from openmm_les import artifact as artifacts
from openmm_les import catalog
from openmm_les.errors import ArtifactError, InputError, OutputError

BLOCK_OTHERS = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {blocked!r}:
            raise ImportError(f"{{name}} must not be imported")

sys.meta_path.insert(0, Blocked())
"""


def run(code: str, *arguments, blocked=()) -> subprocess.CompletedProcess:
    code = BLOCK_OTHERS.format(blocked=set(blocked)) + code
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )


def test_torch_alone_runs_an_artifact(dipeptide_artifact, tmp_path):
    atoms = dipeptide(2)
    np.savez(tmp_path / "in.npz", r=atoms.positions, z=atoms.numbers)
    code = """
import numpy as np, torch
data = np.load(sys.argv[2])
module = torch.jit.load(sys.argv[1])
r, z = torch.tensor(data["r"]), torch.tensor(data["z"])
energy, forces, charges = module(r, z, torch.zeros(3, 3, dtype=torch.float64), False)
print(repr(float(energy)))
"""
    blocked = [
        "openmm_les",
        "openmm_les_export",
        "openmm",
        "openmmml",
        "mace",
        "e3nn",
        "ase",
        "les",
    ]
    out = run(code, dipeptide_artifact, tmp_path / "in.npz", blocked=blocked)
    assert out.returncode == 0, out.stderr
    module = artifacts.load(dipeptide_artifact).module
    expected, _, _ = module(
        torch.tensor(atoms.positions),
        torch.tensor(atoms.numbers),
        torch.zeros(3, 3).double(),
        False,
    )
    assert float(out.stdout) == pytest.approx(float(expected), abs=1e-6)


def test_run_time_wing_never_imports_a_training_framework(dipeptide_artifact):
    code = """
import numpy as np
from openmm_les import artifact
from openmm_les.evaluation.system_model import SystemModel
import openmm_les.ase, openmm_les.plugin.potential
model = SystemModel(artifact.load(sys.argv[1]), [8, 1, 1], periodic=False)
model.evaluate(np.array([[0, 0, 0], [0.95, 0, 0], [-0.2, 0.93, 0]]))
"""
    blocked = ["mace", "e3nn", "les", "nequip", "cace", "matgl", "openmm_les_export"]
    out = run(code, dipeptide_artifact, blocked=blocked)
    assert out.returncode == 0, out.stderr


def test_inspect_reads_without_torch(dipeptide_artifact):
    code = "from openmm_les import artifact; print(artifact.inspect(sys.argv[1])['family'])"
    out = run(code, dipeptide_artifact, blocked=["torch", "openmm"])
    assert out.stdout.strip() == "mace", out.stderr


def test_metadata(exported):
    metadata = artifacts.inspect(exported(DIPEPTIDE_MODEL))
    assert metadata["format_version"] == artifacts.FORMAT_VERSION
    assert metadata["elements"] == [1, 6, 7, 8]
    assert metadata["cutoff"] == 4.0
    assert metadata["les"]["prefactor"] == pytest.approx(90.0474)
    assert metadata["les"]["remove_self_interaction"] is False
    assert metadata["units"] == {"length": "angstrom", "energy": "eV", "charge": "e"}
    assert len(metadata["source"]["sha256"]) == 64
    assert metadata["verification"]["status"] in ("verified", "not verified")
    assert metadata["charge_sign"] == 1  # oxygen comes out negative in this model
    assert metadata["versions"]["openmm-les"]


def test_short_range_and_pull_back_compose_to_the_forward(dipeptide_artifact):
    """A program with its own electrostatics gets what it needs from the scripted methods."""
    from openmm_les.electrostatics import build_electrostatics
    from openmm_les.neighbors.matrix import image_offsets, neighbor_matrix

    artifact, atoms = artifacts.load(dipeptide_artifact), dipeptide(1)
    module = artifacts.build_module(artifact.canonical, "float32")
    order = np.argsort(atoms.numbers, kind="stable")
    r = torch.tensor(atoms.positions[order])
    species = torch.tensor([artifact.elements.index(z) for z in atoms.numbers[order]])
    counts = torch.bincount(species, minlength=4).tolist()
    cell = torch.zeros(3, 3, dtype=torch.float64)
    n = neighbor_matrix(r, cell, False, image_offsets([0, 0, 0]), artifact.cutoff, 0)
    energies, charges, tape = module.network.short_range(r, n, species, counts)
    les = build_electrostatics(
        artifact.canonical.les, False, None, torch.float64, num_atoms=len(atoms)
    )
    long_range, potential, gradient, strain, *_ = les(charges, r, cell)
    pulled, pulled_strain = module.network.pull_back(
        torch.ones_like(energies), potential, tape, counts
    )
    energy, forces, all_charges = module(
        torch.tensor(atoms.positions), torch.tensor(atoms.numbers), cell, False
    )
    references = artifact.canonical.state["reference_energies"][species].sum()
    assert float(energies.sum() + long_range + references) == pytest.approx(float(energy), abs=1e-9)
    torch.testing.assert_close(-(pulled + gradient), forces[order], rtol=0, atol=1e-10)
    torch.testing.assert_close(charges, all_charges[order], rtol=0, atol=0)
    # Without a box the virial is that of the forces.
    virial = r.T @ (pulled + gradient)
    torch.testing.assert_close(pulled_strain + strain, virial, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("numbers", "positions", "message"),
    [
        ([8, 99], [[0, 0, 0], [0, 0, 2.0]], "not among the elements"),
        ([8, 150], [[0, 0, 0], [0, 0, 2.0]], "not among the elements"),
        ([8, 1], [[0, 0, 0], [0, 0, 0.0]], "same place"),
        ([8, 1], [[0, 0, 0], [0, 0, np.nan]], "finite"),
    ],
)
def test_portable_module_refuses_bad_structures(dipeptide_artifact, numbers, positions, message):
    module = artifacts.load(dipeptide_artifact).module
    with pytest.raises(torch.jit.Error, match=message):
        module(
            torch.tensor(positions, dtype=torch.float64),
            torch.tensor(numbers),
            torch.zeros(3, 3, dtype=torch.float64),
            False,
        )


def test_missing_file_and_directory(tmp_path):
    with pytest.raises(ArtifactError, match=r"gone\.les\.pt does not exist"):
        artifacts.load(tmp_path / "gone.les.pt")
    with pytest.raises(ArtifactError, match="is a directory"):
        artifacts.load(tmp_path)


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04 not really"])
def test_files_that_are_no_archive(tmp_path, content):
    path = tmp_path / "bad.les.pt"
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match="corrupt or not an artifact"):
        artifacts.load(path)


def test_other_archives_say_what_to_do(tmp_path):
    torch.jit.save(torch.jit.script(torch.nn.Linear(1, 1)), tmp_path / "scripted.pt")
    with pytest.raises(ArtifactError, match="TorchScript archive but not an openmm-les artifact"):
        artifacts.load(tmp_path / "scripted.pt")
    torch.save({"a": 1}, tmp_path / "state.pt")
    with pytest.raises(ArtifactError, match=r"openmm-les export state\.pt"):
        artifacts.load(tmp_path / "state.pt")


@pytest.mark.parametrize("keep", [0.3, 0.9, 0.999])
def test_truncated_file(dipeptide_artifact, tmp_path, keep):
    content = dipeptide_artifact.read_bytes()
    path = tmp_path / "cut.les.pt"
    path.write_bytes(content[: int(keep * len(content))])
    with pytest.raises(ArtifactError, match="corrupt"):
        artifacts.load(path)


@pytest.mark.parametrize("which", ["exported", "bundled"])
def test_every_flipped_byte_region_is_noticed(which, request, tmp_path):
    source = catalog.artifact_path("les-demo")
    if which == "exported":
        source = request.getfixturevalue("dipeptide_artifact")
    content = bytearray(source.read_bytes())
    with zipfile.ZipFile(source) as archive:
        largest = sorted(archive.infolist(), key=lambda item: -item.file_size)[:5]
    for item in largest:
        damaged = bytearray(content)
        damaged[item.header_offset + len(item.filename) + 200 + item.file_size // 2] ^= 0xFF
        path = tmp_path / "flipped.les.pt"
        path.write_bytes(damaged)
        with pytest.raises(ArtifactError, match="corrupt"):
            artifacts.load(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.update(format_version=artifacts.FORMAT_VERSION + 1), "upgrade with 'pip"),
        (lambda m: m.update(format_version="one"), "no valid format version"),
        (lambda m: m.pop("format"), "not written by openmm-les"),
        (lambda m: m.update(format="other"), "not written by openmm-les"),
    ],
)
def test_wrong_metadata(dipeptide_artifact, tmp_path, change, message):
    path = rewrite(dipeptide_artifact, tmp_path / "changed.les.pt", change)
    with pytest.raises(ArtifactError, match=message):
        artifacts.load(path)


def test_unknown_family_asks_for_an_upgrade(dipeptide_artifact, tmp_path):
    from openmm_les.evaluation.system_model import SystemModel

    path = rewrite(dipeptide_artifact, tmp_path / "new.les.pt", lambda m: m.update(family="new"))
    with pytest.raises(ArtifactError, match=r"family: expected one of .* got 'new'; upgrade"):
        SystemModel(artifacts.load(path), [8], periodic=False)


def test_save_refuses_an_existing_file_and_leaves_it_alone(dipeptide_artifact, tmp_path):
    canonical = artifacts.load(dipeptide_artifact).canonical
    path = tmp_path / "model.les.pt"
    path.write_text("precious")
    with pytest.raises(OutputError, match="exists; choose another name or pass --overwrite"):
        artifacts.save(canonical, path)
    assert path.read_text() == "precious"
    artifacts.save(canonical, path, overwrite=True)
    assert artifacts.load(path).elements == [1, 6, 7, 8]
    assert os.listdir(tmp_path) == ["model.les.pt"]


@pytest.mark.parametrize(
    ("name", "message"),
    [("", "is a directory"), ("no/such/folder/x.les.pt", "does not exist; create it first")],
)
def test_save_refuses_paths_that_cannot_be_written(dipeptide_artifact, tmp_path, name, message):
    canonical = artifacts.load(dipeptide_artifact).canonical
    with pytest.raises(OutputError, match=message):
        artifacts.save(canonical, tmp_path / name)
    assert os.listdir(tmp_path) == []


def test_save_refuses_an_unknown_dtype(dipeptide_artifact, tmp_path):
    canonical = artifacts.load(dipeptide_artifact).canonical
    with pytest.raises(InputError, match="dtype: expected 'float32' or 'float64', got 'float16'"):
        artifacts.save(canonical, tmp_path / "x.les.pt", dtype="float16")


def test_weights_are_kept_in_full(dipeptide_artifact, tmp_path):
    """A float32 artifact holds the same canonical weights as a float64 one."""
    canonical = artifacts.load(dipeptide_artifact).canonical
    single = canonical.state
    path = artifacts.save(canonical, tmp_path / "double.les.pt", dtype="float64")
    double = artifacts.load(path).canonical.state
    assert single.keys() == double.keys()
    assert all(torch.equal(single[name], double[name]) for name in single)
    assert all(tensor.dtype == torch.float64 for tensor in single.values())


def test_find_prefers_the_path_then_the_cache(dipeptide_artifact, tmp_path, monkeypatch):
    monkeypatch.setenv("OPENMM_LES_CACHE_DIR", str(tmp_path / "cache"))
    artifact = artifacts.load(dipeptide_artifact)
    gone = tmp_path / "gone.les.pt"
    assert artifacts.find(artifact.path, artifact.sha256) == artifact.path
    with pytest.raises(ArtifactError, match=r"gone\.les\.pt does not exist, and there is no copy"):
        artifacts.find(gone, artifact.sha256)
    artifacts.store_in_cache(artifact)
    assert artifacts.find(gone, artifact.sha256).read_bytes() == artifact.path.read_bytes()
    gone.write_text("another model")
    assert artifacts.find(gone, artifact.sha256) != gone
    with pytest.raises(ArtifactError, match="holds another model now"):
        artifacts.find(gone, "0" * 64)


def test_damaged_copy_in_the_cache_is_replaced(dipeptide_artifact, tmp_path, monkeypatch):
    monkeypatch.setenv("OPENMM_LES_CACHE_DIR", str(tmp_path / "cache"))
    artifact = artifacts.load(dipeptide_artifact)
    artifacts.store_in_cache(artifact)
    (copy,) = (tmp_path / "cache").rglob("*.les.pt")
    content = bytearray(copy.read_bytes())
    content[len(content) // 2] ^= 0xFF
    copy.write_bytes(content)
    gone = tmp_path / "gone.les.pt"
    with pytest.raises(ArtifactError, match="does not exist, and there is a damaged copy in the"):
        artifacts.find(gone, artifact.sha256)
    artifacts.store_in_cache(artifact)
    assert artifacts.find(gone, artifact.sha256) == copy
    assert copy.read_bytes() == artifact.path.read_bytes()
