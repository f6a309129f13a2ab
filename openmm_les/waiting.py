"""How threads of OpenMP wait for each other, which is settled before torch is imported."""

from __future__ import annotations

import os
from collections.abc import Mapping

#: What says how they wait: the standard's variable, and those of two libraries.
_VARIABLES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
#: Waiting threads sleep. By default they spin, on cores that other threads and programs could use.
PASSIVE = {"OMP_WAIT_POLICY": "passive"}


def is_chosen(environment: Mapping[str, str]) -> bool:
    """Whether the user has decided how threads wait."""
    return any(name in environment for name in _VARIABLES)


def wait_passively() -> None:
    """Let threads of this process sleep while they wait, unless the user has decided otherwise.

    For a process that is ours, before torch is imported.
    """
    if not is_chosen(os.environ):
        os.environ.update(PASSIVE)
