"""The engine that measures itself: what is tried, what is dropped, what is kept, and when."""

import contextlib
import json
import logging
import math
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import openmm
import pytest
import torch
from support.campaigns import children_of, wait_until
from support.contexts import create_system
from support.gradients import assert_same_results
from support.helpers import dipeptide, water_frame
from support.mixed import classical, embedded, peptide_in_water

from openmm_les import artifact as artifacts
from openmm_les import catalog
from openmm_les.errors import InputError
from openmm_les.evaluation.engines import decisions, trial, tuning
from openmm_les.evaluation.engines.variant import (
    NOT_FASTER,
    Decision,
    Trial,
    Variant,
    candidates,
)
from openmm_les.evaluation.system_model import SystemModel
from openmm_les.networks import kernels
from openmm_les.networks.blocks.radial import TabulatedRadial
from openmm_les.networks.kernels import obstacle
from openmm_les.plugin.forces.present import models_in
from openmm_les.processes import threads
from openmm_les.processes.threads import unmeasured

#: More than a busy machine needs; what is tried takes a few seconds.
SECONDS = 120.0
FEW = Variant(few_kernels=True)
#: What is used where nothing has been measured: loops, if the extra ``cpu`` is there.
USUAL = Variant(kernels="torch" if obstacle("numba") else "numba")
LOOPS = Variant(kernels="numba")
needs_numba = pytest.mark.skipif(obstacle("numba") != "", reason="needs the extra cpu")
COMPILED = Variant(runner="compile")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENMM_LES_CACHE_DIR", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def demo():
    return artifacts.load(catalog.artifact_path("les-demo"))


def model_of(artifact, atoms=None, **options) -> SystemModel:
    atoms = dipeptide(0) if atoms is None else atoms
    periodic = bool(atoms.pbc.all())
    structure = {"cell": atoms.cell.array if periodic else None, "positions": atoms.positions}
    return SystemModel(artifact, atoms.numbers, periodic=periodic, **{**structure, **options})


def keep(model, variant):
    """A decision for what `model` computes, as if it had been measured."""
    trials = Trial(Variant(), 2.0, NOT_FASTER), Trial(variant, 1.0)
    decision = Decision(variant, trials, model._system(), "2026-11-29T04:00:00+00:00")
    decisions.keep(decision)
    return decision


# ------------------------------------------------------------------ what is tried


def test_what_is_wrong_slow_or_ends_its_process_is_dropped(demo, monkeypatch, caplog):
    monkeypatch.setattr(tuning, "_SHARE_TO_COMPILE", 8 / SECONDS)
    names = ["wrong", "constant", "slow", "fails", "crashes", "hangs"]
    bad = {name: Variant(runner=f"support.engines:{name}") for name in names}
    model, atoms = model_of(demo), dipeptide(0)
    decision = model.tune(atoms.positions, seconds=SECONDS, candidates=[*bad.values(), FEW])
    assert decision.variant in (Variant(), USUAL, FEW)
    assert model.variant == decision.variant
    assert_same_results(model, model_of(demo), atoms.positions)
    reasons = {name: decision.dropped[variant.name] for name, variant in bad.items()}
    for name in ("wrong", "constant"):
        assert reasons[name].startswith("gives other ")
        assert f"{bad[name].name} gives other " in caplog.text
    assert "forces than the module, different by up to" in reasons["wrong"]
    assert caplog.text.count("and is not used; please report this") == 2
    assert reasons["slow"] == NOT_FASTER
    assert decision.times[bad["slow"].name] > 0.05
    assert reasons["fails"] == "no such kernel"
    assert reasons["crashes"] == "crashes the process (SIGSEGV)"
    assert reasons["hangs"].startswith("did not finish in 8")
    assert "support.engines:hangs (did not finish in 8" in str(decision)
    assert not decisions.folder().exists()  # others would not find these candidates


def test_what_has_to_be_compiled_comes_when_all_others_are_measured(demo, monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda evaluate, **options: evaluate)
    monkeypatch.setattr(trial, "_TOO_SLOW", math.inf)
    structures = tuning.two_structures((dipeptide(0).positions, None, None))
    order = [0, 1, 2]
    task = trial.Task(
        *model_of(demo).__reduce__(), structures, [Variant(), COMPILED, FEW], 1, 99.0, order
    )
    said = []
    trial.walk(task, trial._Race(lambda **values: said.append(values)), math.inf)
    measured = [each["of"] for each in said if "seconds" in each]
    assert measured == [0, 2, *trial._ROUNDS * [0, 2], 1, *trial._ROUNDS * [0, 2, 1]]


def test_what_does_not_fit_into_the_rest_of_the_time_says_so(demo):
    variants = [Variant(), COMPILED, FEW]
    structures = tuning.two_structures((dipeptide(0).positions, None, None))
    task = trial.Task(*model_of(demo).__reduce__(), structures, variants, 1, 30.0, [0, 1, 2])
    trials = [Trial(each, None, "not reached within 30 s") for each in variants]
    walk = tuning._Walk(task, 30.0, trials)
    assert walk._seconds_left(1, walk._begin) > 20.0  # all that is left
    assert walk._seconds_left(2, walk._begin) <= 10.0  # a share
    walk._begin -= 30.0
    assert walk._give_up(1, 12.34) == 1
    assert trials[1].reason == "did not finish in the 12.3 s left of 30 s"
    assert trials[2].reason == "not reached within 30 s"


def test_candidates_are_timed_by_the_clock_of_their_device(demo, monkeypatch):
    """By what passes on it, divided among the threads of a CPU; the least counts."""

    class Clock:
        def __init__(self):
            self.seconds, self.running = 0.0, False

        def begin(self):
            assert not self.running
            self.running = True

        def end(self):
            assert self.running
            self.running, self.seconds = False, next(times)

    times = iter([5.0, 2.0, 3.0, *[4.0] * 10_000])
    model = model_of(demo)
    monkeypatch.setattr(model._evaluator, "_clock", Clock())
    for number in (1, 2):  # then all take 4 s
        monkeypatch.setattr(SystemModel, "variant", Variant(threads=number))
        assert trial._least(model, (dipeptide(0).positions, None, None)) == 2.0


def test_candidates_are_given_all_that_the_model_has():
    """MM charges, order of particles, box: without them shapes would not fit."""
    structure = peptide_in_water()
    few = structure.only(structure.peptide + structure.waters(30))
    system = embedded(few, classical(few), few.peptide, precision="single")
    (found,) = models_in(system)
    positions = 10.0 * few.positions
    cell = 10.0 * np.array([[x._value for x in v] for v in system.getDefaultPeriodicBoxVectors()])
    model = found.compute.prepare(found.compute.artifact(), cell, positions)
    decision = model.tune(positions, cell, seconds=SECONDS, candidates=[FEW])
    assert set(decision.times) == {"plain", USUAL.name, "few kernels"}
    assert decision.system["others"] > decision.system["atoms"]


def test_the_plain_module_wins_unless_another_one_is_clearly_faster():
    plain, wrong = Trial(Variant(), 1.00), Trial(COMPILED, 0.1, "gives other forces")
    for seconds, best in ((0.5, FEW), (0.98, Variant()), (1.5, Variant())):
        assert tuning.fastest([plain, wrong, Trial(FEW, seconds)]).variant == best
    assert tuning.fastest([plain, Trial(FEW, None, "not reached within 30 s")]) is plain


def test_candidates_of_devices():
    plain = Variant(few_kernels=True, graph=True)
    given = {"pairs": 2**13, "on_gpu": True, "graphs": "auto", "kernels": "triton"}
    found = candidates(plain, **given)
    assert found[0] == plain
    assert len({each.name for each in found}) == len(found) > 8
    assert {each.runner for each in found} == {"torchscript", "compile"}
    assert {each.kernels for each in found} == {"torch", "triton"}
    assert {each.few_kernels for each in found if each.kernels == "triton"} == {True, False}
    assert {each.graph for each in found} == {True, False}
    assert all(each.graph for each in candidates(plain, **{**given, "graphs": True}))
    large = candidates(replace(plain, few_kernels=False), **{**given, "pairs": 2**18})
    assert not any(each.few_kernels and each.kernels == "torch" for each in large)
    on_cpu = candidates(Variant(), **{**given, "on_gpu": False, "kernels": "numba"})
    assert not any(each.graph or each.runner != "torchscript" for each in on_cpu)
    assert on_cpu[:2] == [Variant(), Variant(kernels="numba")]
    assert not any(each.block_elements and each.kernels == "numba" for each in on_cpu)
    assert FEW in on_cpu
    small = candidates(Variant(), **{**given, "on_gpu": False, "pairs": 500, "kernels": "numba"})
    assert small == [Variant(), LOOPS, replace(FEW, kernels="numba"), FEW]  # there is one block
    assert FEW in candidates(Variant(), **{**given, "on_gpu": False, "kernels": "torch"})


@needs_numba
def test_loops_are_compared_with_torch_code(demo, monkeypatch):
    """Wrong ones are dropped, though they are what is used where nothing has been measured."""
    assert model_of(demo).variant == LOOPS
    assert model_of(demo, engine="torchscript").variant == Variant()
    found = [each.kernels for each in model_of(demo)._builder.candidates()]
    assert found == ["torch", "numba", "torch"]  # few kernels of loops are none
    from openmm_les.networks.kernels.numba.radial import LoopRadial

    def make(self, *arguments):
        TabulatedRadial.__init__(self, *arguments)
        self.table *= 1.01

    monkeypatch.setattr(LoopRadial, "__init__", make)
    structures = tuning.two_structures((dipeptide(0).positions, None, None))
    task = trial.Task(*model_of(demo).__reduce__(), structures, [Variant(), LOOPS], 1, 9.0, [0, 1])
    said = []
    race = trial._Race(lambda **values: said.append(values))
    trial._try_each(task, task.order, trial._expected(task, race.say), race)
    results = [each for each in said if "of" in each]
    assert [each["of"] for each in results] == [0, 1]
    assert results[0]["seconds"] > 0.0
    assert results[1]["reason"].startswith("gives other ")


def test_all_are_timed_with_the_number_of_threads_that_is_fastest(demo, monkeypatch):
    """The plain module, too, which finds it out: else its later times were those of others."""

    @contextlib.contextmanager
    def only_one(number, before):
        torch.set_num_threads(1)  # whatever is tried: other programs may use the cores
        yield
        torch.set_num_threads(before)

    monkeypatch.setattr(threads, "_torch_threads", only_one)
    monkeypatch.setattr(threads, "_TOO_SLOW", math.inf)
    monkeypatch.setattr(threads.Threads, "_typical", lambda self, number: number)
    structures = tuning.two_structures((dipeptide(0).positions, None, None))
    task = trial.Task(*model_of(demo).__reduce__(), structures, [Variant(), FEW], 2, 9.0, [0, 1])
    said = []
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        race = trial._Race(lambda **values: said.append(values))
        trial._try_each(task, task.order, trial._expected(task, race.say), race)
        assert torch.get_num_threads() == 1  # for what is measured again
    finally:
        torch.set_num_threads(before)
    assert [each["threads"] for each in said if "seconds" in each] == [1, 1]


@needs_numba
def test_loops_that_cannot_be(demo):
    for options, message in (
        ({"variant": LOOPS, "static_shapes": True}, "'numba' needs shapes that vary; use kernels"),
        ({"variant": LOOPS, "python_operators": False}, "'numba' needs Python, which"),
        ({"variant": replace(LOOPS, runner="compile")}, "'numba' needs shapes that vary"),
    ):
        with pytest.raises(InputError, match=f"variant: kernels: {message}"):
            model_of(demo, **options)
    assert model_of(demo, static_shapes=True).variant == Variant()
    assert model_of(demo, engine="compile").variant.kernels == "torch"


def test_loops_that_are_not_installed(demo, monkeypatch):
    monkeypatch.setattr(kernels, "_numba_works", lambda: False)
    model = model_of(demo)
    assert model.variant == Variant()
    assert {each.kernels for each in model._builder.candidates()} == {"torch"}
    with pytest.raises(InputError, match=r"pip install 'openmm-les\[cpu\]', or use engine="):
        model_of(demo, variant=LOOPS)


def test_names_and_values_of_variants():
    full = Variant("compile", few_kernels=True, block_elements=2**20, graph=True, threads=2)
    assert full.name == "compile, few kernels, blocks of 1048576, graph, 2 threads"
    assert Variant(graph=True, threads=1).name == "plain, graph, 1 thread"
    assert full.on("cpu") == replace(full, graph=False)
    assert full.on("cuda") == replace(full, threads=None)
    for name, device in (("triton", "cuda"), ("numba", "cpu")):
        own = Variant(kernels=name)
        assert own.name == name
        assert own.on(device) == own
        assert own.on("cpu" if device == "cuda" else "cuda") == Variant()
    assert Variant.from_json(json.loads(json.dumps(full.to_json()))) == full
    for values, message in (
        ({"runner": "jit"}, "runner: expected 'torchscript', 'compile' or 'package.module:func"),
        ({"threads": 0}, "threads: expected an integer of at least 1 or None, got 0"),
        ({"graph": 1}, "graph: expected True or False, got 1"),
        ({"kernels": True}, "kernels: expected 'torch', 'triton', 'numba', got True"),
    ):
        with pytest.raises(InputError, match=f"variant: {message}"):
            Variant(**values)
    # A file could otherwise name any function.
    code = {**full.to_json(), "runner": "support.engines:wrong"}
    with pytest.raises(InputError, match="runner: expected 'torchscript' or 'compile', got 'supp"):
        Variant.from_json(code)


# ------------------------------------------------------------------ what is kept

TUNE = """
import json, sys
sys.path[:] = {path!r}
import logging, torch
logging.basicConfig(level=logging.INFO)
torch.set_num_threads(1)
from test_tuning import SECONDS, artifacts, catalog, dipeptide, model_of
model = model_of(artifacts.load(catalog.artifact_path("les-demo")))
decision = model.tune(dipeptide(0).positions, seconds=SECONDS)
print(json.dumps(decision.to_json()))
"""


def test_two_processes_measure_once_and_a_third_knows(demo):
    code = TUNE.format(path=[*sys.path, str(__file__).rpartition("/")[0]])
    both = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    done = [each.communicate(timeout=3 * SECONDS) for each in both]
    first, second = (Decision.from_json(json.loads(output)) for output, _ in done)
    assert first == second
    assert sum("engine='auto': " in errors for _, errors in done) == 1
    assert {"plain", "few kernels"} <= set(first.times)  # and "numba" where it is
    assert set(first.dropped.values()) == {NOT_FASTER}
    model = model_of(demo)
    assert model.decision == first
    assert model.variant == first.variant
    assert model.tune(dipeptide(0).positions) == first  # without measuring: it has the same date


def test_a_process_killed_while_it_measures_leaves_nothing_behind(demo, caplog):
    """Neither the process that tries candidates, nor a decision, nor a lock."""
    caplog.set_level(logging.INFO)
    code = TUNE.format(path=[*sys.path, str(__file__).rpartition("/")[0]])
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        said = next(line for line in process.stderr if "ways to compute the model" in line)
        assert said.startswith("INFO:openmm_les.evaluation")
        wait_until(lambda: children_of(process.pid), patience=SECONDS)
        (child,) = children_of(process.pid)
        process.kill()
        assert process.wait() == -signal.SIGKILL
    wait_until(lambda: not Path("/proc", str(child)).exists(), patience=SECONDS)
    model = model_of(demo)
    assert model.decision is None
    decision = model.tune(dipeptide(0).positions, seconds=SECONDS)
    assert "without a lock" not in caplog.text
    assert model_of(demo).decision == decision
    assert {path.suffix for path in decisions.folder().iterdir()} <= {".json", ".lock"}


def test_a_decision_holds_for_its_machine_versions_and_size(demo, monkeypatch):
    decision = keep(model_of(demo), FEW)
    assert model_of(demo).decision == decision
    assert model_of(demo).variant == FEW
    assert model_of(demo, dipeptide(0)[:20], maxNeighbors=30).variant == FEW  # of the same class
    other_file = replace(demo, sha256=64 * "0")
    vars(other_file)["canonical"] = demo.canonical
    for other in (
        model_of(other_file),
        model_of(demo, precision="double"),
        model_of(demo, dipeptide(0)[:12]),
        model_of(demo, water_frame(0)),
        model_of(demo, electric_field=True),
        model_of(demo, engine="torchscript"),
        model_of(demo, variant=Variant(block_elements=2**16)),
    ):
        assert other.decision is None
        assert not other.variant.few_kernels
    for owner, name in (
        (decisions, "__version__"),
        (torch, "__version__"),
        (decisions, "cpu_name"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, (lambda: "another") if name == "cpu_name" else "9.9")
            assert model_of(demo).decision is None
    assert model_of(demo).decision == decision


@pytest.mark.parametrize(
    "damage", ["cut", "empty", "deep", "values", "time", "code", "another system"]
)
def test_a_damaged_file_is_as_good_as_none(demo, damage, caplog):
    caplog.set_level(logging.INFO)
    decision = keep(model_of(demo), FEW)
    file = decisions.path_of(decision.system)
    values = decision.to_json()
    if damage == "values":
        values["trials"] = values["trials"][:1]
    elif damage == "time":
        values["trials"][1]["seconds"] = "1 s"
    elif damage == "code":
        values["variant"]["runner"] = "os:abort"
    elif damage == "another system":
        values["system"]["atoms"] = 1
    text = json.dumps(values)
    file.write_text({"cut": text[:-9], "empty": "", "deep": 20_000 * "["}.get(damage, text))
    assert model_of(demo).decision is None
    said = "is about another system" if damage == "another system" else "cannot be read ("
    assert caplog.text.count(said) == 1
    keep(model_of(demo), FEW)
    assert model_of(demo).decision == decision


def test_a_cache_that_cannot_be_written_is_done_without(demo, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    (tmp_path / "cache").write_text("a file")
    model = model_of(demo)
    keep(model, FEW)
    assert "engine='auto': the decision is not kept: cannot write" in caplog.text
    with decisions.one_at_a_time(model._system(), 1.0):
        assert "goes on without a lock" in caplog.text


# ------------------------------------------------------------------ what is used


def test_a_wrong_decision_is_dropped_when_it_is_first_used(demo, monkeypatch, caplog):
    atoms = dipeptide(0)
    keep(model_of(demo), COMPILED)
    from support.engines import wrong

    monkeypatch.setattr(torch, "compile", lambda evaluate, **options: wrong(evaluate))
    model = model_of(demo)
    assert model.variant == COMPILED
    plain = model_of(demo, engine="torchscript")
    for _ in range(2):
        assert_same_results(model, plain, atoms.positions)
    assert model.variant == Variant()
    said = "engine='auto' (compile) does not work here, using TorchScript: it gives other forces"
    assert caplog.text.count(said) == 1


def test_a_decision_outlives_buffers_that_grow(demo, monkeypatch):
    atoms = water_frame(0)
    made = []
    monkeypatch.setattr(torch, "compile", lambda evaluate, **options: made.append(1) or evaluate)
    keep(model_of(demo, atoms), COMPILED)
    model = model_of(demo, atoms)
    model.evaluate(atoms.positions)
    capacity, decision = model.capacity, model.decision
    dense = 0.8 * atoms.positions, 0.8 * atoms.cell.array
    got = model.evaluate(*dense)
    assert model.capacity > capacity
    assert (model.variant, model.decision) == (COMPILED, decision)
    assert len(made) == 2  # compared again
    expected = model_of(demo, atoms, engine="torchscript").evaluate(*dense)
    np.testing.assert_allclose(got.forces, expected.forces, rtol=0, atol=1e-3)


def test_nothing_is_chosen_where_nothing_is_measured(demo):
    """A run continues bit by bit, whatever was decided meanwhile."""
    atoms = dipeptide(0)
    keep(model_of(demo), FEW)
    before = model_of(demo)
    given = model_of(demo, variant=replace(FEW, block_elements=2**16))
    usual = model_of(demo, variant=USUAL).evaluate(atoms.positions)
    with unmeasured():
        model = model_of(demo)
        for each in (model, before):
            result = each.evaluate(atoms.positions)
            assert (result.energy, each.variant, each.decision) == (usual.energy, USUAL, None)
            np.testing.assert_array_equal(result.forces, usual.forces)
        given.evaluate(atoms.positions)
        assert given.variant == replace(FEW, block_elements=2**16)
        # Another run of this process may begin now, and asks.
        assert model.tune(atoms.positions).variant == FEW
        assert (model.variant, model.decision) == (USUAL, None)
    assert model_of(demo).variant == FEW


def test_a_given_variant_is_saved_and_a_decision_is_not(dipeptide_artifact, demo):
    keep(model_of(demo), FEW)
    for variant in (None, replace(FEW, threads=1)):
        options = {} if variant is None else {"variant": variant}
        system = create_system(dipeptide_artifact, dipeptide(0), **options)
        xml = openmm.XmlSerializer.serialize(system)
        (found,) = models_in(openmm.XmlSerializer.deserialize(xml))
        saved = found.compute.settings["options"]
        assert saved["variant"] == (None if variant is None else variant.to_json())
        model = found.compute.prepare(demo, None, dipeptide(0).positions)
        assert model.variant == (variant or FEW)
    with pytest.raises(InputError, match=r"backend: 'torchforce' .* variant needs a PythonForce"):
        create_system(dipeptide_artifact, dipeptide(0), backend="torchforce", **options)


# ------------------------------------------------------------------ when


def test_a_long_run_measures_once(demo, monkeypatch, caplog):
    caplog.set_level(logging.INFO, "openmm_les.evaluation")
    monkeypatch.setenv("OPENMM_LES_TUNE_AFTER", "0.001")
    monkeypatch.setattr(tuning, "BUDGET_S", SECONDS)
    atoms = dipeptide(0)
    with unmeasured():
        undecided = model_of(demo)
        undecided.evaluate(atoms.positions)
    model = model_of(demo)
    plain = model.evaluate(atoms.positions)
    assert model.decision is None  # the first evaluation is not counted
    model.evaluate(atoms.positions)
    assert model.decision is not None
    np.testing.assert_allclose(model.evaluate(atoms.positions).forces, plain.forces, atol=1e-4)
    for _ in range(2):
        undecided.evaluate(atoms.positions)
    assert undecided.decision == model.decision  # found, not measured
    assert caplog.text.count("engine='auto': ") == 1


def test_a_run_goes_on_where_nothing_can_be_measured(tmp_path, monkeypatch, caplog):
    copy = tmp_path / "model.les.pt"
    copy.write_bytes(catalog.artifact_path("les-demo").read_bytes())
    monkeypatch.setenv("OPENMM_LES_TUNE_AFTER", "0")
    model, atoms = model_of(artifacts.load(copy)), dipeptide(0)
    copy.unlink()
    results = [model.evaluate(atoms.positions).energy for _ in range(3)]
    assert results == results[:1] * 3
    assert caplog.text.count("engine='auto': goes on as before, since the plain module could") == 1


def test_short_runs_and_slow_evaluations_are_left_alone(monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    monkeypatch.setenv("OPENMM_LES_TUNE_AFTER", "10")
    pace = tuning.Pace()
    assert not pace.is_time_to_tune(40.0)  # compiles code
    assert [pace.is_time_to_tune(1.0) for _ in range(12)] == [False] * 9 + [True] + [False] * 2
    pace = tuning.Pace()
    assert [pace.is_time_to_tune(seconds) for seconds in (20.0, 11.0, 11.0)] == [False] * 3
    assert caplog.text.count("an evaluation takes 11 s, too long to try others in 30 s") == 1
    assert pace.is_time_to_tune(1.0)  # those before made larger buffers


@pytest.mark.parametrize("given", ["soon", "", "nan"])
def test_a_time_that_is_none(monkeypatch, given):
    monkeypatch.setenv("OPENMM_LES_TUNE_AFTER", given)
    with pytest.raises(InputError, match="OPENMM_LES_TUNE_AFTER: expected a number of seconds"):
        tuning.Pace()


def test_what_cannot_be_tuned(demo):
    atoms = dipeptide(0)
    for options in ({"engine": "torchscript"}, {"variant": FEW}):
        with pytest.raises(InputError, match="engine: expected 'auto' without a variant, got"):
            model_of(demo, **options).tune(atoms.positions)
    unsaved = artifacts.Artifact.unsaved(demo.canonical, demo.path)
    with pytest.raises(InputError, match="modelPath: expected a file"):
        model_of(unsaved).tune(atoms.positions)
