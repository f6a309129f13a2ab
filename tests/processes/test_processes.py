"""Models in several threads and processes, and copies of all that holds one."""

import copy
import multiprocessing
import os
import pickle
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from support.campaigns import python_path, wait_until
from support.helpers import dipeptide

from openmm_les import artifact as artifacts
from openmm_les import catalog
from openmm_les.ase import LESCalculator
from openmm_les.evaluation.system_model import SystemModel

THREADS = 4


@pytest.fixture(scope="module")
def demo():
    return artifacts.load(catalog.artifact_path("les-demo"))


def model_of(demo, **options) -> SystemModel:
    return SystemModel(demo, dipeptide(0).numbers, periodic=False, precision="double", **options)


def rattled(seed):
    atoms = dipeptide(0)
    atoms.rattle(0.05, seed=seed)
    return atoms


# ------------------------------------------------------------------ threads


def test_calculators_made_in_many_threads(demo):
    """torch.jit.script of one class in two threads fails by itself."""

    def energy(seed):
        atoms = rattled(seed)
        atoms.calc = LESCalculator(demo.path)
        return atoms.get_potential_energy()

    with ThreadPoolExecutor(THREADS) as pool:
        together = list(pool.map(energy, range(THREADS)))
    shared = LESCalculator(demo.path)
    alone = [shared.get_potential_energy(rattled(seed)) for seed in range(THREADS)]
    assert together == pytest.approx(alone, abs=1e-9)


def test_one_model_in_many_threads(demo):
    """Energies and responses, while the capacity grows from what is too small."""
    structures = [rattled(seed).positions for seed in range(10)]
    alone = model_of(demo, max_neighbors=40)
    energies = [alone.evaluate(r).energy for r in structures]
    born = [alone.response(r).born_charges for r in structures[:3]]
    shared = model_of(demo, max_neighbors=2)

    def difference(task):
        i = task % len(structures)
        if i < len(born):
            return np.abs(shared.response(structures[i]).born_charges - born[i]).max()
        return abs(shared.evaluate(structures[i]).energy - energies[i])

    with ThreadPoolExecutor(THREADS) as pool:
        differences = list(pool.map(difference, range(100)))
    assert max(differences) < 1e-9


def test_one_calculator_in_many_threads(demo):
    calculator = LESCalculator(demo.path)

    def energy(seed):
        atoms = rattled(seed % 5)
        atoms.calc = calculator
        return atoms.get_potential_energy()

    expected = [energy(seed) for seed in range(5)]
    with ThreadPoolExecutor(THREADS) as pool:
        got = list(pool.map(energy, range(50)))
    assert got == pytest.approx(10 * expected, abs=1e-9)


# ------------------------------------------------------------------ copies


@pytest.mark.parametrize(
    "copied", [copy.copy, copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))]
)
def test_copies_compute_the_same(demo, copied):
    atoms = rattled(1)
    atoms.calc = LESCalculator(demo.path, precision="single")
    energy, forces = atoms.get_potential_energy(), atoms.get_forces()
    calculator = copied(atoms.calc)
    assert calculator.get_potential_energy(atoms) == energy
    calculator.reset()
    assert calculator.get_potential_energy(atoms) == pytest.approx(energy, abs=1e-5)
    # What one of them computes now does not change the other.
    calculator.get_potential_energy(rattled(2))
    assert atoms.get_potential_energy() == energy
    np.testing.assert_array_equal(atoms.get_forces(), forces)

    model = model_of(demo, max_neighbors=2)
    expected = model.evaluate(atoms.positions)
    model.response(atoms.positions)
    twin = copied(model)
    assert twin.capacity == model.capacity > 2
    assert twin.evaluate(atoms.positions).energy == pytest.approx(expected.energy, abs=1e-9)


def test_pickles_hold_no_weights(demo):
    demo.canonical, demo.module  # noqa: B018
    same = pickle.loads(pickle.dumps(demo))
    assert same == demo
    assert len(pickle.dumps(demo)) < 10_000
    assert len(pickle.dumps(model_of(demo))) < 20_000


# ------------------------------------------------------------------ processes


def test_spawned_process(demo):
    atoms = rattled(1)
    atoms.calc = LESCalculator(demo.path)
    energy = atoms.get_potential_energy()
    atoms.calc.reset()
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        got = pool.submit(atoms.get_potential_energy).result()
    assert got == pytest.approx(energy, abs=1e-9)


FORKED = """
import multiprocessing, sys, torch
import numpy as np
from openmm_les import artifact, catalog
from openmm_les.evaluation.system_model import SystemModel

torch.set_num_threads(2)
water = np.random.default_rng(0).random((300, 3)) * 15
model = SystemModel(
    artifact.load(catalog.artifact_path("les-demo")), [8, 1, 1] * 100, periodic=False
)
energy = model.evaluate(water).energy

def child(queue, threads):
    torch.set_num_threads(threads)
    try:
        queue.put(abs(model.evaluate(water).energy - energy) < 1e-3)
    except Exception as error:
        queue.put(f"{type(error).__name__}: {error}")

context = multiprocessing.get_context("fork")
for threads in (2, 1):
    queue = context.Queue()
    process = context.Process(target=child, args=(queue, threads))
    process.start()
    print(queue.get(timeout=60))
    process.join()
"""


def test_forked_process():
    """Torch's threads do not survive a fork, and their work would be waited for forever."""
    child = subprocess.run(
        [sys.executable, "-c", FORKED],
        env=dict(
            os.environ,
            PYTHONPATH=os.pathsep.join(filter(None, sys.path)),
            OMP_WAIT_POLICY="passive",
        ),
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    told = child.stdout.splitlines()
    assert len(told) == 2, child.stderr
    assert told[0].startswith("SimulationError: this process was forked from one in which a model")
    assert told[1] == "True"


def test_a_child_ends_with_a_parent_that_is_killed(tmp_path):
    file = tmp_path / "child"
    child = f"import time; open({str(file)!r}, 'w').write(f'{{os.getpid()}} '); time.sleep(60)"
    code = (
        f"from openmm_les.processes.children import run_python; run_python({child!r}, seconds=60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], env=os.environ | python_path()) as parent:
        wait_until(lambda: file.exists() and file.read_text().endswith(" "))
        process = Path("/proc") / file.read_text().strip()
        assert process.exists()
        parent.kill()
    wait_until(lambda: not process.exists() or "(zombie)" in (process / "status").read_text())
