"""Kernels of the convolution in Triton's interpreter; `test_fused_messages.py` runs this file."""

from dataclasses import replace

import pytest
import torch
from support.fused import random
from support.messages import LAYERS, Layer, is_used, neighbors_of_every_number
from support.triton import patch_interpreter

patch_interpreter()


@pytest.fixture(autouse=True)
def poisoned():
    """Let fresh memory be NaN."""
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    assert torch.empty(3).isnan().all()


@pytest.mark.parametrize(
    "layer",
    [
        LAYERS["les-demo"],
        replace(LAYERS["maceles-off"], lmax=2, channels=40, width=17),
        Layer(channels=3, lmax=1, node_lmax=1, width=2),
    ],
)
def test_kernels_equal_the_torch_code(layer):
    """Both passes of all paths; blocks of channels are full, and not."""
    neighbors = neighbors_of_every_number()
    inputs = layer.inputs(neighbors)
    # In a network they are some of the columns of a table.
    inputs[1] = torch.cat([random(*inputs[1].shape, seed=3), inputs[1]], 2)[:, :, layer.width :]
    kernel = layer.convolution("triton").float()
    sums, tape = torch.jit.script(kernel)(*(tensor.float() for tensor in inputs), neighbors)
    plain = layer.convolution("torch")
    expected, plain_tape = plain(*inputs, neighbors)
    assert_close(sums, expected)

    grad = random(*expected.shape, seed=13)
    got = torch.jit.script(kernel).backward(grad.float(), tape, neighbors.reverse)
    used = is_used(neighbors)
    for one, other in zip(got, plain.backward(grad, plain_tape, neighbors.reverse), strict=True):
        pairs = one.dim() == 3
        assert_close(one, other * used if pairs else other)


def assert_close(got, expected):
    """Unused slots are exactly zero, which `expected` has there."""
    scale = expected.abs().max().item()
    torch.testing.assert_close(got, expected.float(), rtol=0, atol=1e-6 * scale)
    assert (got[expected == 0] == 0).all()
