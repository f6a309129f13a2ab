"""The families of networks: one record each, built in or from a plug-in.

The records of a module, one or several, are its tuple ``FAMILIES``. A built-in family is a folder
beside this file with a module ``family`` that has this tuple. A plug-in is any distribution with an
entry point of the group ``openmm_les.families`` that names such a tuple.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from openmm_les.networks.parameters import Hyper, Tensors

logger = logging.getLogger(__name__)

#: Group of the entry points by which other distributions bring families.
ENTRY_POINTS = "openmm_les.families"


@dataclass(frozen=True)
class Family:
    """Everything that is particular to a family of models.

    The strings are ``"package.module:attribute"`` and imported where they are needed: running a
    model imports nothing of its reader, and nothing imports torch before it is used.
    """

    name: str  #: in artifacts, such as ``"mace"``
    title: str  #: for people, such as ``"MACE-LES"``
    #: Hyper-parameters and their bounds.
    parameters: type[Hyper]
    #: Takes every tensor of a model with these hyper-parameters, with its shape, except
    #: ``reference_energies`` and ``bessel_frequencies``.
    take_tensors: Callable[[Any, Tensors], None]
    #: The class of the network, see `build_network`.
    network: str
    #: The `checkpoints.accepted.Accepted` of its files.
    accepted: str
    #: Function of a `checkpoints.unpickle.ModelFile` and `ModelOptions`: the `CanonicalModel`.
    reader: str
    #: Function of a `ModelFile` and its `CanonicalModel`: an `AutogradReference`, which has the
    #: original code, or its equations evaluated a second time.
    reference: str
    #: Fields of `ModelOptions` that its files may need.
    options: tuple[str, ...] = ()
    #: Distribution with the original code, which the reference imports, and extra of openmm-les
    #: that installs it; None if the reference needs torch alone.
    original: str | None = None
    extra: str | None = None
    citation: str = ""  #: The paper of its network
    #: Hyper-parameters that are distances [A] at which the energy has a step: probes avoid them.
    energy_steps: tuple[str, ...] = ()

    def load(self, field: str) -> Any:
        """What the string in a field names, imported."""
        module, _, attribute = getattr(self, field).partition(":")
        return getattr(importlib.import_module(module), attribute)


@cache
def families() -> Mapping[str, Family]:
    """All families by name. A plug-in that fails, or takes a name that is taken, is left out."""
    found: dict[str, Family] = {}
    for file in sorted(Path(__file__).parent.glob("*/family.py")):
        module = importlib.import_module(f"{__package__}.{file.parent.name}.family")
        found |= {family.name: family for family in module.FAMILIES}
    for entry in entry_points(group=ENTRY_POINTS):
        try:
            brought = entry.load()
        except Exception as error:
            logger.warning("family %s: plug-in %s failed: %r", entry.name, entry.value, error)
            continue
        if not _are_new(brought, found):
            logger.warning(
                "family %s: plug-in %s is not a tuple of Family records with names of their own",
                entry.name,
                entry.value,
            )
            continue
        found |= {family.name: family for family in brought}
    return found


def charge_channels(hyper: Mapping[str, Any]) -> int:
    """Latent charges of each atom, from the hyper-parameters of any family."""
    return int(hyper.get("charge_channels", 1))


def _are_new(brought: object, found: Mapping[str, Family]) -> bool:
    if not isinstance(brought, tuple):
        return False
    return all(isinstance(each, Family) and each.name not in found for each in brought)
