"""Refuses computations in forked processes, where torch would wait for threads that are gone."""

from __future__ import annotations

import os

import torch

from openmm_les.errors import SimulationError


class _Process:
    threaded = False  #: A model ran with several threads, in this process or before a fork.
    forked = False  #: This process is a fork of one in which that was so.


def check_threads() -> None:
    """Raise a SimulationError where a computation would never end; called before each."""
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
