"""The output directory of a run: its lock, its files, and the reporters that append to them."""

from __future__ import annotations

import contextlib
import io
import os
import socket
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from openmm import app, unit

from openmm_les._version import __version__
from openmm_les.analysis.spectra import check_sampling
from openmm_les.arrays import FloatArray
from openmm_les.artifact import Artifact
from openmm_les.errors import InputError, LESError, OutputError
from openmm_les.files.locks import Timeout, exclusive_lock
from openmm_les.files.writing import (
    refuse_inputs,
    remove_parts,
    sync_directory,
    write_atomically,
    writing,
)
from openmm_les.plugin import reported
from openmm_les.plugin.forces.atoms import HYDROGEN
from openmm_les.plugin.reporter import LESReporter
from openmm_les.simulation.builder import Phase
from openmm_les.simulation.checkpoint import Checkpoint, FileState
from openmm_les.simulation.config import CAMPAIGN, CONFIG, RunConfig, load
from openmm_les.simulation.end_energies import EndEnergyReporter
from openmm_les.simulation.structures.structure import Structure, with_box

MINIMISED = "minimised.pdb"
LOG = "log.csv"
EQUILIBRATION_LOG = "equilibration.csv"
TRAJECTORY = "trajectory.dcd"
RESPONSE = "response.csv"
INTERPOLATION = "interpolation.csv"
CHECKPOINT = "checkpoint.zip"
FINAL = "final.pdb"
SUMMARY = "summary.json"
REPORT = "report.html"

#: Files that grow; a resumed run truncates them to the state of its checkpoint.
_GROWING = (EQUILIBRATION_LOG, LOG, TRAJECTORY, RESPONSE, INTERPOLATION)
#: Files that only a finished run has.
_FINAL_FILES = (FINAL, SUMMARY)
#: All files, and what is in them.
CONTENTS = {
    CONFIG: "the settings and the seed",
    MINIMISED: "the relaxed start structure",
    EQUILIBRATION_LOG: "energies and temperature before production",
    LOG: "energies and temperature of production",
    TRAJECTORY: "frames of production",
    RESPONSE: "electric properties of production",
    INTERPOLATION: "energies of the force field and of ML/MM",
    CHECKPOINT: "the state from which the run continues",
    FINAL: "the last positions",
    SUMMARY: "the final figures, for programs",
    REPORT: "this page",
}
ALL = tuple(CONTENTS)
#: First line of the configuration file, which marks the directory as that of a run.
_MARKER = "# Written by openmm-les run: this directory is its own.\n"

#: Where a DCD header holds the time of its creation, and for how many bytes.
_DCD_DATE = (180, 80)


def _discard(path: Path) -> None:
    """Remove a file; an error here would hide the one that has ended the run."""
    with contextlib.suppress(OSError):
        path.unlink()


class RunDirectory:
    """Paths and state of the output directory of a run."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Lock the directory; the lock of a killed process is released by the system."""
        owner = self / ".owner"
        with contextlib.ExitStack() as held:
            try:
                held.enter_context(exclusive_lock(self / ".lock"))
                owner.write_text(f"process {os.getpid()} on {socket.gethostname()}")
                held.callback(_discard, owner)
                for name in ALL:  # of a process that was killed
                    remove_parts(self / name)
            except Timeout:
                who = owner.read_text() if owner.is_file() else "another process"
                raise InputError(
                    f"output: {self.path} is in use by {who}; wait for it, or choose another "
                    "directory"
                ) from None
            except OSError as error:
                raise InputError(
                    f"output: cannot write in {self.path}: {error.strerror or error}"
                ) from error
            yield

    def existing(self) -> list[str]:
        """Names of the files of a run in the directory; none without anything to lose."""
        found = [name for name in ALL if os.path.lexists(self / name)]
        if found and not self._is_of_a_run():
            raise OutputError(
                f"output: {self.path} has {', '.join(found)}, which no run wrote there; choose a "
                "directory of its own for the output, such as output: run"
            )
        return [] if {CONFIG, REPORT}.issuperset(found) else found

    def _is_of_a_run(self) -> bool:
        """Whether a marked configuration file or a checkpoint is here."""
        with contextlib.suppress(OSError):
            if (self / CONFIG).read_bytes().startswith(_MARKER.encode()):
                return True
        with contextlib.suppress(InputError):
            return self.checkpoint() is not None
        return False

    def is_of_a_campaign(self) -> bool:
        """Whether the directory is that of one run of a campaign, or of a free energy."""
        return any((folder / CAMPAIGN).is_file() for folder in self.path.parents[1:4])

    def results(self) -> list[str]:
        """Names of files with results."""
        growing = [name for name, state in self.file_states().items() if state.size]
        return growing + [name for name in _FINAL_FILES if (self / name).exists()]

    def refuse_inputs(self, inputs: Mapping[str, str | os.PathLike[str] | None]) -> None:
        """Raise an OutputError if the run would delete or write one of its inputs."""
        for name in ALL:
            refuse_inputs(self / name, inputs)

    def checkpoint(self) -> Checkpoint | None:
        """The last checkpoint; None without one, an InputError if it is damaged."""
        path = self / CHECKPOINT
        if not path.exists():
            return None
        found = Checkpoint.read(path)
        if alien := sorted(set(found.outputs) - set(_GROWING)):
            raise InputError(
                f"checkpoint: {path} is damaged ({alien[0]!r} is no file of a run); start again "
                "with --overwrite"
            )
        return found

    def clear(self) -> None:
        """Delete the files of a run but its configuration; the checkpoint first."""
        with writing(self.path):
            for name in (CHECKPOINT, *ALL):
                if name != CONFIG:
                    (self / name).unlink(missing_ok=True)

    def write_config(self, config: RunConfig) -> None:
        """Write the configuration, unless the file has the same settings with other comments."""
        path = self / CONFIG
        try:
            before, text = load(path), path.read_text(encoding="utf-8")
        except (LESError, OSError, UnicodeDecodeError):
            before, text = None, ""
        if before == config and text.startswith(_MARKER):
            return
        is_own = before is not None and text == self.config_text(before)
        if path.exists() and not is_own:
            raise OutputError(
                f"output: {path} was edited and differs from the settings of this run; "
                "change it there, or move it away: it is not replaced"
            )
        write_atomically(path, self.config_text(config).encode())

    def config_text(self, config: RunConfig) -> str:
        """What `write_config` writes."""
        return _MARKER + config.to_yaml(self.path)

    def file_states(self) -> dict[str, FileState]:
        """States of the growing files."""
        return {name: FileState.of(self / name) for name in _GROWING if (self / name).exists()}

    def restore(self, checkpoint: Checkpoint) -> None:
        """Truncate the files to the state of a checkpoint; an InputError if data are missing."""
        for name, state in checkpoint.outputs.items():
            state.restore(self / name)
        for name in {*_GROWING, *_FINAL_FILES, REPORT}.difference(checkpoint.outputs):
            (self / name).unlink(missing_ok=True)

    def write_structure(
        self, name: str, topology: app.Topology, positions: Any, box: FloatArray | None
    ) -> None:
        """Write positions (Quantity, or array [nm]) as a PDB file without the date."""
        text = io.StringIO()
        if not unit.is_quantity(positions):
            positions = positions * unit.nanometer
        app.PDBFile.writeFile(with_box(topology, box), positions, text, keepIds=True)
        lines = text.getvalue().splitlines(keepends=True)
        undated = [line for line in lines if not line.startswith("REMARK   1 CREATED WITH")]
        write_atomically(self / name, "".join(undated).encode())


class PhaseOutput:
    """The growing files of one phase, as reporters of a Simulation."""

    def __init__(
        self, directory: RunDirectory, config: RunConfig, phase: Phase, is_periodic: bool
    ) -> None:
        self._directory = directory
        is_production = phase.name == "production"
        log = directory / (LOG if is_production else EQUILIBRATION_LOG)
        has_header = log.exists() and log.stat().st_size > 0
        with writing(log):
            self._log: IO[str] = log.open("a", encoding="ascii", newline="\n")
        self._trajectory: _TrajectoryReporter | None = None
        columns = ("step", "time", "potentialEnergy", "kineticEnergy", "totalEnergy", "temperature")
        wanted = dict.fromkeys(columns, True)
        wanted |= {"volume": is_periodic, "density": is_periodic, "append": has_header}
        table = app.StateDataReporter(self._log, config.report_interval, **wanted)
        self.reporters: list[Any] = [_WritingReporter(log, table)]
        if is_production:
            interval = config.trajectory_interval or config.report_interval
            self._trajectory = _TrajectoryReporter(directory / TRAJECTORY, interval)
            self.reporters.append(_WritingReporter(directory / TRAJECTORY, self._trajectory))
            if config.response:
                self.reporters.append(_response_reporter(directory / RESPONSE, config))
            if config.lambda_interpolate is not None:
                ends = EndEnergyReporter(directory / INTERPOLATION, config.report_interval)
                self.reporters.append(_WritingReporter(directory / INTERPOLATION, ends))

    def sync(self) -> None:
        """Flush all files to the disk, before a checkpoint refers to them."""
        with writing(self._directory.path):
            self._log.flush()
            os.fsync(self._log.fileno())
            if self._trajectory is not None:
                self._trajectory.sync()
            for name in (RESPONSE, INTERPOLATION):  # closed by their reporters
                if (self._directory / name).exists():
                    with (self._directory / name).open("rb") as stream:
                        os.fsync(stream.fileno())
            sync_directory(self._directory.path)

    def close(self) -> None:
        """Close the files."""
        self._log.close()
        if self._trajectory is not None:
            self._trajectory.close()

    def abandon(self) -> None:
        """Close the files after one of them could not be written."""
        for file in (self._log, self._trajectory):
            with contextlib.suppress(OSError):
                if file is not None:
                    file.close()


class _WritingReporter:
    """Wraps a reporter so that errors of the disk name its file."""

    def __init__(self, path: Path, reporter: Any) -> None:
        self._path = path
        self._reporter = reporter

    def describeNextReport(self, simulation: app.Simulation) -> Any:
        return self._reporter.describeNextReport(simulation)

    def report(self, simulation: app.Simulation, state: Any) -> None:
        with writing(self._path):
            self._reporter.report(simulation, state)


def _response_reporter(path: Path, config: RunConfig) -> LESReporter:
    """The reporter of the electric properties; appends to a file."""
    wanted: dict[str, Any] = dict.fromkeys(config.response or (), True)
    # A TorchForce does not hold its model; with an ML region the force knows its link atoms.
    is_whole = config.ml_region is None
    return LESReporter(
        path,
        config.response_interval,
        config.model if is_whole else None,
        **wanted,
        features=config.evaluation_options.conditions if is_whole else None,
        append=True,
        precision=config.precision,
        device=config.device,
        temperature=config.temperature,
    )


def check_response(config: RunConfig, structure: Structure, artifact: Artifact) -> None:
    """Refuse what the system or the model does not have; warn of a long interval between rows."""
    wanted = config.response or ()
    reported.check(artifact, wanted, "response")
    is_cluster = config.ml_region is not None and config.embedding == "electrostatic"
    if "dipole" in wanted and structure.box is not None and not is_cluster:
        raise InputError("response: a periodic system has no dipole, take the current")
    has_hydrogen = any(atom.element in HYDROGEN for atom in structure.topology.atoms())
    if has_hydrogen and reported.FOR_SPECTRA.intersection(wanted):
        check_sampling(config.response_interval * config.time_step * 1e-3)


class _TrajectoryReporter:
    """Writes a DCD file without the date, so that runs can be compared."""

    def __init__(self, path: Path, interval: int) -> None:
        self._path = path
        self._interval = interval
        self._stream: IO[bytes] | None = None
        self._file: app.DCDFile | None = None

    def describeNextReport(self, simulation: app.Simulation) -> dict[str, Any]:
        steps = self._interval - simulation.currentStep % self._interval
        return {"steps": steps, "periodic": None, "include": ["positions"]}

    def report(self, simulation: app.Simulation, state: Any) -> None:
        if self._file is None:
            self._open(simulation)
        assert self._file is not None
        self._file.writeModel(
            state.getPositions(asNumpy=True), periodicBoxVectors=state.getPeriodicBoxVectors()
        )

    def _open(self, simulation: app.Simulation) -> None:
        is_new = not self._path.exists()
        self._stream = self._path.open("w+b" if is_new else "r+b")
        self._file = app.DCDFile(
            self._stream,
            simulation.topology,
            simulation.integrator.getStepSize(),
            firstStep=self._interval,
            interval=self._interval,
            append=not is_new,
        )
        if is_new:
            position, length = _DCD_DATE
            self._stream.seek(position)
            remark = f"Created by openmm-les {__version__}"
            self._stream.write(struct.pack(f"<{length}s", remark.encode()))

    def sync(self) -> None:
        if self._stream is not None:
            self._stream.flush()
            os.fsync(self._stream.fileno())

    def close(self) -> None:
        if self._stream is not None:
            self._stream.close()
