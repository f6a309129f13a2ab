"""What modules for a GPU do beyond small systems, and before and after recording: without a GPU.

Fewer kernels or less arithmetic, one block or several, cells or all pairs, for networks of every
family: on CUDA tensors without data nothing may wait, and on a CPU all give the same numbers.
"""

import contextlib

import numpy as np
import openmm
import pytest
import torch
from openmm import app
from openmm_les_export import read_model
from oracles.cace_models import synthetic_cace
from oracles.chgnet_models import synthetic_chgnet
from oracles.nequip_models import synthetic_allegro, synthetic_nequip
from support.capture import model_for, pack, torchforce_module
from support.contexts import PLATFORMS
from support.helpers import dipeptide
from support.structures import waters
from support.tracing import NotCapturableError, launches, trace_on_fake_gpu

from openmm_les import SimulationError, catalog
from openmm_les import artifact as artifacts
from openmm_les.evaluation import builder
from openmm_les.evaluation.engines import evaluator
from openmm_les.evaluation.engines.evaluator import Evaluator
from openmm_les.evaluation.system_model import SystemModel
from openmm_les.neighbors import cells
from openmm_les.networks.blocks import blocking
from openmm_les.networks.blocks.blocking import GPU_ELEMENTS, fit_blocks, gpu_elements
from openmm_les.networks.blocks.product_basis import _DenseForms, _SplitForms
from openmm_les.plugin.forces.torchforce import OpenTorchForce, _load_kernels

CHARGES = {"norm_factor": 9.05, "self_interaction": "removed"}


FAMILIES = {
    "les-demo": lambda folder: None,
    "nequip": lambda folder: read_model(synthetic_nequip(folder / "x.ckpt"), **CHARGES),
    "allegro": lambda folder: read_model(synthetic_allegro(folder / "a.ckpt"), **CHARGES),
    "cace": lambda folder: read_model(
        synthetic_cace(folder / "x.pth", messages=1), atomic_energies={1: -13.0, 8: -430.0}
    ),
    "chgnet": lambda folder: read_model(
        synthetic_chgnet(folder / "chgnet"), self_interaction="removed"
    ),
}


@pytest.fixture(scope="module")
def demo():
    return artifacts.load(catalog.artifact_path("les-demo"))


@pytest.fixture(scope="module", params=FAMILIES)
def any_artifact(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("family")
    model = FAMILIES[request.param](folder)
    if model is None:
        return artifacts.load(catalog.artifact_path("les-demo"))
    return artifacts.Artifact.unsaved(model, folder / "x.les.pt")


@contextlib.contextmanager
def variant(few, elements):
    """Systems of any size with few kernels, or not; in blocks of so many elements, or one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(builder, "_FEW_PAIRS", 2**40 if few else 0)
        if elements:
            for name in ("CPU_ELEMENTS", "GPU_ELEMENTS"):
                patch.setattr(blocking, name, elements)
            patch.setattr(blocking, "gpu_elements", lambda cache: elements)
        yield


#: Few kernels in several blocks, and many in one or in several.
VARIANTS = [(True, True), (False, False), (False, True)]


def traced(model):
    module, n = model.module, len(model.numbers)
    operations, packed = trace_on_fake_gpu(
        lambda positions, cell: pack(module(positions, cell)), (n, 3), (3, 3), module=module
    )
    assert packed.is_cuda
    return launches(operations)


def test_every_variant_of_every_family_waits_for_nothing(any_artifact):
    """And gives the same numbers as on a CPU, where shapes vary from structure to structure."""
    atoms = waters(2, 2, 2)
    options = {"precision": "double", "ewald": "direct"}
    expected_model = model_for(any_artifact, atoms, to_gpu=False, static_shapes=False, **options)
    expected = expected_model.evaluate(atoms.positions)
    counts = {}
    # Several blocks, and not hundreds.
    elements = 30_000 if any_artifact.canonical.family in ("mace", "chgnet") else 2_000
    parts = model_for(any_artifact, atoms, **options).network.modules()  # not loops for a CPU
    in_blocks = any(isinstance(getattr(part, "limits", None), list) for part in parts)
    for few, blocks in VARIANTS if in_blocks else [(False, False)]:
        with variant(few, elements if blocks else 0):
            model = model_for(any_artifact, atoms, **options)
        got = model.evaluate(atoms.positions)
        assert got.energy == pytest.approx(expected.energy, abs=1e-8)
        np.testing.assert_allclose(got.forces, expected.forces, rtol=0, atol=1e-8)
        np.testing.assert_allclose(got.charges, expected.charges, rtol=0, atol=1e-9)
        np.testing.assert_allclose(got.virial, expected.virial, rtol=0, atol=1e-7)
        counts[few, blocks] = traced(model)
    if in_blocks:
        assert counts[False, True] > counts[False, False]  # there were several
    if any_artifact.canonical.family == "mace":
        assert counts[False, True] > counts[True, True]


def test_cells_in_blocks_wait_for_nothing(demo, monkeypatch):
    monkeypatch.setattr(cells, "FEWEST_ATOMS_GPU", cells.FEWEST_ATOMS)
    with variant(False, 1_500_000):
        model = model_for(demo, waters(6, 6, 6), "mesh")
    assert model.module.neighbors.grid is not None
    assert traced(model) > 200


def test_the_variant_follows_the_capacity(demo):
    """A PythonForce has no positions when it is made, and begins with a small capacity."""
    atoms = waters(5, 5, 5)
    model = SystemModel(
        demo, atoms.numbers, periodic=True, cell=atoms.cell.array, to_gpu=True, static_shapes=True
    )

    def forms():
        product = model.network.first_update.product
        return type(product.forms)

    assert (model.capacity, forms()) == (16, _DenseForms)
    got = model.evaluate(atoms.positions)
    assert model.capacity * len(atoms) > builder._FEW_PAIRS
    assert forms() is _SplitForms
    ordinary = model_for(demo, atoms, to_gpu=False, static_shapes=False)
    expected = ordinary.evaluate(atoms.positions)
    np.testing.assert_allclose(got.forces, expected.forces, rtol=0, atol=1e-4)
    kept = model.network
    model._build()
    assert model.network is kept


# ------------------------------------------------------------------ the size of blocks


@pytest.mark.parametrize(
    ("megabytes", "elements"),
    [(0, GPU_ELEMENTS), (4, GPU_ELEMENTS), (40, 2**21), (50, 2**21), (72, 2**22), (128, 2**23)],
)
def test_blocks_fit_the_cache(megabytes, elements):
    cache = megabytes * 2**20
    assert gpu_elements(cache) == elements
    assert cache < 2**24 or 4 * elements <= cache / 4


def test_blocks_are_those_of_the_device(demo, monkeypatch):
    class Properties:
        L2_cache_size = 72 * 2**20

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: Properties)
    model = model_for(demo, dipeptide(0))
    network = model.network
    assert network.first.limits == [blocking.CPU_ELEMENTS, 2**22]
    fit_blocks(network, torch.device("cuda:0"))
    assert network.first.limits == [blocking.CPU_ELEMENTS, 2**22]


# ------------------------------------------------------------------ before a recording


@pytest.mark.parametrize("choice", ["auto", True])
def test_what_waits_is_known_before_it_is_recorded(demo, monkeypatch, caplog, choice):
    """A recording that fails harms torch's allocator for the rest of the process."""
    atoms = dipeptide(0)
    model = model_for(demo, atoms)
    modes = [0]
    began = []

    def waits(*inputs):
        if modes[-1] == "error":
            raise RuntimeError("called a synchronizing CUDA operation")
        return model.module(*inputs)

    monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: None)
    monkeypatch.setattr(torch.cuda, "graph", lambda *args, **kwargs: began.append(args))
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(torch.cuda, "get_sync_debug_mode", lambda: modes[-1])
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", modes.append)
    calls = Evaluator(len(atoms), torch.device("cpu"))
    calls.load(waits)
    calls._graphs = choice
    if choice is True:
        with pytest.raises(SimulationError, match=r"recorded .*a synchronizing CUDA operation"):
            calls(atoms.positions, np.zeros((3, 3)))
    else:
        calls(atoms.positions, np.zeros((3, 3)))
        assert "goes on without CUDA graphs (called a synchronizing CUDA" in caplog.text
    assert modes == [0, "error", 0]
    assert not began


@pytest.mark.parametrize("wrong", ["", "first structure", "second structure"])
def test_a_graph_is_compared_with_ordinary_calls(demo, monkeypatch, caplog, wrong):
    """Those before the recording: what is wrong from the second call on is noticed."""
    atoms = dipeptide(0)
    model = model_for(demo, atoms)
    calls = Evaluator(len(atoms), torch.device("cpu"))
    made = []

    def module(*inputs):
        made.append(inputs)
        energy, *rest = model.module(*inputs)
        is_stretched = not torch.equal(inputs[0], torch.from_numpy(atoms.positions))
        late = len(made) > (2 if is_stretched else 1)
        fault = late and wrong == ("second structure" if is_stretched else "first structure")
        return energy + float(fault), *rest

    class Graph:
        """Does again what was done when it was recorded, into the same memory."""

        def replay(self):
            output.copy_(calls._evaluate())

    output = None

    @contextlib.contextmanager
    def record(graph, **options):
        yield

    def evaluate(self, evaluate=Evaluator._evaluate):
        nonlocal output
        result = evaluate(self)
        if len(made) == 3 + evaluator._WARM_UP + 1:  # the one that is recorded
            output = result
        return result

    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", record)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(torch.cuda, "get_sync_debug_mode", lambda: 0)
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", lambda mode: None)
    monkeypatch.setattr(Evaluator, "_evaluate", evaluate)
    calls.load(module)
    calls._graphs = "auto"
    calls(atoms.positions, np.zeros((3, 3)))
    if wrong:
        assert "it gives other energy than the module, different by up to 1" in caplog.text
        assert calls._graph is None
    else:
        assert not caplog.text
        assert calls._graph is not None


# ------------------------------------------------------------------ TorchForce, once recorded


@pytest.fixture
def recorded(demo):
    """As it runs in a CUDA graph, on a CPU."""
    module, n = torchforce_module(demo, OpenTorchForce, "open", warm_up=2)
    module.recorded_on = "cpu"
    atoms = dipeptide(0)
    positions = np.zeros((n, 3))
    positions[2 : 2 + len(atoms)] = atoms.positions * 0.1
    broken = positions.copy()
    broken[7] = broken[5]
    return module, positions, broken


def test_a_recorded_torchforce_fails_for_good(recorded):
    module, positions, broken = (torch.tensor(x) if i else x for i, x in enumerate(recorded))
    with pytest.raises(torch.jit.Error, match="same place"):
        module(broken)
    expected = [result.clone() for result in module(positions)]
    module(positions)
    got = module(positions)
    assert torch.equal(got[0], expected[0])
    assert torch.equal(got[1], expected[1])
    assert got[1].any()
    for structure in (broken, positions, positions):
        energy, forces = module(structure)
        assert torch.isnan(energy)
        assert not forces.any()


@pytest.mark.torchforce
@pytest.mark.parametrize("platform", PLATFORMS)
def test_a_reporter_stops_a_recorded_torchforce_that_failed(recorded, platform):
    import openmmtorch

    _load_kernels()
    module, positions, broken = recorded
    system = openmm.System()
    for _ in positions:
        system.addParticle(10.0)
    force = openmmtorch.TorchForce(module)
    force.setOutputsForces(True)
    system.addForce(force)
    topology = app.Topology()
    residue = topology.addResidue("X", topology.addChain())
    for _ in positions:
        topology.addAtom("X", None, residue)
    simulation = app.Simulation(
        topology,
        system,
        openmm.VerletIntegrator(0.0001),
        openmm.Platform.getPlatformByName(platform),
    )
    simulation.context.setPositions(positions)
    simulation.step(5)
    simulation.context.setPositions(broken)
    simulation.step(1)
    simulation.context.setPositions(positions)
    simulation.step(20)  # which nothing stops, and nothing moves either
    state = simulation.context.getState(energy=True, forces=True, positions=True)
    assert np.isnan(state.getPotentialEnergy()._value)
    assert not state.getForces(asNumpy=True)._value.any()
    moved = state.getPositions(asNumpy=True)._value - positions
    assert np.abs(moved).max() < 0.1
    reporter = app.StateDataReporter("/dev/null", 5, potentialEnergy=True)
    simulation.reporters.append(reporter)
    with pytest.raises(ValueError, match="Energy is NaN"):
        simulation.step(10)


def test_forces_may_be_as_large_as_a_minimiser_finds_them(demo):
    """Its trial steps bring atoms close to each other, and are given up."""
    atoms = dipeptide(0)
    model = model_for(demo, atoms, to_gpu=False, static_shapes=False)
    close = atoms.positions.copy()
    close[3] = close[8] + [0.02, 0.0, 0.0]
    result = model.evaluate(close)
    assert np.isfinite(result.forces).all()


def test_the_detector_still_detects(demo):
    model = model_for(demo, dipeptide(0), static_shapes=False)
    with pytest.raises(NotCapturableError):
        traced(model)
