"""Complete runs that several tests look at."""

import pytest
from support.runs import config, run_with_copies


@pytest.fixture(scope="session")
def uninterrupted(tmp_path_factory):
    """Directories of complete runs, with a copy at every checkpoint: ``get(ensemble)``."""
    done = {}

    def get(ensemble):
        if ensemble not in done:
            folder = tmp_path_factory.mktemp(ensemble)
            done[ensemble] = run_with_copies(folder, config(folder, ensemble))
        return done[ensemble]

    return get
