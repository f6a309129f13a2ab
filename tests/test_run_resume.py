"""A run that is killed and resumed is, to the last byte, the run that was never interrupted."""

import shutil
import signal

import pytest
from runs import (
    SAME,
    Recorder,
    assert_same_run,
    config,
    flags,
    kill_when,
    rows,
    settings,
    start,
)

from openmm_les import md

ENSEMBLES = ["NVT", "NPT", "NVE"]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """Directories of complete runs, with a copy at every checkpoint: ``get(ensemble)``."""
    done = {}

    def get(ensemble):
        if ensemble not in done:
            folder = tmp_path_factory.mktemp(ensemble)

            def copy(progress):
                if progress.step % 20 == 0:
                    shutil.copytree(folder / "run", folder / f"{progress.phase}-{progress.step}")

            md.run(config(folder, ensemble), listener=Recorder(copy))
            done[ensemble] = folder
        return done[ensemble]

    return get


@pytest.mark.parametrize("ensemble", ENSEMBLES)
@pytest.mark.parametrize("point", ["equilibration-20", "equilibration-40", "production-60"])
def test_from_every_kind_of_checkpoint(uninterrupted, tmp_path, ensemble, point):
    """Files are those of a later time than the checkpoint, as a kill leaves them."""
    complete = uninterrupted(ensemble)
    output = tmp_path / "run"
    shutil.copytree(complete / "run", output)
    shutil.copy(complete / point / "checkpoint.zip", output)
    (output / ".checkpoint.zip.part").write_bytes(b"half a checkp")
    recorder = Recorder()
    md.run(config(tmp_path, ensemble), resume=True, listener=recorder)
    phase, step = point.split("-")
    total = {"equilibration": 40, "production": 120}[phase]
    assert recorder.messages == [f"continuing after step {step} of {total} of {phase}"]
    assert_same_run(output, complete / "run")
