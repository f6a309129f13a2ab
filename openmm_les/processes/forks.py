"""Forked processes, which wait forever for the threads that torch had before the fork."""

from __future__ import annotations

import os

import torch

from openmm_les.errors import SimulationError


class _Process:
    """What this process inherited.

    Attributes:
        threaded: a model ran in this process, or before a fork, with more than one thread.
        forked: this is the child of a process in which that was so.
    """

    threaded = False
    forked = False


def check_threads() -> None:
    """Refuse to compute where that would never end; called before every computation.

    Raises:
        SimulationError: the process was forked from one in which torch had started threads.
    """
    several = torch.get_num_threads() > 1
    if _Process.forked and several:
        raise SimulationError(
            "this process was forked from one in which a model had run with several threads, for "
            "which it would wait forever; use the start method spawn, as "
            "multiprocessing.get_context('spawn'), or torch.set_num_threads(1) in the new process"
        )
    _Process.threaded |= several


def _note_fork() -> None:
    _Process.forked |= _Process.threaded


os.register_at_fork(after_in_child=_note_fork)
