"""Session-wide artifacts, exported once by the real exporter."""

from pathlib import Path

import pytest
import torch
from helpers import DIPEPTIDE_MODEL, L2_MODEL, MODELS, WATER_MODEL, shared_file
from openmm_les_export import export

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
            export(shared_file(MODELS / f"{name}.model"), path, dtype=dtype)
        return path

    return get


@pytest.fixture(scope="session")
def water_artifact(exported) -> Path:
    return exported(WATER_MODEL)


@pytest.fixture(scope="session")
def dipeptide_artifact(exported) -> Path:
    return exported(DIPEPTIDE_MODEL)


@pytest.fixture(scope="session")
def l2_artifact(exported) -> Path:
    return exported(L2_MODEL)
