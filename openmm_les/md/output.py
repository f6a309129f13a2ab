"""The directory of a run: who works in it, what is in it, and the files that grow."""

from __future__ import annotations

import contextlib
import io
import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from filelock import FileLock, Timeout
from openmm import app, unit

from openmm_les._version import __version__
from openmm_les.errors import InputError
from openmm_les.files import sync_directory, write_atomically
from openmm_les.md.checkpoint import Checkpoint, FileState
from openmm_les.md.config import RunConfig
from openmm_les.md.simulation import Phase
from openmm_les.md.structure import FloatArray, with_box
from openmm_les.reporters import LESReporter

CONFIG = "config.yaml"
MINIMISED = "minimised.pdb"
LOG = "log.csv"
EQUILIBRATION_LOG = "equilibration.csv"
TRAJECTORY = "trajectory.dcd"
RESPONSE = "response.csv"
CHECKPOINT = "checkpoint.zip"
FINAL = "final.pdb"
SUMMARY = "summary.json"

#: Files that grow; a resumed run takes back what they hold beyond its checkpoint.
_GROWING = (EQUILIBRATION_LOG, LOG, TRAJECTORY, RESPONSE)
#: Files that only a finished run has.
_OF_THE_END = (FINAL, SUMMARY)
ALL = (CONFIG, MINIMISED, *_GROWING, CHECKPOINT, *_OF_THE_END)

#: Where a DCD header holds the time of its creation, and for how many bytes.
_DCD_DATE = (180, 80)


class RunDirectory:
    """Paths and state of the output directory of a run."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes out; a killed process lets go by itself.

        Raises:
            InputError: another process works here, or the directory cannot be written.
        """
        owner = self / ".owner"
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self / ".lock", timeout=0)
            lock.acquire()
            owner.write_text(f"process {os.getpid()} on {socket.gethostname()}")
        except Timeout:
            who = owner.read_text() if owner.is_file() else "another process"
            raise InputError(
                f"output: {self.path} is in use by {who}; wait for it, or choose another directory"
            ) from None
        except OSError as error:
            raise InputError(
                f"output: cannot write in {self.path}: {error.strerror or error}"
            ) from error
        try:
            yield
        finally:
            owner.unlink(missing_ok=True)
            lock.release()

    def existing(self) -> list[str]:
        """Names of the files of a run that are here; settings alone are not worth keeping."""
        found = [name for name in ALL if (self / name).exists()]
        return [] if found == [CONFIG] else found

    def checkpoint(self) -> Checkpoint | None:
        """The last checkpoint, if there is one."""
        path = self / CHECKPOINT
        return Checkpoint.read(path) if path.exists() else None

    def clear(self) -> None:
        """Delete the files of a run, and nothing else; first what could continue it."""
        for name in (CHECKPOINT, *ALL):
            (self / name).unlink(missing_ok=True)
            (self / f".{name}.part").unlink(missing_ok=True)

    def write_config(self, config: RunConfig) -> None:
        """Write the configuration; with `--resume` it continues this run."""
        text = config.to_yaml(self.path)
        write_atomically(self / CONFIG, text.encode())

    def file_states(self) -> dict[str, FileState]:
        """How far the growing files have been written."""
        return {name: FileState.of(self / name) for name in _GROWING if (self / name).exists()}

    def restore(self, checkpoint: Checkpoint) -> None:
        """Take the files back to the state of a checkpoint.

        Raises:
            InputError: some of what they held is gone.
        """
        for name, state in checkpoint.outputs.items():
            state.restore(self / name)
        for name in _GROWING:
            if name not in checkpoint.outputs:
                (self / name).unlink(missing_ok=True)
        for name in _OF_THE_END:
            (self / name).unlink(missing_ok=True)

    def write_structure(
        self, name: str, topology: app.Topology, positions: Any, box: FloatArray | None
    ) -> None:
        """Write a PDB file that depends on nothing but its content.

        Args:
            name: of the file.
            topology: atoms and bonds.
            positions: Quantity or array [nm].
            box: box vectors in rows [nm]; None where not periodic.
        """
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
        self._log: IO[str] = log.open("a", encoding="ascii", newline="\n")
        self._trajectory: _TrajectoryReporter | None = None
        self.reporters: list[Any] = [
            app.StateDataReporter(
                self._log,
                config.report_interval,
                step=True,
                time=True,
                potentialEnergy=True,
                kineticEnergy=True,
                totalEnergy=True,
                temperature=True,
                volume=is_periodic,
                density=is_periodic,
                append=has_header,
            )
        ]
        if is_production:
            interval = config.trajectory_interval or config.report_interval
            self._trajectory = _TrajectoryReporter(directory / TRAJECTORY, interval)
            self.reporters.append(self._trajectory)
            if config.response:
                self.reporters.append(_response_reporter(directory / RESPONSE, config))

    def sync(self) -> None:
        """Bring everything that was reported to the disk, so that a checkpoint may rely on it."""
        self._log.flush()
        os.fsync(self._log.fileno())
        if self._trajectory is not None:
            self._trajectory.sync()
        response = self._directory / RESPONSE
        if response.exists():  # its reporter has closed it
            with response.open("rb") as stream:
                os.fsync(stream.fileno())
        sync_directory(self._directory.path)

    def close(self) -> None:
        """Close the files."""
        self._log.close()
        if self._trajectory is not None:
            self._trajectory.close()


def _response_reporter(path: Path, config: RunConfig) -> LESReporter:
    """Writes the electric properties that the settings ask for; continues a file."""
    wanted = set(config.response or ())
    return LESReporter(
        path,
        config.response_interval,
        # A TorchForce does not tell its model; a region with link atoms is told by its force.
        config.model if config.ml_region is None else None,
        charges="charges" in wanted,
        dipole="dipole" in wanted,
        bornCharges="born_charges" in wanted,
        current="current" in wanted,
        velocities="velocities" in wanted,
        append=True,
        precision=config.precision,
        device=config.device,
    )


def check_response(config: RunConfig, is_periodic: bool) -> None:
    """Refuse a dipole that does not exist, before anything is computed.

    Raises:
        InputError: the model sees a periodic system, and its dipole is asked for.
    """
    is_cluster = config.ml_region is not None and config.embedding == "electrostatic"
    if "dipole" in (config.response or ()) and is_periodic and not is_cluster:
        raise InputError("response: a periodic system has no dipole, take the current")


class _TrajectoryReporter:
    """Writes a DCD file whose bytes depend on the frames alone, not on the time of day."""

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
