"""The state of all replicas in one file, from which an exchange continues bit by bit."""

from __future__ import annotations

import io
import json
import re
import zipfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from openmm_les.errors import InputError
from openmm_les.files.reading import Damage, Kind, boundary, read_file
from openmm_les.files.writing import write_atomically
from openmm_les.simulation.checkpoint import FileState

_METADATA = "metadata.json"
_KIND = Kind(
    InputError, "checkpoint", "checkpoint: {file} is damaged ({reason}); start again elsewhere"
)
#: The beginning of a State; OpenMM would run code that other objects hold.
_STATE = re.compile(rb'<\?xml version="1.0" \?>\s*<State ')


@dataclass(frozen=True)
class Metadata:
    """All but the replicas."""

    iteration: int  #: Exchanges so far
    states: list[int]  #: The state of each replica
    wall_seconds: float  #: Time spent so far, by all processes [s]
    outputs: dict[str, FileState]  #: State of every file that grows, by name
    settings: dict[str, Any]  #: What may not change


@dataclass(frozen=True)
class ExchangeCheckpoint:
    """State of an exchange between two iterations."""

    metadata: Metadata
    replicas: tuple[bytes, ...]  #: The State of each, as XML

    def write(self, path: Path) -> None:
        """Write the file atomically."""
        archive = io.BytesIO()
        with zipfile.ZipFile(archive, "w") as members:
            members.writestr(_METADATA, json.dumps(asdict(self.metadata), indent=1))
            for index, replica in enumerate(self.replicas):
                members.writestr(f"{index}.xml", replica)
        write_atomically(path, archive.getvalue())

    @classmethod
    def read(cls, path: Path) -> ExchangeCheckpoint | None:
        """Read what `write` wrote; None where nothing is."""
        if not path.exists():
            return None
        with (
            boundary(path, _KIND),
            zipfile.ZipFile(io.BytesIO(read_file(path))) as members,
        ):
            if any(info.compress_type != zipfile.ZIP_STORED for info in members.infolist()):
                raise Damage("it is compressed")
            try:
                found = TypeAdapter(Metadata).validate_json(members.read(_METADATA))
            except ValidationError as error:
                raise Damage(error.errors()[0]["msg"]) from error
            number = len(found.states)
            if sorted(found.states) != list(range(number)):
                raise Damage("its replicas have no states of their own")
            replicas = tuple(members.read(f"{index}.xml") for index in range(number))
            if not all(map(_STATE.match, replicas)):
                raise Damage("a replica is no State of OpenMM")
            return cls(found, replicas)
