"""Free energies of an LES model in the place of a force field, from windows of lambda.

The energy is that of the force field at lambda = 0, that of ML/MM at 1, and linear in between.
Importing this package imports neither torch nor openmm; `run` and `analyse` do.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from openmm_les.free_energy.results import LigandResult
    from openmm_les.free_energy.workflow import FreeEnergies

__all__ = ["analyse", "run"]


def run(
    settings: str | os.PathLike[str], output: str | os.PathLike[str], **options: Any
) -> FreeEnergies:
    """See `openmm_les.free_energy.workflow.run`."""
    from openmm_les.free_energy.workflow import run as implementation

    return implementation(settings, output, **options)


def analyse(directory: str | os.PathLike[str]) -> list[LigandResult]:
    """See `openmm_les.free_energy.results.analyse`."""
    from openmm_les.free_energy.results import analyse as implementation

    return implementation(directory)
