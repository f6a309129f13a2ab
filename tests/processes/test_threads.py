"""As many threads as are fastest, and threads that sleep while they wait."""

import json
import logging
import os
import subprocess
import sys

import pytest
import torch
from support.helpers import ROOT, dipeptide

from openmm_les import artifact as artifacts
from openmm_les import catalog
from openmm_les.evaluation.system_model import SystemModel
from openmm_les.processes.threads import Threads, unmeasured

CPU = torch.device("cpu")


class Machine:
    """Where an evaluation takes a given time with each number of threads."""

    def __init__(self, seconds, device=CPU):
        self.seconds = seconds
        self.now = 0.0
        self.used = []
        self.threads = Threads(device, lambda: self.now)

    def evaluate(self):
        number = torch.get_num_threads()
        self.used.append(number)
        self.now += self.seconds(number)
        return len(self.used)

    def run(self, times):
        for _ in range(times):
            assert self.threads.run(self.evaluate) == len(self.used)
        return self.used[-1]


@pytest.fixture
def torch_threads():
    """Sets torch's threads for a test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def test_threads_that_wait_for_each_other_are_given_up(torch_threads, caplog):
    torch_threads(2)
    caplog.set_level(logging.INFO)
    machine = Machine({1: 0.2, 2: 9.0}.get)
    assert machine.run(20) == 1
    assert machine.used.count(2) == 2  # the first one, which is not counted, and one more
    assert "1 of 2 threads: 9e+03 ms with 2, 200 ms with 1" in caplog.text
    assert torch.get_num_threads() == 2


def test_threads_that_lose_their_cores_are_given_up(torch_threads):
    torch_threads(2)
    machine = Machine({1: 1.0, 2: 0.6}.get)
    assert machine.run(20) == 2
    machine.seconds = {1: 1.1, 2: 1.5}.get  # twice as slow, but not five times
    assert machine.run(20) == 1


@pytest.mark.parametrize(
    ("most", "seconds", "fastest", "tried"),
    [
        (8, lambda n: 1.0 / n, 8, {8, 4}),  # half as many take twice as long, and one is hopeless
        (64, lambda n: 1.0 / n + 0.02 * n, 4, {64, 16, 4, 1}),
        (2, lambda n: {1: 1.0, 2: 0.9}[n], 2, {1, 2}),
        (64, lambda n: 640.0 / n, 64, {64}),  # one would take ten minutes
    ],
)
def test_the_fastest_number_is_found(torch_threads, most, seconds, fastest, tried):
    torch_threads(most)
    machine = Machine(seconds)
    assert machine.run(30) == fastest
    assert tried <= set(machine.used) <= {64, 16, 8, 4, 1, 2}
    if len(tried) == 1:
        assert set(machine.used) == tried


def test_a_machine_that_becomes_slow_is_measured_again(torch_threads, caplog):
    torch_threads(2)
    caplog.set_level(logging.INFO)
    machine = Machine({1: 0.010, 2: 0.006}.get)
    assert machine.run(20) == 2
    machine.seconds = lambda n: 1.0  # once: a checkpoint, a page fault
    machine.run(1)
    machine.seconds = {1: 0.011, 2: 0.4}.get  # others want the cores
    assert machine.run(10) == 1
    assert "evaluations take 400 ms instead of 6 ms" in caplog.text
    machine.seconds = {1: 0.010, 2: 0.006}.get
    torch_threads(4)  # the user has changed it
    machine.seconds = lambda n: 1.0 / n
    assert machine.run(20) == 4


def test_one_slow_evaluation_changes_nothing(torch_threads):
    torch_threads(2)
    machine = Machine({1: 0.010, 2: 0.006}.get)
    machine.run(20)
    for _ in range(5):
        machine.seconds = lambda n: 1.0
        machine.run(2)
        machine.seconds = {1: 0.010, 2: 0.006}.get
        machine.run(1)
    assert set(machine.used[20:]) == {2}


def test_nothing_is_measured_where_there_is_no_choice(torch_threads):
    torch_threads(2)
    machine = Machine({1: 1.0, 2: 5.0}.get)
    with unmeasured():
        machine.run(10)
    assert set(machine.used) == {2}
    machine = Machine({1: 1.0, 2: 5.0}.get, torch.device("cuda"))
    machine.run(10)
    assert set(machine.used) == {2}
    torch_threads(1)
    machine = Machine({1: 1.0}.get)
    machine.run(10)
    assert set(machine.used) == {1}


def test_errors_leave_the_threads_as_they_were(torch_threads):
    torch_threads(2)
    machine = Machine({1: 1.0, 2: 5.0}.get)
    machine.run(10)

    def fail():
        assert torch.get_num_threads() == 1
        raise KeyError

    with pytest.raises(KeyError):
        machine.threads.run(fail)
    assert torch.get_num_threads() == 2


def test_a_model_chooses_and_gives_the_same(torch_threads, caplog):
    caplog.set_level(logging.INFO, "openmm_les.processes.threads")
    atoms = dipeptide(0)
    demo = artifacts.load(catalog.artifact_path("les-demo"))
    model = SystemModel(demo, atoms.numbers, periodic=False, positions=atoms.positions)
    expected = model.evaluate(atoms.positions)
    assert not caplog.text  # there is one thread
    torch_threads(2)
    for _ in range(8):
        got = model.evaluate(atoms.positions)
        assert got.energy == pytest.approx(expected.energy, abs=1e-5)
    assert caplog.text.count(" of 2 threads: ") == 1
    assert torch.get_num_threads() == 2


# ------------------------------------------------------------------ how threads wait


def display(code, **variables):
    """What OpenMP says of its settings when torch is imported after `code`, and the child's."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "GOMP_"))}
    environment |= {"OMP_DISPLAY_ENV": "verbose"} | variables
    done = subprocess.run(
        [sys.executable, "-c", code + "\nimport torch"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return done.stderr


COMMAND = """
from openmm_les import cli
try:
    cli.main(["--version"])
except SystemExit:
    pass
"""


@pytest.mark.parametrize(
    ("variables", "policy"),
    [({}, "PASSIVE"), ({"OMP_WAIT_POLICY": "active"}, "ACTIVE"), ({"GOMP_SPINCOUNT": "77"}, "77")],
)
def test_threads_of_the_command_sleep_unless_the_user_says_otherwise(variables, policy):
    text = display(COMMAND, **variables)
    lines = [line for line in text.splitlines() if "WAIT_POLICY" in line or "SPINCOUNT" in line]
    assert lines, text
    assert any(f"'{policy}'" in line for line in lines), lines


@pytest.fixture
def undecided(monkeypatch):
    """Nobody has said how threads wait: no user, and no command that ran in this process before."""
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    monkeypatch.setattr("openmm_les.processes.openmp._is_ours", False)


def test_probes_sleep_too(monkeypatch, undecided):
    from openmm_les.doctor import probes

    code = "import os\nprint(json.dumps({'policy': os.environ.get('OMP_WAIT_POLICY')}))"
    monkeypatch.setitem(probes.CODE, "policy", code)
    assert probes.run("policy").data == {"policy": "passive"}
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    assert probes.run("policy").data == {"policy": "active"}


def test_the_doctor_counts_threads(monkeypatch, undecided):
    from openmm_les.doctor import checks
    from openmm_les.processes.children import Outcome

    (finding,) = checks._threads(Outcome({"threads": 8}))
    assert finding.text.startswith("8 for torch")
    assert "export OMP_WAIT_POLICY=passive" in finding.text
    monkeypatch.setenv("OMP_WAIT_POLICY", "passive")
    (finding,) = checks._threads(Outcome({"threads": 8}))
    assert "export" not in finding.text


@pytest.mark.slow
def test_threads_are_compared_beside_a_load(tmp_path):
    output = tmp_path / "out.json"
    command = [sys.executable, ROOT / "benchmarks" / "threads.py", "--threads", "1", "--atoms"]
    command += ["22", "--busy", "1", "--seconds", "0.1", "--output", output]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = json.loads(output.read_text())["rows"]
    assert [(row["busy"], row["wait"]) for row in rows] == [
        (load, wait) for load in (0, 1) for wait in ("default", "passive")
    ]
    assert all(0 < row["low"] <= row["median"] <= row["high"] for row in rows)
