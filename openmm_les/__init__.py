"""Latent Ewald Summation (LES) machine-learning potentials in OpenMM.

Importing this package imports neither torch nor openmm; the submodules do, when they are used.
"""

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
)

__all__ = [
    "ArtifactError",
    "DownloadError",
    "InputError",
    "LESError",
    "ModelFileError",
    "OutputError",
    "SimulationError",
    "UnsupportedModelError",
    "__version__",
]
