"""Kernels of MACE's convolution against the definition, and their gradients against autograd."""

import itertools

import pytest
import torch
from support.fused import random
from support.messages import is_used

from openmm_les.neighbors.matrix import image_offsets, neighbor_matrix
from openmm_les.networks.blocks.angular import degree_offsets, wigner_3j
from openmm_les.networks.blocks.convolution import message_convolution
from openmm_les.networks.form import Form

LMAX, NODE_LMAX, CHANNELS, FEATURES = 2, 1, 3, 4
PATHS = [
    (node, edge, out)
    for node, edge, out in itertools.product(range(NODE_LMAX + 1), range(LMAX + 1), range(LMAX + 1))
    if abs(node - edge) <= out <= node + edge and (node + edge + out) % 2 == 0
]


WEIGHTS = random(FEATURES, len(PATHS) * CHANNELS, seed=0)
MIXES = [
    random(sum(path[2] == degree for path in PATHS) * CHANNELS, CHANNELS, seed=1 + degree)
    for degree in range(LMAX + 1)
]


def definition(harmonics, features, senders, neighbors) -> torch.Tensor:
    """A_i of shape [S, C, N], path by path."""
    n = len(neighbors)
    first, node_first = degree_offsets(LMAX), degree_offsets(NODE_LMAX)
    nodes = senders.view(n, -1, CHANNELS)[neighbors]
    radial = (features @ WEIGHTS).view(*neighbors.shape, len(PATHS), CHANNELS)
    sums = torch.zeros((LMAX + 1) ** 2, CHANNELS, n, dtype=torch.float64)
    seen = [0] * (LMAX + 1)
    for p, (node, edge, out) in enumerate(PATHS):
        h = nodes[:, :, node_first[node] : node_first[node] + 2 * node + 1]
        y = harmonics[:, :, first[edge] : first[edge] + 2 * edge + 1]
        coupling = torch.tensor(wigner_3j(node, edge, out))
        product = torch.einsum("abc,nkaz,nkb,nkz->ncz", coupling, h, y, radial[:, :, p])
        mix = MIXES[out][seen[out] * CHANNELS : (seen[out] + 1) * CHANNELS]
        seen[out] += 1
        rows = torch.einsum("ncz,zw->cwn", product, mix)
        sums = sums.index_add(0, torch.arange(first[out], first[out] + 2 * out + 1), rows)
    return sums


def structure():
    """A neighbour matrix, Y, phi (equal in both directions of a pair, zero elsewhere) and h."""
    positions, no_cell = random(7, 3, seed=9), torch.zeros(3, 3, dtype=torch.float64)
    matrix = neighbor_matrix(positions, no_cell, False, image_offsets([0, 0, 0]), 2.0, 0)
    slots = tuple(matrix.indices.shape)
    features = random(*slots, FEATURES, seed=11) * is_used(matrix)
    features += reversed_slots(features, matrix.reverse)
    harmonics = random(*slots, (LMAX + 1) ** 2, seed=10)
    return matrix, [harmonics, features, random(7, (NODE_LMAX + 1) ** 2 * CHANNELS, seed=12)]


def reversed_slots(values, reverse) -> torch.Tensor:
    return values.view(len(reverse), -1)[reverse].view_as(values)


@pytest.mark.parametrize("few_kernels", [False, True])
def test_kernel_equals_the_definition(few_kernels):
    matrix, inputs = structure()
    form = Form(torch.float64, few_kernels=few_kernels)
    kernel = message_convolution(WEIGHTS, PATHS, MIXES, CHANNELS, LMAX, NODE_LMAX, form)
    for module in (kernel, torch.jit.script(kernel)):
        sums, tape = module(*inputs, matrix)
        leaves = [tensor.clone().requires_grad_() for tensor in inputs]
        expected = definition(*leaves, matrix.indices)
        torch.testing.assert_close(sums, expected.detach(), rtol=1e-12, atol=1e-12)
        grad = random(*sums.shape, seed=13)
        gradients = torch.autograd.grad((expected * grad).sum(), leaves)
        got = module.backward(grad, tape, matrix.reverse)
        # Harmonics of unused slots do not matter.
        for one, other in zip(got, gradients, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("paths", [PATHS, [path for path in PATHS if path[2] != 1]])
def test_loops_equal_the_grouped_products(paths, threads, monkeypatch):
    """With a degree that has no path, and where threads share even the smallest sums."""
    pytest.importorskip("numba")
    from openmm_les.networks.kernels.numba import workers

    monkeypatch.setattr(workers, "_FEWEST", 1)
    matrix, inputs = structure()
    used = [p for p, path in enumerate(PATHS) if path in paths]
    weights = WEIGHTS.view(FEATURES, -1, CHANNELS)[:, used].flatten(1)
    mixes = [MIXES[d] if any(path[2] == d for path in paths) else MIXES[d][:0] for d in range(3)]
    arguments = weights, paths, mixes, CHANNELS, LMAX, NODE_LMAX
    grouped = message_convolution(*arguments, Form(torch.float64))
    loops = torch.jit.script(message_convolution(*arguments, Form(torch.float64, kernels="numba")))
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        sums, tape = loops(*inputs, matrix)
        grad = random(*sums.shape, seed=13)
        got = loops.backward(grad, tape, matrix.reverse)
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    expected, tape = grouped(*inputs, matrix)
    torch.testing.assert_close(sums, expected, rtol=1e-12, atol=1e-12)
    harmonics, features, senders = grouped.backward(grad, tape, matrix.reverse)
    torch.testing.assert_close(got[0] * is_used(matrix), harmonics, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(got[2], senders, rtol=1e-12, atol=1e-12)
    # Of a pair, one slot has the derivatives of both directions.
    both = [part + reversed_slots(part, matrix.reverse) for part in (got[1], features)]
    both = [part * is_used(matrix) for part in both]
    torch.testing.assert_close(*both, rtol=1e-12, atol=1e-12)
