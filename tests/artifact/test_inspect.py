"""What `openmm-les inspect` shows of a file from somebody else, and what it finds in its script."""

import hashlib
import json
import logging
import re
from dataclasses import replace

import pytest
import torch
from support.helpers import ROOT
from support.hostile import rewrite

from openmm_les import InputError, artifact, catalog
from openmm_les.cli import main
from openmm_les.cli.terminal import PrintableFormatter
from openmm_les.errors import OutputError

DEMO = catalog.artifact_path("les-demo")
#: Clears the screen, sets the title, turns text round, ends the line in other ways.
STEERS = "MIT\x1b[2J\x1b]0;title\x07\x9b31m\u202e\x7f\ud800 more"


def run(capsys, *arguments) -> tuple[int, str, str]:
    """Exit status, standard output and standard error."""
    with pytest.raises(SystemExit) as stopped:
        main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return stopped.value.code, captured.out, captured.err


def is_plain(text) -> bool:
    return all(letter.isprintable() or letter == "\n" for letter in text)


# ------------------------------------------------------------------ what is shown


def test_hash_is_shown(capsys):
    expected = hashlib.sha256(DEMO.read_bytes()).hexdigest()
    _, out, _ = run(capsys, "inspect", DEMO)
    assert re.search(rf"^sha256 +{expected}$", out, re.MULTILINE)
    assert json.loads(run(capsys, "inspect", DEMO, "--json")[1])["sha256"] == expected


def test_strings_of_a_file_do_not_steer_the_terminal(capsys, tmp_path):
    def change(metadata):
        metadata["licence"] = STEERS
        metadata["source"]["file"] = STEERS
        metadata["versions"] = {STEERS: "1"}

    path = rewrite(DEMO, tmp_path / "theirs.les.pt", change)
    status, out, err = run(capsys, "inspect", path)
    assert status == 0, err
    assert is_plain(out)
    assert r"MIT\u001b[2J\u001b]0;title\u0007\u009b31m\u202e\u007f\ud800 more" in out
    status, out, _ = run(capsys, "inspect", path, "--json")
    assert is_plain(out)
    assert json.loads(out)["licence"] == STEERS


def test_lines_of_a_file_are_no_rows_of_the_table(capsys, tmp_path):
    forged = "MIT\nsha256          0123"
    path = rewrite(DEMO, tmp_path / "theirs.les.pt", lambda m: m.update(licence=forged))
    _, out, _ = run(capsys, "inspect", path)
    assert len(re.findall(r"^sha256", out, re.MULTILINE)) == 1


@pytest.mark.parametrize("error", [InputError, OutputError])
def test_no_error_steers_the_terminal(error):
    assert str(error(f"{STEERS}\n")).startswith(r"MIT\u001b[2J")
    assert is_plain(str(error(f"{STEERS}\n")))


@pytest.mark.parametrize("debug", [(), ("--debug",)])
def test_no_command_steers_the_terminal(capsys, tmp_path, monkeypatch, debug):
    """Names of files and errors of libraries, which hold what stands in files."""
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])
    monkeypatch.setattr(root, "level", root.level)
    for arguments in (["inspect", tmp_path / "\x1b[2Jmy.les.pt"], ["inspect", "--\x1b[2J"]):
        status, out, err = run(capsys, *debug, *arguments)
        assert status == 2
        assert is_plain(out + err)

    def fails(_):
        raise RuntimeError(f"a library says {STEERS}")

    monkeypatch.setattr("openmm_les.artifact.load", fails)
    status, out, err = run(capsys, *debug, "inspect", DEMO)
    assert status == 1
    assert is_plain(out + err)
    assert r"a library says MIT\u001b[2J" in err


def test_no_log_message_steers_the_terminal():
    record = logging.LogRecord("les", logging.WARNING, "", 0, "licence %s", (STEERS,), None)
    assert is_plain(PrintableFormatter("%(message)s").format(record))


def test_commands_print_in_one_way():
    for path in (ROOT / "openmm_les" / "cli").glob("*.py"):
        if path.name != "terminal.py":
            assert not re.search(r"click\.s?echo|\bprint\(|secho", path.read_text()), path.name


def test_errors_of_each_way_of_running_are_shown(capsys, tmp_path):
    """Also those of files of version 0.1.0, whose errors are by structure."""
    _, out, _ = run(capsys, "inspect", DEMO)
    assert re.search(r"max_errors +portable float32 +energy_per_atom \S+, force \S+, charge", out)
    errors = {"energy_per_atom": 1e-7, "force": 2e-6, "charge": 3e-8}
    for name in ("single mesh", "cluster"):
        verification = {"status": "verified", "max_errors": {name: errors}}
        path = tmp_path / f"{name}.les.pt"
        rewrite(
            DEMO, path, lambda m, verification=verification: m.update(verification=verification)
        )
        _, out, _ = run(capsys, "inspect", path)
        row = rf"max_errors +{name} +energy_per_atom 1e-07, force 2e-06, charge 3e-08"
        assert re.search(row, out)
        assert json.loads(run(capsys, "inspect", path, "--json")[1])["verification"] == verification


# ------------------------------------------------------------------ its script


def test_script_that_agrees(capsys):
    status, out, err = run(capsys, "inspect", "--verify", "les-demo")
    assert status == 0, err
    assert re.search(r"^script +gives what the weights give, on \d+ structures$", out, re.MULTILINE)


def test_script_with_other_numbers(capsys, tmp_path):
    """Weights of one model, script of another."""
    canonical = artifact.load(DEMO).canonical
    energies = canonical.state["reference_energies"] + 1e-3
    other = replace(canonical, state={**canonical.state, "reference_energies": energies})
    module = artifact.build_module(other, "float32")
    path = artifact.save(canonical, tmp_path / "theirs.les.pt", module=module)
    status, out, err = run(capsys, "inspect", "--verify", path)
    assert (status, out) == (2, "")
    assert "energy per atom of the structure 'cluster' differs by 0.001 eV, expected at most" in err
    assert err.count("\n") == 1
    assert run(capsys, "inspect", path)[0] == 0  # the weights are as good as before


class Hostile(torch.nn.Module):
    """Writes a file as soon as it is loaded, and prints what looks like an answer."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path

    @torch.jit.export
    def __getstate__(self) -> tuple[str, bool]:
        return (self.path, self.training)

    @torch.jit.export
    def __setstate__(self, state: tuple[str, bool]) -> None:
        self.path = state[0]
        self.training = state[1]
        torch.save(torch.zeros(1), self.path)

    def forward(
        self, positions: torch.Tensor, numbers: torch.Tensor, cell: torch.Tensor, periodic: bool
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        print('{"structures": 8, "max_errors": {}}')
        return positions.sum(), positions, positions[:, 0]


def test_hostile_script_writes_nothing(capsys, tmp_path):
    target = tmp_path / "precious"
    canonical = artifact.load(DEMO).canonical
    module = torch.jit.script(Hostile(str(target)))
    path = artifact.save(canonical, tmp_path / "theirs.les.pt", module=module)
    target.unlink(missing_ok=True)
    torch.jit.load(str(path))
    assert target.exists()  # what plain torch does

    target.write_text("precious")
    status, out, err = run(capsys, "inspect", "--verify", path)
    assert (status, out) == (2, "")
    assert "its script is not what its weights give: " in err
    assert target.read_text() == "precious"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["precious", "theirs.les.pt"]
