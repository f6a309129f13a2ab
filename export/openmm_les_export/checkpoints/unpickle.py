"""Reads a model file as inert records: nothing the file names is imported or executed.

Every class in the tables of a family (`accepted`) has a stand-in that only stores what it is given;
names that are not listed are refused before `openmm_les.files.pickles` rebuilds anything.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import logging
import os
import pickletools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from openmm_les.errors import ModelFileError, UnsupportedModelError
from openmm_les.files import archives, pickles
from openmm_les.files.archives import Archive
from openmm_les.files.reading import Damage, Kind, boundary, parse_json, read_file
from openmm_les.networks.registry import Family, families
from openmm_les_export.checkpoints.accepted import Accepted
from openmm_les_export.checkpoints.records import Record, stand_in

logger = logging.getLogger(__name__)

#: A file whose bytes make no sense, and one whose content does not.
_FILE = Kind(
    ModelFileError,
    "model",
    "model: {file} is truncated or damaged ({reason}); copy or download it again",
)
CONTENT = Kind(
    ModelFileError,
    "model",
    "model: {file} contradicts itself ({reason}); it is damaged, or not as its training program "
    "writes it",
)
#: Numbers of a precision in which no model is trained or run.
_NARROW = frozenset({"torch.HalfStorage", "torch.BFloat16Storage"})


@dataclass(frozen=True)
class ModelFile:
    """An opened model file, of which nothing was run."""

    family: Family
    #: The record of a model that was pickled whole; else options and tensors: the mapping that the
    #: file holds, or those of all files of a directory, by name.
    content: Any
    file: str  #: name of the file or directory
    sha256: str  #: of the file, or of the hashes of the files
    kind: str  #: full name of the model's class as the file states it; never imported

    @property
    def root(self) -> Record:
        """Record of a model that was pickled whole."""
        if not isinstance(self.content, Record):
            raise ModelFileError(f"model: {self.file} does not hold a model that was pickled whole")
        return self.content

    def __getitem__(self, name: str) -> Any:
        """Part of a file that holds options and tensors."""
        return self.content[name]


@cache
def accepted() -> Mapping[str, Accepted]:
    """Tables of all families by name; of a plug-in, if its export side is installed."""
    found = {}
    for name, family in families().items():
        try:
            found[name] = family.load("accepted")
        except ImportError as error:
            logger.warning("family %s: %s cannot be imported: %s", name, family.accepted, error)
    return found


def _expected() -> str:
    """What files are read, for messages."""
    files = {families()[name].title: each.file for name, each in accepted().items() if each.file}
    return "expected " + " or ".join(f"a {title} {file}" for title, file in files.items())


def open_model(path: str | os.PathLike[str]) -> ModelFile:
    """Opens a model file or the directory of a model, tensors on the CPU."""
    file = Path(path)
    with boundary(file, _FILE):
        for name, each in accepted().items():
            folder = file.parent if file.name in each.members else file
            if each.members and all((folder / member).is_file() for member in each.members):
                return _open_folder(folder, name)
        root, sha256 = read_archive(file)
        return _identified(file, root, sha256)


def _identified(file: Path, root: object, sha256: str) -> ModelFile:
    """What an archive holds, with its family."""
    if isinstance(root, Record):
        name = _family_of({root.qualified_name})
        if name is None:
            raise ModelFileError(
                f"model: {file} holds a {root.qualified_name}, not a whole model; {_expected()}"
            )
        return ModelFile(families()[name], root, file.name, sha256, root.qualified_name)
    if isinstance(root, Mapping):
        for name, each in accepted().items():
            if not each.members and each.recognises(root):
                return ModelFile(families()[name], root, file.name, sha256, each.kind(root))
    what = "a state dict or training checkpoint" if isinstance(root, dict) else "no model"
    raise ModelFileError(
        f"model: {file} holds {what} without the hyper-parameters; {_expected()}, which holds the "
        "whole model"
    )


def _family_of(names: set[str]) -> str | None:
    """The family whose models call for these names; None if it is none."""
    return next((name for name, each in accepted().items() if names & each.roots), None)


def read_archive(file: Path) -> tuple[object, str]:
    """What a file of torch.save holds, and the file's sha256."""
    with boundary(file, _FILE):
        content = _read_bytes(file)
        archive = _open_archive(file, content)
        pickled = bytes(archive.read("data.pkl"))
        _check_globals(file, set(scan_globals(pickled)))
        if pickled[:1] == b"\x80" and pickled[1] > pickles.PROTOCOL:
            raise ModelFileError(
                f"model: {file} is pickled with protocol {pickled[1]}, expected "
                f"{pickles.PROTOCOL}; save it again with torch.save's default protocol"
            )
        root = pickles.load(archive, _class_of)
    return root, hashlib.sha256(content).hexdigest()


@cache
def _class_of(name: str) -> type[Record] | None:
    """The stand-in for a class or function that a family accepts."""
    return stand_in(name) if any(name in each.names for each in accepted().values()) else None


def _open_folder(folder: Path, candidate: str) -> ModelFile:
    """All files of a directory that has those of a family."""
    members = accepted()[candidate].members
    content, hashes = {}, []
    for name in members:
        file = folder / name
        with boundary(file, _FILE):
            if file.suffix == ".json":
                data = _read_bytes(file)
                content[name], sha256 = parse_json(data), hashlib.sha256(data).hexdigest()
            else:
                content[name], sha256 = read_archive(file)
        if not isinstance(content[name], Mapping):
            raise ModelFileError(f"model: {file} holds no options and tensors; {_expected()}")
        hashes.append(sha256)
    sha256 = hashlib.sha256("".join(hashes).encode()).hexdigest()
    same = (name for name, each in accepted().items() if each.members == members)
    chosen = next((name for name in same if accepted()[name].recognises(content)), candidate)
    kind = accepted()[chosen].kind(content)
    return ModelFile(families()[chosen], content, folder.resolve().name, sha256, kind)


def _read_bytes(file: Path) -> bytes:
    if file.is_dir():
        members = [each.members for each in accepted().values() if each.members]
        best = max(members, key=lambda names: sum((file / name).is_file() for name in names))
        missing = ", ".join(name for name in best if not (file / name).is_file())
        raise ModelFileError(f"model: {file} is a directory without {missing}; {_expected()}")
    if not file.exists():
        raise ModelFileError(f"model: {file} does not exist; {_expected()}")
    content = read_file(file)
    if not content:
        raise ModelFileError(f"model: {file} is empty; copy or download it again")
    return content


def _open_archive(file: Path, content: bytes) -> Archive:
    """The archive that torch.save writes, or an error that says what the file is."""
    if not content.startswith(archives.MAGIC):
        raise _not_an_archive(file, content)
    archive = Archive(content)
    if "constants.pkl" in archive:
        raise ModelFileError(
            f"model: {file}: this is a TorchScript archive; export from the original .model file"
        )
    if "data.pkl" not in archive:
        raise ModelFileError(
            f"model: {file} is a zip archive without data.pkl, not one of torch.save; {_expected()}"
        )
    if not all(member.stored for member in archive.members.values()):
        raise ModelFileError(
            f"model: {file} is a zip archive, but not one that torch.save writes; {_expected()}"
        )
    archive.check()
    return archive


def _not_an_archive(file: Path, content: bytes) -> ModelFileError:
    """The error for a file that is no zip archive: a bare pickle, a tar, a text, anything."""
    if content[257:262] == b"ustar":
        return ModelFileError(f"model: {file} is a tar archive; {_expected()}")
    try:
        names = list(scan_globals(content))
    except Damage:
        names = []
    if names or content.startswith(b"\x80"):
        calls = f" that calls for {_listed(names)}" if names else ""
        return ModelFileError(
            f"model: {file} is a bare pickle{calls}, or was saved by a torch older than 1.6; "
            f"nothing was run; {_expected()} with torch 1.6 or later"
        )
    try:
        content[:4096].decode("utf-8")
    except UnicodeDecodeError as error:
        # A multi-byte character may straddle the end of the sample.
        if error.start < 4092:
            return ModelFileError(f"model: {file} is not a model file; {_expected()}")
    return ModelFileError(f"model: {file} is a text file; {_expected()}")


def scan_globals(data: bytes) -> Iterator[str]:
    """Names of all classes and functions that a pickle, or a row of pickles, would import.

    The opcodes are read, not executed. A name that cannot be read statically comes as ``"?"``.
    """
    stream = io.BytesIO(data)
    for number in itertools.count():
        try:
            yield from _scan_one(stream)
        except Exception as error:  # pickletools has no error type of its own for all of them
            # After the pickles of an old torch file come raw numbers.
            if number == 0:
                raise Damage(f"no pickle ({type(error).__name__})") from error
            return


def _scan_one(stream: io.BytesIO) -> Iterator[str]:
    memo: dict[object, object] = {}
    pushed: list[object] = []  # the strings among the latest values on the stack, None for others
    for count, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
        if count > pickles.MOST_INSTRUCTIONS:
            raise Damage(f"more than {pickles.MOST_INSTRUCTIONS} instructions")
        name = opcode.name
        if name in ("GLOBAL", "INST"):
            yield pickles.modern_name(*str(argument).split(" ", 1))
            pushed.append(None)
        elif name == "STACK_GLOBAL":
            parts = pushed[-2:]
            readable = len(parts) == 2 and all(isinstance(part, str) for part in parts)
            yield pickles.modern_name(*map(str, parts)) if readable else "?"
            pushed.append(None)
        elif name.startswith("EXT"):
            yield f"copyreg extension {argument}"
        elif name.endswith(("UNICODE", "UNICODE8", "STRING")):
            pushed.append(argument)
        elif name == "MEMOIZE":
            memo[len(memo)] = pushed[-1] if pushed else None
        elif name.endswith("PUT"):
            memo[argument] = pushed[-1] if pushed else None
        elif name.endswith("GET"):
            pushed.append(memo.get(argument))
        elif name not in ("PROTO", "FRAME"):
            pushed.append(None)


def _check_globals(file: Path, names: set[str]) -> None:
    """Refuses what is not on the lists, by name."""
    family = _family_of(names)
    tables = accepted() if family is None else {family: accepted()[family]}
    unknown = names - pickles.GLOBALS - (frozenset() if family is None else tables[family].names)
    known = tuple(prefix for each in tables.values() for prefix in each.frameworks)
    alien = {name for name in unknown if not name.startswith(known)} - _NARROW
    model = "an LES model" if family is None else f"a {families()[family].title} model"
    if alien and all(alien != each.pairs for each in tables.values()):
        raise ModelFileError(
            f"model: refused to open {file}: it calls for {_listed(alien)}, which is no part of "
            f"{model}; nothing was run; {_expected()}, from a source you trust"
        )
    if narrow := names & _NARROW:
        raise UnsupportedModelError(
            f"model: {file} holds numbers of {_listed(narrow)}, expected float32 or float64; "
            "convert the model (model.float() or model.double()) and save it again"
        )
    if family is None:
        for plain in (each.plain for each in tables.values()):
            if found := names & set(plain):
                raise ModelFileError(f"model: {file} is {plain[min(found)]}")
        if unknown:
            raise ModelFileError(
                f"model: {file} holds no LES model but {_listed(unknown)}; nothing was run; "
                f"{_expected()}"
            )
    elif unknown:
        options = _options(unknown, tables[family])
        raise UnsupportedModelError(
            f"model: {file} uses {options}, which openmm-les does not implement"
        )


def _options(names: set[str], table: Accepted) -> str:
    """Names of unsupported classes, those of well-known options with what they are."""
    options = table.unsupported
    known = [f"{options[name]} ({name})" for name in sorted(names & set(options))]
    # What else comes with an option (activations, containers) would only hide it.
    own = (table.frameworks[0], "les.")
    others = {name for name in names - set(options) if name.startswith(own)}
    return ", ".join([*known, *sorted(others)]) or _listed(names)


def _listed(names: set[str] | list[str]) -> str:
    shown = sorted(set(names))
    more = f" and {len(shown) - 5} more" if len(shown) > 5 else ""
    return ", ".join(shown[:5]) + more
