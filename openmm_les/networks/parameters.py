"""What the parameters of a network may be, and which tensors it has: shared by all families.

The bounds are physical, and far wider than any published model; what lies beyond is damage, or
would take all memory. Imports no torch, so that artifacts can be inspected at once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

from openmm_les.files.reading import Damage

Real = Annotated[float, Field(strict=True, ge=-1e6, le=1e6)]
Positive = Annotated[float, Field(strict=True, gt=0, le=1e6)]
Length = Annotated[float, Field(strict=True, ge=0.1, le=50)]
Element = Annotated[int, Field(strict=True, ge=1, le=118)]
Order = Annotated[int, Field(strict=True, ge=1, le=100)]
Degree = Annotated[int, Field(strict=True, ge=0, le=11)]
Width = Annotated[int, Field(strict=True, ge=0, le=10_000)]
Count = Annotated[int, Field(strict=True, ge=1, le=10_000)]
Few = Annotated[int, Field(strict=True, ge=0, le=32)]
Layers = Annotated[int, Field(strict=True, ge=1, le=32)]
Index = Annotated[int, Field(strict=True, ge=0, le=100_000)]
#: Three indices, or three degrees.
Triple = tuple[Width, Width, Width]
#: Numbers in one table.
_LARGEST = 2**26


class Parameters(BaseModel):
    """Base of everything that describes a model: no unknown fields, finite numbers."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Hyper(Parameters):
    """Hyper-parameters of all families."""

    elements: Annotated[list[Element], Field(min_length=1)]
    cutoff: Length
    cutoff_order: Order

    @model_validator(mode="after")
    def _check_elements(self) -> Hyper:
        if len(set(self.elements)) != len(self.elements):
            raise ValueError(f"expected different elements, got {self.elements}")
        return self


class Bessel(Hyper):
    """Hyper-parameters of families with Bessel functions of the distance."""

    num_bessel: Annotated[int, Field(strict=True, ge=1, le=1000)]
    bessel_prefactor: Annotated[float, Field(strict=True, gt=0, le=100)]


def check_paths(paths: list[tuple[int, int, int]], highest: tuple[int, int, int]) -> None:
    """Rejects paths (node, edge, output) of a tensor product whose degrees do not couple."""
    for path in paths:
        node, edge, out = path
        within = all(degree <= most for degree, most in zip(path, highest, strict=True))
        if not within or not abs(node - edge) <= out <= node + edge:
            raise ValueError(f"expected degrees up to {highest} that couple, got {path}")


class Tensors:
    """Shapes by name, taken one by one so that none is left over."""

    def __init__(self, found: Mapping[str, tuple[int, ...]]) -> None:
        self._left = dict(found)

    def __contains__(self, name: str) -> bool:
        return name in self._left

    def take(self, name: str, *expected: int | None) -> tuple[int, ...]:
        """The shape of a tensor that must be there."""
        if name not in self._left:
            raise Damage(f"weights: expected a tensor {name}, got none")
        shape = self._left.pop(name)
        fits = len(shape) == len(expected) and all(
            wanted in (None, got) for wanted, got in zip(expected, shape, strict=True)
        )
        if not fits:
            wanted = ["any" if width is None else width for width in expected]
            raise Damage(f"weights: {name}: expected shape {wanted}, got {list(shape)}")
        return shape

    def perhaps(self, name: str, *expected: int | None) -> bool:
        """Whether a tensor is there that need not be."""
        if name not in self._left:
            return False
        self.take(name, *expected)
        return True

    def network(
        self, prefix: str, inputs: int, outputs: int, ending: str = "", norms: bool = False
    ) -> int:
        """Maps ``prefix.K`` + ending one behind the other, with biases or without.

        Returns the number of inputs of the last one.
        """
        k = last = 0
        while f"{prefix}.{k}{ending}" in self._left:
            last, inputs = self.take(f"{prefix}.{k}{ending}", inputs, None)
            if ending:
                self.perhaps(f"{prefix}.{k}.bias", inputs)
            if norms:
                self.norm(f"{prefix}.{k}.norm", inputs)
            k += 1
        if not k or inputs != outputs:
            raise Damage(f"weights: {prefix}: expected {outputs} outputs, got {inputs if k else 0}")
        return last

    def norm(self, name: str, width: int) -> None:
        """A layer normalisation that need not be there."""
        if self.perhaps(f"{name}.weight", width):
            self.take(f"{name}.bias", width)

    def check_all_taken(self) -> None:
        """Refuses what no such model has."""
        if self._left:
            raise Damage(f"weights: unknown tensor {next(iter(self._left))}")


def check_large(name: str, *sizes: int) -> None:
    """Rejects a table of this shape, made from small weights, before it takes all memory.

    The limit is ten times the largest of a published model.
    """
    if math.prod(sizes) > _LARGEST:
        shape = " x ".join(map(str, sizes))
        raise Damage(f"{name}: expected tables of at most {_LARGEST} numbers, got {shape}")
