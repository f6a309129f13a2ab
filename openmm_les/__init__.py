"""Latent Ewald Summation (LES) machine-learning potentials in OpenMM.

Importing this package imports neither torch nor openmm: names that need them are loaded on first
use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from openmm_les._version import __version__
from openmm_les.errors import (
    ArtifactError,
    DownloadError,
    InputError,
    LESError,
    ModelFileError,
    OutputError,
    SimulationError,
    UnsupportedModelError,
    VerificationError,
)

if TYPE_CHECKING:
    from openmm_les_export import export

    from openmm_les.ase import LESCalculator
    from openmm_les.catalog import open_model as load_model
    from openmm_les.evaluation.system_model import SystemModel
    from openmm_les.plugin.guard import TemperatureGuard
    from openmm_les.plugin.reporter import LESReporter
    from openmm_les.simulation import RunConfig, run

__all__ = [
    "ArtifactError",
    "DownloadError",
    "InputError",
    "LESCalculator",
    "LESError",
    "LESReporter",
    "ModelFileError",
    "OutputError",
    "RunConfig",
    "SimulationError",
    "SystemModel",
    "TemperatureGuard",
    "UnsupportedModelError",
    "VerificationError",
    "__version__",
    "export",
    "load_model",
    "run",
]

#: Module and name of what is loaded on first use.
_LAZY = {
    "LESCalculator": ("openmm_les.ase", "LESCalculator"),
    "LESReporter": ("openmm_les.plugin.reporter", "LESReporter"),
    "RunConfig": ("openmm_les.simulation", "RunConfig"),
    "SystemModel": ("openmm_les.evaluation.system_model", "SystemModel"),
    "TemperatureGuard": ("openmm_les.plugin.guard", "TemperatureGuard"),
    "export": ("openmm_les_export", "export"),
    "load_model": ("openmm_les.catalog", "open_model"),
    "run": ("openmm_les.simulation", "run"),
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _LAZY[name]
    value = globals()[name] = getattr(import_module(module), attribute)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
