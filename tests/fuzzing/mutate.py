"""Changes of a file's content, each a function of a random generator and the bytes.

What can be changed follows from the content itself: every file has bytes; a zip archive also has
members, whose checksums are then made right again, and whose contents are changed by the same
functions; a pickle has opcodes, JSON has values, a text has lines and numbers.
"""

from __future__ import annotations

import copy
import functools
import io
import json
import pickle
import pickletools
import re
import struct
import warnings
import zipfile
from collections.abc import Callable
from random import Random
from typing import Any

Mutation = Callable[[Random, bytes], bytes]

INTEGERS = (0, 1, -1, 2, 127, 128, 255, 256, 65535, 2**31 - 1, -(2**31), 2**63 - 1, 10**30)
FLOATS = (0.0, -0.0, -1.0, 1e-300, 1e-9, 0.5, 1e9, 1e300, float("inf"), -float("inf"), float("nan"))
TEXTS = ("", "no", "0", "-1", "1e400", "nan", "\x00", "\x1b[31mred", "ﬀ٣", "../../x", "x" * 10_000)
_NUMBER = re.compile(rb"[-+]?\d+(?:\.\d*)?(?:[eE][-+]?\d+)?")
_NUMBER_TEXTS = (
    b"nan", b"inf", b"-1", b"0", b"1e400", b"-0.0", b"1e-320", b"99999999999999999999", b"********",
    b"9" * 5000, b"0x10", b"1_0", b"", b"1.2.3", "٣".encode(), b"True",
)  # fmt: skip
_ENCODED = 4096


def _span(rng: Random, data: bytes, most: int = 64) -> tuple[int, int]:
    start = rng.randrange(len(data) + 1)
    return start, min(len(data), start + rng.randint(1, most))


# --- bytes of anything --------------------------------------------------------------------------


def flip(rng: Random, data: bytes) -> bytes:
    """Some bits."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8))):
        if changed:
            changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def overwrite(rng: Random, data: bytes) -> bytes:
    """A stretch of zeros, ones or noise in place of what was there."""
    start, end = _span(rng, data, rng.choice((4, 64, 4096)))
    filler = rng.choice((b"\0", b"\xff", None))
    new = rng.randbytes(end - start) if filler is None else filler * (end - start)
    return data[:start] + new + data[end:]


def truncate(rng: Random, data: bytes) -> bytes:
    """The beginning, as an interrupted copy leaves it."""
    return data[: rng.randrange(max(1, len(data)))]


def insert(rng: Random, data: bytes) -> bytes:
    """Noise between."""
    start, _ = _span(rng, data)
    return data[:start] + rng.randbytes(rng.randint(1, 64)) + data[start:]


def delete(rng: Random, data: bytes) -> bytes:
    """A stretch is missing."""
    start, end = _span(rng, data, rng.choice((1, 64, 4096)))
    return data[:start] + data[end:]


def duplicate(rng: Random, data: bytes) -> bytes:
    """A stretch is there twice."""
    start, end = _span(rng, data, rng.choice((16, 4096)))
    return data[:end] + data[start:end] + data[end:]


def exchange(rng: Random, data: bytes) -> bytes:
    """Two stretches in each other's place."""
    a, b = sorted((rng.randrange(len(data) + 1), rng.randrange(len(data) + 1)))
    length = min(rng.choice((4, 512)), b - a, len(data) - b)
    if length < 1:
        return data
    return (
        data[:a]
        + data[b : b + length]
        + data[a + length : b]
        + data[a : a + length]
        + data[b + length :]
    )


def integer(rng: Random, data: bytes) -> bytes:
    """A number of a header at its bounds: near a signature of a zip archive where there is one."""
    marks = [m.start() + rng.randrange(4, 46) for m in _signatures(data)]
    start = rng.choice(marks) if marks else rng.randrange(len(data) + 1)
    size = rng.choice((1, 2, 4, 8))
    value = rng.choice(INTEGERS) % 256**size
    return data[:start] + value.to_bytes(size, "little") + data[start + size :]


@functools.lru_cache(maxsize=8)
def _signatures(data: bytes) -> tuple[re.Match[bytes], ...]:
    return tuple(re.finditer(rb"PK[\x01\x03\x05-\x07][\x02\x04\x06-\x08]", data))


RAW: dict[str, Mutation] = {
    f.__name__: f for f in (flip, overwrite, truncate, insert, delete, duplicate, exchange, integer)
}

# --- zip archives -------------------------------------------------------------------------------

Members = list[tuple[str, bytes, int]]


@functools.lru_cache(maxsize=16)
def members(data: bytes) -> tuple[tuple[str, bytes, int], ...]:
    """Name, content and compression of each member."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return tuple((i.filename, archive.read(i), i.compress_type) for i in archive.infolist())


def archive(entries: Members | tuple[tuple[str, bytes, int], ...]) -> bytes:
    """A zip archive with right checksums, whatever the names."""
    stream = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(stream, "w") as made:
        warnings.simplefilter("ignore", UserWarning)  # of the same name twice
        for name, content, compression in entries:
            info = zipfile.ZipInfo(name)
            info.compress_type = compression
            made.writestr(info, content)
    return stream.getvalue()


def with_member(data: bytes, ending: str, change: Callable[[bytes], bytes]) -> bytes:
    """The same archive with another content of the member whose name ends so."""
    entries = members(data)
    if not any(name.endswith(ending) for name, _, _ in entries):
        raise ValueError(f"no member ends in {ending}: {[name for name, _, _ in entries]}")
    return archive([(n, change(c) if n.endswith(ending) else c, how) for n, c, how in entries])


def member(rng: Random, data: bytes) -> bytes:
    """One member, or the list of them; the checksums are right."""
    entries = list(members(data))
    index = rng.randrange(len(entries))
    name, content, how = entries[index]
    action = rng.choice(("content",) * 6 + ("drop", "twice", "rename", "swap", "press", "empty"))
    if action == "content":
        entries[index] = (name, mutated(rng, content)[0], how)
    elif action == "drop":
        del entries[index]
    elif action == "twice":
        entries.append((name, mutated(rng, content)[0], how))
    elif action == "rename":
        new = mutated_text(rng, name)
        entries[index] = (new.replace("\0", "_") or "_", content, how)
    elif action == "swap":
        other = rng.randrange(len(entries))
        entries[index] = (name, entries[other][1], how)
        entries[other] = (entries[other][0], content, entries[other][2])
    elif action == "press":
        methods = (zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
        entries[index] = (name, content, rng.choice(methods))
    else:
        entries[index] = (name, b"", how)
    return archive(entries)


def weights(rng: Random, data: bytes) -> bytes:
    """One number of an array of numbers."""
    size, code = rng.choice(((4, "<f"), (8, "<d"), (8, "<q")))
    start = rng.randrange(max(1, len(data) // size)) * size
    if code == "<q":
        new = struct.pack(code, rng.choice([v for v in INTEGERS if abs(v) < 2**63]))
    else:
        value = rng.choice(FLOATS)
        new = struct.pack(code, value if code == "<d" or abs(value) < 1e38 else float("inf"))
    return data[:start] + new + data[start + size :]


# --- pickles ------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=16)
def _opcodes(data: bytes) -> tuple[tuple[str, Any, int, int], ...]:
    """Name, argument, start and end of each opcode."""
    found = [(op.name, arg, pos) for op, arg, pos in pickletools.genops(data)]
    ends = [pos for _, _, pos in found[1:]] + [len(data)]
    return tuple((*one, end) for one, end in zip(found, ends, strict=True))


def _value(value: object) -> bytes:
    """The opcodes that push a value."""
    return pickle.dumps(value, 2)[2:-1].replace(b"q\x00", b"")


def opcode(rng: Random, data: bytes) -> bytes:
    """One opcode of a pickle, or its argument."""
    codes = _opcodes(data)
    name, argument, start, end = codes[rng.randrange(len(codes))]
    action = rng.choice(("drop", "twice", "argument", "argument", "insert", "move"))
    if action == "drop":
        return data[:start] + data[end:]
    if action == "twice":
        return data[:end] + data[start:end] + data[end:]
    if action == "insert":
        code = rng.choice(pickletools.opcodes).code.encode("latin-1")
        return data[:start] + code + rng.randbytes(rng.choice((0, 1, 4))) + data[start:]
    if action == "move":
        _, _, other, last = codes[rng.randrange(len(codes))]
        return data[:start] + data[other:last] + data[end:]
    return data[:start] + _other_argument(rng, name, argument) + data[end:]


def _other_argument(rng: Random, name: str, argument: Any) -> bytes:
    """The same opcode with another argument, or another value where that is the same."""
    if name.endswith(("BINPUT", "BINGET")):
        code = b"r" if name.endswith("PUT") else b"j"
        return code + rng.choice((0, 1, argument + 1, 2**16, 2**28, 2**32 - 1)).to_bytes(
            4, "little"
        )
    if name == "GLOBAL":
        module, _, what = str(argument).partition(" ")
        other = rng.choice((("posix", "getcwd"), (module, what + "_"), ("builtins", "set")))
        return f"c{other[0]}\n{other[1]}\n".encode()
    if isinstance(argument, bool) or argument is None:
        return _value(rng.choice((None, True, 0, "", ())))
    if isinstance(argument, int):
        return _value(rng.choice((*INTEGERS, argument + 1, -argument, float(argument))))
    if isinstance(argument, float):
        return _value(rng.choice((*FLOATS, 2.0 * argument, -argument, 1)))
    if isinstance(argument, str):
        return _value(rng.choice((*TEXTS, argument + "_", argument[:-1], 1)))
    return _value(rng.choice(INTEGERS))


# --- JSON ---------------------------------------------------------------------------------------


def value(rng: Random, data: bytes) -> bytes:
    """One value or key of a JSON document."""
    document = {"": json.loads(data)}
    places = list(_places(document))
    holder, key = rng.choice(places)
    action = rng.choice(("value", "value", "value", "drop", "rename", "twice"))
    if action == "drop" and holder is not document:
        del holder[key]
    elif action == "rename" and isinstance(holder, dict) and holder is not document:
        holder[mutated_text(rng, key)] = holder.pop(key)
    elif action == "twice":
        holder[key] = [holder[key], copy.deepcopy(holder[key])]
    else:
        holder[key] = _other_value(rng, holder[key])
    text = json.dumps(document[""])
    # Python refuses to write integers of so many digits; others do not.
    return text.replace('"9999 digits"', "9" * 9999).encode()


def _places(document: Any) -> Any:
    """Every holder and key."""
    keys = list(document) if isinstance(document, dict) else range(len(document))
    for key in keys:
        yield document, key
        if isinstance(document[key], dict | list):
            yield from _places(document[key])


def _other_value(rng: Random, old: Any) -> Any:
    deep: Any = []
    for _ in range(60):
        deep = [deep]
    near: list[Any] = []
    if isinstance(old, int | float) and not isinstance(old, bool):
        near = [-old, old + 1, 2 * old, old / 3, float(old), str(old), *INTEGERS, *FLOATS]
    if isinstance(old, str):
        near = [old + "x", old.upper(), old[:-1], *TEXTS]
    if isinstance(old, list) and old:
        near = [old + old, old[:-1], old[::-1], [old], old[0]]
    others = [None, True, False, *INTEGERS, *FLOATS, *TEXTS, [], {}, deep, "9999 digits"]
    return rng.choice(near) if near and rng.random() < 0.7 else rng.choice(others)


# --- texts --------------------------------------------------------------------------------------


def mutated_text(rng: Random, text: str) -> str:
    """A name with a letter more, less or other, or another one."""
    place = rng.randrange(len(text) + 1)
    letter = rng.choice("aZ0_/.\\ é\x1b")
    return rng.choice(
        (text[:place] + letter + text[place:], text[:place] + text[place + 1 :], rng.choice(TEXTS))
    )


def line(rng: Random, data: bytes) -> bytes:
    """A line is missing, there twice, elsewhere, cut, joined with the next, or of another file."""
    lines = data.splitlines(keepends=True)
    if not lines:
        return data
    here, there = rng.randrange(len(lines)), rng.randrange(len(lines))
    action = rng.randrange(7)
    if action == 0:
        del lines[here]
    elif action == 1:
        lines.insert(there, lines[here])
    elif action == 2:
        lines[here], lines[there] = lines[there], lines[here]
    elif action == 3:
        lines[here] = lines[here][: rng.randrange(len(lines[here]) + 1)]
    elif action == 4:
        lines[here] = lines[here].rstrip(b"\r\n")
    elif action == 5:
        lines.insert(
            here, rng.choice((b"\n", b"\t\n", b"END\n", b"<html>\n", b"- a\n", b"x" * 10**5))
        )
    else:
        lines = lines[min(here, there) : max(here, there) + 1]
    return b"".join(lines)


def number(rng: Random, data: bytes) -> bytes:
    """One number of a text."""
    found = _numbers(data)
    if not found:
        return data
    start, end = rng.choice(found)
    return data[:start] + rng.choice(_NUMBER_TEXTS) + data[end:]


@functools.lru_cache(maxsize=8)
def _numbers(data: bytes) -> tuple[tuple[int, int], ...]:
    return tuple(match.span() for match in _NUMBER.finditer(data))


def encoding(rng: Random, data: bytes) -> bytes:
    """The same text in another encoding, with other ends of lines, or with bytes that are none."""
    text = data.decode("utf-8", "replace")
    start = rng.randrange(len(data) + 1)
    alien = rng.choice(
        (b"\xff", b"\0", "é".encode(), "é".encode("latin-1"), b"\xe2\x80\xa8", b"\x1b")
    )
    return rng.choice(
        (
            b"\xef\xbb\xbf" + data,
            text.encode("utf-16"),
            text.encode("utf-32"),
            data.replace(b"\n", b"\r\n"),
            data.replace(b"\n", b"\r"),
            data.replace(b" ", b"\t"),
            data[:start] + alien + data[start:],
        )
    )


# --- choice -------------------------------------------------------------------------------------


def applicable(data: bytes) -> dict[str, Mutation]:
    """The mutations that make sense for this content, by name."""
    if data[:2] == b"PK":
        return RAW | {f"member{k}": member for k in range(6)}
    if data[:2] == b"\x80\x02":
        return {"flip": flip, "opcode": opcode, "opcode2": opcode, "truncate": truncate}
    if _is_text(data):
        found: dict[str, Mutation] = {**RAW, "line": line, "number": number, "encoding": encoding}
        found["number2"], found["line2"] = number, line
        if _is_json(data):
            found |= {f"value{i}": value for i in range(8)}
        return found
    return {**RAW, "weights": weights, "weights2": weights}


def mutated(rng: Random, data: bytes) -> tuple[bytes, str]:
    """Another content and the name of the mutation; equal contents are no mutation.

    Mutations that are listed twice are tried twice as often; a digit tells them apart.
    """
    known = applicable(data)
    names = sorted(known)
    for _ in range(20):
        name = rng.choice(names)
        changed = known[name](rng, data)
        if changed != data:
            return changed, name.rstrip("0123456789")
    return data + b"\0", "insert"


@functools.lru_cache(maxsize=64)
def _is_text(data: bytes) -> bool:
    sample = data[:_ENCODED]
    return b"\0" not in sample and sum(c < 9 or c > 126 for c in sample) * 20 <= len(sample)


@functools.lru_cache(maxsize=64)
def _is_json(data: bytes) -> bool:
    try:
        return isinstance(json.loads(data), dict | list)
    except ValueError:
        return False
