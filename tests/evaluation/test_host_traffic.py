"""What crosses between host and GPU in a step, on a CPU whose memory stands for both."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from support.helpers import dipeptide
from support.mixed import classical, embedded, peptide_in_water
from torch.utils._python_dispatch import TorchDispatchMode

from openmm_les import SimulationError, catalog
from openmm_les import artifact as artifacts
from openmm_les.evaluation.engines.inputs import Inputs
from openmm_les.evaluation.engines.packing import Layout
from openmm_les.evaluation.system_model import SystemModel
from openmm_les.plugin.forces import present
from openmm_les.units import ANGSTROM_PER_NM, FORCE_PER_EV_PER_ANGSTROM, OPENMM_UNITS

#: Half the last digit of float32, relative to a number.
FLOAT32 = 2.0**-24


class Clock:
    """Counts how often an evaluation begins, and the host waits for its end."""

    def __init__(self):
        self.begins = self.waits = 0

    def begin(self):
        self.begins += 1

    def end(self):
        self.waits += 1

    @property
    def seconds(self):
        return 0.001 * self.waits


class Crossings(TorchDispatchMode):
    """Bytes of every copy from and to memory of the host, and numbers that the host reads."""

    def __init__(self, evaluator):
        super().__init__()
        buffers = evaluator._host_output, evaluator._inputs._host
        self.host = {buffer.untyped_storage().data_ptr() for buffer in buffers}
        self.sizes = []
        self.reads = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        self.reads += name in ("_local_scalar_dense", "item", "nonzero")
        if name == "copy_" and any(t.untyped_storage().data_ptr() in self.host for t in args[:2]):
            self.sizes.append(args[0].numel() * args[0].element_size())
        return func(*args, **(kwargs or {}))


def place_on_gpu(model, monkeypatch, exact=None):
    """Let the evaluator of a model do what it does with a GPU."""
    evaluator = model._evaluator
    layout = evaluator._layout = replace(evaluator._layout, single=True)
    evaluator._host_output = torch.full((layout.size,), torch.nan, dtype=torch.float32)
    evaluator._clock = Clock()
    with monkeypatch.context() as patch:
        patch.setattr(torch.Tensor, "to", lambda tensor, device: tensor.clone())
        evaluator._inputs = Inputs(layout.positions, torch.device("cpu"), exact=exact)
    return evaluator


@pytest.fixture(scope="module")
def demo():
    return artifacts.load(catalog.artifact_path("les-demo"))


@pytest.fixture
def open_model(demo):
    atoms = dipeptide(0)
    return SystemModel(demo, atoms.numbers, periodic=False, positions=atoms.positions)


def test_units_change_on_the_way(open_model):
    positions = dipeptide(0).positions
    expected = open_model.evaluate(positions)
    nanometers = positions / ANGSTROM_PER_NM
    same = open_model.evaluate(nanometers * ANGSTROM_PER_NM)
    got = open_model.evaluate(nanometers, units=OPENMM_UNITS)
    energy, forces = open_model.energy_and_forces(nanometers, units=OPENMM_UNITS)
    assert energy == got.energy == same.energy == pytest.approx(expected.energy, abs=1e-9)
    np.testing.assert_array_equal(got.forces, same.forces * FORCE_PER_EV_PER_ANGSTROM)
    np.testing.assert_array_equal(forces, got.forces)
    np.testing.assert_array_equal(got.charges, same.charges)
    np.testing.assert_array_equal(got.virial, same.virial)


def test_a_simulation_of_a_wrong_structure_names_its_atoms_in_any_unit(open_model):
    positions = dipeptide(0).positions / ANGSTROM_PER_NM
    positions[3] = positions[7]
    with pytest.raises(SimulationError, match="same place") as error:
        open_model.energy_and_forces(positions, units=OPENMM_UNITS)
    assert error.value.atoms == (3, 7)


def test_a_step_brings_back_energy_and_forces_alone(open_model, monkeypatch):
    positions = dipeptide(0).positions
    n = len(positions)
    expected = open_model.evaluate(positions)
    evaluator = place_on_gpu(open_model, monkeypatch)
    with Crossings(evaluator) as crossings:
        energy, forces = open_model.energy_and_forces(positions)
    assert crossings.sizes == [8 * (3 * n + 9 + 4), 8 * 12 + 4 * 3 * n]
    assert (evaluator._clock.begins, evaluator._clock.waits) == (1, 1)
    assert energy == expected.energy
    rounded = expected.forces.astype(np.float32)
    np.testing.assert_array_equal(forces, rounded)
    assert forces.dtype == np.float64

    with Crossings(evaluator) as crossings:
        whole = open_model.evaluate(positions)
    assert crossings.sizes[1:] == [8 * 12 + 4 * 3 * n + 8 * n]
    assert (evaluator._clock.begins, evaluator._clock.waits) == (2, 2)
    assert open_model.seconds == 0.002
    np.testing.assert_array_equal(whole.forces, rounded)
    for name in ("energy", "charges", "virial", "les_energy"):
        np.testing.assert_array_equal(getattr(whole, name), getattr(expected, name))

    # What was returned does not change with the next structure.
    kept = [np.array(values) for values in (forces, whole.forces, whole.charges, whole.virial)]
    open_model.evaluate(positions * 1.01)
    for values, before in zip(
        (forces, whole.forces, whole.charges, whole.virial), kept, strict=True
    ):
        np.testing.assert_array_equal(values, before)


@pytest.mark.parametrize(("positions", "atoms", "rows"), [(1, 1, 1), (5, 5, 1), (6, 3, 4)])
@pytest.mark.parametrize("single", [False, True])
def test_what_is_packed_is_unpacked(positions, atoms, rows, single):
    generator = torch.Generator().manual_seed(1)

    def random(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    latents = random(rows, positions) if rows > 1 else random(positions)
    energy, forces, strain, of_charges = random(), random(positions, 3), random(3, 3), random()
    status = torch.tensor(5)
    layout = Layout(positions, atoms, rows, single)
    results = energy, forces, latents, strain, of_charges, status
    packed = layout.pack(results)
    assert len(packed) == layout.size
    if single:
        forces = forces.float()
    wanted = {
        "status": status,
        "energy": energy,
        "strain derivative": strain,
        "energy of the charges": of_charges,
        "forces": forces,
        "charges": latents[..., :atoms],
    }
    for with_latents in (True, False):
        size = layout.size if with_latents else layout.size_of_forces
        parts = layout.unpack(layout.numbers(packed.numpy()[:size], with_latents))
        assert set(parts) == set(wanted)
        for name, values in wanted.items():
            found = values.numpy().ravel() * (with_latents or name != "charges")
            np.testing.assert_array_equal(parts[name], found)


def test_near_positions_are_nearly_exact():
    rng = np.random.default_rng(0)
    positions = rng.uniform(-12.0, 12.0, (50, 3)) + 300.0
    positions[40] = 1e6
    exact = [7, 3, 20]
    inputs = Inputs(50, torch.device("cpu"), [(3,)], exact)
    cell, field = rng.normal(size=(3, 3)), rng.normal(size=3)
    near = np.abs(positions - positions[7]).max(axis=1) < 16.0
    assert near.sum() > 20
    for length in (1.0, ANGSTROM_PER_NM):
        inputs.send(positions, cell, field, length=length)
        found, box, extra = (tensor.numpy() for tensor in inputs.tensors())
        np.testing.assert_array_equal(found[exact], positions[exact] * length)
        wanted = positions * length
        np.testing.assert_allclose(found[near], wanted[near], rtol=0, atol=5e-7 * length)
        np.testing.assert_allclose(found, wanted, rtol=FLOAT32, atol=2e-6 * length)
        assert np.abs(found[near] - wanted[near]).max() > 1e-8 * length
        np.testing.assert_array_equal(box, cell)
        np.testing.assert_array_equal(extra, field)
    inputs.numbers.mul_(2.0)
    np.testing.assert_allclose(inputs.tensors()[0], 2 * found, rtol=1e-12)
    for wrong in (np.nan, np.inf, -np.inf, 1e250):
        positions[40, 1] = wrong
        inputs.send(positions, cell, field)
        found = inputs.tensors()[0]
        assert not found[40, 1].isfinite()
        assert found[:40].isfinite().all()


def test_mm_positions_cross_in_half_the_bytes(monkeypatch):
    structure = peptide_in_water()
    system = embedded(structure, classical(structure), structure.peptide, precision="single")
    compute = present.models_in(system)[0].compute
    n, positions = len(structure.positions), structure.positions * ANGSTROM_PER_NM
    box = [vector._value for vector in system.getDefaultPeriodicBoxVectors()]
    cell = np.array(box) * ANGSTROM_PER_NM
    model = compute.prepare(compute.artifact(), cell, positions)
    expected = model.evaluate(positions, cell)
    exact = model._exact_positions()
    assert len(exact) < 30 < n
    evaluator = place_on_gpu(model, monkeypatch, exact)
    with Crossings(evaluator) as crossings:
        got = model.evaluate(positions, cell)
    up, down = crossings.sizes
    assert up < 4 * 3 * n + 8 * (3 * 30 + 10)
    assert down < 4 * 3 * n + 8 * (30 + 12)
    assert got.energy == pytest.approx(expected.energy, abs=1e-6)
    # On the region's atoms a network in float32 rounds as much, whatever the difference is.
    np.testing.assert_allclose(got.forces, expected.forces, rtol=FLOAT32, atol=3e-6)
    others = np.setdiff1d(np.arange(n), exact)
    np.testing.assert_allclose(got.forces[others], expected.forces[others], rtol=FLOAT32, atol=5e-7)
    np.testing.assert_allclose(got.charges, expected.charges, rtol=0, atol=1e-7)
    assert got.charges.shape == (n,)
    positions[-1] = np.nan
    with pytest.raises(SimulationError, match="NaN or infinite"):
        model.evaluate(positions, cell)
