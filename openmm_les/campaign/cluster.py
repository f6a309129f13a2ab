"""Workers of Dask: those of this machine, or of a scheduler that runs elsewhere."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from openmm_les import __version__
from openmm_les.campaign import worker
from openmm_les.errors import InputError, one_line
from openmm_les.versions import optional

if TYPE_CHECKING:
    from distributed import Client

#: How long a scheduler may take to answer [s].
_PATIENCE = 10.0
#: How many workers a run may lose before it is given up; Dask's own limit, 3, is for tasks that
#: exhaust the memory of their worker, which a run in a process of its own does not.
_ALLOWED_FAILURES = 30
_SILENT = logging.CRITICAL + 1
_VISIBLE = "CUDA_VISIBLE_DEVICES"


@contextlib.contextmanager
def connect(workers: int | None = None, scheduler: str | None = None) -> Iterator[Client]:
    """A client of workers on this machine, or of a scheduler with workers of its own.

    Workers on this machine are processes with one thread, and end with the block. Where there are
    GPUs each has one of them, else the cores of the machine decide how many there are.

    Args:
        workers: number of workers on this machine; None for one on each GPU, or else each core.
        scheduler: address such as ``tcp://node:8786`` of a scheduler, or its scheduler file.

    Raises:
        InputError: Dask is not installed, the scheduler does not answer within seconds, or its
            workers have another version of this package.
    """
    distributed = optional("distributed", "campaign", "a campaign needs Dask; install it")
    if workers is not None and scheduler is not None:
        raise InputError(
            "workers and scheduler: expected one of them, got both; a scheduler has its own workers"
        )
    if workers is not None and workers < 1:
        raise InputError(f"workers: expected an integer of at least 1, got {workers}")
    with contextlib.ExitStack() as held:
        held.enter_context(_silent())
        if scheduler is None:
            cluster = held.enter_context(_local_cluster(distributed, workers))
            client = held.enter_context(distributed.Client(cluster, set_as_default=False))
        else:
            client = held.enter_context(_remote(distributed, scheduler))
        _check_versions(client)
        yield client


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Keep Dask's log messages out of the terminal; a lost worker is no error of the user."""
    names = [name for name in logging.root.manager.loggerDict if name.startswith("distributed")]
    loggers = {logger: logger.level for logger in map(logging.getLogger, names)}
    for logger in loggers:
        logger.setLevel(_SILENT)
    try:
        yield
    finally:
        for logger, level in loggers.items():
            logger.setLevel(level)


def _local_cluster(distributed: Any, workers: int | None) -> Any:
    devices = _visible_devices()
    number = workers or len(devices) or len(os.sched_getaffinity(0))
    common: dict[str, Any] = {
        "nthreads": 1,
        "host": "127.0.0.1",
        "dashboard": False,
        "memory_limit": None,
        "silence_logs": _SILENT,
        "preload": [worker.__name__],
    }
    specs = {}
    for index in range(number):
        own: dict[str, Any] = {}
        if devices:
            own = {"env": {_VISIBLE: devices[index % len(devices)]}, "resources": {"GPU": 1}}
        specs[index] = {"cls": distributed.Nanny, "options": common | own}
    options: dict[str, Any] = {"host": "127.0.0.1", "port": 0, "dashboard": False}
    options |= {"dashboard_address": "127.0.0.1:0", "allowed_failures": _ALLOWED_FAILURES}
    return distributed.SpecCluster(
        workers=specs, scheduler={"cls": distributed.Scheduler, "options": options}
    )


def _visible_devices() -> list[str]:
    """The GPUs that this process may use, in the words of CUDA_VISIBLE_DEVICES."""
    import torch

    if not torch.cuda.is_available():
        return []
    named = os.environ.get(_VISIBLE)
    if named is not None:
        return [name.strip() for name in named.split(",")][: torch.cuda.device_count()]
    return [str(index) for index in range(torch.cuda.device_count())]


def _remote(distributed: Any, scheduler: str) -> Any:
    is_file = scheduler.endswith(".json") or os.path.exists(scheduler)
    if is_file and not os.path.isfile(scheduler):
        raise InputError(
            f"scheduler: there is no file {scheduler}; it is written by "
            f"`dask scheduler --scheduler-file {scheduler}`"
        )
    where = {"scheduler_file": str(Path(scheduler).absolute())} if is_file else {}
    try:
        return distributed.Client(
            None if is_file else scheduler, timeout=_PATIENCE, set_as_default=False, **where
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"scheduler: no answer from {scheduler} within {_PATIENCE:g} s; expected the address "
            f"of a running Dask scheduler, such as tcp://node:8786, or its scheduler file "
            f"({one_line(error, 120)})"
        ) from None


def _check_versions(client: Client) -> None:
    """Refuse workers that would run another version of this package."""
    for address, found in client.run(worker.version, on_error="return").items():
        if found != __version__ and not isinstance(found, OSError):  # lost meanwhile
            got = found if isinstance(found, str) else one_line(found, 120)
            raise InputError(
                f"scheduler: expected workers with openmm-les {__version__}, as here, got {got} on "
                f"the worker {address}; start the workers in the same environment"
            )
