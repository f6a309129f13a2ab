"""Session-wide artifacts, exported once by the real exporter."""

import os
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import openmm
import pytest
import torch
from openmm_les_export import export
from support.helpers import (
    DIPEPTIDE_MODEL,
    L2_MODEL,
    MODELS,
    WATER_MODEL,
    export_options,
    model_file,
)

from openmm_les import catalog

#: What a marked test needs, and why it is skipped without.
REQUIREMENTS = {
    "gpu": (torch.cuda.is_available(), "needs a CUDA device"),
    "matgl": (find_spec("matgl") is not None, "matgl is not installed"),
    "mace": (find_spec("mace") is not None, "mace-torch is not installed (extra `mace`)"),
    "nequip": (find_spec("nequip") is not None, "nequip is not installed (extra `nequip`)"),
    "torchforce": (
        find_spec("openmmtorch") is not None and torch.__version__.startswith("2.9."),
        "needs openmmtorch and torch 2.9 (extra `torchforce`)",
    ),
}


@cache
def why_no_opencl() -> str | None:
    """Why nothing can run on OpenMM's OpenCL platform here."""
    system = openmm.System()
    system.addParticle(1.0)
    try:
        platform = openmm.Platform.getPlatformByName("OpenCL")
        openmm.Context(system, openmm.VerletIntegrator(0.001), platform)
    except openmm.OpenMMException as error:
        return f"needs an OpenCL device, such as Debian's pocl-opencl-icd gives ({error})"
    return None


def pytest_runtest_setup(item):
    for name, (available, reason) in REQUIREMENTS.items():
        if item.get_closest_marker(name) and not available:
            pytest.skip(reason)
    if item.get_closest_marker("opencl") and why_no_opencl():
        pytest.skip(why_no_opencl())


# OpenMM's minimiser ends the process on an OpenCL device that is a CPU, which OpenMM would choose.
if "CUDA" not in (
    openmm.Platform.getPlatform(i).getName() for i in range(openmm.Platform.getNumPlatforms())
):
    os.environ.setdefault("OPENMM_DEFAULT_PLATFORM", "CPU")

# The systems are small: more threads would only wait for each other.
torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory):
    """Tests neither read nor fill the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPENMM_LES_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def exported(tmp_path_factory):
    """Exports a model of `../shared/models` once a session: ``exported(name) -> Path``."""
    folder = tmp_path_factory.mktemp("artifacts")

    def get(name: str, dtype: str = "float32") -> Path:
        path = folder / f"{name}-{dtype}.les.pt"
        if not path.exists():
            export(model_file(name), path, dtype=dtype, **export_options(name))
        return path

    return get


@pytest.fixture(scope="session")
def water_artifact(exported) -> Path:
    return exported(WATER_MODEL)


@pytest.fixture(scope="session")
def dipeptide_artifact(exported) -> Path:
    """A model for the structures of `helpers.dipeptide`; the bundled one in a user's clone."""
    return exported(DIPEPTIDE_MODEL) if MODELS.exists() else catalog.artifact_path("les-demo")


@pytest.fixture(scope="session")
def l2_artifact(exported) -> Path:
    return exported(L2_MODEL)
