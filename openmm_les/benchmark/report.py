"""Measures a model in every way that works here, and writes what was found for others to read."""

from __future__ import annotations

import getpass
import json
import re
import socket
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from openmm import app, unit

from openmm_les import catalog
from openmm_les.artifact import Artifact
from openmm_les.benchmark import machine
from openmm_les.benchmark.steps import Case
from openmm_les.benchmark.water import water
from openmm_les.errors import InputError
from openmm_les.evaluation.device import find_device
from openmm_les.plugin.forces.backends import torchforce_status
from openmm_les.processes.children import run_python
from openmm_les.simulation.structures.structure import read_structure, real_atoms

_FORMAT = 1
#: Atoms of the water that is measured by default; the largest on a GPU only.
SIZES, SIZES_ON_GPU = (45, 192, 1029), (45, 192, 1029, 10125)
#: What a child may take besides tuning and timing: imports, compilation, the first steps [s].
_PATIENCE = 300.0
#: Of the speed in the table [fs].
TIME_STEP = 0.5
_CHILD = """
import sys
from openmm_les.benchmark.steps import main
main(sys.argv[1])
"""
#: Ways to run a model: a name, and what `Case` says of it.
_TORCHFORCE = {"backend": "torchforce", "engine": "torchscript"}
_WAYS: dict[str, dict[str, Any]] = {
    "plain": {"backend": "pythonforce", "engine": "torchscript"},
    "auto": {"backend": "pythonforce", "engine": "auto"},
    "TorchForce": _TORCHFORCE,
}
_WAYS_ON_GPU = {**_WAYS, "TorchForce, graph": {**_TORCHFORCE, "cudaGraphs": True}}
_PATH = re.compile(r"(?<![\w/.])(?:~|\.{0,2})/[^\s'\":,;()<>]+")


@dataclass(frozen=True)
class Measurement:
    """One row of a report."""

    way: str
    atoms: int
    periodic: bool
    found: dict[str, Any]  #: From `steps.measure`, or ``failed``, the reason

    def line(self) -> str:
        """The row of a table with `HEADER`."""
        start = f"{self.atoms:>7} {'box' if self.periodic else 'open':<5} {self.way:<17}"
        if "failed" in self.found:
            return f"{start} {self.found['failed']}"
        ms = self.found["ms"]["median"]
        text = f"{start} {ms:>10.4g} {_ns_per_day(ms):>9.3g} {self.found['peak_mb']:>8.0f}"
        return f"{text}  {self.found['variant']}" if "variant" in self.found else text


HEADER = f"{'atoms':>7} {'':<5} {'engine':<17} {'ms/step':>10} {'ns/day':>9} {'MB':>8}  chosen"


def measure(
    model: str,
    structure: Path | None = None,
    sizes: Sequence[int] = (),
    *,
    device: str | None = None,
    precision: str = "single",
    seconds: float = 5.0,
    each: Callable[[Measurement], None] = lambda row: None,
) -> dict[str, Any]:
    """Time MD steps of a model in every way, each in a process of its own.

    Args:
        model: name or path of an artifact.
        structure: what to simulate, a PDB or mmCIF file; None for water.
        sizes: atoms of that water; none for `SIZES`, or `SIZES_ON_GPU`.
        device: torch device; None for a GPU where there is one.
        precision: as of ``createSystem``.
        seconds: how long to time each.
        each: is called with every result.

    Returns:
        The report as plain values, without paths or names of users and hosts.

    Raises:
        InputError: a structure or device that cannot be used, or a model without water.
    """
    artifact, device = catalog.open_model(model), find_device(device)
    ways = _WAYS_ON_GPU if device.startswith("cuda") else _WAYS
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        files = [structure] if structure else list(_water(artifact, sizes, device, Path(folder)))
        for file in files:
            start = read_structure(file)
            atoms = len(real_atoms(start.topology.atoms()))
            for way, options in ways.items():
                case = Case(
                    model=str(artifact.path),
                    structure=str(Path(file).absolute()),
                    device=device,
                    precision=precision,
                    seconds=seconds,
                    **options,
                )
                row = Measurement(way, atoms, start.box is not None, _found(case))
                each(row)
                rows.append(asdict(row))
    document = {
        "format": _FORMAT,
        "date": time.strftime("%Y-%m-%d"),
        "machine": machine.describe(),
        "model": _describe(model, artifact),
        "device": device,
        "precision": precision,
        "time_step_fs": TIME_STEP,
        "rows": rows,
    }
    nameless: dict[str, Any] = without_names(document, artifact.path, structure)
    return nameless


def _found(case: Case) -> dict[str, Any]:
    if case.backend == "torchforce" and not (status := torchforce_status()).evaluates:
        return {"failed": status.reason}
    outcome = run_python(_CHILD, json.dumps(asdict(case)), seconds=_PATIENCE + case.seconds)
    return outcome.data if not outcome.failure else {"failed": outcome.failure}


def _water(artifact: Artifact, sizes: Sequence[int], device: str, folder: Path) -> Iterator[Path]:
    """Files with the structures to measure where the user gives none."""
    if not {1, 8} <= set(artifact.elements):
        raise InputError(
            f"structure: expected one for {artifact.path}, which does not describe water; give "
            "--structure FILE"
        )
    usual = SIZES_ON_GPU if device.startswith("cuda") else SIZES
    for size in sizes or usual:
        topology, positions = water(size)
        path = folder / f"{size}.pdb"
        with path.open("w") as stream:
            app.PDBFile.writeFile(topology, positions * unit.nanometer, stream)
        yield path


def _describe(model: str, artifact: Artifact) -> dict[str, Any]:
    """Which model it is, without the place and the name of a file."""
    return {
        "name": model if model in catalog.names() else None,
        "sha256": artifact.sha256,
        "family": artifact.metadata["family"],
        "cutoff": artifact.cutoff,
        "elements": list(artifact.elements),
    }


def _ns_per_day(ms: float) -> float:
    return 86.4 * TIME_STEP / ms


def without_names(value: Any, *paths: Path | None) -> Any:
    """The same without these paths, others, and the names of user and host.

    Messages may have them. Only the given paths are found where they have spaces.
    """
    if isinstance(value, dict):
        return {name: without_names(entry, *paths) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [without_names(entry, *paths) for entry in value]
    if not isinstance(value, str):
        return value
    for path in filter(None, paths):
        for form in (path.resolve(), path.absolute(), path):  # as given it may be part of others
            value = value.replace(str(form), "PATH")
    value = _PATH.sub("PATH", value)
    for name, word in ((socket.gethostname(), "HOST"), (_user(), "USER")):
        if name:
            value = re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", word, value)
    return value


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container may know no name
        return ""
