"""Short runs for the tests of `openmm_les.simulation`: structures, settings, outcomes compared."""

import io
import os
import shutil
import signal
import sys
import time
import traceback
from pathlib import Path

import numpy as np
import pytest
from openmm import Vec3, app, unit
from support.programs import FORKSERVER

from openmm_les import simulation as md
from openmm_les.cli import main
from openmm_les.simulation.checkpoint import Checkpoint
from openmm_les.simulation.progress import RunCallbacks

ROOT = Path(__file__).resolve().parents[2]
PEPTIDE = ROOT / "examples" / "alanine_dipeptide.pdb"
#: What has to be the same to the last byte, however often a run was interrupted.
SAME = ("minimised.pdb", "equilibration.csv", "log.csv", "trajectory.dcd", "final.pdb")


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
        "report": "off",  # of which every one takes a second
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


class Process:
    """`openmm-les run` in a process of its own."""

    def __init__(self, fields, options, prelude) -> None:
        folder = Path(fields["output"]).parent
        self._texts = folder / "stdout.txt", folder / "stderr.txt"
        arguments = ["openmm-les", "run", *flags(fields), *options]
        self._process = FORKSERVER.Process(target=_main, args=(arguments, prelude, self._texts))
        self._process.start()

    def poll(self) -> int | None:
        """The exit status as `subprocess.Popen.returncode`; None while the process runs."""
        return self._process.exitcode

    @property
    def returncode(self) -> int | None:
        return self.poll()

    def send_signal(self, number) -> None:
        os.kill(self._process.pid, number)

    def communicate(self) -> tuple[str, str]:
        """Wait for the end; returns standard output and standard error."""
        self._process.join()
        return self._texts[0].read_text(), self._texts[1].read_text()


def _main(arguments, prelude, texts) -> None:
    import torch

    torch.set_num_threads(1)
    for number, path in enumerate(texts, 1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    sys.argv = arguments
    exec(prelude, {})
    try:
        main()
    except Exception:
        traceback.print_exc()
        raise SystemExit(1) from None


def start(fields, *options, prelude="") -> Process:
    """`openmm-les run` in a process of its own; `prelude` is run before."""
    return Process(fields, options, prelude)


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


TIP3P = ("amber14-all.xml", "amber14/tip3p.xml")
IN_WATER = {
    "ml_region": ("resname ACE", "resname ALA", "resname NME"),
    "force_field": TIP3P,
    "nonbonded_cutoff": 0.65,
}


def write(path, given):
    """A structure of `mixed` as a PDB file."""
    with path.open("w") as stream:
        app.PDBFile.writeFile(
            given.topology, given.positions * unit.nanometer, stream, keepIds=True
        )
    return path
