"""The same answer on a GPU as on the CPU, with and without CUDA graphs, beside OpenMM's own use."""

import copy
import ctypes
import subprocess
import sys
import threading
import time

import numpy as np
import openmm
import pytest
import torch
from openmm import unit
from openmmml import MLPotential
from support.contexts import create_context, create_system, energy_and_forces, evaluate
from support.helpers import dipeptide, topology_from_atoms, water_frame

from openmm_les import SimulationError
from openmm_les import artifact as artifacts
from openmm_les.evaluation.system_model import SystemModel
from openmm_les.plugin.forces.cuda_context import torch_context

pytestmark = pytest.mark.gpu

TOLERANCES = {"single": (2e-6, 2e-4), "double": (1e-9, 1e-8)}
COPY_WARNING = "ignore:backend='torchforce'.*:UserWarning"


def model_of(path, atoms, **options) -> SystemModel:
    periodic = bool(atoms.pbc.all())
    options = {"device": "cuda", "positions": atoms.positions} | options
    return SystemModel(
        artifacts.load(path),
        atoms.numbers,
        periodic=periodic,
        cell=atoms.cell.array if periodic else None,
        **options,
    )


def structure_of(kind):
    return water_frame(0) if kind == "water" else dipeptide(0)


def assert_close(got, expected, precision="single"):
    """Two results of `SystemModel.evaluate`."""
    energy, force = TOLERANCES[precision]
    assert abs(got.energy - expected.energy) / len(expected.forces) < energy
    np.testing.assert_allclose(got.forces, expected.forces, rtol=0, atol=force)
    np.testing.assert_allclose(got.charges, expected.charges, rtol=0, atol=1e-5)
    scale = np.abs(expected.virial).max()
    np.testing.assert_allclose(got.virial, expected.virial, rtol=0, atol=1e-4 * scale + force)


def assert_same(got, expected, precision="single"):
    """Energies and forces of two Contexts."""
    energy, force = TOLERANCES[precision]
    assert abs(got[0] - expected[0]) / len(expected[1]) < energy
    np.testing.assert_allclose(got[1], expected[1], rtol=0, atol=force)


@pytest.mark.parametrize("precision", ["single", "double"])
@pytest.mark.parametrize("kind", ["water", "dipeptide"])
def test_system_model_agrees_with_the_cpu(request, kind, precision):
    path, atoms = request.getfixturevalue(f"{kind}_artifact"), structure_of(kind)
    results = [
        model_of(path, atoms, precision=precision, device=device).evaluate(atoms.positions)
        for device in ("cpu", "cuda")
    ]
    assert_close(*results, precision)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_dynamics_on_the_fastest_platform(water_artifact, device):
    atoms = water_frame(0)
    potential = MLPotential("les", modelPath=water_artifact)
    system = potential.createSystem(topology_from_atoms(atoms), device=device)
    integrator = openmm.LangevinMiddleIntegrator(300, 1, 0.0005)
    context = openmm.Context(system, integrator)
    context.setPositions(atoms.positions * 0.1)
    integrator.step(20)
    energy = context.getState(energy=True).getPotentialEnergy()
    assert np.isfinite(energy.value_in_unit(unit.kilojoule_per_mole))


# ------------------------------------------------------------------ graphs


def structures(atoms):
    """Positions and boxes of one system, back and forth."""
    rng = np.random.default_rng(0)
    periodic = bool(atoms.pbc.all())
    for factor, noise in ((1.0, 0.0), (1.01, 0.05), (1.0, 0.0), (0.99, 0.1), (1.01, 0.1)):
        r = atoms.positions * factor + rng.normal(0, noise, atoms.positions.shape)
        yield r, atoms.cell.array * factor if periodic else None


@pytest.mark.parametrize("ewald", ["direct", "mesh"])
@pytest.mark.parametrize("precision", ["single", "double"])
@pytest.mark.parametrize("kind", ["water", "dipeptide"])
def test_graph_gives_what_the_module_gives(request, kind, precision, ewald):
    path, atoms = request.getfixturevalue(f"{kind}_artifact"), structure_of(kind)
    if kind == "dipeptide" and ewald == "mesh":
        pytest.skip("not periodic")
    options = {"precision": precision, "max_neighbors": 80}
    if kind == "water":
        options["ewald"] = ewald
    without = model_of(path, atoms, cuda_graphs=False, **options)
    graphed = model_of(path, atoms, cuda_graphs=True, **options)
    graphed.evaluate(atoms.positions)
    recorded = graphed._evaluator._graph
    assert recorded is not None
    for r, cell in structures(atoms):
        assert_close(graphed.evaluate(r, cell), without.evaluate(r, cell), precision)
    assert graphed._evaluator._graph is recorded  # the same one for all boxes
    assert without._evaluator._graph is None


@pytest.mark.parametrize("graphs", ["auto", False])
def test_evaluations_are_timed_where_they_run(dipeptide_artifact, graphs):
    """Between two events, which lie within what passes for the host."""
    atoms = dipeptide(0)
    model = model_of(dipeptide_artifact, atoms, cudaGraphs=graphs)
    for _ in range(3):
        begin = time.perf_counter()
        model.evaluate(atoms.positions)
        assert 0.0 < model.seconds < time.perf_counter() - begin


def test_a_new_graph_for_new_buffers(water_artifact):
    atoms = water_frame(0)
    model = model_of(water_artifact, atoms, cuda_graphs=True)
    model.evaluate(atoms.positions)
    first, capacity = model._evaluator._graph, model.capacity
    for scale in (0.8, 1.3, 1.0):  # denser: more neighbours; larger: more reciprocal vectors
        r, cell = atoms.positions * scale, atoms.cell.array * scale
        expected = model_of(water_artifact, atoms, device="cpu").evaluate(r, cell)
        assert_close(model.evaluate(r, cell), expected)
        assert model._evaluator._graph is not None
    assert model._evaluator._graph is not first
    assert model.capacity > capacity


def test_errors_come_through_a_graph(dipeptide_artifact):
    atoms = dipeptide(0)
    model = model_of(dipeptide_artifact, atoms, cuda_graphs=True)
    expected = model.evaluate(atoms.positions)
    broken = atoms.positions.copy()
    broken[3] = broken[8]
    with pytest.raises(SimulationError, match="same place"):
        model.evaluate(broken)
    with pytest.raises(SimulationError, match="NaN or infinite"):
        model.evaluate(atoms.positions * np.nan)
    assert_close(model.evaluate(atoms.positions), expected)


@pytest.mark.parametrize("choice", ["auto", True])
def test_a_module_that_waits_cannot_be_recorded(dipeptide_artifact, caplog, choice):
    atoms = dipeptide(0)
    model = model_of(dipeptide_artifact, atoms, cuda_graphs=choice)
    model.module.neighbors.trim = True
    if choice is True:
        with pytest.raises(SimulationError, match="cudaGraphs=True: this model cannot be recorded"):
            model.evaluate(atoms.positions)
        return
    expected = model_of(dipeptide_artifact, atoms, cuda_graphs=False).evaluate(atoms.positions)
    for _ in range(3):
        assert_close(model.evaluate(atoms.positions), expected)
    assert caplog.text.count("goes on without CUDA graphs") == 1


# What a failed recording would do lasts as long as the process.
FAILED_RECORDING = """
import sys
import torch
sys.path[:0] = {paths!r}
from openmm_les import artifact
from openmm_les.evaluation.system_model import SystemModel
from support.helpers import dipeptide
atoms = dipeptide(0)
model = SystemModel(
    artifact.load({artifact!r}),
    atoms.numbers,
    periodic=False,
    positions=atoms.positions,
    device="cuda",
)
model.module.neighbors.trim = True
torch.cuda.graph = None  # nothing is recorded of what waits for the GPU
for _ in range(3):
    model.evaluate(atoms.positions)
assert torch.cuda.get_sync_debug_mode() == 0
torch.cuda.empty_cache()
before = torch.cuda.memory_reserved()
large = torch.empty(2**26, device="cuda")
del large
torch.cuda.empty_cache()
assert torch.cuda.memory_reserved() == before
print("freed")
"""


def test_memory_is_freed_after_what_cannot_be_recorded(dipeptide_artifact):
    code = FAILED_RECORDING.format(paths=sys.path, artifact=str(dipeptide_artifact))
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.stdout == "freed\n", done.stderr
    assert done.stderr.count("goes on without CUDA graphs (") == 1


def test_tf32_changes_nothing(water_artifact):
    atoms = water_frame(0)
    model = model_of(water_artifact, atoms, cuda_graphs=False)
    expected = model.evaluate(atoms.positions)
    torch.set_float32_matmul_precision("high")
    try:
        got = model.evaluate(atoms.positions)
        graphed = model_of(water_artifact, atoms, cuda_graphs=True)
        recorded = [graphed.evaluate(atoms.positions) for _ in range(3)][-1]
    finally:
        torch.set_float32_matmul_precision("highest")
    np.testing.assert_allclose(got.forces, expected.forces, rtol=0, atol=1e-5)
    np.testing.assert_allclose(recorded.forces, expected.forces, rtol=0, atol=1e-5)


# ------------------------------------------------------------------ in OpenMM


def has_cuda_platform() -> bool:
    count = openmm.Platform.getNumPlatforms()
    return "CUDA" in [openmm.Platform.getPlatform(i).getName() for i in range(count)]


@pytest.fixture(params=["Reference", "CUDA"])
def platform(request):
    if request.param == "CUDA" and not has_cuda_platform():
        pytest.skip("OpenMM has no CUDA platform here (extra `cuda12` or `cuda13`)")
    return request.param


def graphed_system(path, atoms, **options):
    options = {"backend": "pythonforce", "device": "cuda", "cudaGraphs": True} | options
    return create_system(path, atoms, **options)


@pytest.mark.parametrize("precision", ["single", "double"])
def test_contexts_with_graphs(water_artifact, platform, precision):
    """Several Contexts of one System, which share the model, and one that is made again."""
    atoms = water_frame(0)
    expected = evaluate(water_artifact, atoms, precision=precision, device="cpu")
    system = graphed_system(water_artifact, atoms, precision=precision)
    # In single precision OpenMM's CUDA platform rounds positions, and so do the tolerances.
    tolerance = "single" if platform == "CUDA" else precision
    contexts = [create_context(system, atoms.positions, platform) for _ in range(3)]
    for _ in range(3):
        for context in contexts:
            assert_same(energy_and_forces(context), expected, tolerance)
    contexts[0].reinitialize(preserveState=True)
    del contexts[1:]
    assert_same(energy_and_forces(contexts[0]), expected, tolerance)
    again = create_context(copy.deepcopy(system), atoms.positions, platform)
    assert_same(energy_and_forces(again), expected, tolerance)


def test_minimiser_is_the_first_to_ask(water_artifact, platform):
    """It calls from within OpenMM's own CUDA context, which has to be current again afterwards."""
    atoms = water_frame(0)
    context = create_context(graphed_system(water_artifact, atoms), atoms.positions, platform)
    openmm.LocalEnergyMinimizer.minimize(context, 10.0, 20)
    assert energy_and_forces(context)[0] < evaluate(water_artifact, atoms, device="cpu")[0]
    context.setVelocitiesToTemperature(300, 1)
    context.getIntegrator().step(20)
    assert np.isfinite(energy_and_forces(context)[0])


def test_contexts_in_threads(water_artifact, platform):
    def trajectory(context):
        context.getIntegrator().step(20)
        return context.getState(positions=True).getPositions(asNumpy=True)._value

    atoms = water_frame(0)
    system = graphed_system(water_artifact, atoms, precision="double")
    expected = trajectory(create_context(system, atoms.positions, platform))
    contexts = [create_context(system, atoms.positions, platform) for _ in range(2)]
    results = [None, None]

    def run(i):
        results[i] = trajectory(contexts[i])

    threads = [threading.Thread(target=run, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for result in results:
        np.testing.assert_allclose(result, expected, rtol=0, atol=1e-5)


def test_box_that_outgrows_the_buffers(water_artifact, platform):
    atoms = water_frame(0)
    system = graphed_system(water_artifact, atoms)
    context = create_context(system, atoms.positions, platform)
    energy_and_forces(context)
    larger = atoms.copy()
    larger.set_cell(atoms.cell.array * 1.2, scale_atoms=True)
    context.setPeriodicBoxVectors(*(larger.cell.array * 0.1))
    context.setPositions(larger.positions * 0.1)
    expected = evaluate(water_artifact, larger, device="cpu")
    assert_same(energy_and_forces(context), expected)


def test_barostat(water_artifact, platform):
    atoms = water_frame(0)
    system = graphed_system(water_artifact, atoms)
    system.addForce(openmm.MonteCarloBarostat(5000.0, 300.0, 2))
    integrator = openmm.LangevinMiddleIntegrator(300, 10, 0.0005)
    context = create_context(system, atoms.positions, platform, integrator)
    context.setVelocitiesToTemperature(300, 1)
    integrator.step(100)
    state = context.getState(energy=True, forces=True, positions=True)
    final = atoms.copy()
    final.positions = state.getPositions(asNumpy=True)._value * 10.0
    final.cell = np.array(state.getPeriodicBoxVectors()._value) * 10.0
    assert final.get_volume() != pytest.approx(atoms.get_volume(), rel=1e-3)
    expected = evaluate(water_artifact, final, device="cpu")
    assert_same(energy_and_forces(context), expected)


def test_the_caller_has_its_cuda_context_back():
    cuda = ctypes.CDLL("libcuda.so.1")
    torch.cuda.init()
    device, own, current = ctypes.c_int(), ctypes.c_void_p(), ctypes.c_void_p()
    assert cuda.cuDeviceGet(ctypes.byref(device), 0) == 0
    assert cuda.cuCtxCreate_v2(ctypes.byref(own), 0, device) == 0
    try:
        with torch_context("cuda"):
            cuda.cuCtxGetCurrent(ctypes.byref(current))
            assert current.value != own.value
            stream = torch.cuda.Stream()
            with torch.cuda.stream(stream):
                product = torch.ones(64, 64, device="cuda") @ torch.ones(64, 64, device="cuda")
            stream.synchronize()
            assert float(product[0, 0]) == 64
        cuda.cuCtxGetCurrent(ctypes.byref(current))
        assert current.value == own.value
        with pytest.raises(KeyError), torch_context(None):
            raise KeyError
        cuda.cuCtxGetCurrent(ctypes.byref(current))
        assert current.value == own.value
    finally:
        cuda.cuCtxDestroy_v2(own)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_the_second_gpu(water_artifact, platform):
    atoms = water_frame(0)
    system = graphed_system(water_artifact, atoms, device="cuda:1")
    context = create_context(system, atoms.positions, platform)
    expected = evaluate(water_artifact, atoms, device="cpu")
    for _ in range(3):
        assert_same(energy_and_forces(context), expected)


# ------------------------------------------------------------------ TorchForce


@pytest.fixture
def torchforce_context(water_artifact):
    """Makes Contexts of a TorchForce that is recorded."""
    if not has_cuda_platform():
        pytest.skip("OpenMM has no CUDA platform here (extra `cuda12`)")

    def build(atoms, integrator=None, **options):
        options = {"backend": "torchforce", "cudaGraphs": True} | options
        system = create_system(water_artifact, atoms, **options)
        return create_context(system, atoms.positions, "CUDA", integrator)

    return build


@pytest.mark.torchforce
@pytest.mark.filterwarnings(COPY_WARNING)
def test_torchforce_with_graphs(water_artifact, torchforce_context):
    atoms = water_frame(0)
    context = torchforce_context(atoms)
    for r, cell in structures(atoms):
        moved = atoms.copy()
        moved.set_cell(cell)
        moved.positions = r
        context.setPeriodicBoxVectors(*(cell * 0.1))
        context.setPositions(r * 0.1)
        expected = evaluate(water_artifact, moved, backend="pythonforce", device="cpu")
        assert_same(energy_and_forces(context), expected)


@pytest.mark.torchforce
@pytest.mark.filterwarnings(COPY_WARNING)
def test_torchforce_with_a_graph_without_forces(water_artifact, torchforce_context):
    """The integrator asks for the energy alone, for which openmm-torch records a second graph."""
    atoms = water_frame(0)
    integrator = openmm.CustomIntegrator(0.0005)
    integrator.addGlobalVariable("before", 0)
    integrator.addComputePerDof("x", "x")  # what was known of the forces is forgotten
    integrator.addComputeGlobal("before", "energy")
    context = torchforce_context(atoms, integrator)
    expected = evaluate(water_artifact, atoms, backend="pythonforce", device="cpu")
    assert_same(energy_and_forces(context), expected)
    integrator.step(1)
    atoms.rattle(0.05, seed=1)
    context.setPositions(atoms.positions * 0.1)
    expected = evaluate(water_artifact, atoms, backend="pythonforce", device="cpu")
    assert_same(energy_and_forces(context), expected)


@pytest.mark.torchforce
@pytest.mark.filterwarnings(COPY_WARNING)
def test_torchforce_with_graphs_stops_at_first_and_is_nan_later(torchforce_context):
    atoms = water_frame(0)
    with pytest.raises(openmm.OpenMMException, match="maxNeighbors"):
        energy_and_forces(torchforce_context(atoms, maxNeighbors=10))
    context = torchforce_context(atoms)
    assert np.isfinite(energy_and_forces(context)[0])
    for factor in (0.13, 0.1):  # a box outgrown, and the first one again
        context.setPeriodicBoxVectors(*(atoms.cell.array * factor))
        energy, forces = energy_and_forces(context)
        assert np.isnan(energy)
        assert not forces.any()  # NaN would become large numbers in OpenMM's fixed point
    assert np.isfinite(energy_and_forces(torchforce_context(atoms))[0])
