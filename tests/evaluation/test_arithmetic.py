"""What torch is set to for other code does not change what our modules compute."""

import contextlib
import threading

import numpy as np
import openmm
import pytest
import torch
from support.capture import model_for, torchforce_module
from support.contexts import create_system
from support.helpers import dipeptide
from support.programs import run_code
from support.tracing import fused_groups, fusion_without_gpu, trace_on_fake_gpu

from openmm_les import InputError, catalog
from openmm_les import artifact as artifacts
from openmm_les.doctor import checks
from openmm_les.evaluation.engines.arithmetic import as_written, forbid_fusion, reduced_precision
from openmm_les.plugin.forces.torchforce import OpenTorchForce
from openmm_les.processes.children import Outcome


@pytest.fixture(scope="module")
def demo():
    return artifacts.load(catalog.artifact_path("les-demo"))


# ------------------------------------------------------------------ float32


def _set(part, precision):
    part.fp32_precision = precision


#: Every way in which torch can be told to multiply less exactly.
SETTINGS = {
    "high": lambda: torch.set_float32_matmul_precision("high"),
    "medium": lambda: torch.set_float32_matmul_precision("medium"),
    "allow_tf32": lambda: setattr(torch.backends.cuda.matmul, "allow_tf32", True),
    "GPU": lambda: _set(torch.backends.cuda.matmul, "tf32"),
    "CPU": lambda: _set(torch.backends.mkldnn.matmul, "bf16"),
    "CPU, all": lambda: _set(torch.backends.mkldnn, "bf16"),
    "everything": lambda: _set(torch.backends, "tf32"),
}


@pytest.fixture
def defaults():
    """Takes every setting back."""
    yield
    torch.set_float32_matmul_precision("highest")
    for part in (torch.backends, torch.backends.mkldnn):
        part.fp32_precision = "none"
    for part in (torch.backends.cuda.matmul, torch.backends.mkldnn.matmul):
        part.fp32_precision = "none"


def settings():
    """All that can be read of them."""
    found = []
    for read in (
        torch.get_float32_matmul_precision,
        lambda: torch.backends.cuda.matmul.allow_tf32,
        lambda: torch.backends.cuda.matmul.fp32_precision,
        lambda: torch.backends.mkldnn.matmul.fp32_precision,
        lambda: torch.backends.mkldnn.fp32_precision,
        lambda: torch.backends.fp32_precision,
    ):
        try:
            found.append(read())
        except RuntimeError:  # old and new settings contradict each other
            found.append("contradictory")
    return found


@pytest.mark.parametrize("setting", SETTINGS)
def test_products_stay_exact(demo, defaults, setting):
    """On this CPU bfloat16 products would change forces by some meV/A, if it has any."""
    atoms = dipeptide(0)
    model = model_for(demo, atoms, to_gpu=False, static_shapes=False)
    expected = model.evaluate(atoms.positions), model.response(atoms.positions)
    SETTINGS[setting]()
    before = settings()
    assert reduced_precision() in ("tf32", "bf16")
    got = model.evaluate(atoms.positions), model.response(atoms.positions)
    assert got[0].energy == expected[0].energy
    np.testing.assert_array_equal(got[0].forces, expected[0].forces)
    np.testing.assert_array_equal(got[1].charges, expected[1].charges)
    np.testing.assert_array_equal(got[1].born_charges, expected[1].born_charges)
    assert settings() == before


def test_the_last_thread_restores_the_setting(defaults):
    torch.set_float32_matmul_precision("medium")
    inside, leave = threading.Event(), threading.Event()

    def other():
        with as_written():
            inside.set()
            leave.wait(30)

    thread = threading.Thread(target=other)
    with as_written():
        thread.start()
        assert inside.wait(30)
    assert torch.get_float32_matmul_precision() == "highest"
    leave.set()
    thread.join()
    assert torch.get_float32_matmul_precision() == "medium"
    with contextlib.suppress(KeyError), as_written():
        raise KeyError
    assert torch.get_float32_matmul_precision() == "medium"


def test_a_torchforce_is_refused_where_products_are_not_exact(dipeptide_artifact, defaults):
    torch.set_float32_matmul_precision("high")
    with pytest.raises(InputError, match=r"only a PythonForce .*precision\('highest'\)"):
        create_system(dipeptide_artifact, dipeptide(0), backend="torchforce")
    system = create_system(dipeptide_artifact, dipeptide(0))
    assert isinstance(system.getForce(0), openmm.PythonForce)


def test_the_doctor_tells_of_inexact_products():
    exact = Outcome({"products": "none"})
    assert not list(checks._arithmetic(exact))
    (finding,) = checks._arithmetic(Outcome({"products": "tf32"}))
    assert finding.status == "warning"
    assert "tf32" in finding.text
    assert "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE" in finding.fix


# ------------------------------------------------------------------ fusion


@pytest.fixture
def fusion():
    """TorchScript fuses as it does in a new process, and falls back where there is no GPU."""
    if not torch._C._jit_can_fuse_on_gpu():
        pytest.skip("needs a torch that was built for CUDA (a GPU is not needed)")
    before = torch._C._jit_texpr_fuser_enabled()
    torch._C._jit_set_texpr_fuser_enabled(True)
    with fusion_without_gpu():
        yield
    torch._C._jit_set_texpr_fuser_enabled(before)


def test_groups_that_are_fused_are_counted(fusion):
    @torch.jit.script
    def function(x):
        return (x * 2.0).round() + x.exp()

    trace_on_fake_gpu(function, (4, 3), settings=contextlib.nullcontext)
    assert fused_groups() > 0


EVALUATOR = """
import contextlib
from unittest import mock
import torch
from support.capture import model_for
from support.structures import waters
from support.tracing import fused_groups, fusion_without_gpu, trace_on_fake_gpu
from openmm_les import artifact, catalog
from openmm_les.evaluation.engines import evaluator as engine

demo = artifact.load(catalog.artifact_path("les-demo"))
model = model_for(demo, waters(4, 4, 4), "direct")
evaluator = engine.Evaluator(len(model.numbers), torch.device("cpu"))
evaluator.load(model.module)

def evaluate(*inputs):
    evaluator._inputs.tensors = lambda: list(inputs)
    return evaluator._evaluate()

shapes = (len(model.numbers), 3), (3, 3)
unchanged = contextlib.nullcontext
for patch in unchanged(), mock.patch.object(engine, "as_written", unchanged):
    with fusion_without_gpu(), patch:
        trace_on_fake_gpu(evaluate, *shapes, module=model.module, settings=unchanged)
    print(fused_groups())
"""


def test_the_evaluator_fuses_nothing(fusion, tmp_path):
    """As on a GPU, but for its stream and its copies; in a process where nothing was planned."""
    done = run_code(EVALUATOR, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    as_written, otherwise = map(int, done.stdout.split())
    assert as_written == 0
    assert otherwise > 10


def test_a_torchforce_fuses_nothing(demo, fusion):
    module, n = torchforce_module(demo, OpenTorchForce, "open", warm_up=10)
    module.calls = 10
    forbid_fusion()
    trace_on_fake_gpu(module, (n, 3), settings=contextlib.nullcontext)
    assert fused_groups() == 0


@pytest.mark.torchforce
@pytest.mark.filterwarnings("ignore:backend='torchforce'.*:UserWarning")
def test_a_torchforce_for_a_gpu_forbids_fusion(dipeptide_artifact, fusion):
    create_system(dipeptide_artifact, dipeptide(0), backend="torchforce", cudaGraphs=True)
    assert not torch._C._jit_texpr_fuser_enabled()
