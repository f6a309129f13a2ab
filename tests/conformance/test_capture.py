"""What a CUDA graph holds is right for every structure: proven without a GPU.

The module that runs on a GPU is run on CUDA tensors without data (`tracing`), so that whatever
would wait for the GPU, copy from the host, or depend on a number, fails; and on a CPU with numbers,
where its operations must be the same ones for every structure and box.
"""

import numpy as np
import openmm
import pytest
import torch
from support.capture import (
    READS,
    SYSTEMS,
    check_on_fake_gpu,
    model_for,
    statuses_after_the_same_work,
    torchforce_module,
)
from support.contexts import (
    COPY_WARNING,
    PLATFORMS,
    assert_same,
    create_context,
    create_system,
    energy_and_forces,
    evaluate,
)
from support.helpers import dipeptide
from support.tracing import (
    NotCapturableError,
    launches,
    trace_on_fake_gpu,
    waiting_nodes,
)

from openmm_les import InputError, SimulationError, catalog
from openmm_les import artifact as artifacts
from openmm_les.ase import LESCalculator
from openmm_les.evaluation.engines.evaluator import Evaluator
from openmm_les.evaluation.engines.packing import compare
from openmm_les.evaluation.status import STATUS_BOX, STATUS_OVERFLOW, STATUS_POSITIONS
from openmm_les.neighbors import cells
from openmm_les.plugin.forces.torchforce import OpenTorchForce, PeriodicTorchForce


@pytest.fixture(autouse=True)
def _cells_for_small_systems(monkeypatch):
    monkeypatch.setattr(cells, "FEWEST_ATOMS_GPU", cells.FEWEST_ATOMS)


@pytest.fixture(scope="module")
def demo():
    return artifacts.load(catalog.artifact_path("les-demo"))


@pytest.fixture(scope="module")
def other_artifact(l2_artifact):
    return artifacts.load(l2_artifact)


@pytest.mark.parametrize(
    ("name", "precision"), [*((name, "single") for name in SYSTEMS), ("cells, mesh", "double")]
)
def test_nothing_waits_for_the_gpu(demo, name, precision, record_property):
    structure, ewald = SYSTEMS[name]
    model = model_for(demo, structure(), ewald, precision=precision)
    assert (model.module.neighbors.grid is not None) == ("cells" in name)
    check_on_fake_gpu(model, record_property)


def test_nothing_waits_in_other_models(other_artifact, record_property):
    structure, ewald = SYSTEMS["mesh"]
    check_on_fake_gpu(model_for(other_artifact, structure(), ewald), record_property)


@pytest.mark.parametrize("name", [n for n in SYSTEMS if n not in ("triclinic", "many images")])
def test_work_is_the_same_for_every_structure(demo, name):
    structure, ewald = SYSTEMS[name]
    atoms = structure()
    model = model_for(demo, atoms, ewald)
    statuses = statuses_after_the_same_work(model.module, atoms)
    assert statuses[0] == 0
    if len(atoms) > 100:
        assert statuses[4] & STATUS_OVERFLOW
    assert bool(statuses[5] & STATUS_BOX) == bool(atoms.pbc.all())
    assert statuses[6] & STATUS_POSITIONS


@pytest.mark.parametrize("name", ["open", "mesh"])
def test_frozen_module_does_so_too(demo, name):
    """openmm-torch freezes modules."""
    structure, ewald = SYSTEMS[name]
    atoms = structure()
    module = torch.jit.freeze(model_for(demo, atoms, ewald).module)
    assert not list(waiting_nodes(module.inlined_graph))
    assert statuses_after_the_same_work(module, atoms)[0] == 0


# ------------------------------------------------------------------ the detector detects


def test_a_model_that_trims_is_noticed(demo):
    """What a CPU does: it reads how many slots a structure needs."""
    for name in ("open", "cells"):
        structure, ewald = SYSTEMS[name]
        model = model_for(demo, structure(), ewald, static_shapes=False)
        assert list(waiting_nodes(model.module.inlined_graph))
        with pytest.raises(NotCapturableError, match=READS):
            trace_on_fake_gpu(model.module, (len(model.numbers), 3), (3, 3))


class Wrong:
    """Scripts with one fault each."""

    def item(x):
        return x * x.max().item()

    def number(x):
        return x[: int(x.max())]

    def truth(x):
        return x if bool(x.max() > 0) else -x

    def places(x):
        return torch.nonzero(x)

    def masked(x):
        return torch.masked_select(x, x > 0)

    def by_mask(x):
        return x[x > 0]

    def assigned_by_mask(x):
        x[x > 0] = x[0, 0]
        return x

    def different(x):
        return torch._unique2(x)[0]

    def counted(x):
        return torch.bincount(x.to(torch.int64).view(-1))

    def repeated(x):
        return torch.repeat_interleave(x[:, 0], x[:, 0].to(torch.int64))

    def equal(x):
        return x if torch.equal(x, x + 1) else -x

    def inverse(x):
        return torch.linalg.inv(x[:3])

    def to_host(x):
        return x.cpu()

    def to_host_and_back(x):
        return x.to("cpu").to(x.device)

    def constant(x):
        return x * torch.tensor([1.0, 2.0, 3.0]).to(x.device)

    def constant_on_device(x):
        return x * torch.tensor([1.0, 2.0, 3.0], device=x.device)

    def range_of_host(x):
        return x * torch.arange(3)

    def number_of_host(x):
        return x * torch.ones([])

    def as_list(x) -> list[float]:
        result: list[float] = x[0].tolist()
        return result


@pytest.mark.parametrize("fault", [name for name in vars(Wrong) if name[0] != "_"])
def test_faults_are_noticed(fault):
    script = torch.jit.script(vars(Wrong)[fault])
    with pytest.raises((NotCapturableError, RuntimeError)):
        trace_on_fake_gpu(script, (4, 3))


def test_what_is_right_is_no_fault():
    @torch.jit.script
    def right(x):
        here = torch.arange(3, device=x.device) * torch.full([3], 2, device=x.device)
        x = torch.where(x > 0, x, torch.zeros_like(x))
        x.masked_fill_(x > 1, 2.0)
        return x[here.clamp(max=2)] * x[0, 1]

    operations, result = trace_on_fake_gpu(right, (4, 3))
    assert result.is_cuda
    assert launches(operations) == 11


# ------------------------------------------------------------------ TorchForce


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("kind", "name"), [(OpenTorchForce, "open"), (PeriodicTorchForce, "direct sum")]
)
def test_torchforce_reads_only_before_it_is_recorded(demo, kind, name, dtype):
    module, n = torchforce_module(demo, kind, name, warm_up=10)
    shapes = [(n, 3)] if kind is OpenTorchForce else [(n, 3), (3, 3)]
    with pytest.raises(NotCapturableError, match=READS):
        trace_on_fake_gpu(module, *shapes, dtype=dtype)
    module.calls = 10
    results = []
    trace_on_fake_gpu(lambda *x: results.append(module(*x)), *shapes, module=module, dtype=dtype)
    energy, forces = results[0]
    assert energy.shape == ()
    assert (forces.shape, forces.dtype) == ((n, 3), dtype)
    # A second graph puts its results where the first one does.
    assert results[1][0] is energy
    assert results[1][1] is forces


def test_torchforce_without_graphs_always_reads(demo):
    module, n = torchforce_module(demo, OpenTorchForce, "open", warm_up=0)
    module.calls = 1000
    assert len(list(waiting_nodes(torch.jit.freeze(module.eval()).inlined_graph))) == 1
    with pytest.raises(NotCapturableError, match=READS):
        trace_on_fake_gpu(module, (n, 3))


def test_frozen_torchforces_have_their_own_results(demo):
    """openmm-torch freezes the module once for each Context."""
    module, n = torchforce_module(demo, OpenTorchForce, "open", warm_up=10)
    one, other = torch.jit.freeze(module.eval()), torch.jit.freeze(module.eval())
    (reading,) = waiting_nodes(one.inlined_graph)
    assert any(node.kind() == "prim::If" for node in reading[1])
    one.calls = 10
    one.forces_out = torch.ones(n, 3)
    assert (other.calls, module.calls) == (0, 0)
    assert other.forces_out.dim() == module.forces_out.dim() == 0


@pytest.mark.torchforce
@pytest.mark.filterwarnings(COPY_WARNING)
@pytest.mark.parametrize("platform", PLATFORMS)
def test_platforms_without_graphs_ignore_them(dipeptide_artifact, platform):
    atoms = dipeptide(0)
    system = create_system(dipeptide_artifact, atoms, backend="torchforce", cudaGraphs=True)
    xml = openmm.XmlSerializer.serialize(system)
    assert '<Property name="useCUDAGraphs" value="true"/>' in xml
    assert '<Property name="CUDAGraphWarmupSteps" value="10"/>' in xml
    context = create_context(system, atoms.positions, platform)
    expected = evaluate(dipeptide_artifact, atoms)
    for _ in range(12):  # more than the warm-up
        assert_same(energy_and_forces(context), expected, "single")
    atoms.positions[5] = atoms.positions[2]
    context.setPositions(atoms.positions * 0.1)
    with pytest.raises(openmm.OpenMMException, match="same place"):
        energy_and_forces(context)


@pytest.mark.torchforce
@pytest.mark.filterwarnings(COPY_WARNING)
@pytest.mark.parametrize("choice", ["auto", False])
def test_torchforce_takes_no_graphs_by_itself(dipeptide_artifact, choice):
    options = {"backend": "torchforce", "cudaGraphs": choice}
    system = create_system(dipeptide_artifact, dipeptide(0), **options)
    assert 'name="useCUDAGraphs" value="false"' in openmm.XmlSerializer.serialize(system)


# ------------------------------------------------------------------ the option, and what fails


@pytest.mark.parametrize("value", ["yes", 1, None])
def test_wrong_values_are_refused(dipeptide_artifact, value):
    message = "cudaGraphs: expected 'auto' or True or False, got"
    with pytest.raises(InputError, match=message):
        create_system(dipeptide_artifact, dipeptide(0), cudaGraphs=value)
    with pytest.raises(InputError, match=message):
        LESCalculator(dipeptide_artifact, cuda_graphs=value)


def test_a_cpu_has_no_graphs(dipeptide_artifact):
    message = "cudaGraphs: True needs a CUDA device, got device 'cpu'"
    options = {"backend": "pythonforce", "device": "cpu", "cudaGraphs": True}
    with pytest.raises(InputError, match=message):
        create_system(dipeptide_artifact, dipeptide(0), **options)
    with pytest.raises(InputError, match=message):
        LESCalculator(dipeptide_artifact, device="cpu", cuda_graphs=True)
    for choice in ("auto", False):
        evaluate(dipeptide_artifact, dipeptide(0), device="cpu", cudaGraphs=choice)


def results(forces, charges, energy=-1.0, status=0.0):
    named = {"status": status, "energy": energy, "forces": forces, "charges": charges}
    return {name: np.array(values) for name, values in named.items()}


def test_comparison_of_graph_and_module():
    rng = np.random.default_rng(0)
    forces, charges = rng.normal(size=(5, 3)), rng.normal(size=5)
    expected = results(forces, charges)
    compare(expected, results(forces * (1 + 1e-5), charges * (1 - 1e-5)))
    compare(*[results(forces * np.nan, charges * np.nan, np.nan)] * 2)
    compare(results(0 * forces, 0 * charges), results(0 * forces + 1e-8, 0 * charges - 1e-8))
    with pytest.raises(RuntimeError, match="it gives other forces than the module"):
        compare(expected, results(forces * 1.01, charges))
    with pytest.raises(RuntimeError, match="other charges"):
        compare(expected, results(forces, charges[::-1]))
    with pytest.raises(RuntimeError, match="other energy"):
        compare(expected, results(forces, charges, energy=np.nan))
    with pytest.raises(RuntimeError, match="other status"):
        compare(expected, results(forces, charges, status=1.0))


@pytest.mark.parametrize("choice", ["auto", True])
def test_what_cannot_be_recorded(demo, caplog, choice):
    """Here because the module runs on a CPU: no graph holds that."""
    atoms = dipeptide(0)
    model = model_for(demo, atoms)
    evaluator = Evaluator(len(atoms), torch.device("cpu"))
    evaluator.load(model.module)
    evaluator._graphs = choice
    if choice is True:
        message = "cudaGraphs=True: this model cannot be recorded as a CUDA graph"
        with pytest.raises(SimulationError, match=message):
            evaluator(atoms.positions, np.zeros((3, 3)))
        return
    expected = model.evaluate(atoms.positions)
    for _ in range(2):
        energy, forces, charges, virial, status = evaluator(atoms.positions, np.zeros((3, 3)))
        assert (energy, status) == (expected.energy, 0)
        np.testing.assert_array_equal(forces, expected.forces)
        np.testing.assert_array_equal(charges, expected.charges)
        np.testing.assert_array_equal(virial, expected.virial)
    assert caplog.text.count("cudaGraphs='auto': goes on without CUDA graphs (") == 1
