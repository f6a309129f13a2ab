"""Conditions: what a model takes beside the structure, such as the total charge of a molecule.

Their values are fixed for a system, so a network takes them when it is made, and they cost nothing
in a step. Imports no torch.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from openmm_les.errors import InputError
from openmm_les.networks.parameters import Parameters, Real

#: Options that stand for a condition, by its name.
OPTIONS = {"total_charge": "charge", "total_spin": "spin"}

Name = Annotated[str, Field(strict=True, min_length=1, max_length=100)]


class Condition(Parameters):
    """One condition of a model: a number, or one of several classes."""

    name: Name
    per: Literal["system", "atom"]  #: one value for all atoms, or one for each
    #: Of a categorical one, whose values are the integers from `lowest` on; None: any number.
    classes: Annotated[int, Field(strict=True, ge=1, le=10_000)] | None = None
    lowest: Annotated[int, Field(strict=True, ge=-10_000, le=10_000)] = 0
    default: Real | None = None  #: what the training code takes where nothing is said
    key: Name | None = None  #: its name in the training data, if that is another

    @property
    def option(self) -> str:
        """How users give it."""
        return option_of(self.name)

    @property
    def neutral(self) -> float:
        """The default, or where there is none 0 or the first class."""
        return (self.lowest if self.classes else 0.0) if self.default is None else self.default

    @property
    def names(self) -> tuple[str, ...]:
        """Under which a structure may hold it."""
        others = (self.key, OPTIONS.get(self.name))
        return (self.name, *(name for name in others if name is not None))

    @property
    def accepted(self) -> str:
        """What values are accepted."""
        if self.classes is None:
            return "a finite number"
        return f"an integer from {self.lowest} to {self.lowest + self.classes - 1}"

    def checked(self, value: Any) -> float:
        """A value as a number; an InputError if it is not accepted."""
        try:
            number = float(value)
        except (TypeError, ValueError):
            number = math.nan
        is_class = self.classes is None or (
            number.is_integer() and 0 <= number - self.lowest < self.classes
        )
        if not math.isfinite(number) or isinstance(value, bool | str) or not is_class:
            raise InputError(
                f"{self.option}: the model takes {self.accepted} for {self.name}, got {value!r}"
            )
        return number

    def column(self, given: Any, num_atoms: int) -> list[float]:
        """Its value for each atom, from what was given; an InputError if that cannot be."""
        if given is None:
            if self.default is None:
                raise InputError(
                    f"{self.option}: the model needs a value for {self.name}, and has no default; "
                    f"give {self.accepted}"
                )
            given = self.default
        if not isinstance(given, Iterable) or isinstance(given, str):
            return [self.checked(given)] * num_atoms
        values = list(given)
        # Some data repeat it for each atom.
        if self.per == "system" and len(values) in (1, num_atoms) and len(set(values)) == 1:
            return [self.checked(values[0])] * num_atoms
        if self.per == "system" or len(values) != num_atoms:
            count = "one number" if self.per == "system" else f"one for each of {num_atoms} atoms"
            raise InputError(f"{self.option}: expected {count}, got {len(values)} values")
        return [self.checked(value) for value in values]

    def __str__(self) -> str:
        each = " for each atom" if self.per == "atom" else ""
        default = "needed" if self.default is None else f"default {self.default:g}"
        return f"{self.accepted}{each}, {default}; option {self.option}"


def _different(conditions: list[Condition]) -> list[Condition]:
    if len({condition.name for condition in conditions}) != len(conditions):
        raise ValueError("expected conditions with different names")
    return conditions


Conditions = Annotated[list[Condition], Field(max_length=32), AfterValidator(_different)]


def conditions_of(hyper: Mapping[str, Any]) -> list[Condition]:
    """The conditions of a model, from its hyper-parameters."""
    return [Condition.model_validate(each) for each in hyper.get("conditions", ())]


def neutral_conditions(hyper: Mapping[str, Any]) -> dict[str, float]:
    """Values by name for what has to be computed once for a model: defaults where it has them."""
    return {condition.name: condition.neutral for condition in conditions_of(hyper)}


def option_of(name: str) -> str:
    """The option by which a condition is given."""
    return OPTIONS.get(name, f"features[{name!r}]")
