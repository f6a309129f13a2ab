"""Pickles that somebody made to run code, to read beyond a storage, or to take everything.

Each is a row of opcodes that leaves one object on the stack. It is tried by itself, and in front
of a sound pickle, which then throws the object away: what is checked at the end comes too late.
"""

from __future__ import annotations

import pickle
import struct
from collections.abc import Callable
from functools import partial

from support.hostile import call, text
from support.hostile import name as class_of

from fuzzing.cases import Hostile, Seed
from fuzzing.mutate import archive, members, with_member
from fuzzing.worker import SENTINEL

_START = b"\x80\x02"
#: Name of a storage of four doubles that the archives have in addition.
STORAGE = "hostile"


def whole(value: int) -> bytes:
    """Opcode of an integer."""
    return pickle.dumps(value, 2)[2:-1]


def storage(
    key: bytes | None = None,
    count: bytes | None = None,
    kind: str = "torch.DoubleStorage",
    device: bytes | None = None,
) -> bytes:
    """Opcodes of a storage of torch.save; the parts are opcodes, too."""
    key, count = key or text(STORAGE), count or whole(4)
    return b"(" + text("storage") + class_of(kind) + key + (device or text("cpu")) + count + b"tQ"


def tensor(
    held: bytes | None = None,
    offset: bytes | None = None,
    shape: bytes | None = None,
    stride: bytes | None = None,
    *more: bytes,
) -> bytes:
    """Opcodes of a tensor."""
    four, one = b"(" + whole(4) + b"t", b"(" + whole(1) + b"t"
    hooks = call("collections.OrderedDict")
    parts = (held or storage(), offset or whole(0), shape or four, stride or one, b"\x89", hooks)
    return call("torch._utils._rebuild_tensor_v2", *parts, *more)


def row(*values: int) -> bytes:
    """Opcodes of a tuple of integers."""
    return b"(" + b"".join(whole(v) for v in values) + b"t"


def deep(code: bytes, levels: int, first: bytes = b")") -> bytes:
    """One object in the other."""
    return first + code * levels


_MKDIR = text(SENTINEL)
_ENCODED = call("_codecs.encode", text("0"), text("latin1"))
_MODULE = "mace.modules.blocks.AtomicEnergiesBlock"
#: Python's hash of these integers is 0.
_COLLIDING = b"".join(whole(k * (2**61 - 1)) + b"N" for k in range(1, 30_000))

SNIPPETS: dict[str, bytes] = {
    # What runs code.
    "os mkdir": call("posix.mkdir", _MKDIR),
    "os system": call("posix.system", text(f"mkdir {SENTINEL}")),
    "python 2 name": call("__builtin__.eval", text(f"__import__('os').mkdir('{SENTINEL}')")),
    "exec": call("builtins.exec", text(f"import os; os.mkdir('{SENTINEL}')")),
    "dotted name": b"cos\nmkdir\n(" + _MKDIR + b"tR",
    "instance": b"(" + _MKDIR + b"iposix\nmkdir\n",
    "object": b"(" + class_of("posix.mkdir") + _MKDIR + b"o",
    "newobj": class_of("posix.mkdir") + b"(" + _MKDIR + b"t\x81",
    "global from stack": text("posix") + text("mkdir") + b"\x93(" + _MKDIR + b"tR",
    "getattr": call("builtins.getattr", class_of("posix.mkdir"), text("__call__"))
    + b"(" + _MKDIR + b"tR",
    "extension": b"\x82\x07",
    "extension 4": b"\x84\xff\xff\xff\x7f",
    "operator": call("operator.methodcaller", text("mkdir"), _MKDIR),
    "torch load": call("torch.serialization.load", text("other.pt")),
    "torch jit": call("torch.jit._serialization.load", text("other.pt")),
    "numpy": call("numpy.core.multiarray._reconstruct", class_of("numpy.ndarray"), row(0), b"N"),
    "build of a class": class_of(_MODULE) + b"}" + text("__init__") + class_of("os.mkdir") + b"sb",
    "name with a newline of others": class_of("torch.nn.functional.silu\r"),
    "name that is no ASCII": b"cm\xc3\xa4ce\nX\n",
    # What takes everything.
    "tuples that double": deep(b"2\x86", 60),
    "lists that double": deep(b"2l".replace(b"l", b"\x86"), 40, b"]"),
    "deep tuples": deep(b"\x85", 200_000),
    "deep lists": b"]" * 100_000 + b"a" * 99_999,
    "deep dicts": b"}K\x00" * 50_000 + b"}" + b"s" * 50_000,
    "memo 2^28": b"Nr" + struct.pack("<I", 2**28),
    "memo 2^32": b"Nr" + struct.pack("<I", 2**32 - 1),
    "memo in text": b"Np268435456\n",
    "memo missing": b"j" + struct.pack("<I", 2**31),
    "negative memo": b"Np-5\n",
    "digits": b"I" + b"9" * 6000 + b"\n",
    "many digits": b"L" + b"7" * 400_000 + b"L\n",
    "long float": b"F" + b"1" * 100_000 + b"\n",
    "long integer": b"\x8b" + struct.pack("<i", 300_000) + b"\x7f" * 300_000,
    "negative length": b"\x8b" + struct.pack("<i", -5),
    "bytes of 2^62": b"\x8e" + struct.pack("<Q", 2**62) + b"x",
    "text of 2^31": b"X" + struct.pack("<I", 2**31) + b"x",
    "string of -1": b"T" + struct.pack("<i", -1),
    "frame of 2^62": b"\x95" + struct.pack("<Q", 2**62) + b"N",
    "colliding keys": b"}(" + _COLLIDING + b"u",
    "million dicts": b"(" + b"}" * 1_000_000 + b"l",
    "million sets": b"(" + b"\x8f" * 1_000_000 + b"l",
    "million calls": b"(" + (class_of("collections.OrderedDict") + b"q\x01)R")
    + b"h\x01)R" * 300_000 + b"l",
    "million tensors": b"(" + tensor() + b"q\x01" + b"h\x01" * 300_000 + b"l",
    "object in itself": b"]q\x01h\x01a",
    "dict in itself": b"}q\x01" + text("a") + b"h\x01s",
    "repr of a set": b"\x8f(" + deep(b"2\x86", 40) + b"\x90",
    # What is not what torch reads, or not the same for two readers.
    "encode of a bomb": call("_codecs.encode", text("a" * 100_000), text("unicode_escape")),
    "encode by a codec": call("_codecs.encode", text("a" * 1000), text("zlib")),
    "storage key from a call": tensor(storage(_ENCODED, whole(100_000))),
    "storage count from a call": tensor(storage(None, _ENCODED)),
    "storage key as integer": tensor(storage(whole(0))),
    "storage key as bytes": tensor(storage(b"C\x010")),
    "storage key of a tuple": tensor(storage(b"(" + text("0") + b"t")),
    "storage key with a path": tensor(storage(text("../0"))),
    "storage that is not there": tensor(storage(text("99999"))),
    "storage of 10^8": tensor(storage(None, whole(10**8)), None, row(10**8)),
    "storage of 2000": tensor(storage(None, whole(2000)), None, row(2000)),
    "storage of 10^18": tensor(storage(None, whole(10**18)), None, row(10**18)),
    "storage of -4": tensor(storage(None, whole(-4)), None, row(4)),
    "storage count true": tensor(storage(None, b"\x88"), None, row(1)),
    "storage count float": tensor(storage(None, b"G" + struct.pack(">d", 4.0))),
    "storage of another class": tensor(storage(kind="torch.UntypedStorage")),
    "storage of no class": tensor(storage(kind="torch._utils._rebuild_parameter")),
    "storage on a GPU": tensor(storage(device=text("cuda:7"))),
    "storage on a path": tensor(storage(device=text("/dev/mem"))),
    "storage of five": b"(" + text("storage") + b"tQ",
    "storage of nested tuples": tensor(storage(deep(b"2\x86", 60))),
    "storage from text": b"Pstorage\n",
    "shape beyond": tensor(None, None, row(1000)),
    "shape of 10^9, stride 0": tensor(None, None, row(10**9), row(0)),
    "shape of 10^4 by 10^5, stride 0": tensor(None, None, row(10**4, 10**5), row(0, 0)),
    "negative shape": tensor(None, None, row(-4)),
    "negative stride": tensor(None, whole(3), row(4), row(-1)),
    "offset beyond": tensor(None, whole(10**6)),
    "negative offset": tensor(None, whole(-1000)),
    "shape that overflows": tensor(None, None, row(2**62, 4), row(1, 1)),
    "stride that overflows": tensor(None, None, row(3, 2), row(2**62, 1)),
    "shape of text": tensor(None, None, b"(" + text("4") + b"t"),
    "thousand dimensions": tensor(None, None, row(*[1] * 1000), row(*[1] * 1000)),
    "more dimensions than strides": tensor(None, None, row(2, 2)),
    "tensor of metadata": tensor(None, None, None, None, b"}" + text("conj") + b"\x88s"),
    "tensor of no storage": tensor(b"N"),
    "parameter of no tensor": call("torch._utils._rebuild_parameter", b"N", b"\x88", b"}"),
    "build of a tensor": tensor() + b"}" + text("data") + b"Nsb",
    "build of a dict": call("collections.OrderedDict") + b"}" + text("x") + b"Nsb",
    "build of a number": class_of(_MODULE) + b")\x81K\x01b",
    "items of nothing": b"N(K\x01K\x02u",
    "odd items": b"}(K\x01u",
    "appended to nothing": b"NK\x01a",
    "mark missing": b"t",
    "empty stack": b"0",
    "unknown opcode": b"\xff",
    "list as a key": b"}](K\x01K\x02us",
    "set of lists": call("builtins.set", b"](]]]e"),
}  # fmt: skip


def _alone(snippet: bytes, _: bytes) -> bytes:
    return _START + snippet + b"."


def _before(snippet: bytes, sound: bytes) -> bytes:
    return _START + snippet + b"0" + sound[len(_START) :]


def _ended(snippet: bytes, sound: bytes) -> bytes:
    """Another pickle behind, which a reader of rows of pickles would take."""
    return sound + _START + snippet + b"."


def in_archive(change: Callable[[bytes], bytes], seed: Seed) -> bytes:
    """The first seed with another ``data.pkl``."""
    return changed_archive(seed.content(seed.files[0]), change)


def changed_archive(data: bytes, change: Callable[[bytes], bytes]) -> bytes:
    """An archive of torch.save with another ``data.pkl``, and with one storage more."""
    folder = members(data)[0][0].partition("/")[0]
    more = (f"{folder}/data/{STORAGE}", struct.pack("<4d", 1.0, 2.0, 3.0, 4.0), 0)
    return archive([*members(with_member(data, "/data.pkl", change)), more])


def archives() -> dict[str, Hostile]:
    """Every snippet alone and before the seed's own pickle; some bare, or behind another pickle."""
    found: dict[str, Hostile] = {}
    for name, snippet in SNIPPETS.items():
        found[name] = partial(in_archive, partial(_alone, snippet))
        found[f"{name}, then a model"] = partial(in_archive, partial(_before, snippet))
    for name in ("os mkdir", "tuples that double", "memo 2^28", "deep tuples", "digits"):
        snippet = SNIPPETS[name]
        found[f"{name}, bare"] = partial(_bare, snippet)
        found[f"{name}, behind a model"] = partial(in_archive, partial(_ended, snippet))
    return found


def _bare(snippet: bytes, _: Seed) -> bytes:
    return _START + snippet + b"."


def in_front(name: str, data: bytes) -> bytes:
    """An archive of torch.save with a snippet before what it holds."""
    return changed_archive(data, partial(_before, SNIPPETS[name]))
