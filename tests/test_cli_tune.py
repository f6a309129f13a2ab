"""`openmm-les tune`: what it prints and keeps, for a structure and for the settings of a run."""

import json
import shutil

import pytest
from support.helpers import ROOT

from openmm_les.cli import main
from openmm_les.evaluation.engines import decisions, tuning
from openmm_les.evaluation.engines.variant import Trial

PEPTIDE = ROOT / "examples" / "alanine_dipeptide.pdb"


def tune(capsys, *arguments) -> tuple[int, str, str]:
    """Exit status, standard output and standard error."""
    with pytest.raises(SystemExit) as stopped:
        main(["tune", *map(str, arguments)])
    captured = capsys.readouterr()
    return stopped.value.code, captured.out, captured.err


def test_a_structure_then_a_run_of_it(capsys, tmp_path, monkeypatch):
    """The settings of the run find what was measured for the structure; then it is forgotten."""
    monkeypatch.setenv("OPENMM_LES_CACHE_DIR", str(tmp_path / "cache"))
    shutil.copy(PEPTIDE, tmp_path)
    monkeypatch.chdir(tmp_path)
    status, table, err = tune(capsys, PEPTIDE.name, "--model", "les-demo", "--device", "cpu")
    assert status == 0, err
    lines = table.splitlines()
    assert lines[0].endswith("chosen")
    assert any(line.startswith("plain") for line in lines)
    (file,) = decisions.folder().glob("*.json")
    assert err.endswith(f"kept in {decisions.folder()}\n")
    assert "could not" not in err
    kept = file.read_bytes()

    settings = f"structure: {PEPTIDE.name}\nmodel: les-demo\ndevice: cpu\n"
    (tmp_path / "config.yaml").write_text(settings)
    status, text, err = tune(capsys, "config.yaml", "--json")
    assert status == 0, err
    assert json.loads(text) == json.loads(kept)
    assert file.read_bytes() == kept

    status, text, _ = tune(capsys, "--forget")
    assert (status, text) == (0, f"removed 1 choice from {decisions.folder()}\n")
    assert not list(decisions.folder().iterdir())  # and no lock is left


def test_a_cache_that_cannot_be_written(capsys, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("OPENMM_LES_CACHE_DIR", str(tmp_path / "file"))
    monkeypatch.setattr(
        tuning, "try_candidates", lambda task: [Trial(each, 1.0) for each in task.candidates]
    )
    status, table, err = tune(capsys, PEPTIDE, "--model", "les-demo", "--device", "cpu")
    assert status == 0, err
    assert "chosen" in table
    assert err.endswith(f"could not be kept in {decisions.folder()}\n")


def test_refusals(capsys, tmp_path):
    status, _, err = tune(capsys)
    assert status == 2
    assert "SYSTEM: expected a structure or settings of a run" in err
    status, _, err = tune(capsys, PEPTIDE)
    assert status == 2
    assert "--model" in err
    settings = f"structure: {PEPTIDE}\nmodel: les-demo\nbackend: torchforce\n"
    (tmp_path / "config.yaml").write_text(settings)
    status, _, err = tune(capsys, tmp_path / "config.yaml")
    assert status == 2
    assert "backend: expected auto or pythonforce, got torchforce" in err
