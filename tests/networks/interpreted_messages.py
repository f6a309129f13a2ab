"""Kernels of the convolution in Triton's interpreter; `test_fused_messages.py` runs this file."""

from dataclasses import replace

import pytest
import torch
from support.fused import assert_close, assert_slopes, random
from support.messages import LAYERS, Layer, is_used, neighbors_of_every_number
from support.triton import patch_interpreter, poison_memory

from openmm_les.networks.kernels.triton.messages import message_gradients, message_sums

patch_interpreter()
poison_memory()

SMALL = Layer(channels=3, lmax=1, node_lmax=1, width=2)


@pytest.mark.parametrize(
    "layer",
    [
        LAYERS["les-demo"],  # that of water has the same paths
        replace(LAYERS["maceles-off"], channels=40, width=17),
        SMALL,
    ],
)
def test_kernels_equal_the_torch_code(layer):
    """Both passes of all paths; blocks of channels and of radial features are full, and not."""
    neighbors = neighbors_of_every_number()
    inputs = layer.inputs(neighbors)
    # In a network they are some of the columns of a table.
    inputs[1] = torch.cat([random(*inputs[1].shape, seed=3), inputs[1]], 2)[:, :, layer.width :]
    kernel = layer.convolution("triton").float()
    sums, tape = torch.jit.script(kernel)(*(tensor.float() for tensor in inputs), neighbors)
    plain = layer.convolution("torch")
    expected, plain_tape = plain(*inputs, neighbors)
    check(sums, expected)

    grad = random(*expected.shape, seed=13)
    got = torch.jit.script(kernel).backward(grad.float(), tape, neighbors.reverse)
    used = is_used(neighbors)
    for one, other in zip(got, plain.backward(grad, plain_tape, neighbors.reverse), strict=True):
        pairs = one.dim() == 3
        check(one, other * used if pairs else other)

    def energy(*inputs):
        return (plain(*inputs, neighbors)[0] * grad).sum()

    assert_slopes(energy, inputs, got, masks=[used, used, torch.ones(1)])


def test_operators_say_what_they_return():
    """And change none of their arguments, nor return one."""
    first, second = SMALL.arguments(SMALL.convolution("triton").float())
    checks = "test_schema", "test_faketensor"
    torch.library.opcheck(message_sums, first, test_utils=checks)
    gradients = [torch.ones_like(each) for each in message_sums(*first)]
    torch.library.opcheck(message_gradients, (gradients, *second), test_utils=checks)


def check(got, expected):
    """Unused slots are exactly zero, which `expected` has there."""
    assert_close(got, expected, 1e-6)
    assert (got[expected == 0] == 0).all()
