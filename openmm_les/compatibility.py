"""Which versions of other packages go together: facts that were tried, without any import."""

from __future__ import annotations

#: What this package cannot do without, as pip is told; the same as in pyproject.toml.
REQUIREMENTS = {
    "click": "click>=8.1",
    "filelock": "filelock>=3.13",
    "numpy": "numpy>=1.24",
    "openmm": "openmm>=8.6.1",
    "openmmml": "openmmml>=1.8",
    "pooch": "pooch>=1.8",
    "pydantic": "pydantic>=2",
    "pyyaml": "pyyaml>=6",
    "torch": "torch>=2.9",
}

#: What each release of openmmtorch on PyPI was compiled for: the torch it needs, and the first
#: OpenMM with which reading a System from XML, or copying it, crashes the process.
OPENMMTORCH_BUILT_FOR = {"1.5": ("2.9", "8.6")}
