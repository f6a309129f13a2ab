"""What a run may replace, and what becomes of it on a full disk."""

import json
import os
import re
import shutil
import zipfile

import pytest
from support.runs import PEPTIDE, command, config, rows, settings, start

from openmm_les import InputError, SimulationError
from openmm_les import simulation as md
from openmm_les.errors import OutputError
from openmm_les.simulation import output
from openmm_les.simulation.checkpoint import Checkpoint

SHORT = {"steps": 20, "equilibration_steps": 0, "minimise_iterations": 0}


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The directory of a finished run."""
    folder = tmp_path_factory.mktemp("finished")
    md.run(config(folder, **SHORT | {"minimise_iterations": 2}))
    return folder / "run"


@pytest.fixture
def run(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "run")


def refused(folder, message, **options):
    """A run that is refused, and leaves every file as it was."""
    before = contents(folder)
    overwrite, resume = options.pop("overwrite", False), options.pop("resume", False)
    with pytest.raises((InputError, OutputError), match=message) as caught:
        md.run(config(folder.parent, **SHORT | options), overwrite=overwrite, resume=resume)
    assert "\n" not in str(caught.value)
    before.pop(".lock", None)
    assert {name: text for name, text in contents(folder).items() if name != ".lock"} == before


@pytest.mark.parametrize("link", [None, os.symlink, os.link])
@pytest.mark.parametrize("name", ["final.pdb", "minimised.pdb"])
def test_the_start_structure_is_never_replaced(run, link, name):
    given = run / name
    if link is not None:
        given = run.parent / "start.pdb"
        link(run / name, given)
    message = f"output: .*{name} is the file that structure reads"
    refused(run, message, structure=given, overwrite=True)


@pytest.mark.parametrize("name", [n for n in output.ALL if n != "config.yaml"])
def test_files_of_a_user_are_never_replaced(tmp_path, name):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / name).write_text("precious")
    for options in ({"overwrite": True}, {"resume": True}):
        refused(folder, f"output: .*run has {name}, which no run wrote there", **options)


def test_a_structure_beside_the_results_is_kept(run):
    """It has no name that a run uses."""
    structure = shutil.copy(PEPTIDE, run / "input.pdb")
    md.run(config(run.parent, **SHORT, structure=structure), overwrite=True)
    assert (run / "input.pdb").read_bytes() == PEPTIDE.read_bytes()
    md.run(config(run.parent, **SHORT | {"steps": 40}, structure=structure), resume=True)


@pytest.mark.parametrize("option", [[], ["--overwrite"], ["--resume"]])
def test_a_configuration_in_the_output_directory(tmp_path, capsys, option):
    """`output: .` would replace it, with all its comments."""
    file = tmp_path / "config.yaml"
    text = f"# mine\nstructure: {PEPTIDE}\nmodel: les-demo\noutput: .\nsteps: 1000\n"
    file.write_text(text)
    status, _, err = command(capsys, file, *option)
    assert (status, err.count("\n")) == (2, 1)
    assert "has config.yaml, which no run wrote there; choose a directory of its own" in err
    assert file.read_text() == text


def edit(file, old, new):
    file.write_text("# a comment\n" + file.read_text().replace(old, new))
    # What a run wrote itself has its mark in the first line.
    head, comment = file.read_text().splitlines(keepends=True)[1::-1]
    file.write_text(head + comment + "".join(file.read_text().splitlines(keepends=True)[2:]))


def test_an_edited_configuration_of_a_run_keeps_its_comments(run):
    file = run / "config.yaml"
    edit(file, "steps: 20", "steps: 40")
    text = file.read_text()
    assert md.run(md.load(run), resume=True).steps == 40
    assert file.read_text() == text
    md.run(md.load(run), overwrite=True)
    assert file.read_text() == text
    refused(
        run,
        "config.yaml was edited and differs from the settings of this run",
        steps=60,
        overwrite=True,
    )


def test_a_copy_without_hidden_files_goes_on(run):
    for hidden in run.glob(".*"):
        hidden.unlink()
    (run / "config.yaml").unlink()
    assert md.run(
        config(run.parent, **SHORT | {"minimise_iterations": 2, "steps": 40}), resume=True
    )
    assert md.load(run).steps == 40


@pytest.mark.parametrize("gone", [["checkpoint.zip"], ["checkpoint.zip", "summary.json"]])
def test_results_without_a_checkpoint_are_kept(run, gone):
    for name in gone:
        (run / name).unlink()
    refused(
        run,
        r"run has results \(log.csv, final.pdb.*\), but no checkpoint.zip .*put it"
        r" back, or start again with --overwrite, which deletes them",
        resume=True,
        minimise_iterations=2,
    )


def test_a_directory_is_enough_to_resume(run, capsys):
    status, out, err = command(capsys, run, "--resume", "--steps", "40")
    assert status == 0, err
    assert out.startswith("steps             40 of 0.5 fs")


# Damaged and hostile checkpoints


def test_half_a_context_is_no_checkpoint(run):
    """With sums of the archive that are right."""

    path = run / "checkpoint.zip"
    with zipfile.ZipFile(path) as members:
        metadata, context = members.read("metadata.json"), members.read("context.bin")
    with zipfile.ZipFile(path, "w") as members:
        members.writestr("metadata.json", metadata)
        members.writestr("context.bin", context[: len(context) // 2])
    refused(run, r"checkpoint: .* is damaged \(.*context", resume=True, minimise_iterations=2)


@pytest.mark.parametrize(
    "changes",
    [
        {"phase": "heating"},
        {"step": "many"},
        {"step": -1},
        {"box": [[1.0, 2.0]]},
        {"outputs": {"../config.yaml": {"size": 0, "head": ""}}},
        {"outputs": {"log.csv": {"size": -5, "head": ""}}},
        {"outputs": {"log.csv": {"size": 0, "head": "xyz"}}},
        {"requested": []},
        {"resolved": {}},
        {"wall_seconds": "long"},
    ],
    ids=str,
)
def test_wrong_contents_of_a_checkpoint(run, changes):
    path = run / "checkpoint.zip"
    with zipfile.ZipFile(path) as members:
        metadata, context = json.loads(members.read("metadata.json")), members.read("context.bin")
    with zipfile.ZipFile(path, "w") as members:
        members.writestr("metadata.json", json.dumps(metadata | changes))
        members.writestr("context.bin", context)
    refused(run, "checkpoint: .* is damaged", resume=True, minimise_iterations=2)


def test_a_checkpoint_that_unpacks_to_more_than_it_is(run):
    with zipfile.ZipFile(run / "checkpoint.zip", "w", zipfile.ZIP_DEFLATED) as members:
        members.writestr("metadata.json", b" " * 10_000_000)
        members.writestr("context.bin", b"")
    refused(run, "checkpoint: .* is damaged", resume=True, minimise_iterations=2)


def test_a_damaged_summary_is_made_again(run):
    (run / "summary.json").write_text('{"steps": ')
    md.run(config(run.parent, **SHORT | {"minimise_iterations": 2}), resume=True)
    assert '"ns_per_day"' in (run / "summary.json").read_text()


# Full disks

# Files cannot grow beyond a size in this process, as on a full disk.
FULL = """
import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, ({size}, {size}))
"""


@pytest.mark.parametrize(
    ("size", "file", "changes"),
    [
        (9000, "trajectory.dcd", {"report_interval": 2, "trajectory_interval": 2}),
        (
            9000,
            "log.csv",
            {"report_interval": 1, "trajectory_interval": 100},
        ),
        (9000, "response.csv", {"response": "charges", "response_interval": 1}),
        (4000, "checkpoint.zip", {}),
    ],
    ids=["trajectory", "log", "response", "checkpoint"],
)
def test_a_full_disk(tmp_path, size, file, changes):
    """One line with file, free space and what to do; what is there is whole, and goes on."""
    fields = settings(tmp_path, **{**SHORT, "steps": 100, **changes})
    process = start(fields, prelude=FULL.format(size=size))
    _, err = process.communicate()
    folder = tmp_path / "run"
    assert process.returncode == 2, err
    last = err.splitlines()[-1]
    assert re.search(rf"error: cannot write .*{file}: File too large \(.* MB free in ", last)
    assert "Traceback" not in err
    assert not list(folder.glob(".*.part"))
    if file == "checkpoint.zip":
        return
    assert (
        f"make room, or allow writing, then continue with openmm-les run {folder} --resume" in last
    )
    checkpoint = Checkpoint.read(folder / "checkpoint.zip")
    for name, state in checkpoint.outputs.items():
        assert (folder / name).stat().st_size == state.size
    result = md.run(md.load(folder), resume=True)
    assert result.steps == 100
    assert rows(folder / "log.csv") == 100 // fields["report_interval"]


def test_a_folder_that_became_read_only_does_not_hide_why_the_run_ended(tmp_path):
    """Its lock is released, and the file that says who holds it cannot be removed."""
    folder, owner = output.RunDirectory(tmp_path), tmp_path / ".owner"

    def broken():
        with folder.locked():
            owner.unlink()
            owner.mkdir()  # which cannot be removed as a file, whoever runs the test
            raise SimulationError("hot")

    with pytest.raises(SimulationError, match="hot"):
        broken()
    owner.rmdir()
    with folder.locked():
        assert owner.exists()
