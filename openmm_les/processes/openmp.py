"""How threads of OpenMP wait for each other, which is settled before torch is imported."""

from __future__ import annotations

import os

#: What says how they wait: the standard's variable, and those of two libraries.
_VARIABLES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
#: Waiting threads sleep. By default they spin, on cores that other threads and programs could use.
_PASSIVE = {"OMP_WAIT_POLICY": "passive"}

_is_ours = False


def is_chosen() -> bool:
    """Whether the user has decided how threads wait."""
    return not _is_ours and any(name in os.environ for name in _VARIABLES)


def of_children() -> dict[str, str]:
    """The environment of a child process that is ours."""
    return dict(os.environ) if is_chosen() else {**os.environ, **_PASSIVE}


def wait_passively() -> None:
    """Let threads of this process sleep while they wait, unless the user has decided otherwise.

    For a process that is ours, before torch is imported.
    """
    global _is_ours
    if not is_chosen():
        os.environ.update(_PASSIVE)
        _is_ours = True
