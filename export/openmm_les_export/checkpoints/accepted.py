"""Refuses by name what a reader does not know: a table of everything that is accepted in a file.

Anything that is not in the table of a family is refused, so that a variant of a network which
computes something else is never mistaken for one that is known.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from openmm_les.errors import UnsupportedModelError
from openmm_les_export.checkpoints.pickled_names import Family
from openmm_les_export.checkpoints.records import Record, describe


class AnyValue:
    """Every value is accepted: it is read elsewhere, or changes nothing in the result."""


ANY = AnyValue()
#: Stands for all names that are not listed, in practice for numbers.
NUMBERED = "*"
#: Values of a switch that is off.
OFF = (None, False)


@dataclass(frozen=True)
class Block:
    """What a module of one class may hold.

    Attributes:
        options: plain attributes and their accepted values.
        modules: submodules and the classes they may have; ``NUMBERED`` stands for all other names.
        tensors: parameters and buffers; ``NUMBERED`` stands for all other names.
        strict: refuse an unknown attribute even if it is switched off (None, False, empty).
    """

    options: Mapping[str, Sequence[Any] | AnyValue] = field(default_factory=dict)
    modules: Mapping[str, Sequence[str]] = field(default_factory=dict)
    tensors: Sequence[str] = ()
    strict: bool = False


def listing(*kinds: str) -> Block:
    """A list whose entries are of these classes."""
    return Block(modules={NUMBERED: kinds})


@dataclass(frozen=True)
class Accepted:
    """All that is accepted in the files of a family.

    Attributes:
        family: whose files.
        blocks: by class; by its full name where classes of two packages share the short one.
        lists: ModuleLists by their name in the model, ``NUMBERED`` for those in other lists.
    """

    family: Family
    blocks: Mapping[str, Block]
    lists: Mapping[str, Block]

    def check(self, record: Record) -> None:
        """Refuses a model that has anything openmm-les does not implement.

        Args:
            record: the model, or a module in it.

        Raises:
            UnsupportedModelError: names the option, what was expected and what the file has.
        """
        block = self._block(record)
        _check_attributes(record, block)
        for name in record.tensors():
            if name not in block.tensors and NUMBERED not in block.tensors:
                raise _unknown(record, name, "tensor")
        for name, module in record.modules().items():
            accepted = block.modules.get(name, block.modules.get(NUMBERED))
            if accepted is None:
                raise _unknown(record, name, f"submodule {self._option_name(module)}")
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
        if record.qualified_name in self.blocks:
            return self.blocks[record.qualified_name]
        return self.blocks[record.kind]

    def _option_name(self, module: Record) -> str:
        known = self.family.options.get(module.qualified_name)
        return f"{module.kind} ({known})" if known else module.kind


def _check_attributes(record: Record, block: Block) -> None:
    for name, value in record.attributes().items():
        accepted = block.options.get(name)
        if accepted is None:
            if block.strict or not _is_off(value):
                raise _unknown(record, name, f"attribute with value {describe(value)}")
        elif not isinstance(accepted, AnyValue) and not _is_one_of(value, accepted):
            where = f"{record.path}.{name}" if record.path else name
            raise UnsupportedModelError(
                f"model: option {where}: expected {' or '.join(map(repr, accepted))}, got "
                f"{describe(value)}; openmm-les does not implement it"
            )


def check_options(
    where: str, values: Mapping[str, Any], accepted: Mapping[str, Sequence[Any] | AnyValue]
) -> None:
    """Refuses options of a configuration that a table does not have.

    Args:
        where: what they are options of.
        values: the options.
        accepted: accepted values of each.

    Raises:
        UnsupportedModelError: names the option, what was expected and what the file has.
    """
    for name, value in values.items():
        if name not in accepted:
            raise UnsupportedModelError(
                f"model: {where}: unknown option {name} with value {describe(value)}; openmm-les "
                "cannot tell what it changes in the model"
            )
        allowed = accepted[name]
        if not isinstance(allowed, AnyValue) and not _is_one_of(value, allowed):
            raise UnsupportedModelError(
                f"model: option {where}.{name}: expected {' or '.join(map(repr, allowed))}, got "
                f"{describe(value)}; openmm-les does not implement it"
            )


def _is_off(value: Any) -> bool:
    return value is None or value is False or value in ((), [], {}, "")


def _is_one_of(value: Any, accepted: Sequence[Any]) -> bool:
    # Types are compared too: 0 is not False, and a tensor or record is never an option's value.
    return any(type(value) is type(item) and value == item for item in accepted)


def _unknown(record: Record, name: str, what: str) -> UnsupportedModelError:
    where = f"{record.path}.{name}" if record.path else name
    return UnsupportedModelError(
        f"model: {where}: unknown {what} of {record.kind}; openmm-les cannot tell what it changes "
        "in the model"
    )
