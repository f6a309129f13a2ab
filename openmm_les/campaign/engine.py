"""Executes tasks, each a resumable command of openmm-les, on workers of Dask.

Dask distributes the tasks and repeats those whose worker was lost; what an attempt has done is in
the directory of its task, from which the next one resumes.
"""

from __future__ import annotations

import contextlib
import logging
import math
import time
import uuid
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from openmm_les import __version__
from openmm_les.campaign import worker
from openmm_les.campaign.cluster import connect
from openmm_les.campaign.progress import Pulse
from openmm_les.campaign.worker import Outcome, Task
from openmm_les.errors import SimulationError, one_line

if TYPE_CHECKING:
    from distributed import Client

__all__ = ["Outcome", "Task", "connect", "execute"]

logger = logging.getLogger(__name__)

#: Time between looks at the workers [s].
_GLANCE = 5.0
#: Time without a worker after which it is said how to start one [s].
_ADVICE_AFTER = 30.0
_GPU = {"GPU": 1}


def execute(
    client: Client,
    tasks: Sequence[Task],
    *,
    retries: int = 2,
    say: Callable[[str], None] = logger.info,
) -> Generator[Outcome, None, None]:
    """Execute tasks side by side; yields how each ended, in order of completion.

    A command that fails with a message is not repeated. One whose worker is lost always is, and one
    whose process crashes, `retries` times. Where workers have the resource GPU each task takes one;
    once such a worker joins, all tasks that are left are handed to those with a GPU. `say` gets a
    line about the workers that there are or that tasks wait for, also from another thread. Closing
    the generator cancels the tasks that were not yielded.

    Raises:
        SimulationError: the connection to the scheduler was lost.
    """
    left = dict(enumerate(tasks))
    watch = _Watch(client, say)
    while left:
        watch.look()
        watch.take_gpus = watch.take_gpus or watch.has_gpus
        with (
            Pulse(watch.look, _GLANCE),
            contextlib.closing(_attempts(client, left, retries, watch.take_gpus)) as attempts,
        ):
            for number, outcome in attempts:
                del left[number]
                yield outcome


class _Watch:
    """Looks at the workers of a scheduler, and says what tasks wait for."""

    def __init__(self, client: Client, say: Callable[[str], None]) -> None:
        self.take_gpus = False  #: Whether each task takes a GPU
        self.has_gpus = False  #: Whether a worker has one
        self._client, self._say = client, say
        self._seen: object = None
        self._advise_at = math.inf

    def look(self) -> None:
        try:
            info = self._client.scheduler_info(n_workers=-1)
        except Exception:  # whatever a client that loses its scheduler raises; that ends the tasks
            return
        if self._client.status != "running":  # the answer is what it knew before
            return
        gpus = [bool(each.get("resources", {}).get("GPU")) for each in info["workers"].values()]
        self.has_gpus = any(gpus)
        lacking = ""
        if not gpus:
            lacking = "a worker"
        elif self.take_gpus and not self.has_gpus:
            lacking = "a worker with a GPU"
        if (seen := (lacking, self.has_gpus)) != self._seen:
            self._seen, self._advise_at = seen, time.monotonic() + _ADVICE_AFTER
            if lacking:
                self._say(f"waiting for {lacking} at the scheduler {info['address']}")
            else:
                self._say(f"workers: {len(gpus)}, {sum(gpus) or 'none'} of them with a GPU")
        elif lacking and time.monotonic() > self._advise_at:
            self._advise_at = math.inf
            options = "--nthreads 1 --memory-limit 0" + " --resources GPU=1" * self.take_gpus
            self._say(
                f"still waiting for {lacking}; start one with:  dask worker {info['address']} "
                f"{options}"
            )


def _attempts(
    client: Client, tasks: Mapping[int, Task], retries: int, with_gpu: bool
) -> Generator[tuple[int, Outcome], None, None]:
    """Outcomes of tasks by their numbers.

    It ends with the last one, or before if tasks do not take GPUs and a worker with one joins.
    """
    from distributed import as_completed

    address = client.scheduler_info()["address"]
    futures: list[Any] = client.map(
        worker.attempt,
        list(tasks.values()),
        expected=__version__,
        key=[f"{task.name}-{uuid.uuid4().hex}" for task in tasks.values()],
        pure=False,
        retries=retries,
        resources=_GPU if with_gpu else None,
    )
    numbers = {future.key: number for future, number in zip(futures, tasks, strict=True)}
    names = {number: task.name for number, task in tasks.items()}
    if not with_gpu:  # done when a worker with a GPU has joined
        futures.append(client.submit(worker.version, pure=False, priority=1, resources=_GPU))
    waiting = as_completed(futures, loop=client.loop)
    del futures  # those that are done are forgotten, here and by the scheduler
    try:
        while numbers:
            future = next(waiting)
            if future.status == "cancelled":
                raise SimulationError(
                    f"the connection to the scheduler {address} was lost; the same command "
                    "continues every run where it was ended"
                )
            if future.key in numbers:
                number = numbers.pop(future.key)
                yield number, _outcome(names[number], future)
            elif future.status == "finished":
                return
            del future
    finally:
        client.cancel(list(waiting.futures), force=True)


def _outcome(name: str, future: Any) -> Outcome:
    if future.status == "finished":
        outcome: Outcome = future.result()
        return outcome
    return Outcome(name, _reason(future.exception()), 0.0)


def _reason(error: BaseException) -> str:
    from distributed.scheduler import KilledWorker

    if isinstance(error, KilledWorker):
        return f"lost its worker {error.allowed_failures + 1} times; look at the logs of Dask"
    return one_line(error)
