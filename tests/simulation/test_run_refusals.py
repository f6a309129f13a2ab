"""What `openmm-les run` refuses, before it has computed or replaced anything."""

import dataclasses
import shutil

import pytest
from filelock import FileLock
from support.runs import (
    PEPTIDE,
    config,
    settings,
    start,
)

from openmm_les import InputError, catalog
from openmm_les import simulation as md
from openmm_les.simulation.checkpoint import Checkpoint


def test_an_existing_run_is_kept(tmp_path):
    """Unless it is to be replaced, which deletes no other file."""
    changes = {"steps": 20, "equilibration_steps": 0, "minimise_iterations": 0}
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "notes.txt").write_text("precious")
    md.run(config(tmp_path, **changes))
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(InputError, match=r"holds a run already .*--resume.*--overwrite"):
        md.run(config(tmp_path, **changes))
    with pytest.raises(InputError, match="expected one of them, got both"):
        md.run(config(tmp_path, **changes), resume=True, overwrite=True)
    # Nothing is deleted for a run that cannot start.
    with pytest.raises(InputError, match="NPT needs a periodic box"):
        md.run(
            config(tmp_path, **changes | {"ensemble": "NPT", "structure": PEPTIDE}), overwrite=True
        )
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    md.run(config(tmp_path, **changes), overwrite=True)
    assert (folder / "notes.txt").read_text() == "precious"


@pytest.fixture(scope="module")
def unfinished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("unfinished")
    md.run(config(folder, steps=40, equilibration_steps=20, minimise_iterations=2))
    return folder / "run"


@pytest.fixture
def begun(unfinished, tmp_path):
    """A run with a checkpoint: its folder."""
    shutil.copytree(unfinished, tmp_path / "run")
    return tmp_path


#: What continues it.
LONGER = {"steps": 60, "equilibration_steps": 20, "minimise_iterations": 2}


def refused(folder, message, **changes):
    before = {path.name: path.read_bytes() for path in (folder / "run").iterdir()}
    fields = LONGER | changes
    with pytest.raises(InputError, match=message):
        md.run(config(folder, **fields), resume=True)
    assert {path.name: path.read_bytes() for path in (folder / "run").iterdir()} == before


def test_resuming_with_other_settings(begun):
    refused(
        begun,
        r"temperature: this run was started with 300.0, got 310.0; friction: .* 1.0, got 2.0; only",
        temperature=310,
        friction=2,
    )
    refused(begun, "steps: expected at least the 40 that this run has done, got 20", steps=20)
    refused(begun, "seed: this run was started with 7, got None", seed=None)


def test_resuming_with_other_files(begun, tmp_path_factory):
    """Files are compared by content: copies elsewhere are the same."""
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    pdb = elsewhere / "moved.pdb"
    text = PEPTIDE.read_text()
    pdb.write_text(text.replace("0.059", "0.058", 1))
    refused(begun, r"structure: the content of .*moved\.pdb is not what .* sha256", structure=pdb)
    model = elsewhere / "moved.les.pt"
    shutil.copy(catalog.artifact_path("les-demo"), model)
    pdb.write_text(text)
    changes = LONGER | {"structure": pdb, "model": str(model)}
    assert md.run(config(begun, **changes), resume=True).steps == 60


def test_resuming_with_another_model(begun, dipeptide_artifact):
    if dipeptide_artifact == catalog.artifact_path("les-demo"):
        pytest.skip("no second model in a user's clone")
    refused(begun, "model: the content of", model=str(dipeptide_artifact))


def test_resuming_with_damaged_files(begun):
    checkpoint, log = begun / "run" / "checkpoint.zip", begun / "run" / "log.csv"
    content = checkpoint.read_bytes()
    checkpoint.write_bytes(content[:-200])
    refused(begun, r"checkpoint: .* is damaged .*--overwrite")
    damaged = bytearray(content)
    damaged[len(content) - 500] ^= 1
    checkpoint.write_bytes(damaged)
    refused(begun, r"checkpoint: .* is damaged .*--overwrite")
    checkpoint.write_bytes(content)
    log.write_bytes(log.read_bytes()[:100])
    refused(begun, r"output: .*log\.csv has 100 bytes, expected the \d+ bytes")
    log.unlink()
    refused(begun, r"output: .*log\.csv is missing")


def test_a_checkpoint_of_something_else(begun):
    """OpenMM refuses it; the message says what it was written with."""
    path = begun / "run" / "checkpoint.zip"
    dataclasses.replace(Checkpoint.read(path), context=b"nonsense").write(path)
    with pytest.raises(InputError, match=r"OpenMM cannot load .*it was written with openmm-les 0"):
        md.run(config(begun, **LONGER), resume=True)


def test_another_environment_is_told(begun, caplog, monkeypatch):
    monkeypatch.setenv("OPENMM_CPU_THREADS", "3")
    md.run(config(begun, **LONGER), resume=True)
    assert "but not bit-identically: OPENMM_CPU_THREADS: " in caplog.text
    assert "now 3" in caplog.text


def test_two_processes(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    with FileLock(folder / ".lock"):
        (folder / ".owner").write_text("process 123 on here")
        process = start(settings(tmp_path), "--resume")
        _, err = process.communicate()
    assert process.returncode == 2
    assert f"output: {folder} is in use by process 123 on here; wait for it" in err


def test_a_directory_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="output: cannot write in"):
        md.run(config(tmp_path, output=tmp_path / "file" / "run"))
