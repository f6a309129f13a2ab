"""The engine: tasks in processes of their own, on workers that come, go, and differ."""

import os
import signal
import socket
import threading
import time

import pytest
from support.campaigns import Dask, children_of, wait_until
from support.runs import flags, rows, settings

from openmm_les import __version__
from openmm_les.campaign import cluster
from openmm_les.campaign.engine import Task, connect, execute
from openmm_les.errors import InputError, SimulationError


@pytest.fixture(scope="module")
def client():
    with connect(2) as connected:
        yield connected


def quick(folder, number) -> list[Task]:
    """Commands that succeed at once."""
    return [Task(f"t{n}", ("--version",), folder / str(n)) for n in range(number)]


def long_run(folder, **changes) -> Task:
    """A run of some seconds, which resumes."""
    folder.mkdir()
    fields = settings(folder, **{"steps": 400} | changes)
    return Task("long", ("run", *flags(fields), "--resume"), folder)


def test_each_outcome_once(client, tmp_path):
    bad = Task("bad", ("run", "nothing.yaml"), tmp_path / "bad")
    outcomes = list(execute(client, [*quick(tmp_path, 5), bad]))
    assert sorted(outcome.name for outcome in outcomes) == ["bad", "t0", "t1", "t2", "t3", "t4"]
    errors = {outcome.name: outcome.error for outcome in outcomes if outcome.error}
    assert errors == {"bad": "config: cannot read nothing.yaml: No such file or directory"}
    assert all(outcome.seconds > 0.0 for outcome in outcomes)
    messages = (tmp_path / "bad" / "messages.txt").read_text()
    assert messages == f"openmm-les: error: {errors['bad']}\n"
    assert list(execute(client, [])) == []


def in_background(client, task):
    """The outcomes of one task, and the thread that waits for them."""
    outcomes = []
    thread = threading.Thread(target=lambda: outcomes.extend(execute(client, [task])))
    thread.start()
    return outcomes, thread


def process_of(client) -> tuple[int, int]:
    """Worker and process of the task that is executed."""
    found = []

    def look():
        for worker in client.run(os.getpid, on_error="ignore").values():
            found.extend((worker, child) for child in children_of(worker))
        return found

    wait_until(look)
    return found[0]


def test_a_crash_and_a_killed_worker(client, tmp_path):
    """The process is ended and begun again, where it was, once for each."""
    task = long_run(tmp_path / "task")
    log = tmp_path / "task" / "run" / "log.csv"
    outcomes, thread = in_background(client, task)
    wait_until(lambda: rows(log) >= 2)
    os.kill(process_of(client)[1], signal.SIGSEGV)
    wait_until(lambda: "SIGSEGV" not in str(outcomes) and rows(log) >= 4)
    worker, child = process_of(client)
    os.kill(worker, signal.SIGKILL)
    wait_until(lambda: not os.path.exists(f"/proc/{child}"), patience=2.0)
    thread.join()
    assert [outcome.error for outcome in outcomes] == [None]
    assert rows(log) == 20


def test_a_crash_each_time_is_reported(client, tmp_path):
    task = long_run(tmp_path / "task", steps=4000)
    outcomes = []
    thread = threading.Thread(
        target=lambda: outcomes.extend(execute(client, [task], retries=0)),
    )
    thread.start()
    os.kill(process_of(client)[1], signal.SIGKILL)
    thread.join()
    assert [outcome.error for outcome in outcomes] == ["long: crashes the process (SIGKILL)"]


def test_what_is_not_wanted_any_more_ends_in_order(client, tmp_path):
    """As after Ctrl-C: the run writes a checkpoint, and the worker is free."""
    task = long_run(tmp_path / "task", steps=4000)
    outcomes = execute(client, [*quick(tmp_path, 1), task])
    assert next(outcomes).name == "t0"
    worker, _ = process_of(client)
    wait_until(lambda: rows(tmp_path / "task" / "run" / "log.csv") >= 1)
    outcomes.close()
    wait_until(lambda: not children_of(worker), patience=10.0)
    assert (tmp_path / "task" / "run" / "checkpoint.zip").exists()
    assert [outcome.error for outcome in execute(client, quick(tmp_path, 2))] == [None, None]


def test_two_tasks_never_work_in_one_directory(client, tmp_path):
    first = long_run(tmp_path / "task", steps=200)
    again = Task("again", first.command, first.directory)
    outcomes = list(execute(client, [first, again]))
    assert [outcome.error for outcome in outcomes] == [None, None]
    assert "this run is finished" in (tmp_path / "task" / "messages.txt").read_text()


def test_a_directory_that_cannot_be_made(client, tmp_path):
    file = tmp_path / "file"
    file.touch()
    (outcome,) = execute(client, [Task("full", ("--version",), file / "below")])
    assert outcome.error.startswith(f"cannot write {file / 'below'}: Not a directory")


def test_arguments():
    with pytest.raises(InputError, match="workers: expected an integer of at least 1, got 0"):
        connect(0).__enter__()
    with pytest.raises(InputError, match="expected one of them, got both"):
        connect(2, "tcp://127.0.0.1:1").__enter__()


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:1", "nonsense://x", "127.0.0.1"])
def test_no_scheduler(monkeypatch, address):
    monkeypatch.setattr(cluster, "_PATIENCE", 1.0)
    started = time.monotonic()
    with pytest.raises(InputError, match=f"no answer from {address} within 1 s; expected the"):
        connect(scheduler=address).__enter__()
    assert time.monotonic() - started < 5.0


def test_no_scheduler_file(tmp_path):
    with pytest.raises(InputError, match=r"there is no file .*absent\.json; it is written by"):
        connect(scheduler=str(tmp_path / "absent.json")).__enter__()


def test_a_scheduler_started_by_hand(tmp_path):
    """Its file, a worker of another version, tasks, and its end."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    file = tmp_path / "scheduler.json"
    (tmp_path / "old.py").write_text("import openmm_les\nopenmm_les.__version__ = '0.0.1'\n")
    common = ("--no-dashboard", "--host", "127.0.0.1")
    options = ("--scheduler-file", file, "--nthreads", "1", "--memory-limit", "0", *common)
    scheduler = Dask(tmp_path, "scheduler", "--port", port, "--scheduler-file", file, *common)
    with scheduler, Dask(tmp_path, "worker", *options):
        wait_until(file.exists)
        with connect(scheduler=str(file)) as client:
            client.wait_for_workers(1)
            with Dask(tmp_path, "worker", *options, "--preload", tmp_path / "old.py"):
                client.wait_for_workers(2)
                expected = f"expected workers with openmm-les {__version__}, as here, got 0.0.1 on"
                with pytest.raises(InputError, match=expected):
                    connect(scheduler=f"tcp://127.0.0.1:{port}").__enter__()
            wait_until(lambda: len(client.scheduler_info()["workers"]) == 1)
            outcomes = execute(client, [*quick(tmp_path, 2), long_run(tmp_path / "long")])
            assert next(outcomes).error is None
            scheduler.process.kill()
            with pytest.raises(
                SimulationError, match=r"scheduler tcp.* was lost; the same command"
            ):
                list(outcomes)
