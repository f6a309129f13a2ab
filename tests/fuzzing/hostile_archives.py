"""Zip archives, checkpoints and artifacts that somebody made on purpose.

Here the container is hostile, or what an artifact says of its model; hostile pickles are in
`hostile_pickles`.
"""

from __future__ import annotations

import itertools
import json
import struct
import zipfile
from collections.abc import Callable
from functools import partial
from typing import Any

from fuzzing import hostile_pickles
from fuzzing.cases import Hostile, Seed
from fuzzing.mutate import archive, members, with_member

Change = Callable[[bytes], bytes]
_STORED = zipfile.ZIP_STORED


# --- containers ---------------------------------------------------------------------------------


def _add(*entries: tuple[str, bytes], how: int = _STORED) -> Change:
    """More members."""
    return lambda data: archive([*members(data), *((n, c, how) for n, c in entries)])


def _first(*entries: tuple[str, bytes]) -> Change:
    """More members, before the others."""
    return lambda data: archive([*((n, c, _STORED) for n, c in entries), *members(data)])


def _pressed(how: int) -> Change:
    return lambda data: archive([(name, content, how) for name, content, _ in members(data)])


def _bomb(ending: str, megabytes: int) -> Change:
    """One member with zeros or blanks behind its content, compressed to a thousandth."""

    def change(data: bytes) -> bytes:
        entries = []
        for name, content, how in members(data):
            if name.endswith(ending):
                blank = b" " if ending.endswith(".json") else b"\0"
                content, how = content + blank * (megabytes << 20), zipfile.ZIP_DEFLATED
            entries.append((name, content, how))
        return archive(entries)

    return change


def _renamed(change: Callable[[str], str]) -> Change:
    return lambda data: archive([(change(n), c, how) for n, c, how in members(data)])


def overlapping(data: bytes, copies: int = 4000, size: int = 200_000) -> bytes:
    """Many entries of the list of members that all lead to one large member.

    That one holds blanks, so that the file is small, and what one reads is `copies` as large.
    """
    sound = archive([*members(data), ("x/big", b" " * size, _STORED)])
    end = sound.rindex(b"PK\x05\x06")
    start = struct.unpack("<I", sound[end + 16 : end + 20])[0]
    last = sound.rindex(b"PK\x01\x02", 0, end)
    entry = sound[last:end]
    listed = b"".join(_named(entry, f"x/{k:03x}") for k in range(copies))
    directory = sound[start:end] + listed
    total = directory.count(b"PK\x01\x02")
    return sound[:start] + directory + _end(total, len(directory), start)


def _named(entry: bytes, name: str) -> bytes:
    return entry[:46] + name.encode() + entry[46 + len(name) :]


def _end(count: int, size: int, start: int) -> bytes:
    return struct.pack("<4sHHHHIIH", b"PK\x05\x06", 0, 0, count, count, size, start, 0)


def colliding(data: bytes, copies: int = 12_000) -> bytes:
    """One name many times."""
    entries = members(data)
    return archive([*entries, *((entries[-1][0], b"", _STORED) for _ in range(copies))])


def _field(where: bytes, offset: int, form: str, value: int) -> Change:
    """Overwrites a field behind the last signature of a kind."""

    def change(data: bytes) -> bytes:
        start = data.rindex(where) + offset
        new = struct.pack(form, value)
        return data[:start] + new + data[start + len(new) :]

    return change


_LIST, _LOCAL, _LAST = b"PK\x01\x02", b"PK\x03\x04", b"PK\x05\x06"

#: What can be done to every archive.
CONTAINERS: dict[str, Change] = {
    "overlapping members": overlapping,
    "colliding names": colliding,
    "sixty thousand members": lambda data: archive(
        [*members(data), *((f"x/{k}", b"", _STORED) for k in range(60_000))]
    ),
    "deflated": _pressed(zipfile.ZIP_DEFLATED),
    "bzip2": _pressed(zipfile.ZIP_BZIP2),
    "lzma": _pressed(zipfile.ZIP_LZMA),
    "deflated bomb beside": _add(("archive/bomb", b"\0" * (200 << 20)), how=zipfile.ZIP_DEFLATED),
    "encrypted": _field(_LIST, 8, "<H", 1),
    "size of 4 GB": _field(_LIST, 24, "<I", 2**32 - 2),
    "stored size of 4 GB": _field(_LIST, 20, "<I", 2**32 - 2),
    "method 99": _field(_LIST, 10, "<H", 99),
    "offset beyond": _field(_LIST, 42, "<I", 2**31),
    "name of 64 kB": _field(_LIST, 28, "<H", 65535),
    "extra of 64 kB": _field(_LIST, 30, "<H", 65535),
    "list of 4 GB": _field(_LAST, 12, "<I", 2**32 - 2),
    "list before the file": _field(_LAST, 16, "<I", 2**31),
    "no members": _field(_LAST, 10, "<H", 0),
    "comment of 64 kB": _field(_LAST, 20, "<H", 65535),
    "local name of another": _field(_LOCAL, 30, "<4s", b"evil"),  # type: ignore[arg-type]
    "text before": lambda data: b"#!/bin/sh\n" * 100 + data,
    "archive behind": lambda data: data + archive([("archive/data.pkl", b"\x80\x02N.", _STORED)]),
    "archive in front": lambda data: archive([("archive/data.pkl", b"\x80\x02N.", 0)]) + data,
    "another pickle": _add(("archive2/data.pkl", b"\x80\x02N.")),
    "another pickle first": _first(("archive2/data.pkl", b"\x80\x02N.")),
    "decoy storage": _add(("decoy/data/0", b"\0" * 100_000)),
    "decoy storage first": _first(("decoy/data/0", b"\0" * 100_000)),
    "names in capitals": _renamed(str.upper),
    "names with a path": _renamed(lambda name: f"../{name}"),
    "names from the root": _renamed(lambda name: f"/{name}"),
    "names with backslashes": _renamed(lambda name: name.replace("/", "\\")),
    "names with escapes": _renamed(lambda name: name + "\x1b[31m"),
    "no folder": _renamed(lambda name: name.partition("/")[2]),
    "empty archive": lambda _: archive([]),
    "one byte": lambda _: b"P",
    "nothing": lambda _: b"",
    "web page": lambda _: b"<!DOCTYPE html><html><body>404 Not Found</body></html>\n",
    "zeros": lambda data: bytes(len(data)),
}


def _of_seed(change: Change, seed: Seed) -> bytes:
    return change(seed.content(seed.files[0]))


def containers() -> dict[str, Hostile]:
    """Hostile containers around the content of the first seed."""
    return {name: partial(_of_seed, change) for name, change in CONTAINERS.items()}


# --- metadata of artifacts ----------------------------------------------------------------------


def _metadata(change: Callable[[bytes], bytes]) -> Change:
    return lambda data: with_member(data, "/metadata.json", change)


def _with(path: str, value: Any) -> Change:
    """Another value of the metadata; ``None`` as the path's end deletes it."""

    def change(content: bytes) -> bytes:
        document = json.loads(content)
        holder = document
        *parents, last = path.split(".")
        for name in parents:
            holder = holder[name]
        if value is _GONE:
            holder.pop(last, None)
        else:
            holder[last] = value
        # In both places where the model is described.
        if path in ("hyper.elements", "hyper.cutoff") and value is not _GONE:
            document[last] = value
        return json.dumps(document).encode()

    return _metadata(change)


_GONE = object()
_VALUES: dict[str, tuple[Any, ...]] = {
    "format": ("other", None, ["openmm-les"]),
    "format_version": (0, -1, 2, 1.0, True, "1", None, 10**400),
    "family": ("none", "", None, ["mace"], "__import__", "../mace", 3),
    "hyper": (_GONE, None, [], "text", {}),
    "les": (_GONE, None, [], {}),
    "source": (_GONE, None, 3),
    "provenance": (None, 3),
    "versions": (_GONE, 3),
    "verification": (_GONE, None, "good"),
    "licence": (3, "\x1b[2J\x1b]0;title\x07", "line\nline"),
    "charge_sign": (0, 3, "1", True),
    "dtype": ("float16", None, 3),
    "hyper.elements": ([], [0], [-1], [119], [1, 1], [1.5], ["H"], [[1]], "18", [10**30], None),
    "hyper.cutoff": (-4.5, 0, 1e-9, 1e9, "4.5", None, True, [4.5], float("nan"), float("inf")),
    "les.sigma": (0, -1.0, 1e-9, 1e9, "1", None, True, float("nan"), float("inf")),
    "les.dl": (0, -2.0, 1e-9, 1e9, "2", None, float("nan"), float("inf")),
    "les.prefactor": (-1.0, 1e300, "90", None, float("nan"), float("inf")),
    "les.remove_self_interaction": ("no", 2, None, []),
}
#: Hyper-parameters of the first seed's family.
_COUNTS = (0, -5, 10**9, "5", None, True, [], 10**30)


def _shown(value: Any) -> str:
    return "gone" if value is _GONE else ascii(value)[:20]


def metadata() -> dict[str, Change]:
    """Artifacts whose metadata is hostile or impossible."""
    found: dict[str, Change] = {}
    for path, values in _VALUES.items():
        for value in values:
            found[f"{path} {_shown(value)}"] = _with(path, value)
    deep = b"[" * 200_000 + b"]" * 200_000
    found |= {
        "deep metadata": _metadata(lambda _: deep),
        "deep in the metadata": _metadata(lambda c: c.rstrip()[:-1] + b',"x":' + deep + b"}"),
        "digits in the metadata": _metadata(
            lambda c: c.rstrip()[:-1] + b',"x":' + b"9" * 5000 + b"}"
        ),
        "keys twice": _metadata(lambda c: c.rstrip()[:-1] + b',"hyper":{}}'),
        "metadata in UTF-16": _metadata(lambda c: c.decode().encode("utf-16")),
        "metadata with a mark": _metadata(lambda c: b"\xef\xbb\xbf" + c),
        "metadata that is no text": _metadata(lambda _: b"\xff\xfe\xfd"),
        "metadata that is a list": _metadata(lambda _: b"[]"),
        "metadata that swells": _bomb("/metadata.json", 200),
        "weights that swell": _bomb("/canonical.pt", 200),
        "no weights": lambda data: archive(
            [e for e in members(data) if not e[0].endswith("/canonical.pt")]
        ),
        "no metadata": lambda data: archive(
            [e for e in members(data) if not e[0].endswith("/metadata.json")]
        ),
        "weights twice": lambda data: archive(
            [*members(data), *(e for e in members(data) if e[0].endswith("/canonical.pt"))]
        ),
        "metadata twice": _add(("other/extra/metadata.json", b'{"format": "openmm-les"}')),
        "metadata first": _first(("other/extra/metadata.json", b'{"format": "openmm-les"}')),
    }
    return found


def _inner(change: Change) -> Change:
    """A change of the weights' own archive."""
    return lambda data: with_member(data, "/canonical.pt", change)


def _hyper(position: int, value: Any, seed: Seed) -> bytes:
    """Another value of the hyper-parameter at this position; beyond the last the first again."""
    data = seed.content(seed.files[0])
    content = next(c for name, c, _ in members(data) if name.endswith("/metadata.json"))
    names = [name for name in json.loads(content)["hyper"] if name not in ("elements", "cutoff")]
    return _with(f"hyper.{names[position % len(names)]}", value)(data)


def artifacts() -> dict[str, Hostile]:
    """Hostile artifacts: containers outside and inside, pickles inside, and metadata."""
    found: dict[str, Hostile] = dict(containers())
    for name, change in CONTAINERS.items():
        found[f"weights: {name}"] = partial(_of_seed, _inner(change))
    for name in hostile_pickles.SNIPPETS:
        in_front = partial(hostile_pickles.in_front, name)
        found[f"weights: {name}"] = partial(_of_seed, _inner(in_front))
    for name, change in metadata().items():
        found[name] = partial(_of_seed, change)
    for position, value in itertools.product(range(6), (*_COUNTS, _GONE)):
        found[f"hyper-parameter {position} {_shown(value)}"] = partial(_hyper, position, value)
    return found


# --- archives of other readers ------------------------------------------------------------------


_RUN: dict[str, tuple[Any, ...]] = {
    "format": (0, 2, "1", None, True),
    "phase": ("", "other", 3, None),
    "step": (-20, 1.5, "20", None, 10**30, True),
    "box": ([], [[1.0]], "box", [[float("nan")] * 3] * 3, [[[]] * 3] * 3),
    "requested": ({}, [], None, {"steps": -1}, {"other": 1}),
    "resolved": ({}, None, {"seed": "x"}),
    "wall_seconds": ("1", None, float("nan")),
    "environment": ([], None, {"openmm": "\x1b[2J"}),
    "structure_sha256": (3, None, ""),
    "outputs": ([], None, {"../outside.txt": {"size": 0, "head": ""}}),
}
_GROWN = (
    {"size": -1, "head": ""},
    {"size": 10**18, "head": ""},
    {"size": 1.5, "head": ""},
    {"size": 3, "head": "0"},
    {"size": 3, "head": "zz"},
    {"size": 3, "head": "00" * 100_000},
    {"size": 3, "head": None},
)


def _grown(name: str, state: Any) -> Change:
    """One file more that grew, or another state of the one there is."""

    def change(content: bytes) -> bytes:
        document = json.loads(content)
        document["outputs"][name] = state
        return json.dumps(document).encode()

    return lambda data: with_member(data, "metadata.json", change)


def runs() -> dict[str, Hostile]:
    """Hostile checkpoints of runs."""
    found = containers()
    changes: dict[str, Change] = {
        "half of the context": lambda data: with_member(data, ".bin", lambda c: c[: len(c) // 2]),
        "no context": lambda data: with_member(data, ".bin", lambda _: b""),
        "deep metadata": lambda data: with_member(data, "metadata.json", lambda _: b"[" * 10**5),
        "metadata that swells": _bomb("metadata.json", 200),
    }
    for path, values in _RUN.items():
        for value in (*values, _GONE):
            changes[f"{path} {_shown(value)}"] = _top(path, value)
    for number, state in enumerate(_GROWN):
        changes[f"state {number} of a file"] = _grown("log.csv", state)
    sound = {"size": 0, "head": ""}
    for name in ("../outside.txt", "/tmp/outside.txt", "./../outside.txt", ".", "", "other.csv"):
        changes[f"file {name}"] = _grown(name, sound)
    for name, change in changes.items():
        found[name] = partial(_of_seed, change)
    return found


def _top(name: str, value: Any) -> Change:
    """Another value at the top of a checkpoint's metadata."""

    def change(content: bytes) -> bytes:
        document = json.loads(content)
        document[name] = value
        if value is _GONE:
            del document[name]
        return json.dumps(document).encode()

    return lambda data: with_member(data, "metadata.json", change)


def _deflated(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.compress_type = zipfile.ZIP_DEFLATED
    return info
