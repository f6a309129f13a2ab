"""Decisions about engines, kept in the user's cache: one JSON file for each model and system."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from openmm_les._version import __version__
from openmm_les.artifact import cache_directory
from openmm_les.errors import LESError, OutputError
from openmm_les.evaluation.device import cpu_name
from openmm_les.evaluation.engines.variant import Decision
from openmm_les.files.locks import Timeout, exclusive_lock
from openmm_les.files.reading import parse_json, read_file
from openmm_les.files.writing import write_atomically, writing

logger = logging.getLogger(__name__)


def folder() -> Path:
    """Where decisions are kept."""
    return cache_directory() / "engines"


def path_of(system: Mapping[str, Any]) -> Path:
    """The file of the decision for what `Decision.system` says."""
    text = json.dumps(system, sort_keys=True)
    return folder() / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.json"


def machine(device: torch.device) -> dict[str, Any]:
    """Device, threads and versions: a decision does not outlive a change of one of these."""
    on_cpu = device.type == "cpu"
    if on_cpu:
        name = f"{cpu_name()}, {os.cpu_count()} cores"
    else:
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
    return {
        "device": name,
        "threads": torch.get_num_threads() if on_cpu else None,
        "torch": torch.__version__,
        "openmm-les": __version__,
    }


def find(system: Mapping[str, Any]) -> Decision | None:
    """The decision for a system, if there is one; a file that cannot be read counts as none."""
    path = path_of(system)
    try:
        decision = Decision.from_json(parse_json(read_file(path)))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError, LESError) as error:
        logger.info("engine='auto': %s cannot be read (%s); it will be replaced", path, error)
        return None
    if decision.system != dict(system):
        logger.info("engine='auto': %s is about another system; it will be replaced", path)
        return None
    return decision


def keep(decision: Decision) -> None:
    """Write a decision where `find` finds it, if the cache can be written."""
    path = path_of(decision.system)
    try:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(decision.to_json(), indent=1).encode())
    except OutputError as error:
        logger.info("engine='auto': the decision is not kept: %s", error)


def forget() -> int:
    """Remove all decisions, with the locks that nobody holds; returns how many there were."""
    files = list(folder().glob("*.json"))
    for path in files:
        with writing(path):
            path.unlink(missing_ok=True)
    for path in folder().glob("*.lock"):
        # Removed while it is held, so that no process that measures loses its lock.
        with contextlib.suppress(Timeout, OSError), exclusive_lock(path):
            path.unlink(missing_ok=True)
    return len(files)


@contextlib.contextmanager
def one_at_a_time(system: Mapping[str, Any], seconds: float) -> Iterator[None]:
    """Wait until no other process measures for this system, for so many seconds at most.

    Where no lock can be made, or another process takes longer, this one goes on without.
    """
    with contextlib.ExitStack() as stack:
        try:
            lock = exclusive_lock(path_of(system).with_suffix(".lock"), timeout=seconds)
            stack.enter_context(lock)
        except (Timeout, OSError) as error:
            logger.info("engine='auto': measuring goes on without a lock (%s)", error)
        yield
