"""`openmm-les benchmark`: what it measures, and what its report does not say."""

import getpass
import json
import shutil
import socket
from pathlib import Path

import pytest

from openmm_les import catalog
from openmm_les.benchmark import report as reports
from openmm_les.benchmark.water import water
from openmm_les.cli import main


def benchmark(capsys, *arguments) -> tuple[int, list[str], str]:
    """Exit status, lines of the table without its header, and standard error."""
    with pytest.raises(SystemExit) as stopped:
        main(["benchmark", *map(str, arguments)])
    captured = capsys.readouterr()
    return stopped.value.code, captured.out.splitlines()[1:], captured.err


def test_a_report_for_others(capsys, tmp_path, monkeypatch):
    """From a model of the user, in a place whose name is nobody's business."""
    monkeypatch.setenv("OPENMM_LES_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("LOGNAME", "mustermann")
    model, file = tmp_path / "secret.les.pt", tmp_path / "report.json"
    shutil.copy(catalog.artifact_path("les-demo"), model)
    arguments = ["--atoms", 9, "--seconds", 0.1, "--device", "cpu", "--report", file]
    status, lines, _ = benchmark(capsys, "--model", model, *arguments)
    assert status == 0
    text = file.read_text()
    for name in ("secret", "mustermann", str(tmp_path), str(Path.home()), socket.gethostname()):
        assert name not in text
    found = json.loads(text)
    assert found["model"]["sha256"] == catalog.open_model(model).sha256
    assert found["model"]["name"] is None
    assert found["machine"]["cpu"]
    assert "in_place_of_float32" in found["machine"]["flags"]
    rows = {row["way"]: row for row in found["rows"]}
    assert list(rows) == ["plain", "auto", "TorchForce"]
    for way in ("plain", "auto"):
        assert rows[way]["atoms"] == 9
        measured = rows[way]["found"]
        assert 0.0 < measured["ms"]["fastest"] <= measured["ms"]["median"] < 1e4
        assert 0.0 < measured["peak_mb"] < 4e3
    trials = rows["auto"]["found"]["decision"]["trials"]
    assert trials[0]["seconds"] > 0.0
    assert len(lines) == 3
    assert lines[0].split()[:3] == ["9", "open", "plain"]
    assert float(lines[0].split()[3]) == pytest.approx(rows["plain"]["found"]["ms"]["median"], 1e-3)


def test_no_names_in_messages():
    said = f"{Path.home()}/c.pt, /tmp/my x: 3.2 ns/day, kJ/mol of {socket.gethostname()}"
    said = f"{said} by {getpass.getuser()}, ./here ~/there"
    found = reports.without_names({"failed": [said]}, Path("/tmp/my x"))
    assert found["failed"] == ["PATH, PATH: 3.2 ns/day, kJ/mol of HOST by USER, PATH PATH"]


@pytest.mark.parametrize("given", ["my x/a.pdb", "../my x/a.pdb"])
def test_a_report_does_not_say_where_a_relative_path_is(given, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    folder.mkdir()
    monkeypatch.chdir(folder)
    for form in (given, str(Path(given).absolute()), str(Path(given).resolve())):
        assert reports.without_names(f"cannot read {form}: no", Path(given)) == (
            "cannot read PATH: no"
        )


def test_refusals(capsys, tmp_path):
    status, lines, error = benchmark(capsys, "--structure", "a.pdb", "--atoms", 45)
    assert (status, lines) == (2, [])
    assert "--structure and --atoms: expected one of them, got both" in error
    file = tmp_path / "report.json"
    file.write_text("mine")
    status, _, error = benchmark(capsys, "--report", file)
    assert status == 2
    assert "--overwrite" in error
    assert file.read_text() == "mine"


@pytest.mark.parametrize(("atoms", "number", "periodic"), [(45, 45, False), (100, 81, True)])
def test_water_of_any_size(atoms, number, periodic):
    topology, positions = water(atoms)
    assert topology.getNumAtoms() == len(positions) == number
    assert (topology.getPeriodicBoxVectors() is not None) is periodic
