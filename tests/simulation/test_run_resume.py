"""A run that is killed and resumed is, to the last byte, the run that was never interrupted."""

import shutil
import signal

import pytest
from support.runs import (
    Recorder,
    assert_same_run,
    config,
    kill_when,
    rows,
    settings,
    start,
)

from openmm_les import simulation as md
from openmm_les.simulation.checkpoint import Checkpoint


@pytest.mark.parametrize(
    ("ensemble", "point"),
    [
        ("NVT", "equilibration-20"),
        ("NPT", "equilibration-40"),
        ("NPT", "production-60"),
        ("NVE", "equilibration-40"),
        ("NVE", "production-100"),
    ],
)
def test_from_every_kind_of_checkpoint(uninterrupted, tmp_path, ensemble, point):
    """Files are those of a later time than the checkpoint, as a kill leaves them."""
    complete = uninterrupted(ensemble)
    output = tmp_path / "run"
    shutil.copytree(complete / "run", output)
    shutil.copy(complete / point / "checkpoint.zip", output)
    (output / ".checkpoint.zip.0123abcd.part").write_bytes(b"half a checkp")
    recorder = Recorder()
    md.run(config(tmp_path, ensemble), resume=True, callbacks=recorder)
    phase, step = point.split("-")
    total = {"equilibration": 40, "production": 120}[phase]
    assert recorder.messages == [f"continuing after step {step} of {total} of {phase}"]
    assert_same_run(output, complete / "run")
    assert not list(output.glob(".*.part"))


def test_killed_at_arbitrary_moments(uninterrupted, tmp_path):
    """kill -9 of a real process in every stage, time and again, until the run is finished."""
    fields = settings(tmp_path, "NPT")
    output = fields["output"]
    moments = {
        "minimisation": lambda: (output / "config.yaml").exists(),
        "equilibration": lambda: rows(output / "equilibration.csv") >= 1,
        "production": lambda: rows(output / "log.csv") >= 1,
        "later": lambda: rows(output / "log.csv") >= 4,
    }
    for moment in moments.values():
        process = start(fields, "--resume")
        kill_when(process, moment)
        assert process.returncode == -signal.SIGKILL
    process = start(fields, "--resume")
    _, err = process.communicate()
    assert process.returncode == 0, err
    assert "continuing after step" in err
    assert_same_run(output, uninterrupted("NPT") / "run")


def test_the_response_continues_too(tmp_path):
    """At constant pressure, where checkpoints make new Simulations."""
    wanted = {"response": "current,charges", "response_interval": 6, "equilibration_steps": 0}
    (tmp_path / "complete").mkdir()
    complete = config(tmp_path / "complete", "NPT", **wanted)
    output = tmp_path / "run"

    def copy(progress):
        if progress.step == 60:  # with the file of a later time
            shutil.copytree(complete.output, output)

    md.run(complete, callbacks=Recorder(copy))
    shutil.copy(complete.output / "response.csv", output)
    assert rows(output / "response.csv") == 20
    md.run(config(tmp_path, "NPT", **wanted), resume=True)
    assert_same_run(output, complete.output)
    same = [(folder / "response.csv").read_bytes() for folder in (output, complete.output)]
    assert same[0] == same[1]


# Dies in the n-th call of fsync: between log and trajectory, in the middle of a checkpoint, ...
DYING = """
import os, signal
calls, fsync = 0, os.fsync
def dying(handle):
    global calls
    calls += 1
    if calls == {number}:
        os.kill(os.getpid(), signal.SIGKILL)
    fsync(handle)
os.fsync = dying
"""


@pytest.mark.parametrize("number", [1, 29, 30])
def test_killed_while_writing(uninterrupted, tmp_path, number):
    """At every point in the order in which files and checkpoints reach the disk."""
    fields = settings(tmp_path)
    process = start(fields, prelude=DYING.format(number=number))
    _, err = process.communicate()
    assert process.returncode == -signal.SIGKILL, err
    md.run(config(tmp_path), resume=True)
    assert_same_run(fields["output"], uninterrupted("NVT") / "run")


# Dies with the last frame half written, after the header has counted it.
HALF_A_FRAME = """
import os, signal
from openmm import app
write, frames = app.DCDFile.writeModel, 0
def dying(self, *given, **named):
    global frames
    write(self, *given, **named)
    frames += 1
    if frames == 2:
        self._file.truncate(self._file.tell() - 100)
        os.kill(os.getpid(), signal.SIGKILL)
app.DCDFile.writeModel = dying
"""


def test_killed_in_the_middle_of_a_frame(uninterrupted, tmp_path):
    fields = settings(tmp_path)
    process = start(fields, prelude=HALF_A_FRAME)
    _, err = process.communicate()
    assert process.returncode == -signal.SIGKILL, err
    md.run(config(tmp_path), resume=True)
    assert_same_run(fields["output"], uninterrupted("NVT") / "run")


@pytest.mark.parametrize(("ensemble", "number"), [("NVT", signal.SIGINT), ("NPT", signal.SIGTERM)])
def test_signals_stop_in_order(uninterrupted, tmp_path, ensemble, number):
    fields = settings(tmp_path, ensemble)
    output = fields["output"]
    process = start(fields)
    out, err = kill_when(process, lambda: rows(output / "log.csv") >= 2, number)
    assert process.returncode == 128 + number, err
    assert out == ""
    assert "stopped after step" in err
    assert f"continue with:  openmm-les run {output}/config.yaml --resume\n" in err
    assert "Traceback" not in err
    md.run(md.load(output / "config.yaml"), resume=True)  # what the printed command does
    assert_same_run(output, uninterrupted(ensemble) / "run")


# Sends signals to itself in the fifth evaluation of the model, which is one of the minimisation.
SIGNALLING = """
import os, signal
from openmm_les.plugin.forces.pythonforce import LESCompute
call, calls = LESCompute.__call__, 0
def signalling(self, state):
    global calls
    calls += 1
    for _ in range({times} if calls == 5 else 0):
        os.kill(os.getpid(), signal.SIGINT)
    return call(self, state)
LESCompute.__call__ = signalling
"""


def test_a_signal_in_the_minimisation(uninterrupted, tmp_path):
    fields = settings(tmp_path)
    output = fields["output"]
    process = start(fields, prelude=SIGNALLING.format(times=1))
    _, err = process.communicate()
    assert process.returncode == 130
    assert "stopped in the minimisation" in err
    assert f"continue with:  openmm-les run {output}/config.yaml --resume\n" in err
    recorder = Recorder()
    md.run(config(tmp_path), resume=True, callbacks=recorder)
    assert recorder.messages[0] == f"no checkpoint in {output}: starting from the beginning"
    assert_same_run(output, uninterrupted("NVT") / "run")


def test_a_second_signal_ends_at_once(tmp_path):
    process = start(settings(tmp_path), prelude=SIGNALLING.format(times=2))
    process.communicate()
    assert process.returncode == -signal.SIGINT


@pytest.mark.parametrize("ensemble", ["NVT", "NPT"])
def test_more_steps_extend_a_run(uninterrupted, tmp_path, ensemble):
    """A short run that is continued to the full length is the long run."""
    md.run(config(tmp_path, ensemble, steps=60))
    assert rows(tmp_path / "run" / "log.csv") == 3
    result = md.run(config(tmp_path, ensemble), resume=True)
    assert result.steps == 120
    assert_same_run(tmp_path / "run", uninterrupted(ensemble) / "run")
    assert md.load(tmp_path / "run" / "config.yaml").steps == 120


def test_a_finished_run_is_left_alone(uninterrupted, tmp_path, caplog):
    output = tmp_path / "run"
    shutil.copytree(uninterrupted("NVT") / "run", output)
    before = {path.name: path.read_bytes() for path in output.iterdir()}
    recorder = Recorder()
    result = md.run(config(tmp_path), resume=True, callbacks=recorder)
    assert recorder.messages == ["this run is finished: 120 steps are done"]
    assert result.steps == 120
    assert {path.name: path.read_bytes() for path in output.iterdir()} == before
    assert not caplog.text
    (output / "trajectory.dcd").unlink()
    md.run(config(tmp_path), resume=True)
    assert "has no trajectory.dcd any more" in caplog.text


def test_killed_before_the_figures(uninterrupted, tmp_path):
    """All steps are done, but not what comes after them."""
    output = tmp_path / "run"
    shutil.copytree(uninterrupted("NVT") / "run", output)
    (output / "summary.json").unlink()
    (output / "final.pdb").unlink()
    md.run(config(tmp_path), resume=True)
    assert_same_run(output, uninterrupted("NVT") / "run")
    assert (output / "summary.json").exists()


def test_a_box_that_outgrows_the_buffers(tmp_path):
    """Under a pressure that shrinks the box by far more than the 15 % that the buffers allow."""
    changes = {"pressure": 2e5, "steps": 200, "equilibration_steps": 0, "barostat_interval": 1}
    folders = [tmp_path / "complete", tmp_path / "killed"]
    for folder in folders:
        folder.mkdir()

    def copy(progress):
        if progress.step == 140:
            shutil.copytree(folders[0] / "run", folders[1] / "run")

    md.run(config(folders[0], "NPT", **changes), callbacks=Recorder(copy))
    start_box, last_box = (
        Checkpoint.read(folder / "run" / "checkpoint.zip").box[0][0] for folder in reversed(folders)
    )
    assert 0.62 > start_box > last_box
    assert (last_box / 0.62) ** 3 < 0.8
    md.run(config(folders[1], "NPT", **changes), resume=True)
    assert_same_run(*(folder / "run" for folder in folders))
