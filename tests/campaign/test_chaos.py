"""The whole of it: 24 runs, undisturbed, and with everything killed; minutes each."""

import os
import signal
import socket
import subprocess
import sys
import time

import pytest
from support.campaigns import (
    Dask,
    Killer,
    assert_same_as_one_after_another,
    children_of,
    python_path,
    wait_until,
    write_plan,
)

from openmm_les.campaign import runner
from openmm_les.campaign.state import RUNS, read_table, state_of
from openmm_les.campaign.worker import COMMAND
from openmm_les.errors import OutputError

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

KILLS = 20
#: The scheduler is killed, too, with these.
WITH_SCHEDULER = (7, 14)


@pytest.fixture
def plan(tmp_path):
    vary = {"temperature": [270, 280, 290, 300, 310, 320], "friction": [1.0, 5.0]}
    return write_plan(tmp_path / "plan.yaml", base={"steps": 200}, vary=vary, repeats=2)


def test_two_workers(plan, tmp_path):
    result = runner.run(plan, tmp_path / "out", workers=2)
    assert result.line() == "24 of 24 runs finished"
    assert_same_as_one_after_another(tmp_path / "out", tmp_path / "alone")


def test_ctrl_c(plan, tmp_path):
    """Of the terminal, to all its processes: one line, and every run has a checkpoint."""
    output = tmp_path / "out"
    with subprocess.Popen(
        [sys.executable, "-c", COMMAND, "campaign", "run", str(plan), "-o", str(output)],
        env=os.environ | python_path(),
        stderr=subprocess.PIPE,
        encoding="utf-8",
        start_new_session=True,
    ) as process:
        wait_until(lambda: list(output.glob("runs/*/log.csv")))
        os.killpg(process.pid, signal.SIGINT)
        _, err = process.communicate()
    assert process.returncode == 128 + signal.SIGINT
    assert err.splitlines() == [
        f"24 runs in {output}, 0 of them finished",
        f"workers: {len(os.sched_getaffinity(0))}, none of them with a GPU",
        f"continue with:  openmm-les campaign run {plan} -o {output}",
    ]
    assert "running" not in {state_of(entry).name for entry in read_table(output)}
    assert list(output.glob("runs/*/checkpoint.zip"))


def test_a_full_disk(tmp_path):
    """One line; with more room, the same command finishes."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", disk]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("needs the right to mount a small disk")
    plan = write_plan(tmp_path / "plan.yaml", vary={"temperature": [280, 300, 320]})
    try:
        with pytest.raises(OutputError, match=r"No space left on device .* make room: the same"):
            runner.run(plan, disk / "out", workers=2)
        subprocess.run(["mount", "-o", "remount,size=16m", disk], check=True)
        result = runner.run(plan, disk / "out", workers=2)
        assert result.line() == "3 of 3 runs finished"
        assert_same_as_one_after_another(disk / "out", tmp_path / "alone")
    finally:
        subprocess.run(["umount", disk], check=True)


class Cluster:
    """A scheduler and two workers, begun again whenever they end, as a queue of jobs would."""

    def __init__(self, folder) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
        self._folder = folder
        self.schedulers = 0
        self.processes = {}
        self.supervise()

    def supervise(self) -> None:
        common = ("--no-dashboard", "--host", "127.0.0.1")
        port = self.address.rpartition(":")[2]
        worker = ("worker", self.address, "--nthreads", "1", "--memory-limit", "0", *common)
        wanted = {"scheduler": ("scheduler", "--port", port, *common), 1: worker, 2: worker}
        for name, arguments in wanted.items():
            present = self.processes.get(name)
            if present is None or present.process.poll() is not None:
                self.schedulers += name == "scheduler"
                allowed = {"DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "30"}
                self.processes[name] = Dask(self._folder, *arguments, **allowed)

    def workers(self) -> list[int]:
        """Processes that execute tasks; their parents begin them again."""
        parents = [self.processes[name].process.pid for name in (1, 2)]
        return [worker for parent in parents for worker in children_of(parent)]

    def disturb(self, number) -> None:
        if number in WITH_SCHEDULER:
            os.kill(self.processes["scheduler"].process.pid, signal.SIGKILL)

    def close(self) -> None:
        for each in self.processes.values():
            each.__exit__()


def test_everything_is_killed(plan, tmp_path):
    output = tmp_path / "out"
    command = [sys.executable, "-c", COMMAND, "campaign", "run", str(plan), "-o", str(output)]
    cluster = Cluster(tmp_path)
    killer = Killer(cluster.workers, output, KILLS, cluster.disturb)
    killer.start()
    clients = 0
    try:
        status = 1
        while status != 0:
            clients += 1
            client = subprocess.Popen(
                [*command, "--scheduler", cluster.address],
                env=os.environ | python_path(),
                stderr=subprocess.PIPE,
                encoding="utf-8",
            )
            while (status := client.poll()) is None:
                time.sleep(0.2)
                cluster.supervise()
            _, err = client.communicate()
            assert status == 0 or "the same command continues every run where it was" in err
    finally:
        cluster.close()
    assert killer.killed == KILLS
    assert (cluster.schedulers, clients) == (3, 3)
    assert {state_of(entry).name for entry in read_table(output)} == {"finished"}
    assert not list((output / RUNS).rglob("*.part"))
    assert_same_as_one_after_another(output, tmp_path / "alone")
