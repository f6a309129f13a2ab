"""Checkpoints: one file each, written atomically, from which a run continues bit-identically."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field, TypeAdapter, ValidationError

from openmm_les.errors import InputError
from openmm_les.evaluation.engines.variant import Variant
from openmm_les.files.reading import Damage, Kind, boundary, read_file
from openmm_les.files.writing import write_atomically
from openmm_les.simulation.config import RunConfig

_FORMAT = 2
_METADATA, _CONTEXT = "metadata.json", "context.bin"
PhaseName = Literal["equilibration", "production"]

_Count = Annotated[int, Field(strict=True, ge=0, lt=2**63)]
_Finite = Annotated[float, Field(allow_inf_nan=False)]
_Item = TypeVar("_Item")
_Vector = Annotated[list[_Item], Field(min_length=3, max_length=3)]
_DAMAGED = "checkpoint: {file} is damaged ({reason}); start again with --overwrite"
_KIND = Kind(InputError, "checkpoint", _DAMAGED)
#: Settings that a continued run takes from its checkpoint.
_CHOSEN = ("seed", "device", "backend", "platform", "max_neighbors")
#: A DCD header counts its frames; OpenMM rewrites some of its first 48 bytes at every frame.
_HEADER_BYTES = 48


@dataclass(frozen=True)
class FileState:
    """Size and header of an output file at a checkpoint."""

    size: _Count  #: Bytes
    #: First bytes in hexadecimal, the only ones that are overwritten later
    head: Annotated[str, Field(pattern=rf"^([0-9a-f]{{2}}){{0,{_HEADER_BYTES}}}$")]

    @classmethod
    def of(cls, path: Path) -> FileState:
        """Current state of a file."""
        with path.open("rb") as stream:
            return cls(path.stat().st_size, stream.read(_HEADER_BYTES).hex())

    def restore(self, path: Path) -> None:
        """Remove what was written since."""
        size = path.stat().st_size if path.is_file() else None
        if size is None or size < self.size:
            found = "is missing" if size is None else f"has {size} bytes"
            raise InputError(
                f"output: {path} {found}, expected the {self.size} bytes that were there at the "
                "checkpoint; put it back, or start again with --overwrite"
            )
        with path.open("r+b") as stream:
            stream.truncate(self.size)
            stream.write(bytes.fromhex(self.head))


@dataclass(frozen=True)
class Checkpoint:
    """State of a run, and the inputs that identify it."""

    phase: PhaseName
    step: _Count  #: Steps done in this phase
    context: bytes  #: What ``Context.createCheckpoint`` returns
    #: Box for which the buffers of the model were made [nm]; None where not periodic
    box: _Vector[_Vector[_Finite]] | None
    requested: dict[str, Any]  #: The configuration as given
    resolved: dict[str, Any]  #: The configuration with the choices made for this machine
    #: Hashes of the input files
    structure_sha256: str
    model_sha256: str
    #: From `builder.environment`; the last bits of results depend on it
    environment: dict[str, Any]
    wall_seconds: _Finite  #: Time spent in steps of this phase so far, by all processes [s]
    #: State of every file that grows, by name
    outputs: dict[str, FileState] = field(default_factory=dict)
    #: Hash of the force field's System; None in a run without one
    force_field_sha256: str | None = None
    #: How the model is computed, a `Variant` as JSON; None: see `tuning.recorded`
    variant: dict[str, Any] | None = None
    warnings: list[str] = field(default_factory=list)  #: What was warned of so far

    @property
    def chosen(self) -> dict[str, Any]:
        """Settings that were chosen for this machine, and the seed."""
        return {name: self.resolved[name] for name in _CHOSEN}

    def write(self, path: Path) -> None:
        """Write the file atomically."""
        metadata = {"format": _FORMAT, **asdict(self)}
        metadata["context_sha256"] = hashlib.sha256(metadata.pop("context")).hexdigest()
        archive = io.BytesIO()
        with zipfile.ZipFile(archive, "w") as members:
            members.writestr(_METADATA, json.dumps(metadata, indent=1))
            members.writestr(_CONTEXT, self.context)
        write_atomically(path, archive.getvalue())

    @classmethod
    def read(cls, path: Path) -> Checkpoint:
        """Read what `write` wrote."""
        with boundary(path, _KIND):
            with zipfile.ZipFile(io.BytesIO(read_file(path))) as members:
                _check_members(path, members)
                metadata = json.loads(members.read(_METADATA))
                context = members.read(_CONTEXT)  # the archive checks its own sums
            version = metadata.pop("format")
            if version != _FORMAT:
                raise InputError(
                    f"checkpoint: {path} has format {version!r}, this openmm-les reads {_FORMAT}; "
                    "use the version that wrote it, or start again with --overwrite"
                )
            if metadata.pop("context_sha256") != hashlib.sha256(context).hexdigest():
                raise Damage("its context is not the one that was saved")
            try:
                found = TypeAdapter(cls).validate_python(metadata | {"context": context})
                for settings in (found.requested, found.resolved):
                    RunConfig(**settings)
                if found.variant is not None:
                    Variant.from_json(found.variant)
            except ValidationError as error:
                first = error.errors()[0]
                raise Damage(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from error
            except InputError as error:
                raise Damage(str(error)) from error
            return found


def _check_members(path: Path, members: zipfile.ZipFile) -> None:
    """Refuse an archive that is more than its file: `Checkpoint.write` compresses nothing."""
    infos = members.infolist()
    if sorted(info.filename for info in infos) != sorted((_METADATA, _CONTEXT)):
        raise Damage(f"expected the members {_METADATA} and {_CONTEXT}")
    if any(info.compress_type != zipfile.ZIP_STORED for info in infos):
        raise Damage("it is compressed")
    if sum(info.file_size for info in infos) > path.stat().st_size:
        raise Damage("its members are larger than the file")
