"""What torch.save writes, read by a machine of our own that can do nothing else.

It makes containers, numbers, texts and tensors by itself, and calls only what its caller allows.
Limits are checked where something is made, on the very bytes that it is made from.
"""

from __future__ import annotations

import _compat_pickle
import struct
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from openmm_les.files import numpy_scalars
from openmm_les.files.archives import Archive
from openmm_les.files.reading import Damage

if TYPE_CHECKING:
    import torch

#: The pickle protocol that torch.save writes.
PROTOCOL = 2
#: Sixteen times the instructions of any published model; what they make is some 50 MB.
MOST_INSTRUCTIONS = 400_000
#: A lookup among keys that were made to collide takes as long as all of them together.
_MOST_UNUSUAL_KEYS = 10_000
_DEEPEST = 100
#: What the content may amount to if it is written out as a tree, with all numbers in double
#: precision: so many times the archive's size, and something for small ones.
_REPETITION, _ALLOWANCE = 6, 2**22
#: Up to this length a tensor may repeat the numbers of its storage.
_SMALL = 4096
#: 64 bits and a sign.
_LONGEST_INTEGER = 9
#: Bytes per number in the storages that occur, and their torch dtypes.
STORAGES = {
    "torch.BoolStorage": (1, "bool"),
    "torch.ByteStorage": (1, "uint8"),
    "torch.DoubleStorage": (8, "float64"),
    "torch.FloatStorage": (4, "float32"),
    "torch.IntStorage": (4, "int32"),
    "torch.LongStorage": (8, "int64"),
}


class Inert:
    """What an object of a class becomes: its arguments and state, without any behaviour."""

    __slots__ = ("args", "state")
    args: tuple[Any, ...]
    state: dict[str, Any]  #: what pickle would have put into its ``__dict__``

    def __setstate__(self, state: Any) -> None:
        self.state = state


class StorageType(NamedTuple):
    item: int
    dtype: str


@dataclass(slots=True)
class Storage:
    """Numbers of the archive, before any tensor is a view of them."""

    kind: StorageType
    content: memoryview
    numbers: torch.Tensor | None = None

    def tensor(self) -> torch.Tensor:
        """All of them in one row; a copy, which is aligned and outlives the archive."""
        import torch

        if self.numbers is None:
            dtype = getattr(torch, self.kind.dtype)
            self.numbers = torch.empty(0, dtype=dtype)
            if self.content:
                stored = torch.uint8 if dtype is torch.bool else dtype
                numbers = torch.frombuffer(bytearray(self.content), dtype=stored)
                self.numbers = numbers != 0 if dtype is torch.bool else numbers
        return self.numbers


def load(archive: Archive, classes: Callable[[str], type[Inert] | None] | None = None) -> object:
    """The object that torch.save wrote into an archive, tensors on the CPU.

    `classes` gives what replaces a class or function, by its full name; None refuses it.
    """
    if "byteorder" in archive and bytes(archive.read("byteorder")) != b"little":
        raise Damage("its numbers are not in little-endian order")
    machine = _Machine(archive, classes or (lambda name: None))
    root = machine.run()
    check_size(root, _REPETITION * archive.size + _ALLOWANCE)
    return root


def modern_name(module: str, name: str) -> str:
    """Name under which Python 3 imports what protocol 2 calls by its Python 2 name."""
    if (module, name) in _compat_pickle.NAME_MAPPING:
        module, name = _compat_pickle.NAME_MAPPING[(module, name)]
    else:
        module = _compat_pickle.IMPORT_MAPPING.get(module, module)
    return f"{module}.{name}"


class _Machine:
    """One pass over a pickle; arguments as for `load`."""

    def __init__(self, archive: Archive, classes: Callable[[str], type[Inert] | None]) -> None:
        self._archive = archive
        self._data = bytes(archive.read("data.pkl"))
        self._classes = classes
        self._place = 0
        self._stack: list[Any] = []
        self._marked: list[list[Any]] = []
        self._memo: dict[int, Any] = {}
        self._globals: dict[str, Any] = {}
        self._callable: set[int] = set()  # ids of those globals that are no storages
        self._storages: dict[str, Storage] = {}
        self._unusual_keys = 0
        self._limit = self._left = _REPETITION * archive.size + _ALLOWANCE

    def run(self) -> object:
        for _ in range(MOST_INSTRUCTIONS):
            code = self._take(1)[0]
            if code == _STOP:
                if len(self._stack) != 1 or self._marked or self._place != len(self._data):
                    raise Damage("the pickle does not end where it should")
                return self._stack[0]
            if code not in _INSTRUCTIONS:
                raise Damage(f"instruction {bytes([code])!r} of the pickle is not torch.save's")
            _INSTRUCTIONS[code](self)
        raise Damage(f"more than {MOST_INSTRUCTIONS} instructions in the pickle")

    # --- bytes

    def _take(self, size: int) -> bytes:
        start = self._place
        self._place += size
        if self._place > len(self._data):
            raise Damage("the pickle ends too early")
        return self._data[start : self._place]

    def _number(self, layout: str) -> Any:
        return struct.unpack(layout, self._take(struct.calcsize(layout)))[0]

    def _line(self) -> str:
        line = self._data[self._place : self._place + 256].partition(b"\n")[0]
        self._take(len(line) + 1)
        return line.decode("utf-8")

    # --- values

    def _push(self, value: Any) -> None:
        self._stack.append(value)

    def _protocol(self) -> None:
        if (version := self._take(1)[0]) != PROTOCOL:
            raise Damage(f"pickle protocol {version}, expected {PROTOCOL}")

    def _integer(self) -> None:
        size = self._take(1)[0]
        if size > _LONGEST_INTEGER:
            raise Damage(f"an integer of {size} bytes")
        self._push(int.from_bytes(self._take(size), "little", signed=True))

    def _text(self) -> None:
        size = self._number("<I")
        self._push(self._take(size).decode("utf-8", "surrogatepass"))

    def _put(self, layout: str) -> None:
        self._memo[self._number(layout)] = self._stack[-1]

    def _get(self, layout: str) -> None:
        self._push(self._memo[self._number(layout)])

    def _use(self, *values: Any) -> None:
        """Count what is walked through or copied: two bytes repeat a value of any size."""
        for value in values:
            if isinstance(value, _SIZED):
                self._left -= len(value) if isinstance(value, str) else 16 * len(value)
            if self._left < 0:
                raise Damage(_REPEATS.format(self._limit))

    # --- containers

    def _mark(self) -> None:
        self._marked.append(self._stack)
        self._stack = []

    def _since_mark(self) -> list[Any]:
        values, self._stack = self._stack, self._marked.pop()
        return values

    def _last(self, count: int) -> None:
        values = self._stack[-count:]
        if len(values) != count:
            raise Damage("the pickle takes values that it has not made")
        self._stack[-count:] = [tuple(values)]

    def _append(self, values: list[Any]) -> None:
        target = self._stack[-1]
        if type(target) is not list:
            raise Damage(f"the pickle appends to a {type(target).__name__}")
        target.extend(values)

    def _set_items(self, values: list[Any]) -> None:
        target = self._stack[-1]
        if type(target) not in (dict, OrderedDict) or len(values) % 2:
            raise Damage(f"the pickle sets items of a {type(target).__name__}")
        for key, value in zip(values[::2], values[1::2], strict=True):
            target[self._key(key)] = value

    def _set_item(self) -> None:
        value, key = self._stack.pop(), self._stack.pop()
        self._set_items([key, value])

    def _key(self, key: Any) -> Any:
        """A key whose hash costs no time and of which not too many can be made to collide."""
        if type(key) is str:
            return key
        self._use(key)
        parts = key if type(key) is tuple else (key,)
        if not all(type(part) in (str, int, bool, type(None)) for part in parts):
            raise Damage(f"a key of type {type(key).__name__}")
        self._unusual_keys += 1
        if self._unusual_keys > _MOST_UNUSUAL_KEYS:
            raise Damage(f"more than {_MOST_UNUSUAL_KEYS} keys that are no texts")
        return key

    # --- what is called

    def _global(self) -> None:
        name = modern_name(self._line(), self._line())
        if name not in self._globals:
            meaning = self._globals[name] = self._meaning(name)
            if not isinstance(meaning, StorageType):
                self._callable.add(id(meaning))
        self._push(self._globals[name])

    def _meaning(self, name: str) -> Any:
        if name in STORAGES:
            return StorageType(*STORAGES[name])
        if name in _FUNCTIONS:
            return _FUNCTIONS[name].__get__(self)
        found = self._classes(name)
        if found is None:
            raise Damage(f"it calls for {name}, which is refused; nothing was run")
        return found

    def _call(self) -> None:
        arguments, function = self._stack.pop(), self._stack.pop()
        if type(arguments) is not tuple or id(function) not in self._callable:
            raise Damage("the pickle calls what it may not")
        self._use(arguments)
        self._use(*arguments)
        self._push(function(*arguments))

    def _build(self) -> None:
        state, target = self._stack.pop(), self._stack[-1]
        self._use(state)
        if isinstance(target, Inert | numpy_scalars.NumberType):
            target.__setstate__(state)
        elif type(target) is not OrderedDict:  # whose attributes (of a state dict) nobody reads
            raise Damage(f"the pickle changes a {type(target).__name__}")

    def _storage(self) -> None:
        pid = self._stack.pop()
        if type(pid) is not tuple or len(pid) != 5:
            raise Damage("a storage is not described by five values")
        tag, kind, key, _, count = pid
        if tag != "storage" or type(kind) is not StorageType:
            raise Damage("a storage is described by other values than torch.save's")
        if type(key) is not str or type(count) is not int:
            raise Damage("a storage has no name or no size")
        if key not in self._storages:
            self._storages[key] = Storage(kind, self._archive.read(f"data/{key}"))
        storage = self._storages[key]
        asked, held = count * kind.item, len(storage.content)
        if asked != held or storage.kind != kind:
            raise Damage(f"storage {key}: {asked} bytes asked for, {held} in the file")
        self._push(storage)

    # --- what takes the place of functions

    def _set(self, values: Any) -> set[Any]:
        if type(values) is not list:
            raise Damage("a set is not made from a list")
        return {self._key(value) for value in values}

    def _encode(self, text: Any, encoding: Any) -> bytes:
        if type(text) is not str or encoding != "latin1":
            raise Damage("bytes are not encoded as torch.save does")
        return text.encode("latin1")

    def _tensor(self, storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> torch.Tensor:
        """A view of a storage that stays inside it and is not larger."""
        if type(storage) is not Storage or type(size) is not tuple or type(stride) is not tuple:
            raise Damage("a tensor is made from other values than torch.save's")
        numbers = (offset, *size, *stride)
        if len(size) != len(stride) or not all(type(n) is int and n >= 0 for n in numbers):
            raise Damage("shape or strides of a tensor")
        count = len(storage.content) // storage.kind.item
        length = extent = 1
        for width, step in zip(size, stride, strict=True):
            length *= max(width, 1)
            extent += max(width - 1, 0) * step
        empty = 0 in size
        if length > max(count, _SMALL) or (0 if empty else offset + extent) > count:
            raise Damage(
                f"a tensor of shape {list(size)[:8]} reads beyond the end of its storage of {count}"
            )
        return storage.tensor().as_strided(size, stride, 0 if empty else offset)

    def _parameter(self, data: Any, *_: Any) -> torch.Tensor:
        import torch

        if not isinstance(data, torch.Tensor):
            raise Damage("a parameter is not made from a tensor")
        return data


_FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    "_codecs.encode": _Machine._encode,
    "builtins.set": _Machine._set,
    "collections.OrderedDict": lambda machine: OrderedDict(),
    "torch._utils._rebuild_parameter": _Machine._parameter,
    "torch._utils._rebuild_tensor_v2": _Machine._tensor,
    **{name: staticmethod(made) for name, made in numpy_scalars.FUNCTIONS.items()},
}
#: What every file may call for.
GLOBALS = frozenset({*STORAGES, *_FUNCTIONS})

_STOP = ord(".")
_INSTRUCTIONS: Mapping[int, Callable[[_Machine], None]] = {
    code[0]: action
    for code, action in {
        b"\x80": _Machine._protocol,
        b"N": lambda m: m._push(None),
        b"\x88": lambda m: m._push(True),
        b"\x89": lambda m: m._push(False),
        b"K": lambda m: m._push(m._number("<B")),
        b"M": lambda m: m._push(m._number("<H")),
        b"J": lambda m: m._push(m._number("<i")),
        b"\x8a": _Machine._integer,
        b"G": lambda m: m._push(m._number(">d")),
        b"X": _Machine._text,
        b"q": lambda m: m._put("<B"),
        b"r": lambda m: m._put("<I"),
        b"h": lambda m: m._get("<B"),
        b"j": lambda m: m._get("<I"),
        b"(": _Machine._mark,
        b")": lambda m: m._push(()),
        b"\x85": lambda m: m._last(1),
        b"\x86": lambda m: m._last(2),
        b"\x87": lambda m: m._last(3),
        b"t": lambda m: m._push(tuple(m._since_mark())),
        b"]": lambda m: m._push([]),
        b"}": lambda m: m._push({}),
        b"a": lambda m: m._append([m._stack.pop()]),
        b"e": lambda m: m._append(m._since_mark()),
        b"s": _Machine._set_item,
        b"u": lambda m: m._set_items(m._since_mark()),
        b"c": _Machine._global,
        b"R": _Machine._call,
        b"\x81": _Machine._call,
        b"b": _Machine._build,
        b"Q": _Machine._storage,
    }.items()
}


def check_size(root: object, limit: int) -> None:
    """Refuses an object that is much larger than it looks, because its parts repeat.

    Nested pairs, each made of the one before twice, are 2^100 numbers to whoever walks through
    them. Parts that contain themselves count once; `limit` is in bytes of the whole tree.
    """
    done: dict[int, tuple[int, int]] = {}  # weight and depth by id
    open_: list[tuple[Any, list[Any]]] = [(root, list(_children(root)))]
    entered = {id(root)}
    while open_:
        value, left = open_[-1]
        if left:
            child = left.pop()
            # The parts that are not made anew stay alive, so that their ids stay theirs.
            if isinstance(child, _CONTAINERS) and id(child) not in entered:
                if len(open_) > _DEEPEST:
                    raise Damage(f"more than {_DEEPEST} levels of nesting")
                entered.add(id(child))
                open_.append((child, list(_children(child))))
            continue
        open_.pop()
        weight, depth = 16, 0
        for child in _children(value):
            own, below = done.get(id(child)) or (_weight(child), 0)
            weight, depth = weight + own, max(depth, below + 1)
        if weight > limit:
            raise Damage(_REPEATS.format(limit))
        if depth > _DEEPEST:
            raise Damage(f"more than {_DEEPEST} levels of nesting")
        done[id(value)] = weight, depth


_SIZED = (str, tuple, list, dict, set)
_CONTAINERS = (tuple, list, dict, set, Inert)
_REPEATS = "its parts repeat until they are more than {} bytes"


def _children(value: Any) -> Iterable[Any]:
    if isinstance(value, Inert):
        return (value.args, value.state)
    if isinstance(value, dict):
        return (*value.keys(), *value.values())
    return value if isinstance(value, tuple | list | set) else ()


def _weight(value: Any) -> int:
    """Of what has no parts: eight bytes for each number of a tensor, one for each character."""
    if isinstance(value, str | bytes):
        return 16 + len(value)
    return 16 + 8 * int(value.numel()) if hasattr(value, "numel") else 16
