"""Inert records: what a pickled module holds, without its class.

They store constructor arguments and state; readers take tensors, submodules and options by name.
"""

from __future__ import annotations

import functools
import math
import reprlib
from collections import OrderedDict
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from openmm_les.errors import ModelFileError, UnsupportedModelError
from openmm_les.files.pickles import Inert

if TYPE_CHECKING:
    import torch

_MISSING = object()
#: Types whose empty values switch an option off.
_EMPTY = (str, tuple, list, dict, OrderedDict, set)
#: The highest degree of harmonics that e3nn has.
LMAX = 11
#: Channels of all representations together.
_MOST_CHANNELS = 100_000
#: Stops at the depth and length that a message has room for.
_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = 60


class Irrep(NamedTuple):
    """`mul` copies of the irreducible representation of O(3) with degree `l` and parity `p`."""

    mul: int
    l: int  # noqa: E741 - the field's name for it
    p: int

    def __str__(self) -> str:
        return f"{self.mul}x{self.l}{'e' if self.p == 1 else 'o'}"


class Record(Inert):
    """An object of a pickle; see the module's description."""

    __slots__ = ("path",)
    #: Of the original class.
    qualified_name: ClassVar[str] = ""
    #: Where in the model it was found, such as ``interactions.0.linear``.
    path: str

    def __new__(cls, *args: Any) -> Record:
        record = object.__new__(cls)
        record.args, record.state, record.path = args, {}, ""
        return record

    def __init__(self, *args: Any) -> None:
        """Takes and ignores the original's arguments."""

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, dict) or not all(isinstance(key, str) for key in state):
            raise invalid(f"state of a {self.kind}", "a dict", type(state))
        self.state = state

    def __repr__(self) -> str:
        return f"<{self.kind} {self.path}>"

    @property
    def kind(self) -> str:
        """Class name without its module."""
        return self.qualified_name.rsplit(".", 1)[-1]

    def _group(self, name: str) -> dict[str, Any]:
        group = self.state.get(name)
        return group if isinstance(group, dict) else {}

    def path_of(self, name: str) -> str:
        """Where in the model something of this record is."""
        return f"{self.path}.{name}" if self.path else name

    def modules(self) -> dict[str, Record]:
        """Submodules by name, in order; absent ones (None) left out."""
        found = {}
        for name, module in self._group("_modules").items():
            if module is None:
                continue
            if not isinstance(module, Record):
                raise invalid(self.path_of(name), "a module", type(module).__name__)
            module.path = self.path_of(name)
            found[name] = module
        return found

    def tensors(self) -> dict[str, torch.Tensor]:
        """Parameters and buffers by name; absent ones (None) left out."""
        groups = (self._group("_parameters"), self._group("_buffers"))
        found = {}
        for name, tensor in (item for group in groups for item in group.items()):
            if tensor is None:
                continue
            if not hasattr(tensor, "detach"):
                raise invalid(self.path_of(name), "a tensor", type(tensor).__name__)
            found[name] = tensor.detach()
        return found

    def attributes(self) -> dict[str, Any]:
        """Plain attributes by name, without those of torch's and e3nn's machinery."""
        return {
            name: value
            for name, value in self.state.items()
            if not name.startswith("_") and name != "training"
        }

    def module(self, name: str) -> Record:
        """A submodule that must be there; ``"a.b"`` descends."""
        record = self
        for part in name.split("."):
            modules = record.modules()
            if part not in modules:
                raise UnsupportedModelError(
                    f"model: {record.path_of(part)}: expected a submodule of {record.kind}, got "
                    "none; this layout is not known"
                )
            record = modules[part]
        return record

    def items(self, name: str) -> list[Record]:
        """Entries of a ModuleList that must be there."""
        modules = self.module(name).modules()
        if list(modules) != [str(i) for i in range(len(modules))]:
            raise invalid(self.path_of(name), "a list", list(modules))
        return list(modules.values())

    def tensor(self, name: str) -> torch.Tensor:
        """A parameter or buffer that must be there."""
        tensors = self.tensors()
        if name not in tensors:
            raise unsupported(
                self.path_of(name), f"a tensor of {self.kind}", "none; this layout is not known"
            )
        if not bool(tensors[name].isfinite().all()):
            raise invalid(self.path_of(name), "finite numbers", "NaN or infinity")
        return tensors[name]

    def scalar(self, path: str) -> float:
        """The finite number in a parameter or buffer that must hold one; ``"a.b"`` descends."""
        owner, _, name = path.rpartition(".")
        record = self.module(owner) if owner else self
        tensor = record.tensor(name)
        if tensor.numel() != 1:
            raise invalid(record.path_of(name), "one number", f"shape {tuple(tensor.shape)}")
        return float(tensor)

    def value(self, name: str, default: Any = _MISSING) -> Any:
        """A plain attribute."""
        if name in self.state:
            return self.state[name]
        if default is _MISSING:
            raise UnsupportedModelError(
                f"model: {self.path_of(name)}: expected an attribute of {self.kind}, got none; "
                "this vintage of the file is not known"
            )
        return default

    def number(self, name: str) -> float:
        """A number: a plain attribute, possibly held in a tensor, or a buffer."""
        buffer = self.tensors().get(name)
        value = self.value(name) if buffer is None else buffer
        if hasattr(value, "item") and value.numel() == 1:
            value = value.item()
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise unsupported(self.path_of(name), "a number", describe(value))
        if not math.isfinite(value):
            raise invalid(self.path_of(name), "a finite number", value)
        return float(value)

    def irreps(self, name: str) -> list[Irrep]:
        """Representations held by an attribute."""
        return parse_irreps(self.value(name), self.path_of(name))

    def walk(self) -> Iterator[Record]:
        """This record and all modules below it."""
        yield self
        for module in self.modules().values():
            yield from module.walk()

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Parameters and persistent buffers of this module and those below, by dotted name."""
        hidden = self.state.get("_non_persistent_buffers_set") or ()
        found = {name: t for name, t in self.tensors().items() if name not in hidden}
        for name, module in self.modules().items():
            for key, tensor in module.state_dict().items():
                found[f"{name}.{key}"] = tensor
        return found


@functools.cache
def stand_in(qualified_name: str) -> type[Record]:
    """The inert class that stands for a global of a pickle."""
    name = qualified_name.rsplit(".", 1)[-1]
    return type(name, (Record,), {"qualified_name": qualified_name, "__slots__": ()})


def invalid(where: str, expected: object, got: object) -> ModelFileError:
    """The error for something in a file that contradicts itself or cannot be."""
    return ModelFileError(f"model: {where}: expected {expected}, got {got}")


def unsupported(where: str, expected: object, got: object) -> UnsupportedModelError:
    """The error for something in a file that openmm-les does not implement."""
    return UnsupportedModelError(f"model: {where}: expected {expected}, got {got}")


def is_off(value: Any) -> bool:
    """Whether an option is switched off or empty."""
    if hasattr(value, "numel"):
        return not value.numel()
    return value is None or value is False or (type(value) in _EMPTY and not value)


def describe(value: Any) -> str:
    """A value of a pickle for an error message."""
    if isinstance(value, Record):
        return value.kind
    if isinstance(value, type) and issubclass(value, Record):
        return value.qualified_name
    text = _REPR.repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def parse_irreps(value: Any, path: str) -> list[Irrep]:
    """Representations from a record of e3nn's Irreps, or from text such as ``"8x0e+8x1o"``."""
    try:
        if isinstance(value, str):
            return _within_bounds([_parse_term(term.strip()) for term in value.split("+")])
        parsed = []
        for entry in value.args[0]:
            mul, irrep = _fields(entry)
            l, p = _fields(irrep)  # noqa: E741
            parsed.append(Irrep(int(mul), int(l), int(p)))
        return _within_bounds(parsed)
    except (AttributeError, IndexError, TypeError, ValueError) as error:
        raise invalid(path, "irreps", describe(value)) from error


def _within_bounds(irreps: list[Irrep]) -> list[Irrep]:
    """What follows makes lists and tables of this length, whatever weights the file has."""
    degrees = all(0 <= irrep.l <= LMAX and irrep.p in (-1, 1) for irrep in irreps)
    counts = all(irrep.mul >= 0 for irrep in irreps)
    if not degrees or not counts or sum(irrep.mul for irrep in irreps) > _MOST_CHANNELS:
        raise ValueError("out of bounds")
    return irreps


def _parse_term(term: str) -> Irrep:
    mul, separator, irrep = term.rpartition("x")
    return Irrep(int(mul) if separator else 1, int(irrep[:-1]), {"e": 1, "o": -1}[irrep[-1]])


def _fields(record: Record) -> tuple[Any, Any]:
    """The two fields of e3nn's tuple-like classes, pickled as one tuple or as two arguments."""
    first, second = record.args[0] if len(record.args) == 1 else record.args
    return first, second
