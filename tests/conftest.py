"""Session-wide artifacts, exported once by the real exporter."""

import gc
import os
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import openmm
import pytest
import torch
from filelock import FileLock
from openmm_les_export import export
from oracles import moments_family as with_moments
from support.checkpoints import EXPORT_OPTIONS, checkpoint
from support.helpers import export_options, model_file

from openmm_les import catalog
from openmm_les.networks import registry

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


def pytest_collection_finish():
    """What is imported stays; looking through it again and again takes a tenth of the time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


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

# The systems are small and tests run side by side: more threads would only wait for each other.
torch.set_num_threads(1)
openmm.Platform.getPlatform("CPU").setPropertyDefaultValue("Threads", "1")
os.environ["OMP_NUM_THREADS"] = os.environ["OPENMM_CPU_THREADS"] = "1"  # of child processes too


# No test waits for what another one was too slow for.
os.environ["OPENMM_LES_TUNE_AFTER"] = "inf"


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory):
    """Tests neither read nor fill the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPENMM_LES_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def exported(tmp_path_factory):
    """Exports a model once for all workers: ``exported(name, dtype) -> Path``.

    Names are those of `support.checkpoints`, which every clone has, or of published models, which
    skip the test where they are not beside the checkout.
    """
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent  # that of all workers
    # Continuous integration names one for several sessions of one environment and one source.
    folder = Path(os.environ.get("OPENMM_LES_TEST_ARTIFACTS") or folder / "artifacts")
    folder.mkdir(parents=True, exist_ok=True)

    def get(name: str, dtype: str = "float32") -> Path:
        path = folder / f"{name}-{dtype}.les.pt"
        if not path.exists():
            synthetic = name in EXPORT_OPTIONS
            with FileLock(folder / f"{name}.lock"):
                model = checkpoint(name, folder) if synthetic else model_file(name)
                options = EXPORT_OPTIONS[name] if synthetic else export_options(name)
                if not path.exists():
                    export(model, path, dtype=dtype, **options)
        return path

    return get


@pytest.fixture(scope="session")
def water_artifact() -> Path:
    """A model for water, and for whatever needs any model: the one in the package."""
    return catalog.artifact_path("les-demo")


@pytest.fixture(scope="session")
def dipeptide_artifact() -> Path:
    """A model for the structures of `helpers.dipeptide`: the one in the package."""
    return catalog.artifact_path("les-demo")


@pytest.fixture(scope="session")
def l2_artifact(exported) -> Path:
    """All that the model in the package lacks: features of degree 2, densities, ZBL, heads."""
    return exported("mace")


@pytest.fixture(scope="module")
def moments_family():
    """Knows the family of `support.moments.moments_artifact`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(registry.families(), "moments", with_moments.FAMILY)
        yield
