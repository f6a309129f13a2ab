"""How OpenMP's threads wait for each other, which has to be set before torch is imported."""

from __future__ import annotations

import os

#: Variables that decide it: the standard's, and those of two libraries.
_VARIABLES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
#: Waiting threads sleep. By default they spin, on cores that other threads and programs could use.
_PASSIVE = {"OMP_WAIT_POLICY": "passive"}

_is_ours = False


def is_chosen() -> bool:
    """Whether the user has chosen how threads wait."""
    return not _is_ours and any(name in os.environ for name in _VARIABLES)


def child_environment() -> dict[str, str]:
    """Environment of a child process that this package starts."""
    return dict(os.environ) if is_chosen() else {**os.environ, **_PASSIVE}


def wait_passively() -> None:
    """Let waiting threads sleep, unless the user has chosen otherwise.

    For the command line, which owns its process; to be called before torch is imported.
    """
    global _is_ours
    if not is_chosen():
        os.environ.update(_PASSIVE)
        _is_ours = True
