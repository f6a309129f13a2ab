"""Tables of all that is accepted in the files of a family; anything else is refused by name.

An attribute, option, list or tensor that is off or empty never refuses a file; one that is on and
not in the table always does: no variant that computes something else is mistaken for one that is
known. A number is never off, zero included: what it means is not known.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypeVar

from openmm_les.errors import UnsupportedModelError
from openmm_les_export.checkpoints.records import Record, describe, invalid, is_off

logger = logging.getLogger(__name__)


class AnyValue:
    """Every value is accepted: it is read elsewhere, or changes nothing in the result."""


ANY = AnyValue()
#: Stands for all names that are not listed, in practice for numbers.
NUMBERED = "*"
#: Values of a switch that is off.
OFF = (None, False)

#: Names of options or attributes, and which values of each are accepted.
Options: TypeAlias = Mapping[str, Sequence[Any] | AnyValue]

Entry = TypeVar("Entry")

_REPORT = "please report it with the version of the training code that wrote the file"


@dataclass(frozen=True)
class Block:
    """What a module of one class may hold; `NUMBERED` stands for all other names.

    These are plain attributes with their accepted values, submodules with their possible classes,
    and parameters and buffers.
    """

    options: Options = field(default_factory=dict)
    modules: Mapping[str, Sequence[str]] = field(default_factory=dict)
    tensors: Sequence[str] = ()


def any_value(names: str) -> dict[str, AnyValue]:
    """Options of which every value is accepted, their names separated by spaces."""
    return dict.fromkeys(names.split(), ANY)


def listing(*kinds: str) -> Block:
    """A list whose entries are of these classes."""
    return Block(modules={NUMBERED: kinds})


def off(names: str) -> dict[str, Sequence[Any]]:
    """Options that must be switched off, their names separated by spaces."""
    return dict.fromkeys(names.split(), OFF)


def modules(text: str) -> dict[str, list[str]]:
    """Submodules and the classes that each may have, from ``"name:Class other:Class|Class"``."""
    pairs = (entry.split(":") for entry in text.split())
    return {name: kinds.split("|") for name, kinds in pairs}


def within(package: str, entries: Mapping[str, Entry]) -> dict[str, Entry]:
    """Entries by the full names of their classes."""
    return {f"{package}.{name}": entry for name, entry in entries.items()}


@dataclass(frozen=True)
class Accepted:
    """How files of a family are recognised, and all that is accepted in them.

    A class or function that a file names becomes an inert record if it is in these tables.
    Everything else is refused before anything is rebuilt.
    """

    #: What it is and what writes it, for messages, such as ``"'.model' file as written by ..."``;
    #: empty where the text of another family includes it.
    file: str
    #: Namespaces of which an unlisted name is an unsupported option, not an alien.
    frameworks: tuple[str, ...]
    #: Full names of the classes of a whole model, of families that are pickled whole.
    roots: frozenset[str] = frozenset()
    #: Whether a file without such a root, a mapping, is of this family, and its model's class.
    recognises: Callable[[Mapping[str, Any]], bool] = lambda content: False
    kind: Callable[[Mapping[str, Any]], str] = lambda content: "none"
    #: Names of the files in the directory of a model, of families that save directories;
    #: `recognises` and `kind` then see their contents by these names.
    members: tuple[str, ...] = ()
    #: By full name of the class.
    blocks: Mapping[str, Block] = field(default_factory=dict)
    #: ModuleLists by their name in the model, `NUMBERED` for those in other lists.
    lists: Mapping[str, Block] = field(default_factory=dict)
    #: Full names of classes and functions that are no modules.
    values: frozenset[str] = frozenset()
    #: Classes of the same framework that are no model with LES: what they are, and what to do.
    plain: Mapping[str, str] = field(default_factory=dict)
    #: Classes of known options that openmm-les does not implement, and what they are.
    unsupported: Mapping[str, str] = field(default_factory=dict)
    #: Names that are harmless only if they come together and alone.
    pairs: frozenset[str] = frozenset()

    @property
    def names(self) -> frozenset[str]:
        """Full names of all classes and functions that a file may name."""
        return self.values | set(self.blocks)

    def check(self, record: Record) -> None:
        """Refuses a model that has anything openmm-les does not implement."""
        block = self._block(record)
        _check_attributes(record, block)
        for name, tensor in record.tensors().items():
            if name not in block.tensors and NUMBERED not in block.tensors:
                _ignore(record.path_of(name), f"tensor of {record.kind}", not tensor.numel())
        for name, module in record.modules().items():
            accepted = block.modules.get(name, block.modules.get(NUMBERED))
            if accepted is None:
                empty = module.kind in ("ModuleList", "ModuleDict") and not module.modules()
                what = f"submodule {self._option_name(module)} of {record.kind}"
                _ignore(module.path, what, empty)
                continue
            if module.kind not in accepted and module.qualified_name not in accepted:
                kinds = [full_name.rsplit(".", 1)[-1] for full_name in accepted]
                raise UnsupportedModelError(
                    f"model: {module.path}: expected {' or '.join(kinds)}, got "
                    f"{self._option_name(module)}; openmm-les does not implement it"
                )
            self.check(module)

    def _block(self, record: Record) -> Block:
        if record.kind == "ModuleList":
            name = record.path.rsplit(".", 1)[-1]
            return self.lists[name if name in self.lists else NUMBERED]
        return self.blocks[record.qualified_name]

    def _option_name(self, module: Record) -> str:
        known = self.unsupported.get(module.qualified_name)
        return f"{module.kind} ({known})" if known else module.kind


def _check_attributes(record: Record, block: Block) -> None:
    for name, value in record.attributes().items():
        where = record.path_of(name)
        if name in block.options:
            _check_value(where, value, block.options[name])
        else:
            what = f"attribute of {record.kind} with value {describe(value)}"
            _ignore(where, what, is_off(value))


def check_options(where: str, values: Any, accepted: Options) -> None:
    """Refuses options of a configuration that a table does not have."""
    if not isinstance(values, Mapping):
        raise invalid(f"option {where}", "options", describe(values))
    for name, value in values.items():
        if name in accepted:
            _check_value(f"{where}.{name}", value, accepted[name])
        else:
            _ignore(f"{where}.{name}", f"option with value {describe(value)}", is_off(value))


def _check_value(where: str, value: Any, accepted: Sequence[Any] | AnyValue) -> None:
    if not isinstance(accepted, AnyValue) and not _is_one_of(value, accepted):
        raise UnsupportedModelError(
            f"model: option {where}: expected {' or '.join(map(repr, accepted))}, got "
            f"{describe(value)}; openmm-les does not implement it"
        )


def _is_one_of(value: Any, accepted: Sequence[Any]) -> bool:
    # Types are compared too: 0 is not False, and a tensor or record is never an option's value.
    listed = any(type(value) is type(item) and value == item for item in accepted)
    return listed or (is_off(value) and any(map(is_off, accepted)))


def _ignore(where: str, what: str, off: bool) -> None:
    """Says that something unknown is left out because it is off; refuses it if it is on."""
    if not off:
        raise unknown(where, what)
    logger.info("model: %s: left out: %s is not known, but off or empty", where, what)


def unknown(where: str, what: str) -> UnsupportedModelError:
    """The error for something in a file that no table has."""
    return UnsupportedModelError(f"model: {where}: unsupported {what}; {_REPORT}")
