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
from openmm_les.campaign import cluster, engine, worker
from openmm_les.campaign.engine import Task, connect, execute
from openmm_les.errors import InputError, SimulationError
from openmm_les.simulation.output import _MARKER


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


def test_a_worker_of_another_version_that_came_later(tmp_path):
    outcome = worker.attempt(quick(tmp_path, 1)[0], "0.0.1")
    assert outcome.error.startswith(f"expected a worker with openmm-les 0.0.1, got {__version__};")
    assert not (tmp_path / "0").exists()


def in_background(client, task, **options):
    """The outcomes of one task, and the thread that waits for them."""
    outcomes = []
    thread = threading.Thread(target=lambda: outcomes.extend(execute(client, [task], **options)))
    thread.start()
    return outcomes, thread


def process_of(client) -> tuple[int, int]:
    """Worker and process of the task that is executed."""
    found = []

    def look():
        for parent in client.run(os.getpid, on_error="ignore").values():
            found.extend((parent, child) for child in children_of(parent))
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
    wait_until(lambda: rows(log) >= 4)
    parent, child = process_of(client)
    os.kill(parent, signal.SIGKILL)
    wait_until(lambda: not os.path.exists(f"/proc/{child}"), patience=20.0)
    assert rows(log) < 20  # it was ended
    thread.join()
    assert [outcome.error for outcome in outcomes] == [None]
    assert rows(log) == 20


def test_a_crash_each_time_is_reported(client, tmp_path):
    task = long_run(tmp_path / "task", steps=4000)
    outcomes, thread = in_background(client, task, retries=0)
    os.kill(process_of(client)[1], signal.SIGKILL)
    thread.join()
    assert [outcome.error for outcome in outcomes] == ["crashes the process (SIGKILL)"]


def test_what_is_not_wanted_any_more_ends_in_order(client, tmp_path):
    """As after Ctrl-C: the run writes a checkpoint, and the worker is free."""
    task = long_run(tmp_path / "task", steps=4000)
    outcomes = execute(client, [*quick(tmp_path, 1), task])
    assert next(outcomes).name == "t0"
    parent, _ = process_of(client)
    wait_until(lambda: rows(tmp_path / "task" / "run" / "log.csv") >= 1)
    outcomes.close()
    wait_until(lambda: not children_of(parent), patience=10.0)
    assert (tmp_path / "task" / "run" / "checkpoint.zip").exists()
    assert [outcome.error for outcome in execute(client, quick(tmp_path, 2))] == [None, None]


def test_no_process_outlives_its_task(monkeypatch, tmp_path):
    """Not even where Dask fails: the directory is free for another attempt."""

    def fail():
        raise RuntimeError("no worker")

    monkeypatch.setattr(worker, "_is_wanted", fail)
    before = children_of(os.getpid())
    with pytest.raises(RuntimeError, match="no worker"):
        worker.attempt(long_run(tmp_path / "task", steps=4000), __version__)
    assert children_of(os.getpid()) == before


def test_a_worker_that_retires_hands_its_run_on(client, tmp_path):
    """As at the end of a job in a queue, which is no failure; after a checkpoint."""
    task = long_run(tmp_path / "task")
    log = tmp_path / "task" / "run" / "log.csv"
    outcomes, thread = in_background(client, task, retries=0)
    wait_until(lambda: rows(log) >= 2)
    parent = process_of(client)[0]
    addresses = {pid: address for address, pid in client.run(os.getpid).items()}
    client.retire_workers([addresses[parent]], close_workers=True)
    thread.join()
    assert [outcome.error for outcome in outcomes] == [None]
    messages = (tmp_path / "task" / "messages.txt").read_text()
    assert messages.count("continuing after step") == 1
    assert messages.count("continue with:  openmm-les run") == 1


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


def test_workers_with_gpus(monkeypatch, tmp_path):
    """Each worker sees one of the GPUs, in turns, and a task takes one; there need not be any."""
    monkeypatch.setattr(cluster, "_visible_devices", lambda: ["4", "GPU-7"])
    with connect(3) as client:
        seen = client.run(os.getenv, "CUDA_VISIBLE_DEVICES").values()
        assert sorted(seen) == ["4", "4", "GPU-7"]
        workers = client.scheduler_info()["workers"].values()
        assert [each["resources"] for each in workers] == [{"GPU": 1}] * 3
        assert [outcome.error for outcome in execute(client, quick(tmp_path, 3))] == [None] * 3


#: Ends in its second attempt, in place of a command of some hours.
TWICE = """
import pathlib, time
attempts = pathlib.Path("attempts")
attempts.write_text((attempts.read_text() if attempts.exists() else "") + "x")
while attempts.read_text() == "x":
    time.sleep(0.02)
"""


def test_workers_that_come_later(monkeypatch, tmp_path):
    """What tasks wait for is said; those that are left go to the first worker with a GPU."""
    distributed = pytest.importorskip("distributed")
    monkeypatch.setattr(engine, "_GLANCE", 0.05)
    monkeypatch.setattr(engine, "_ADVICE_AFTER", 0.2)
    monkeypatch.setattr(worker, "COMMAND", TWICE)
    said = []
    with (
        cluster._silent(),
        distributed.SpecCluster(
            scheduler={
                "cls": distributed.Scheduler,
                "options": {"dashboard": False, "dashboard_address": "127.0.0.1:0", "port": 0},
            }
        ) as workers,
        distributed.Client(workers, set_as_default=False) as client,
    ):

        def add(name, **resources):
            options = {"nthreads": 1, "memory_limit": None, "dashboard": False}
            options |= {"resources": resources, "local_directory": str(tmp_path)}
            workers.worker_spec[name] = {"cls": distributed.Worker, "options": options}
            workers.loop.add_callback(workers._correct_state)

        task = Task("twice", (), tmp_path / "task")
        outcomes, thread = in_background(client, task, say=said.append)
        wait_until(lambda: len(said) == 2)
        add("a")
        wait_until((tmp_path / "task" / "attempts").exists)
        add("b", GPU=1)
        thread.join()
        assert [outcome.error for outcome in outcomes] == [None]
        address = client.scheduler_info()["address"]
    assert said == [
        f"waiting for a worker at the scheduler {address}",
        f"still waiting for a worker; start one with:  dask worker {address} --nthreads 1 "
        "--memory-limit 0",
        "workers: 1, none of them with a GPU",
        "workers: 2, 1 of them with a GPU",
    ]


def test_no_worker_with_a_gpu_is_left(monkeypatch, tmp_path):
    """Tasks that take GPUs do not go to others, and it is said why they wait."""
    monkeypatch.setattr(engine, "_GLANCE", 0.05)
    said = []
    monkeypatch.setattr(cluster, "_visible_devices", lambda: ["0"])
    with connect(1) as client:
        watch = engine._Watch(client, said.append)
        watch.look()
        watch.take_gpus = watch.has_gpus
        info = client.scheduler_info(n_workers=-1)
        (known,) = info["workers"].values()
        known["resources"] = {}
        monkeypatch.setattr(client, "scheduler_info", lambda n_workers: info)
        watch.look()
    assert not watch.has_gpus
    assert said == [
        "workers: 1, 1 of them with a GPU",
        f"waiting for a worker with a GPU at the scheduler {info['address']}",
    ]


def test_why_an_attempt_failed_is_kept_until_the_next_begins(tmp_path):
    task = quick(tmp_path, 1)[0]
    task.directory.mkdir()
    record = task.directory / worker.FAILURE
    record.write_text("{}")
    assert worker.attempt(task, "0.0.1").error.startswith("expected a worker with")
    assert record.exists()
    assert worker.attempt(task, __version__).error is None
    assert not record.exists()


def test_advice_is_for_the_command_of_the_campaign(tmp_path):
    """Not for `openmm-les run`, whose flags others do not have."""
    task = long_run(tmp_path / "task")
    (tmp_path / "task" / "run").mkdir()
    (tmp_path / "task" / "run" / "checkpoint.zip").write_bytes(b"")
    (tmp_path / "task" / "run" / "config.yaml").write_text(_MARKER)
    error = worker.attempt(task, __version__).error
    assert "is damaged" in error
    assert error.endswith(f"remove {tmp_path / 'task'}: it is then started again")


def test_gpus_that_this_process_may_use(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3, 5")
    assert cluster._visible_devices() == ["3", "5"]
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert cluster._visible_devices() == ["0", "1"]
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert cluster._visible_devices() == []


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
            outcomes = execute(client, [*quick(tmp_path, 2), long_run(tmp_path / "long", steps=20)])
            assert next(outcomes).error is None
            scheduler.process.kill()
            with pytest.raises(
                SimulationError, match=r"scheduler tcp.* was lost; the same command"
            ):
                list(outcomes)
