"""Campaigns of real runs on two workers: what is killed, fails, is stopped or extended."""

import csv
import json
import math
import os
import shlex
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
from support.campaigns import (
    BASE,
    assert_same_as_one_after_another,
    prepare,
    python_path,
    wait_until,
    write_plan,
)

from openmm_les.analysis import formats
from openmm_les.analysis.means import series_statistics
from openmm_les.campaign import cluster, runner
from openmm_les.campaign.directory import CampaignDirectory
from openmm_les.campaign.state import read_table, state_of, write_failure
from openmm_les.campaign.worker import COMMAND
from openmm_les.cli import main
from openmm_les.errors import InputError, OutputError
from openmm_les.simulation.summary import read_log


def command(capsys, *arguments):
    """Exit status, standard output and standard error of `openmm-les campaign`."""
    with pytest.raises(SystemExit) as stopped:
        main(["campaign", *map(str, arguments)])
    captured = capsys.readouterr()
    return stopped.value.code, captured.out, captured.err


def test_same_bytes_although_workers_were_killed(campaign, tmp_path):
    assert campaign.kills == 3
    assert campaign.line == "6 of 6 runs finished"
    assert_same_as_one_after_another(campaign.directory, tmp_path)


def test_progress(campaign):
    messages, reports = campaign.messages, campaign.reports
    assert messages[0] == f"6 runs in {campaign.directory}, 0 of them finished"
    assert messages[1] == "workers: 2, none of them with a GPU"
    ended = [text for text in messages if text.startswith("[")]  # others: workers were killed
    assert [text.split()[0] for text in ended] == [f"[{n}/6]" for n in range(1, 7)]
    assert all("finished, " in text and text.endswith(" ns/day") for text in ended)
    assert max(steps for steps, _ in reports) > 0
    assert {total for _, total in reports} == {600}


def test_status(campaign, capsys):
    status, out, err = command(capsys, "status", campaign.directory)
    assert (status, err) == (0, "")
    lines = out.splitlines()
    assert lines[-1] == "6 of 6 runs finished"
    assert lines[4].split() == ["temperature-320.5_repeat-1", "finished", "100", "%"]
    _, out, _ = command(capsys, "status", campaign.directory, "--json")
    assert {row["state"] for row in json.loads(out)} == {"finished"}


def test_gather(campaign, capsys):
    status, out, err = command(capsys, "gather", campaign.directory)
    assert (status, err) == (0, "")
    names = ("potential_energy", "kinetic_energy", "total_energy", "temperature")
    pictures = [campaign.directory / "pictures" / f"{name}.png" for name in names]
    files = [campaign.directory / "results.csv", *pictures, campaign.directory / "index.html"]
    assert out.splitlines() == [f"wrote {path}" for path in files]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in pictures)
    with files[0].open() as stream:
        rows = list(csv.DictReader(stream))
    assert [row["temperature"] for row in rows] == ["280", "280", "300", "300", "320.5", "320.5"]
    for row in rows:
        log = read_log(campaign.directory / "runs" / row["run"] / "log.csv")
        expected = series_statistics(log["Temperature (K)"])
        assert float(row["temperature [K]"]) == expected.mean
        assert float(row["temperature error [K]"]) == expected.error
    page = files[-1].read_text()
    assert page.count("data:image/png;base64,") == 4
    assert page.count("<td>temperature-280_repeat-1</td>") == 1
    assert "<td>temperature 280</td>" in page  # the mean of its repetitions


def test_gather_while_a_run_has_no_row_yet(copied, capsys):
    _, directory = copied
    started = read_table(directory)[0].directory
    (started / "log.csv").write_text("")
    (started / "summary.json").unlink()
    status, _, err = command(capsys, "gather", directory)
    assert (status, err) == (0, "")
    with (directory / "results.csv").open() as stream:
        first, *others = csv.DictReader(stream)
    assert first["temperature [K]"] == ""
    assert all(row["temperature [K]"] for row in others)


@pytest.fixture
def copied(campaign, tmp_path):
    """The plan and a copy of the finished campaign, to be changed."""
    shutil.copytree(campaign.directory, tmp_path / "out")
    plan = tmp_path / "plan.yaml"
    shutil.copy(campaign.plan, plan)
    return plan, tmp_path / "out"


def test_more_runs(copied):
    """Runs that are there keep their names, seeds and results."""
    plan, directory = copied
    before = {entry.name: entry for entry in read_table(directory)}
    write_plan(plan, vary={"temperature": [260, 280, 300, 320.5]}, repeats=3)
    prepare(plan, directory)
    states = [state_of(entry) for entry in read_table(directory)]
    assert len(states) == 12
    finished = {state.entry.name: state.entry for state in states if state.name == "finished"}
    assert finished == before
    assert {s.name for s in states if s.entry.name not in before} == {"waiting"}
    assert len({state.entry.seed for state in states}) == 12


def test_without_a_seed_the_first_one_stays(tmp_path):
    plan = write_plan(tmp_path / "plan.yaml", seed=None)
    seeds = [run.config.seed for _ in range(2) for run in prepare(plan, tmp_path / "out")]
    assert seeds[0] == seeds[1]


def test_more_steps(copied):
    plan, directory = copied
    write_plan(plan, base={"steps": 100}, vary={"temperature": [280, 300, 320.5]}, repeats=2)
    prepare(plan, directory)
    states = [state_of(entry) for entry in read_table(directory)]
    assert {(s.name, s.steps, s.total) for s in states} == {("stopped", 100, 120)}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"base": {"friction": 2.0}},
            "the run temperature-280_repeat-1 has begun, and friction: this run was started with "
            r"1\.0, got 2\.0; only steps and report may change",
        ),
        (
            {"vary": {"temperature": [280, 300, 330]}},
            r"runs that have begun are not in the plan any more: temperature-320\.5_repeat-1, "
            r"temperature-320\.5_repeat-2; put their values back",
        ),
        ({"seed": 6}, "has begun, and seed: this run was started with"),
    ],
)
def test_changed_runs_that_have_begun(copied, changes, message):
    """Nothing is written before the error."""
    plan, directory = copied
    before = {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}
    write_plan(plan, **{"vary": {"temperature": [280, 300, 320.5]}, "repeats": 2} | changes)
    with pytest.raises(InputError, match=message):
        prepare(plan, directory)
    assert {p: p.read_bytes() for p in directory.rglob("*") if p.is_file()} == before


def test_a_directory_of_something_else(tmp_path, capsys):
    (tmp_path / "out" / "runs").mkdir(parents=True)
    plan = write_plan(tmp_path / "plan.yaml")
    with pytest.raises(OutputError, match="has runs, which no campaign wrote there"):
        prepare(plan, tmp_path / "out")
    status, _, err = command(capsys, "status", tmp_path)
    assert status == 2
    assert "expected the directory of a campaign, with campaign.json and runs.csv, got" in err


def test_a_plan_that_is_refused_leaves_nothing_behind(tmp_path):
    plan = write_plan(tmp_path / "plan.yaml", vary={"temperature": [300, -1]})
    with pytest.raises(InputError, match="temperature: expected a bare number above 0"):
        runner.run(plan, tmp_path / "far" / "out", workers=1)
    assert not (tmp_path / "far").exists()
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "file").touch()
    with pytest.raises(InputError, match="temperature"):
        runner.run(plan, tmp_path / "far" / "out", workers=1)
    assert [path.name for path in (tmp_path / "far").iterdir()] == ["file"]


def test_a_failure_is_known_while_no_scheduler_answers(tmp_path, monkeypatch):
    plan = write_plan(tmp_path / "plan.yaml")
    prepare(plan, tmp_path / "out")
    (entry,) = read_table(tmp_path / "out")
    write_failure(entry.directory, "unstable")
    monkeypatch.setattr(cluster, "_PATIENCE", 0.1)
    with pytest.raises(InputError, match=r"no answer from tcp://127\.0\.0\.1:1"):
        runner.run(plan, tmp_path / "out", scheduler="tcp://127.0.0.1:1")
    assert (state_of(entry).name, state_of(entry).error) == ("failed", "unstable")


def test_sigterm_ends_as_ctrl_c(tmp_path):
    """The command is printed as it was given, and workers leave nothing behind."""
    scratch, output = tmp_path / "scratch", tmp_path / "out"
    plan = write_plan(tmp_path / "plan.yaml", base={"steps": 100_000})
    arguments = ["campaign", "run", str(plan), f"--output={output}", "--workers", "1"]
    with subprocess.Popen(
        [sys.executable, "-c", COMMAND, *arguments],
        env=os.environ | python_path() | {"DASK_TEMPORARY_DIRECTORY": str(scratch)},
        stderr=subprocess.PIPE,
        encoding="utf-8",
    ) as process:
        wait_until(lambda: list(output.glob("runs/*/checkpoint.zip")))
        process.terminate()
        _, err = process.communicate()
    assert process.returncode == 128 + signal.SIGTERM
    assert err.splitlines()[1:] == [
        "workers: 1, none of them with a GPU",
        f"continue with:  openmm-les {shlex.join(arguments)}",
    ]
    assert not [path for path in scratch.rglob("worker-*") if path.is_dir()]
    (entry,) = read_table(output)
    assert state_of(entry).name == "stopped"


def test_two_at_a_time(tmp_path):
    plan = write_plan(tmp_path / "plan.yaml")
    directory = CampaignDirectory(tmp_path / "out")
    with directory.locked(), pytest.raises(InputError, match="is executed by another process"):
        runner.run(plan, tmp_path / "out", workers=1)


def test_a_run_that_fails_is_reported_once(tmp_path, capsys):
    """The others finish; exit status and last line tell; what was mended is done."""
    structures = ["missing.pdb", BASE["structure"]]
    base = {"steps": 20, "ensemble": "NVE", "response": ["dipole"], "response_interval": 5}
    plan = write_plan(tmp_path / "plan.yaml", base=base, zip={"structure": structures})
    text = plan.read_text()
    status, out, err = command(capsys, "run", plan, "-o", tmp_path / "out", "--workers", 2)
    assert status == 1, err
    assert out.startswith("1 of 2 runs finished, 1 failed; the first one that failed is structure-")
    assert out.count("\n") == 1
    assert err.count("cannot read") == 1
    assert f"failed: structure: cannot read {tmp_path / 'missing.pdb'}: No such file" in err
    _, out, _ = command(capsys, "status", tmp_path / "out")
    assert out.count("failed") == 2
    assert out.count("missing.pdb: No such file") == 1
    messages = list(tmp_path.glob("out/runs/*missing*/messages.txt"))
    assert messages[0].read_text().count("cannot read") == 1
    command(capsys, "gather", tmp_path / "out")
    with (tmp_path / "out" / "results.csv").open() as stream:
        failed, good = csv.DictReader(stream)
    assert (failed["state"], failed["dipole [e A]"]) == ("failed", "")
    folder = tmp_path / "out" / "runs" / good["run"]
    dipole = formats.read(folder / "response.csv").values["dipole"]
    expected = series_statistics(np.sqrt((dipole**2).sum(axis=1))).mean
    assert float(good["dipole [e A]"]) == pytest.approx(expected, rel=1e-12)
    drift = json.loads((folder / "summary.json").read_text())["energy_drift"]
    assert float(good["energy drift [meV/atom/ps]"]) == pytest.approx(drift, rel=1e-9)
    assert math.isnan(float(good["energy drift error [meV/atom/ps]"]))  # of two rows
    assert plan.read_text() == text
