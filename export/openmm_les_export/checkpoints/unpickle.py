"""Reads a model file as inert records: nothing the file names is imported or executed.

A whole-module pickle (``torch.save(model)``) rebuilds its objects by calling what it names, so
opening one is running it. Here every class of a known family (`families`) has a stand-in that only
stores what it is given, names that are not listed are refused before anything is rebuilt, and
`openmm_les.files.pickles` makes the rest. The file is read once.
"""

from __future__ import annotations

import hashlib
import io
import os
import pickletools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openmm_les.errors import ModelFileError, UnsupportedModelError
from openmm_les.files import archives, pickles
from openmm_les.files.archives import Archive
from openmm_les.files.reading import Damage, Kind, boundary, parse_json, read_file
from openmm_les_export.checkpoints.pickled_names import FAMILIES, Family, family_of
from openmm_les_export.checkpoints.records import Record, stand_in

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

_STRINGS = frozenset(
    {
        "UNICODE",
        "BINUNICODE",
        "SHORT_BINUNICODE",
        "BINUNICODE8",
        "STRING",
        "BINSTRING",
        "SHORT_BINSTRING",
    }
)
#: What MatGL saves, the description first.
MATGL_FILES = ("model.json", "model.pt", "state.pt")
_EXPECTED = "expected " + " or ".join(f"a {family.title} {family.file}" for family in FAMILIES)
_STAND_INS = frozenset().union(*(family.names for family in FAMILIES))


@dataclass(frozen=True)
class PickledModel:
    """A model file as records.

    Attributes:
        root: record of the model object.
        family: which it is of.
        file: file name without directories.
        sha256: hash of the file.
    """

    root: Record
    family: Family
    file: str
    sha256: str

    @property
    def kind(self) -> str:
        """Full name of the model's class."""
        return self.root.qualified_name


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint of a training with Lightning: a configuration and tensors, no objects.

    Attributes:
        hyper: the hyper-parameters, as they were configured.
        state: tensors by name, and other values that modules keep.
        file: file name without directories.
        sha256: hash of the file.
    """

    hyper: Mapping[str, Any]
    state: Mapping[str, Any]
    file: str
    sha256: str

    @property
    def kind(self) -> str:
        """What the configuration calls for the model; stated, never imported."""
        model = self.hyper.get("model")
        return str(model.get("_target_")) if isinstance(model, Mapping) else "none"


@dataclass(frozen=True)
class SavedModel:
    """What MatGL saves into a directory: options and tensors, no objects.

    Attributes:
        description: ``model.json``.
        arguments: ``model.pt``, the arguments of the constructor.
        state: ``state.pt``, tensors by name.
        file: name of the directory.
        sha256: hash of the hashes of the three files.
    """

    description: Mapping[str, Any]
    arguments: Mapping[str, Any]
    state: Mapping[str, Any]
    file: str
    sha256: str

    @property
    def kind(self) -> str:
        """What the file calls the network's class; stated, never imported."""
        model = self.arguments.get("model")
        return str(model.get("@class")) if isinstance(model, Mapping) else "none"


def read_pickle(path: str | os.PathLike[str]) -> PickledModel:
    """Opens a model that was pickled whole, tensors on the CPU whatever they were saved from.

    Args:
        path: the ``.model`` or ``.pth`` file.

    Raises:
        ModelFileError: it is something else, damaged, or names what no LES model contains.
        UnsupportedModelError: it is an LES model with an option that openmm-les does not have.
    """
    opened = open_model(path)
    if not isinstance(opened, PickledModel):
        raise _not_a_model(Path(path), "a state dict or training checkpoint")
    return opened


def open_model(path: str | os.PathLike[str]) -> PickledModel | Checkpoint | SavedModel:
    """Opens a pickled model, a checkpoint or what MatGL saves, see `read_pickle`."""
    file = Path(path)
    with boundary(file, _FILE):
        return _open(file)


def _open(file: Path) -> PickledModel | Checkpoint | SavedModel:
    folder = file.parent if file.name in MATGL_FILES else file
    if all((folder / name).is_file() for name in MATGL_FILES):
        return _open_folder(folder)
    root, sha256 = read_archive(file)
    if isinstance(root, Mapping):
        hyper, state = root.get("hyper_parameters"), root.get("state_dict")
        if isinstance(hyper, Mapping) and isinstance(state, Mapping):
            return Checkpoint(hyper, state, file.name, sha256)
    if not isinstance(root, Record):
        what = "a state dict or training checkpoint" if isinstance(root, dict) else "no model"
        raise _not_a_model(file, what)
    family = family_of({root.qualified_name})
    if family is None:
        raise ModelFileError(
            f"model: {file} holds a {root.qualified_name}, not a whole model; {_EXPECTED}"
        )
    return PickledModel(root, family, file.name, sha256)


def read_archive(file: Path) -> tuple[object, str]:
    """What a file of torch.save holds, and the file's sha256.

    Raises:
        ModelFileError, UnsupportedModelError: see `read_pickle`.
    """
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


def _class_of(name: str) -> type[Record] | None:
    return stand_in(name) if name in _STAND_INS else None


def _open_folder(folder: Path) -> SavedModel:
    """Files of MatGL; the class stands in the JSON file, everything else in the other two."""
    with boundary(folder / MATGL_FILES[0], _FILE):
        content = _read_bytes(folder / MATGL_FILES[0])
        description = parse_json(content)
    hashes = [hashlib.sha256(content).hexdigest()]
    roots = []
    for name in MATGL_FILES[1:]:
        root, sha256 = read_archive(folder / name)
        if not isinstance(root, Mapping) or not isinstance(description, Mapping):
            raise ModelFileError(
                f"model: {folder / name} holds no options and tensors; {_EXPECTED}"
            )
        roots.append(root)
        hashes.append(sha256)
    sha256 = hashlib.sha256("".join(hashes).encode()).hexdigest()
    return SavedModel(description, roots[0], roots[1], folder.resolve().name, sha256)


def _not_a_model(file: Path, what: str) -> ModelFileError:
    return ModelFileError(
        f"model: {file} holds {what} without the hyper-parameters; {_EXPECTED}, which holds the "
        "whole model"
    )


def _read_bytes(file: Path) -> bytes:
    if file.is_dir():
        missing = ", ".join(name for name in MATGL_FILES if not (file / name).is_file())
        raise ModelFileError(f"model: {file} is a directory without {missing}; {_EXPECTED}")
    if not file.exists():
        raise ModelFileError(f"model: {file} does not exist; {_EXPECTED}")
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
            f"model: {file} is a zip archive without data.pkl, not one of torch.save; {_EXPECTED}"
        )
    if not all(member.stored for member in archive.members.values()):
        raise ModelFileError(
            f"model: {file} is a zip archive, but not one that torch.save writes; {_EXPECTED}"
        )
    archive.check()
    return archive


def _not_an_archive(file: Path, content: bytes) -> ModelFileError:
    """The error for a file that is no zip archive: a bare pickle, a tar, a text, anything."""
    if content[257:262] == b"ustar":
        return ModelFileError(f"model: {file} is a tar archive; {_EXPECTED}")
    try:
        names = list(scan_globals(content))
    except Damage:
        names = []
    if names or content.startswith(b"\x80"):
        calls = f" that calls for {_listed(names)}" if names else ""
        return ModelFileError(
            f"model: {file} is a bare pickle{calls}, or was saved by a torch older than 1.6; "
            f"nothing was run; {_EXPECTED} with torch 1.6 or later"
        )
    try:
        content[:4096].decode("utf-8")
    except UnicodeDecodeError as error:
        # A multi-byte character may straddle the end of the sample.
        if error.start < 4092:
            return ModelFileError(f"model: {file} is not a model file; {_EXPECTED}")
    return ModelFileError(f"model: {file} is a text file; {_EXPECTED}")


def scan_globals(data: bytes) -> Iterator[str]:
    """Names of all classes and functions that a pickle, or a row of pickles, would import.

    The opcodes are read, not executed. A name that cannot be read statically comes as ``"?"``.

    Raises:
        Damage: the first pickle is damaged or no pickle at all.
    """
    stream = io.BytesIO(data)
    first = True
    while True:
        try:
            yield from _scan_one(stream)
        except Exception as error:  # pickletools has no error type of its own for all of them
            # After the pickles of an old torch file come raw numbers.
            if first:
                raise Damage(f"no pickle ({type(error).__name__})") from error
            return
        first = False


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
        elif name in _STRINGS:
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
    family = family_of(names)
    families = FAMILIES if family is None else (family,)
    unknown = names - pickles.GLOBALS - (frozenset() if family is None else family.names)
    known = tuple(prefix for each in families for prefix in each.frameworks)
    alien = {name for name in unknown if not name.startswith(known)}
    titles = " or ".join(each.title for each in families)
    if alien and all(alien != each.pairs for each in families):
        raise ModelFileError(
            f"model: refused to open {file}: it calls for {_listed(alien)}, which is no part of a "
            f"{titles} model; nothing was run; {_EXPECTED}, from a source you trust"
        )
    if family is None:
        for plain in (each.plain for each in FAMILIES):
            if found := names & set(plain):
                raise ModelFileError(f"model: {file} is {plain[min(found)]}")
        if unknown:
            raise ModelFileError(
                f"model: {file} holds no {titles} model but {_listed(unknown)}; nothing was run; "
                f"{_EXPECTED}"
            )
    elif unknown:
        raise UnsupportedModelError(
            f"model: {file} uses {_options(unknown, family)}, which openmm-les does not implement"
        )


def _options(names: set[str], family: Family) -> str:
    """Names of unsupported classes, those of well-known options with what they are."""
    options = family.options
    known = [f"{options[name]} ({name})" for name in sorted(names & set(options))]
    # What else comes with an option (activations, containers) would only hide it.
    own = (f"{family.name}.", "les.")
    others = {name for name in names - set(options) if name.startswith(own)}
    return ", ".join([*known, *sorted(others)]) or _listed(names)


def _listed(names: set[str] | list[str]) -> str:
    shown = sorted(set(names))
    more = f" and {len(shown) - 5} more" if len(shown) > 5 else ""
    return ", ".join(shown[:5]) + more
