"""Models with latent moments in every way of running; see tests/evaluation for their numbers."""

import numpy as np
import openmm
import pytest
import torch
from support.capture import (
    SYSTEMS,
    check_on_fake_gpu,
    model_for,
    pack,
    statuses_after_the_same_work,
)
from support.contexts import COPY_WARNING, create_context, create_system, energy_and_forces
from support.gradients import system_for
from support.helpers import dipeptide
from support.moments import moments_artifact
from support.structures import waters
from support.tracing import trace_on_fake_gpu

pytestmark = pytest.mark.usefixtures("moments_family")
FIELD = np.array([0.11, -0.07, 0.05])


@pytest.fixture(scope="module")
def artifact(moments_family):
    return moments_artifact()


@pytest.fixture(scope="module")
def path(moments_family, tmp_path_factory):
    return moments_artifact("all", tmp_path_factory.mktemp("moments") / "m.les.pt").path


@pytest.mark.parametrize("name", ["open", "direct sum", "mesh"])
def test_a_cuda_graph_can_hold_it(artifact, name, record_property):
    structure, method = SYSTEMS[name]
    atoms = structure()
    made = model_for(artifact, atoms, method)
    assert statuses_after_the_same_work(torch.jit.freeze(made.module), atoms)[0] == 0
    check_on_fake_gpu(made, record_property)


@pytest.mark.parametrize("name", ["open", "direct sum"])
def test_a_cuda_graph_can_hold_a_field(artifact, name):
    structure, method = SYSTEMS[name]
    model = model_for(artifact, structure(), method, electric_field=True)
    module, n = model.module, len(model.numbers)
    _, packed = trace_on_fake_gpu(
        lambda *inputs: pack(module(*inputs)), (n, 3), (3, 3), (3,), module=module
    )
    assert packed.is_cuda


def test_a_mesh_and_as_on_a_gpu(artifact):
    """In both precisions; also with few kernels, and after the box has grown."""
    atoms = waters(4, 4, 3)
    exact = system_for(artifact, atoms, ewald="direct")
    meshed = model_for(artifact, atoms, "mesh", precision="double", ewaldTolerance=1e-7)
    single = model_for(artifact, atoms, "mesh")
    for scale in (1.0, 1.3):
        structure = atoms.positions * scale, atoms.cell.array * scale
        want, fine, coarse = (m.evaluate(*structure) for m in (exact, meshed, single))
        assert fine.energy == pytest.approx(want.energy, abs=1e-6)
        np.testing.assert_allclose(fine.forces, want.forces, atol=1e-6)
        assert coarse.energy == pytest.approx(want.energy, abs=1e-5 * len(atoms))
        np.testing.assert_allclose(coarse.forces, want.forces, atol=3e-4)
        for name, values in vars(want.moments).items():
            np.testing.assert_allclose(getattr(fine.moments, name), values, atol=1e-6)
            np.testing.assert_allclose(getattr(coarse.moments, name), values, atol=1e-4)


def test_capacity_grows(artifact):
    atoms = waters(4, 4, 3)
    model = system_for(artifact, atoms, maxNeighbors=4)
    grown, wanted = (m.evaluate(atoms.positions) for m in (model, system_for(artifact, atoms)))
    assert model.capacity > 4
    np.testing.assert_allclose(grown.forces, wanted.forces, atol=1e-10)


@pytest.mark.torchforce
@pytest.mark.filterwarnings(COPY_WARNING)
@pytest.mark.parametrize("backend", ["pythonforce", "torchforce"])
def test_openmm(path, artifact, backend):
    """Also in a field of either convention; saved and read again where openmm-torch can do so."""
    atoms = dipeptide(0)
    for options in ({}, {"fieldConvention": "consistent"}, {"fieldConvention": "original"}):
        field = {"electricField": 10 * FIELD} if options else {}
        made = create_system(path, atoms, backend=backend, precision="double", **options, **field)
        if backend == "pythonforce":
            made = openmm.XmlSerializer.deserialize(openmm.XmlSerializer.serialize(made))
        found = energy_and_forces(create_context(made, atoms.positions, "Reference"))
        model = system_for(artifact, atoms, electric_field=bool(field), **options)
        expected = model.evaluate(atoms.positions, None, FIELD if field else None)
        assert found[0] == pytest.approx(expected.energy, abs=1e-8)
        np.testing.assert_allclose(found[1], expected.forces, atol=1e-7)
