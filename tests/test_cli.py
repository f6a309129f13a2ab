"""The command line: what it prints, its exit status, and that it answers at once."""

import json
import logging
import os
import subprocess
import sys

import pytest
from oracles.cace_models import synthetic_cace
from support.checkpoints import checkpoint
from support.helpers import ROOT

from openmm_les import __version__
from openmm_les.cli import COMMANDS, main


def run(capsys, *arguments) -> tuple[int, str, str]:
    """Exit status, standard output and standard error."""
    with pytest.raises(SystemExit) as stopped:
        main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    assert isinstance(stopped.value.code, int)
    return stopped.value.code, captured.out, captured.err


@pytest.fixture(autouse=True)
def _logging():
    """The command line configures logging; leave pytest's as it was."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def in_process(code) -> subprocess.CompletedProcess[str]:
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(filter(None, sys.path)))
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["export", "--help"],
        ["inspect", "-h"],
        ["doctor", "-h"],
        ["models", "list", "-h"],
    ],
)
def test_help_imports_nothing_slow(arguments):
    """Without torch and openmm, which take seconds."""
    code = (
        "import sys\nfrom openmm_les.cli import main\n"
        f"try: main({arguments})\n"
        "finally: print([m for m in ('torch', 'openmm', 'numpy', 'ase') if m in sys.modules])"
    )
    result = in_process(code)
    assert result.stdout.endswith("[]\n")
    assert result.stdout.startswith("Usage: openmm-les")


def test_help_lists_every_command(capsys):
    status, out, _ = run(capsys, "--help")
    assert status == 0
    for name in COMMANDS:
        assert f"\n  {name} " in out


def test_version(capsys):
    assert run(capsys, "--version") == (0, f"openmm-les, version {__version__}\n", "")


def test_unknown_command_and_option(capsys):
    status, _, err = run(capsys, "exprot")
    assert status == 2
    assert "No such command 'exprot'" in err
    status, _, err = run(capsys, "inspect", "--xml", "file")
    assert status == 2
    assert "No such option" in err


def test_inspect_prints_a_table(capsys, water_artifact):
    status, out, err = run(capsys, "inspect", water_artifact)
    assert (status, err) == (0, "")
    rows = dict(line.split(maxsplit=1) for line in out.splitlines() if not line.startswith(" "))
    assert rows["file"] == str(water_artifact)
    assert rows["elements"] == "H C N O"
    assert rows["cutoff"].endswith(" A")
    assert "sigma 1 A" in rows["electrostatics"]
    assert "licence" in rows
    assert "verification" in rows
    assert max(map(len, out.splitlines())) < 200


def test_inspect_says_where_parameters_came_from(capsys, tmp_path):
    model = synthetic_cace(tmp_path / "my.pth")
    output = tmp_path / "my.les.pt"
    status, _, err = run(capsys, "export", model, "-o", output)
    assert status == 2
    assert "--atomic-energies 1:E,8:E" in err
    status, *_ = run(capsys, "export", model, "-o", output, "--atomic-energies", "1:-13.6,O:-2041")
    assert status == 0
    _, out, _ = run(capsys, "inspect", output)
    rows = dict(line.split(maxsplit=1) for line in out.splitlines() if line.strip())
    assert rows["model"] == "cace"
    assert rows["parameters"].startswith("model file")
    assert "remove_self_interaction" in rows["parameters"]
    assert rows["--atomic-energies"] == "reference_energies"
    assert (
        json.loads(run(capsys, "inspect", output, "--json")[1])["provenance"]["dl"] == "model file"
    )


def test_a_head_is_one_of_the_model(capsys, tmp_path):
    model = ROOT / "training" / "les_demo" / "les-demo.model"
    status, _, err = run(capsys, "export", model, "-o", tmp_path / "x.les.pt", "--head", "wb97m")
    assert status == 2
    assert "head: expected one of" in err
    model = synthetic_cace(tmp_path / "my.pth")
    status, _, err = run(capsys, "export", model, "-o", tmp_path / "x.les.pt", "--head", "wb97m")
    assert status == 2
    assert "a CACE-LES file has no heads" in err


def test_atomic_energies_are_for_models_without(capsys, tmp_path):
    model = ROOT / "training" / "les_demo" / "les-demo.model"
    arguments = ["-o", tmp_path / "x.les.pt", "--atomic-energies", "1:0,8:0"]
    status, _, err = run(capsys, "export", model, *arguments)
    assert status == 2
    assert "a MACE-LES file holds its own; leave the option out" in err


def test_inspect_prints_json(capsys, water_artifact):
    status, out, _ = run(capsys, "inspect", water_artifact, "--json")
    assert status == 0
    metadata = json.loads(out)
    assert metadata["elements"] == [1, 6, 7, 8]
    assert metadata["format_version"] == 1


def test_inspect_needs_no_torch(water_artifact):
    code = (
        "import sys\nfrom openmm_les.cli import main\n"
        f"try: main(['inspect', {str(water_artifact)!r}])\n"
        "finally: print('torch' in sys.modules)"
    )
    assert in_process(code).stdout.endswith("False\n")


def test_errors_of_the_user_are_one_line(capsys, tmp_path):
    missing = tmp_path / "missing.les.pt"
    status, out, err = run(capsys, "inspect", missing)
    assert (status, out) == (2, "")
    assert err.startswith("openmm-les: error: ")
    assert str(missing) in err
    assert err.count("\n") == 1

    text = tmp_path / "notes.txt"
    text.write_text("not a model")
    status, _, err = run(capsys, "inspect", text)
    assert status == 2
    assert err.count("\n") == 1


def test_debug_shows_the_traceback(capsys, tmp_path):
    status, _, err = run(capsys, "--debug", "inspect", tmp_path / "missing.les.pt")
    assert status == 2
    assert "Traceback (most recent call last)" in err
    assert "ArtifactError" in err


def test_other_errors_are_told_apart(capsys, tmp_path, monkeypatch):
    def fails(_):
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr("openmm_les.artifact.load", fails)
    status, _, err = run(capsys, "inspect", tmp_path)
    assert status == 1
    assert "openmm-les: error: ZeroDivisionError: a bug\n" in err
    assert "--debug" in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("there.les.pt", "exists"),
        ("", "is a directory"),
        ("absent/model.les.pt", "does not exist"),
        ("there.les.pt/model.les.pt", "does not exist"),
    ],
)
def test_output_is_checked_before_the_work(capsys, tmp_path, output, message):
    """The model does not even exist, and torch is not imported."""
    (tmp_path / "there.les.pt").write_text("precious")
    status, _, err = run(capsys, "export", tmp_path / "no.model", "-o", tmp_path / output)
    assert status == 2
    assert message in err
    assert err.count("\n") == 1
    assert (tmp_path / "there.les.pt").read_text() == "precious"
    assert [path.name for path in tmp_path.iterdir()] == ["there.les.pt"]


def test_export_and_overwrite(capsys, tmp_path, tmp_path_factory):
    model = checkpoint("mace_old", tmp_path_factory.mktemp("models"))
    output = tmp_path / "water.les.pt"
    options = ["-o", output, "--dtype", "float64", "--licence", "for tests only"]
    status, out, _ = run(capsys, "export", model, *options)
    assert status == 0
    assert out.startswith(f"wrote {output}\n")
    assert f"modelPath='{output}'" in out
    metadata = json.loads(run(capsys, "inspect", output, "--json")[1])
    assert metadata["dtype"] == "float64"
    assert metadata["licence"] == "for tests only"

    before = output.read_bytes()
    status, _, err = run(capsys, "export", model, *options)
    assert status == 2
    assert "--overwrite" in err
    assert output.read_bytes() == before
    output.write_text("old")
    assert run(capsys, "export", model, *options, "--overwrite")[0] == 0
    assert [path.name for path in tmp_path.iterdir()] == ["water.les.pt"]


def test_export_of_something_else(capsys, tmp_path):
    text = tmp_path / "notes.model"
    text.write_text("not a model")
    status, _, err = run(capsys, "export", text, "-o", tmp_path / "out.les.pt")
    assert status == 2
    assert err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["notes.model"]


def test_export_needs_an_output(capsys, tmp_path):
    status, _, err = run(capsys, "export", tmp_path / "no.model")
    assert status == 2
    assert "--output" in err


def test_export_of_a_missing_model(capsys, tmp_path):
    status, _, err = run(capsys, "export", tmp_path / "no.model", "-o", tmp_path / "out.les.pt")
    assert status == 2
    assert "no.model" in err
    assert err.count("\n") == 1
    assert not list(tmp_path.iterdir())
