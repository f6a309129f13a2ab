"""Triton kernels of the convolution, on machines without a GPU; all of them in the interpreter."""

from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton", reason="torch for a CPU comes without triton")

from support.capture import SYSTEMS, model_for
from support.messages import LAYERS
from support.tracing import Watch, by_name, launches, trace_on_fake_gpu
from support.triton import SHARED_MEMORY, TARGETS, compiled_for, run_interpreted

from openmm_les import artifact as artifacts
from openmm_les import catalog
from openmm_les.networks import build_network
from openmm_les.networks.form import Form
from openmm_les.networks.kernels.triton.convolution import FusedConvolution
from openmm_les.networks.kernels.triton.messages import message_gradients, message_sums

OFF = LAYERS["maceles-off"]
#: Which needs the most registers.
LARGEST = (1, 2, 3)


def test_kernels_equal_the_torch_code():
    """Those of pairs and products, too, since a process takes longer to start than most tests."""
    run_interpreted(*sorted(Path(__file__).parent.glob("interpreted_*.py")))


def check_compiled(paths, capability, layer=OFF):
    """No kernel of both passes spills registers, lacks shared memory, or is waited for."""
    first, second = layer.arguments(layer.convolution("triton", paths=paths).float())
    with Watch("cpu"), compiled_for(capability) as kernels:
        sums = message_sums._init_fn(*first)
        message_gradients._init_fn(sums, *second)
    for compiled in kernels:
        assert compiled.spilled == 0, compiled
        assert compiled.shared <= SHARED_MEMORY, compiled
    return kernels


@pytest.mark.parametrize("capability", [89])
def test_largest_kernels_fit_a_gpu(capability):
    assert len(check_compiled([LARGEST], capability)) == 3


def test_few_channels_are_enough_for_products_of_matrices():
    assert len(check_compiled([(0, 0, 0)], 89, replace(OFF, channels=8, width=5))) == 3


@pytest.mark.slow
@pytest.mark.parametrize("capability", TARGETS)
@pytest.mark.parametrize(
    ("name", "kernels"), [("les-demo", 12), ("water", 12), ("maceles-off", 24)]
)
def test_all_kernels_fit_a_gpu(name, kernels, capability):
    layer = LAYERS[name]
    assert len(check_compiled(layer.paths, capability, layer)) == kernels


# ------------------------------------------------------------------ in a network


@cache
def demo_model(kernels):
    """The bundled model of a small system, as it runs on a GPU, and how many kernels are fused."""
    structure, ewald = SYSTEMS["direct sum"]
    model = model_for(artifacts.load(catalog.artifact_path("les-demo")), structure(), ewald)
    form = Form(torch.float32, kernels=kernels)
    network = build_network(model.artifact.canonical, model._builder._present, form).eval()
    model._builder.network = network
    model.module = model._build()
    return model, sum(isinstance(part, FusedConvolution) for part in network.modules())


def test_a_network_with_kernels_is_the_same():
    """On a CPU, where all parts are torch code, in a script."""
    (plain, none), (fused, one) = demo_model("torch"), demo_model("triton")
    assert (none, one) == (0, 1)
    structure, _ = SYSTEMS["direct sum"]
    atoms = structure()
    inputs = torch.tensor(atoms.positions), torch.tensor(atoms.cell.array)
    for got, expected in zip(fused.module(*inputs), plain.module(*inputs), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


def test_a_network_with_kernels_waits_for_nothing():
    counts = []
    for kernels in ("torch", "triton"):
        model, _ = demo_model(kernels)
        shapes = (len(model.numbers), 3), (3, 3)
        operations, (energy, forces, *_) = trace_on_fake_gpu(model.module, *shapes)
        assert energy.is_cuda
        assert forces.shape == shapes[0]
        names = by_name(operations)
        for operator in ("message_sums", "message_gradients"):
            assert names[f"openmm_les.{operator}.default"] == (kernels == "triton")
        counts.append(launches(operations))
    assert counts[1] < counts[0]
