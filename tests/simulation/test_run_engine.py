"""How the model of a run is computed: chosen once, recorded, and kept when the run continues."""

import json
import shutil
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from openmm import app
from support.runs import PEPTIDE, Recorder, assert_same_run, config

from openmm_les import catalog
from openmm_les import simulation as md
from openmm_les.errors import InputError
from openmm_les.evaluation.engines import decisions
from openmm_les.evaluation.engines.variant import Decision, Variant
from openmm_les.evaluation.system_model import SystemModel
from openmm_les.networks import kernels
from openmm_les.processes.threads import unmeasured
from openmm_les.simulation import tuning
from openmm_les.simulation.checkpoint import Checkpoint

CHECKPOINT = "checkpoint.zip"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A cache of decisions of its own."""
    monkeypatch.setenv("OPENMM_LES_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


def decide(variant) -> None:
    """Put another decision in the place of the one that is in the cache."""
    (file,) = decisions.folder().glob("*.json")
    found = Decision.from_json(json.loads(file.read_text()))
    trial = replace(found.trials[0], variant=variant, seconds=1e-9, reason="")
    decisions.keep(replace(found, variant=variant, trials=(*found.trials, trial)))


def variant_of(folder) -> Variant | None:
    recorded = Checkpoint.read(folder / CHECKPOINT).variant
    return None if recorded is None else Variant.from_json(recorded)


def test_a_run_keeps_what_it_began_with(tmp_path, monkeypatch):
    """A long run measures; whatever is decided afterwards is for other runs."""
    monkeypatch.setattr(tuning, "_STEPS_WORTH_MEASURING", 160)
    settings = config(tmp_path, output=tmp_path / "first")
    recorder = Recorder()
    md.run(settings, callbacks=recorder)
    (said,) = [text for text in recorder.messages if text.startswith("engine='auto': ")]
    measured = variant_of(settings.output)
    assert measured is not None
    assert said.startswith(f"engine='auto': {measured.name} ")

    chosen = Variant(few_kernels=not measured.few_kernels, block_elements=4096)
    decide(chosen)
    complete = config(tmp_path, output=tmp_path / "complete")
    middle = tmp_path / "middle"

    def copy(progress):
        if (progress.phase, progress.step) == ("production", 60):
            shutil.copytree(complete.output, middle)

    md.run(complete, callbacks=Recorder(copy))
    assert variant_of(complete.output) == chosen
    log = (complete.output / "log.csv").read_bytes()
    assert log != (settings.output / "log.csv").read_bytes()  # the variants differ in the last bits

    decide(measured)
    resumed = complete.model_copy(update={"output": middle})
    md.run(resumed, resume=True)
    assert variant_of(middle) == chosen
    assert_same_run(middle, complete.output)


def test_runs_without_a_decision(tmp_path, monkeypatch):
    """Short runs do not measure, and record which kernels were there, whatever is there later."""
    short = config(tmp_path, output=tmp_path / "auto", steps=20, equilibration_steps=0)
    recorder = Recorder()
    with monkeypatch.context() as patch:
        patch.setattr(kernels, "_numba_works", lambda: False)
        md.run(short, callbacks=recorder)
    assert not decisions.folder().exists()
    assert not any("engine" in text for text in recorder.messages)
    assert variant_of(short.output) == Variant()
    md.run(short.model_copy(update={"steps": 40}), resume=True)
    assert variant_of(short.output) == Variant()
    torch_code = {"engine": "torchscript", "output": tmp_path / "plain", "steps": 40}
    plain = short.model_copy(update=torch_code)
    md.run(plain)
    assert_same_run(plain.output, short.output)
    # Older versions recorded nothing, and knew no other kernels.
    checkpoint = Checkpoint.read(short.output / CHECKPOINT)
    assert tuning.recorded(replace(checkpoint, variant=None)) == Variant()


@pytest.mark.skipif(kernels.obstacle("numba") != "", reason="needs the extra cpu")
def test_a_run_does_not_continue_without_its_kernels(tmp_path, monkeypatch):
    settings = config(tmp_path, output=tmp_path / "auto", steps=20, equilibration_steps=0)
    md.run(settings)
    assert variant_of(settings.output) == Variant(kernels="numba")
    monkeypatch.setattr(kernels, "_numba_works", lambda: False)
    with pytest.raises(
        InputError,
        match=r"^checkpoint: a run continues with the kernels that it began with; .*"
        r"run pip install 'openmm-les\[cpu\]', or use engine='torchscript' in a new run$",
    ):
        md.run(settings.model_copy(update={"steps": 40}), resume=True)


def test_the_first_evaluation_is_by_the_variant(monkeypatch):
    """A run that continues begins with it, where one that was not interrupted has long gone on."""

    def rounded_otherwise(evaluate):
        def run(*inputs):
            energy, forces, *others = evaluate(*inputs)
            return energy, forces * (1.0 + 1e-7), *others

        return run

    monkeypatch.setitem(sys.modules, "others", SimpleNamespace(function=rounded_otherwise))
    pdb = app.PDBFile(str(PEPTIDE))
    positions = 10.0 * pdb.getPositions(asNumpy=True)._value
    numbers = [atom.element.atomic_number for atom in pdb.topology.atoms()]
    artifact = catalog.open_model("les-demo")
    forces = {}
    for variant in (None, Variant(runner="others:function")):
        model = SystemModel(artifact, numbers, periodic=False, positions=positions, variant=variant)
        with unmeasured():
            forces[variant], again = (model.evaluate(positions).forces for _ in range(2))
        assert model.dropped == {}
        assert np.array_equal(forces[variant], again)
    assert not np.array_equal(*forces.values())
