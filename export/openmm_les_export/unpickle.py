"""Reads a model file as inert records: nothing the file names is imported or executed.

A whole-module pickle (``torch.save(model)``) rebuilds its objects by calling what it names, so
opening one is running it. Here every class of a known family (`families`) has a stand-in that only
stores what it is given, names that are not listed are refused before anything is rebuilt, and the
rest is left to torch's ``weights_only`` unpickler. What is scanned is what is loaded: the file is
read once and its members are repacked, so that no second parser can see another archive.
"""

from __future__ import annotations

import _compat_pickle
import hashlib
import io
import os
import pickle
import pickletools
import zipfile
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openmm_les.errors import ModelFileError, UnsupportedModelError
from openmm_les_export.families import FAMILIES, Family, family_of
from openmm_les_export.records import Record, stand_in

#: Bytes per number in the storages that occur.
_ITEM_SIZES = {
    "torch.BoolStorage": 1,
    "torch.ByteStorage": 1,
    "torch.DoubleStorage": 8,
    "torch.FloatStorage": 4,
    "torch.IntStorage": 4,
    "torch.LongStorage": 8,
}

#: What torch itself needs to rebuild tensors. Much less than ``weights_only`` would let through.
TENSOR_GLOBALS = frozenset(
    {
        "_codecs.encode",
        "builtins.set",
        "collections.OrderedDict",
        "torch._utils._rebuild_parameter",
        "torch._utils._rebuild_tensor_v2",
        *_ITEM_SIZES,
    }
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
#: The pickle protocol that torch.save writes, the only one that its restricted unpickler reads.
_PROTOCOL = 2
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


def read_pickle(path: str | os.PathLike[str]) -> PickledModel:
    """Opens a model that was pickled whole, tensors on the CPU whatever they were saved from.

    Args:
        path: the ``.model`` or ``.pth`` file.

    Raises:
        ModelFileError: it is something else, damaged, or names what no LES model contains.
        UnsupportedModelError: it is an LES model with an option that openmm-les does not have.
    """
    opened = open_model(path)
    if isinstance(opened, Checkpoint):
        raise _not_a_model(Path(path), "a state dict or training checkpoint")
    return opened


def open_model(path: str | os.PathLike[str]) -> PickledModel | Checkpoint:
    """Opens a pickled model or a checkpoint, see `read_pickle`."""
    file = Path(path)
    content = _read_bytes(file)
    members = _archive_members(file, content)
    pickled = _pickle_member(file, members)
    _check_globals(file, set(scan_globals(pickled)))
    if pickled[:1] == b"\x80" and pickled[1] > _PROTOCOL:
        raise ModelFileError(
            f"model: {file} is pickled with protocol {pickled[1]}, expected {_PROTOCOL}; save it "
            "again with torch.save's default protocol"
        )
    _check_storages(file, pickled, members)
    root, sha256 = _load(file, members), hashlib.sha256(content).hexdigest()
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


def _not_a_model(file: Path, what: str) -> ModelFileError:
    return ModelFileError(
        f"model: {file} holds {what} without the hyper-parameters; {_EXPECTED}, which holds the "
        "whole model"
    )


def _read_bytes(file: Path) -> bytes:
    if file.is_dir():
        raise ModelFileError(f"model: {file} is a directory; {_EXPECTED}")
    try:
        content = file.read_bytes()
    except FileNotFoundError:
        raise ModelFileError(f"model: {file} does not exist; {_EXPECTED}") from None
    except OSError as error:
        raise ModelFileError(f"model: cannot read {file}: {error.strerror or error}") from error
    if not content:
        raise ModelFileError(f"model: {file} is empty; copy or download it again")
    return content


def _archive_members(file: Path, content: bytes) -> dict[str, bytes]:
    """Members of the zip archive that torch.save writes, or an error that says what the file is."""
    if not content.startswith(b"PK\x03\x04"):
        raise _not_an_archive(file, content)
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            infos = archive.infolist()
            if any(info.filename.split("/")[1:] == ["constants.pkl"] for info in infos):
                raise ModelFileError(
                    f"model: {file}: this is a TorchScript archive; export from the original "
                    ".model file"
                )
            # Which member torch's reader takes must not be open to doubt: one folder, no name
            # twice (it ignores case), nothing compressed.
            names = [info.filename.lower() for info in infos]
            folders = {name.split("/")[0] for name in names}
            stored = all(info.compress_type == zipfile.ZIP_STORED for info in infos)
            if len(set(names)) != len(names) or len(folders) != 1 or not stored:
                raise ModelFileError(
                    f"model: {file} is a zip archive, but not one that torch.save writes; "
                    + _EXPECTED
                )
            return {info.filename: archive.read(info) for info in infos}
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, OSError) as error:
        raise ModelFileError(
            f"model: {file} is truncated or damaged; copy or download it again"
        ) from error


def _not_an_archive(file: Path, content: bytes) -> ModelFileError:
    """The error for a file that is no zip archive: a bare pickle, a tar, a text, anything."""
    if content[257:262] == b"ustar":
        return ModelFileError(f"model: {file} is a tar archive; {_EXPECTED}")
    try:
        names = list(scan_globals(content))
    except ModelFileError:
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


def _pickle_member(file: Path, members: dict[str, bytes]) -> bytes:
    for name, content in members.items():
        if name.split("/")[1:] == ["data.pkl"]:
            return content
    raise ModelFileError(
        f"model: {file} is a zip archive without data.pkl, not one of torch.save; {_EXPECTED}"
    )


def scan_globals(data: bytes) -> Iterator[str]:
    """Names of all classes and functions that a pickle, or a row of pickles, would import.

    The opcodes are read, not executed. A name that cannot be read statically comes as ``"?"``.

    Raises:
        ModelFileError: the first pickle is damaged or no pickle at all.
    """
    stream = io.BytesIO(data)
    first = True
    while True:
        try:
            yield from _scan_one(stream)
        except Exception as error:  # pickletools has no error type of its own for all of them
            # After the pickles of an old torch file come raw numbers.
            if first:
                raise ModelFileError("model: the pickle inside the file is damaged") from error
            return
        first = False


def _scan_one(stream: io.BytesIO) -> Iterator[str]:
    memo: dict[object, object] = {}
    pushed: list[object] = []  # the strings among the latest values on the stack, None for others
    for opcode, argument, _ in pickletools.genops(stream):
        name = opcode.name
        if name in ("GLOBAL", "INST"):
            yield _modern_name(*str(argument).split(" ", 1))
            pushed.append(None)
        elif name == "STACK_GLOBAL":
            parts = pushed[-2:]
            readable = len(parts) == 2 and all(isinstance(part, str) for part in parts)
            yield _modern_name(*map(str, parts)) if readable else "?"
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


def _modern_name(module: str, name: str) -> str:
    """Name under which Python 3 imports what protocol 2 calls by its Python 2 name."""
    if (module, name) in _compat_pickle.NAME_MAPPING:
        module, name = _compat_pickle.NAME_MAPPING[(module, name)]
    else:
        module = _compat_pickle.IMPORT_MAPPING.get(module, module)
    return f"{module}.{name}"


def _check_globals(file: Path, names: set[str]) -> None:
    """Refuses what is not on the lists, by name."""
    family = family_of(names)
    families = FAMILIES if family is None else (family,)
    unknown = names - TENSOR_GLOBALS - (frozenset() if family is None else family.names)
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


class _DryRun(pickle.Unpickler):
    """Rebuilds nothing but stand-ins, torch's functions included, to see the storages asked for."""

    def __init__(self, pickled: bytes, sizes: dict[str, int]) -> None:
        super().__init__(io.BytesIO(pickled))
        self._sizes = sizes

    def find_class(self, module: str, name: str) -> Any:
        containers = {"collections.OrderedDict": OrderedDict, "builtins.set": set}
        return containers.get(f"{module}.{name}") or stand_in(f"{module}.{name}")

    def persistent_load(self, pid: Any) -> None:
        _, storage, key, _, count = pid
        asked, held = count * _ITEM_SIZES[storage.qualified_name], self._sizes[f"data/{key}"]
        if asked != held:
            raise ValueError(f"storage {key}: {asked} bytes asked for, {held} in the file")


def _check_storages(file: Path, pickled: bytes, members: dict[str, bytes]) -> None:
    """Refuses a tensor larger than what the file holds: torch before 2.13 reads beyond the end."""
    sizes = {name.partition("/")[2]: len(content) for name, content in members.items()}
    try:
        _DryRun(pickled, sizes).load()
    except Exception as error:
        raise ModelFileError(
            f"model: {file} is damaged ({type(error).__name__}: {error}); copy or download it again"
        ) from error


def _load(file: Path, members: dict[str, bytes]) -> object:
    import torch
    from torch import serialization

    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name), content)
    buffer.seek(0)
    stand_ins: list[Any] = [(stand_in(name), name) for name in sorted(_STAND_INS)]
    # Classes that the program has marked as safe, e3nn's own for instance, must not take the
    # places of the stand-ins.
    before = serialization.get_safe_globals()
    serialization.clear_safe_globals()
    try:
        with serialization.safe_globals(stand_ins):
            # Explicit: importing mace-torch switches weights_only off for the whole process.
            return torch.load(buffer, map_location="cpu", weights_only=True, mmap=False)
    except Exception as error:
        raise ModelFileError(
            f"model: {file} is damaged, torch cannot rebuild its tensors ({_reason(error)}); copy "
            "or download it again"
        ) from error
    finally:
        serialization.add_safe_globals(before)


def _reason(error: Exception) -> str:
    """One line of torch's message, without its advice to load the file unsafely."""
    text = str(error).rpartition("WeightsUnpickler error:")[2]
    lines = [line for line in text.splitlines() if not line.startswith("Weights only load failed")]
    return next((line.strip() for line in lines if line.strip()), type(error).__name__)
