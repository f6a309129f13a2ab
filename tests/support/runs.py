"""Short runs for the tests of `openmm_les.simulation`: structures, settings, outcomes compared."""

import io
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from openmm import Vec3, app, unit

from openmm_les import simulation as md
from openmm_les.cli import main
from openmm_les.simulation.checkpoint import Checkpoint
from openmm_les.simulation.progress import RunCallbacks

ROOT = Path(__file__).resolve().parents[2]
PEPTIDE = ROOT / "examples" / "alanine_dipeptide.pdb"
#: What has to be the same to the last byte, however often a run was interrupted.
SAME = ("minimised.pdb", "equilibration.csv", "log.csv", "trajectory.dcd", "final.pdb")

MAIN = "from openmm_les.cli import main; main()"


def water_box(path, side=2, spacing=0.31) -> Path:
    """A PDB file of `side`**3 waters on a grid [nm]."""
    topology, chain = app.Topology(), None
    chain = topology.addChain()
    oxygen, hydrogen = app.element.oxygen, app.element.hydrogen
    molecule = np.array([[0.0, 0.0, 0.0], [0.0757, 0.0587, 0.0], [-0.0757, 0.0587, 0.0]])
    positions = []
    for cell in np.ndindex(side, side, side):
        residue = topology.addResidue("HOH", chain)
        for name, element in (("O", oxygen), ("H1", hydrogen), ("H2", hydrogen)):
            topology.addAtom(name, element, residue)
        turned = molecule[:, np.roll([0, 1, 2], sum(cell))]
        positions.extend(turned + spacing * np.array(cell))
    topology.setPeriodicBoxVectors(np.eye(3) * side * spacing * unit.nanometer)
    written = io.StringIO()
    app.PDBFile.writeFile(topology, [Vec3(*r) for r in positions] * unit.nanometer, written)
    # The first line has the date, and runs are compared across midnight, too.
    path.write_text(written.getvalue().partition("\n")[2])
    return path


def run_with_copies(folder, settings) -> Path:
    """A complete run in ``folder/run`` with copies from every checkpoint beside it; the folder."""

    def copy(progress):
        if progress.step % 20 == 0:
            shutil.copytree(folder / "run", folder / f"{progress.phase}-{progress.step}")

    md.run(settings, callbacks=Recorder(copy))
    return folder


def settings(folder, ensemble="NVT", **changes) -> dict:
    """Fields of a run of some seconds; periodic water for NPT, else the peptide."""
    fields = {
        "structure": water_box(folder / "water.pdb") if ensemble == "NPT" else PEPTIDE,
        "model": "les-demo",
        "output": folder / "run",
        "ensemble": ensemble,
        "steps": 120,
        "equilibration_steps": 40,
        "minimise_iterations": 20,
        "report_interval": 20,
        "trajectory_interval": 40,
        "barostat_interval": 5,
        "seed": 7,
        "device": "cpu",
        "backend": "pythonforce",
    }
    return fields | changes


def config(folder, ensemble="NVT", **changes) -> md.RunConfig:
    return md.RunConfig(**settings(folder, ensemble, **changes))


def flags(fields) -> list[str]:
    """The same fields on the command line."""
    words = []
    for name, value in fields.items():
        words += ["--" + name.replace("_", "-"), str(value)]
    return words


def command(capsys, *arguments) -> tuple[int, str, str]:
    """Exit status, standard output and standard error of `openmm-les run`."""
    with pytest.raises(SystemExit) as stopped:
        main(["run", *map(str, arguments)])
    captured = capsys.readouterr()
    return stopped.value.code, captured.out, captured.err


def start(fields, *options, prelude="") -> subprocess.Popen[str]:
    """`openmm-les run` in a process of its own; `prelude` is run before."""
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(filter(None, sys.path)))
    environment["OMP_NUM_THREADS"] = "1"
    return subprocess.Popen(
        [sys.executable, "-c", prelude + MAIN, "run", *flags(fields), *options],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def kill_when(process, condition, number=signal.SIGKILL, patience=120.0) -> tuple[str, str]:
    """Send a signal as soon as `condition` holds; returns what the process wrote."""
    limit = time.monotonic() + patience
    while not condition():
        assert process.poll() is None, f"ended too early: {process.communicate()}"
        assert time.monotonic() < limit
        time.sleep(0.002)
    process.send_signal(number)
    return process.communicate()


def rows(path) -> int:
    """Complete rows of a log below its header."""
    if not path.exists():
        return 0
    lines = path.read_bytes().splitlines(keepends=True)[1:]
    return sum(line.endswith(b"\n") and not line.startswith(b"#") for line in lines)


def assert_same_run(got, expected) -> None:
    """Two output directories hold the same bytes, and the same state of OpenMM."""
    for name in SAME:
        assert (got / name).exists() == (expected / name).exists(), name
        if (expected / name).exists():
            assert (got / name).read_bytes() == (expected / name).read_bytes(), name
    states = [Checkpoint.read(folder / "checkpoint.zip") for folder in (got, expected)]
    assert states[0].context == states[1].context
    assert (states[0].phase, states[0].step) == (states[1].phase, states[1].step)


class Recorder(RunCallbacks):
    """Keeps what a run says, and calls `at` with every progress."""

    def __init__(self, at=lambda progress: None):
        self.messages: list[str] = []
        self.steps: list[tuple[str, int]] = []
        self._at = at

    def message(self, text):
        self.messages.append(text)

    def progress(self, progress):
        self.steps.append((progress.phase, progress.step))
        self._at(progress)
