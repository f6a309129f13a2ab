"""Convolutions of the sizes of known models with random weights, and neighbours of every number."""

import itertools
from dataclasses import dataclass
from typing import Any

import torch
from support.fused import random

from openmm_les.neighbors.matrix import Neighbors, image_offsets, neighbor_matrix
from openmm_les.networks.blocks.convolution import message_convolution
from openmm_les.networks.form import Form
from openmm_les.networks.kernels import Kernels


@dataclass(frozen=True)
class Layer:
    """A later layer of MACE."""

    channels: int
    lmax: int
    node_lmax: int
    width: int  #: of the radial features

    @property
    def paths(self) -> list[tuple[int, int, int]]:
        """Degrees of node, edge and output."""
        degrees = range(self.lmax + 1)
        return [
            (node, edge, out)
            for node, edge, out in itertools.product(range(self.node_lmax + 1), degrees, degrees)
            if abs(node - edge) <= out <= node + edge and (node + edge + out) % 2 == 0
        ]

    def convolution(self, kernels: Kernels, paths=None) -> Any:
        """Of some of the paths, by default all of them."""
        channels, paths = self.channels, paths or self.paths
        rows = [sum(out == degree for _, _, out in paths) for degree in range(self.lmax + 1)]
        return message_convolution(
            random(self.width, len(paths) * channels, seed=1) / self.width**0.5,
            paths,
            [random(n * channels, channels, seed=2 + n) / channels**0.5 for n in rows],
            channels,
            self.lmax,
            self.node_lmax,
            Form(torch.float32, kernels=kernels),
        )

    def inputs(self, neighbors: Neighbors) -> list[torch.Tensor]:
        """Harmonics, radial features and node features."""
        n, k = neighbors.indices.shape
        return [
            random(n, k, (self.lmax + 1) ** 2, seed=10),
            random(n, k, self.width, seed=11) * is_used(neighbors),
            random(n, (self.node_lmax + 1) ** 2 * self.channels, seed=12),
        ]

    def arguments(self, kernel) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        """Of both operators of a `FusedConvolution`; the second takes gradients before them."""
        neighbors = neighbors_of_every_number()
        harmonics, features, senders = (tensor.float() for tensor in self.inputs(neighbors))
        inputs = kernel._angular(harmonics), features, senders, neighbors.indices, neighbors.used
        weights = kernel.weights, kernel.degrees
        return (
            (*inputs, *weights, kernel.lmax, kernel.tiles),
            (*inputs, neighbors.reverse, *weights, kernel.tiles),
        )


LAYERS = {
    "les-demo": Layer(channels=32, lmax=3, node_lmax=0, width=32),
    "water": Layer(channels=128, lmax=3, node_lmax=0, width=17),
    "maceles-off": Layer(channels=192, lmax=3, node_lmax=1, width=64),
}


def is_used(neighbors: Neighbors) -> torch.Tensor:
    """Which slots hold neighbours, [N, K, 1]."""
    slots = torch.arange(neighbors.indices.shape[1])
    return (slots < neighbors.used.unsqueeze(1)).unsqueeze(2)


def neighbors_of_every_number() -> Neighbors:
    """Of an atom with as many neighbours as there are slots, of others, and of a lone one.

    They are periodic, so that images of an atom are among its neighbours.
    """
    cell = torch.diag(torch.tensor([7.0, 3.0, 2.9], dtype=torch.float64))
    positions = torch.tensor([[0.0, 0, 0], [0.9, 1.1, 0.4], [3.1, 0.2, 1.3]], dtype=torch.float64)
    near = neighbor_matrix(positions, cell, True, image_offsets([1, 2, 2]), 4.2, 0)
    n, k = near.indices.shape
    return near._replace(
        indices=torch.cat([near.indices, torch.full([1, k], n)]),
        reverse=torch.cat([near.reverse, torch.arange(n * k, (n + 1) * k)]),
        used=torch.cat([near.used, torch.zeros(1, dtype=torch.int64)]),
    )
