"""Numbers of numpy in a pickle, rebuilt as numbers of Python, without numpy."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from typing import Any

from openmm_les.files.reading import Damage

#: Layouts of `struct` by numpy's names of types.
_LAYOUTS = {
    "b1": "?",
    **{f"i{size}": code for size, code in ((1, "b"), (2, "h"), (4, "i"), (8, "q"))},
    **{f"u{size}": code for size, code in ((1, "B"), (2, "H"), (4, "I"), (8, "Q"))},
    **{f"f{size}": code for size, code in ((2, "e"), (4, "f"), (8, "d"))},
}


class NumberType:
    """A type of numpy, of which only the name and the order of bytes matter."""

    __slots__ = ("name", "order")

    def __init__(self, name: Any, *_: Any) -> None:
        if name not in _LAYOUTS:
            raise Damage(f"a number of numpy's type {name!r:.20}")
        self.name, self.order = name, "<"

    def __setstate__(self, state: Any) -> None:
        if type(state) is not tuple or len(state) < 2 or state[1] not in ("<", "|", ">"):
            raise Damage("a type of numpy is described by other values than numpy's")
        self.order = ">" if state[1] == ">" else "<"


def scalar(kind: Any, content: Any) -> int | float | bool:
    """The number that numpy pickles as a type and bytes."""
    if type(kind) is not NumberType or type(content) is not bytes:
        raise Damage("a number of numpy is made from other values than numpy's")
    layout = kind.order + _LAYOUTS[kind.name]
    if len(content) != struct.calcsize(layout):
        raise Damage(f"{len(content)} bytes for a number of numpy's type {kind.name}")
    number: int | float | bool = struct.unpack(layout, content)[0]
    return number


#: What takes the place of numpy's functions, by their names in older and newer versions.
FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    "numpy.core.multiarray.scalar": scalar,
    "numpy._core.multiarray.scalar": scalar,
    "numpy.dtype": NumberType,
}
