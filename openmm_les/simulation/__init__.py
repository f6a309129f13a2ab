"""Simulations from a structure file to a finished trajectory: what ``openmm-les run`` does.

Importing this package imports neither torch nor openmm; `run` does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from openmm_les.simulation.config import RunConfig, load

if TYPE_CHECKING:
    from openmm_les.simulation.progress import RunCallbacks
    from openmm_les.simulation.summary import Summary

__all__ = ["RunConfig", "load", "run"]


def run(
    config: RunConfig,
    *,
    resume: bool = False,
    overwrite: bool = False,
    callbacks: RunCallbacks | None = None,
) -> Summary:
    """Minimise, equilibrate and simulate, with checkpoints from which a killed run continues.

    The first Ctrl-C or SIGTERM stops the run in order and raises what Python would have raised
    (`KeyboardInterrupt`, or `SystemExit` with status 143).

    Args:
        resume: continue the run in ``config.output`` from its last checkpoint, or start it if it
            has none. Of the configuration only `steps` and `report` may have changed.
        overwrite: replace a run in ``config.output``.
        callbacks: learns what happens; by default it is logged.

    Returns:
        The figures of the finished run, which are also in ``summary.json``.

    Raises:
        InputError: a structure, setting or directory that cannot be used.
        ArtifactError, DownloadError: the model cannot be had.
        SimulationError: the simulation blew up; the files are kept.
    """
    from openmm_les.simulation.runner import run as implementation

    return implementation(config, resume=resume, overwrite=overwrite, callbacks=callbacks)
