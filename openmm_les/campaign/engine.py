"""Executes tasks, each a resumable command of openmm-les, on workers of Dask.

Dask distributes the tasks and repeats those whose worker was lost; what an attempt has done is in
the directory of its task, from which the next one resumes.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from openmm_les import __version__
from openmm_les.campaign import worker
from openmm_les.campaign.cluster import connect
from openmm_les.campaign.worker import Outcome, Task
from openmm_les.errors import SimulationError, one_line

if TYPE_CHECKING:
    from distributed import Client

__all__ = ["Outcome", "Task", "connect", "execute"]


def execute(client: Client, tasks: Sequence[Task], *, retries: int = 2) -> Iterator[Outcome]:
    """Execute tasks side by side; yields how each ended, in order of completion.

    A command that fails with a message is not repeated. One whose worker is lost always is, and one
    whose process crashes, `retries` times. Where workers have the resource GPU each task takes one.
    Tasks that were not yielded when the iterator is closed are cancelled.

    Raises:
        SimulationError: the connection to the scheduler was lost.
    """
    from distributed import as_completed

    if not tasks:
        return
    address = client.scheduler_info()["address"]
    futures = client.map(
        worker.attempt,
        list(tasks),
        expected=__version__,
        key=[f"{task.name}-{uuid.uuid4().hex}" for task in tasks],
        pure=False,
        retries=retries,
        resources=_resources(client),
    )
    names = {future.key: task.name for future, task in zip(futures, tasks, strict=True)}
    waiting = as_completed(futures, loop=client.loop)
    del futures  # those that are done are forgotten, here and by the scheduler
    try:
        for future in waiting:
            name = names.pop(future.key)
            if future.status == "cancelled":
                raise SimulationError(
                    f"the connection to the scheduler {address} was lost; the same command "
                    "continues every run where it was ended"
                )
            if future.status == "finished":
                yield future.result()
            else:
                yield Outcome(name, _reason(future.exception()), 0.0)
            del future
    finally:
        client.cancel(list(waiting.futures), force=True)


def _resources(client: Client) -> dict[str, Any] | None:
    workers = client.scheduler_info(n_workers=-1)["workers"].values()
    return {"GPU": 1} if any(each.get("resources", {}).get("GPU") for each in workers) else None


def _reason(error: BaseException) -> str:
    from distributed.scheduler import KilledWorker

    if isinstance(error, KilledWorker):
        return f"lost its worker {error.allowed_failures + 1} times; look at the logs of Dask"
    return one_line(error)
