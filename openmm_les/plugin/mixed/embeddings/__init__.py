"""Embeddings: how an ML region interacts with the rest of a System.

Every module here is one embedding, has its name, and defines a class `EMBEDDING`.
"""

from __future__ import annotations

import importlib
import pkgutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import openmm
from openmm import app

from openmm_les.plugin.mixed.interpolation import Sums
from openmm_les.plugin.mixed.links import Link
from openmm_les.plugin.mixed.region import MLRegion

if TYPE_CHECKING:
    from openmm_les.artifact import Artifact
    from openmm_les.plugin.forces.options import ForceOptions


@dataclass(frozen=True)
class MixedRequest:
    """Checked arguments of ``createMixedSystem``."""

    artifact: Artifact
    system: openmm.System
    region: MLRegion
    links: tuple[Link, ...]
    options: ForceOptions
    interpolate: bool


class EmbeddingOptions(Protocol):
    """Keyword arguments of ``createMixedSystem`` for one embedding: the fields of a dataclass."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    def __init__(self, **arguments: Any) -> None: ...

    def check(self, options: ForceOptions) -> None:
        """Refuse options of the model that cannot be combined with these."""


class Embedding(Protocol):
    """One embedding of one region; `options_class` are its own options, if it has any."""

    options_class: ClassVar[type[EmbeddingOptions] | None]

    def __init__(self, request: MixedRequest, options: Any) -> None:
        """Read the System of the force field, and refuse what it cannot be used for."""

    def change_nonbonded(self, mixed: openmm.System, sums: Sums) -> None:
        """Take the nonbonded interactions that the model replaces out of a copy of the System.

        `sums` gets what is to be subtracted, or multiplied by lambda.
        """

    def add_model(
        self, mixed: openmm.System, topology: app.Topology, link_atoms: list[int]
    ) -> None:
        """Add the force of the model; `link_atoms` are virtual sites, if there are any."""


def names() -> list[str]:
    """The embeddings there are; the default of openmm-ml comes first."""
    found = [module.name for module in pkgutil.iter_modules(__path__)]
    return sorted(found, key=lambda name: (name != "mechanical", name))


def load(name: str) -> type[Embedding]:
    """The class of an embedding."""
    found: type[Embedding] = importlib.import_module(f"{__name__}.{name}").EMBEDDING
    return found
