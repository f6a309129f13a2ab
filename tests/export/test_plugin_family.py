"""A family of another distribution, found by its entry point: read, exported, verified, run."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from support.programs import run_code

PLUGIN = Path(__file__).parents[1] / "oracles" / "pair_family"
OPTIONS = {"norm_factor": 90.0474, "self_interaction": "removed"}

CHILD = """
import json, sys
import numpy as np
from openmm_les import artifact
from openmm_les.evaluation.system_model import SystemModel
from openmm_les_export import export
from openmm_les_export.checkpoints.unpickle import open_model
from openmm_les_export.families.dispatch import reference_model

checkpoint, options = sys.argv[1], json.loads(sys.argv[2])
export(checkpoint, "pair.les.pt", dtype="float64", **options)
loaded = artifact.load("pair.les.pt")
numbers = np.array([8, 1, 1, 8, 1, 1])
positions = np.random.default_rng(3).uniform(0.0, 5.0, (6, 3))
cell = np.diag([6.0, 7.0, 8.0])
reference = reference_model(open_model(checkpoint), loaded.canonical)
expected = reference.evaluate(positions, numbers, cell)
model = SystemModel(loaded, numbers, periodic=True, cell=cell, precision="double")
found = model.evaluate(positions, cell)
print(json.dumps({
    "family": loaded.metadata["family"],
    "verification": loaded.metadata["verification"],
    "energy": abs(found.energy + model.reference_energy - expected.energy),
    "forces": np.abs(found.forces - expected.forces).max(),
    "size": np.abs(expected.forces).max(),
}))
"""


def install(folder: Path, value: str, name: str = "pair_family") -> None:
    """What pip would write for a distribution with one entry point."""
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[openmm_les.families]\npair = {value}\n")


@pytest.fixture
def checkpoint(tmp_path) -> Path:
    generator = torch.Generator().manual_seed(1)
    path = tmp_path / "pair.ckpt"
    weights = {name: torch.randn(2, 2, generator=generator) for name in ("energies", "charges")}
    weights["atoms"] = torch.randn(2, generator=generator)
    options = {"symbols": ["O", "H"], "cutoff": 4.0, "dropout": False}
    torch.save({"pair": options, "weights": weights}, path)
    return path


def test_a_plugin_family_is_read_exported_verified_and_run(tmp_path, checkpoint):
    shutil.copytree(PLUGIN, tmp_path / "pair_family")
    install(tmp_path, "pair_family.family:FAMILIES")
    done = run_code(CHILD, checkpoint, json.dumps(OPTIONS), folder=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["family"] == "pair"
    assert found["verification"]["status"] == "verified"
    assert "equations of pair potentials" in found["verification"]["against"]
    # Rounding of sums of a few hundred terms.
    assert found["energy"] < 1e-10
    assert found["forces"] < 1e-10 < 1e-3 < found["size"]

    code = "import sys; from openmm_les_export import read_model; read_model(sys.argv[1], head='a')"
    refused = run_code(code, checkpoint, folder=tmp_path).stderr
    assert "head: a Pair-LES file has no heads; leave the option out" in refused


BROKEN = {
    "no_such_module:FAMILIES": "plug-in no_such_module:FAMILIES failed",
    "json:dumps": "plug-in json:dumps is not a tuple of Family records",
    "openmm_les.networks.chgnet.family:FAMILIES": "with names of their own",
}


def test_broken_plugins_leave_all_else_as_it_is(tmp_path, checkpoint):
    for i, value in enumerate(BROKEN):
        install(tmp_path, value, f"broken{i}")
    code = (
        "from openmm_les import artifact, catalog; "
        "print(artifact.inspect(catalog.artifact_path('les-demo'))['family'])"
    )
    done = run_code(code, folder=tmp_path)
    assert done.stdout.strip() == "mace", done.stderr
    assert all(said in done.stderr for said in BROKEN.values())
    code = "import sys; from openmm_les_export import read_model; read_model(sys.argv[1])"
    assert "ModelFileError: model: " in run_code(code, checkpoint, folder=tmp_path).stderr
