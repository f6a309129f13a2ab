"""Short campaigns: their plans, the same runs one after another, processes that are killed."""

import os
import random
import signal
import subprocess
import sys
import threading
import time

import yaml
from support.runs import PEPTIDE, assert_same_run

from openmm_les import simulation as md
from openmm_les.campaign.directory import CampaignDirectory
from openmm_les.campaign.plan import planned_runs, read_plan
from openmm_les.campaign.state import read_table, state_of

BASE = {
    "structure": str(PEPTIDE),
    "model": "les-demo",
    "steps": 80,
    "equilibration_steps": 20,
    "minimise_iterations": 5,
    "report_interval": 10,
    "report": "off",
    "device": "cpu",
    "backend": "pythonforce",
}


def write_plan(path, *, base=None, **fields):
    """A plan in a file; `base` changes the settings of `BASE`, which the lists replace."""
    lists = {**fields.get("vary", {}), **fields.get("zip", {})}
    shared = {name: value for name, value in BASE.items() if name not in lists} | (base or {})
    path.write_text(yaml.safe_dump({"base": shared, "seed": 5} | fields, sort_keys=False))
    return path


def prepare(plan, directory):
    """Write the table of runs and their settings, as `campaign run` does before it executes."""
    read = read_plan(plan)
    return CampaignDirectory(directory).prepare_runs(
        lambda seed: planned_runs(read, seed, plan), read.seed
    )


def assert_same_as_one_after_another(campaign, folder) -> None:
    """Every run is, to the last byte, what the same settings give in one process."""
    entries = read_table(campaign)
    assert entries
    for entry in entries:
        config = md.load(entry.directory)
        alone = md.RunConfig(**config.model_dump() | {"output": folder / entry.name})
        md.run(alone)
        assert_same_run(entry.directory, alone.output)


def children_of(process: int) -> list[int]:
    """Processes whose parent is `process`."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/stat") as stream:
                parent = int(stream.read().rpartition(")")[2].split()[1])
        except OSError:  # ended meanwhile
            continue
        if parent == process:
            found.append(int(name))
    return found


def wait_until(condition, patience=300.0) -> None:
    limit = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.02)


class Killer(threading.Thread):
    """Kills workers while they work, at random moments.

    `workers` lists their processes, and `after` is called with the number of each kill.
    """

    def __init__(self, workers, campaign, kills, after=lambda number: None) -> None:
        super().__init__(daemon=True)
        self.killed = 0
        self._workers, self._campaign, self._kills = workers, campaign, kills
        self._after = after
        self._random = random.Random(1)

    def run(self) -> None:
        while self.killed < self._kills:
            if not self._is_working():
                time.sleep(0.05)
                continue
            time.sleep(self._random.uniform(0.0, 1.0))
            if busy := [worker for worker in self._workers() if children_of(worker)]:
                os.kill(self._random.choice(busy), signal.SIGKILL)
                self.killed += 1
                self._after(self.killed)

    def _is_working(self) -> bool:
        try:
            states = [state_of(entry) for entry in read_table(self._campaign)]
        except ValueError:  # no table yet
            return False
        return any(state.name == "running" and state.steps > 0 for state in states)


def workers_of(client):
    """Lists the workers of a client, for `Killer`."""
    return lambda: list(client.run(os.getpid, on_error="ignore").values())


def python_path() -> dict[str, str]:
    """The environment in which a new process imports what this one does."""
    return {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


class Dask:
    """``dask scheduler`` or ``dask worker``, started as by hand, ended with the block."""

    def __init__(self, folder, *arguments, **environment) -> None:
        log = folder / f"{arguments[0]}.log"
        with log.open("ab") as stream:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "dask", *map(str, arguments)],
                stdout=stream,
                stderr=stream,
                cwd=folder,
                env=os.environ | python_path() | environment,
            )

    def __enter__(self):
        return self

    def __exit__(self, *error) -> None:
        self.process.terminate()
        self.process.wait(timeout=60)
