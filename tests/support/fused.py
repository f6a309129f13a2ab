"""Parts of networks that have kernels, of the sizes of known models, with random weights."""

from dataclasses import dataclass
from itertools import combinations_with_replacement
from typing import Any

import numpy as np
import torch
from support.pairs import random_box

from openmm_les.neighbors.matrix import Neighbors, image_offsets, neighbor_matrix
from openmm_les.networks.blocks.geometry import pair_geometry
from openmm_les.networks.blocks.product_basis import product_basis
from openmm_les.networks.blocks.radial import TabulatedRadial
from openmm_les.networks.form import Form
from openmm_les.networks.kernels import Kernels

_CUTOFF = 4.5


def random(*shape, seed) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


def assert_close(got, expected, tolerance) -> None:
    """Within a tolerance relative to the largest number."""
    atol = tolerance * expected.abs().max().item()
    torch.testing.assert_close(got, expected.to(got.dtype), rtol=0, atol=atol)


def assert_slopes(energy, inputs, gradients, masks=None, tolerance=1e-6) -> None:
    """Each gradient is that of `energy`, in float64, by central differences along a direction.

    Args:
        energy: of all `inputs`.
        gradients: of the first inputs.
        masks: where those may change; None: everywhere.
        tolerance: relative to the sum of what the numbers of a gradient contribute at most.
    """
    for place, gradient in enumerate(gradients):
        direction = random(*inputs[place].shape, seed=30 + place)
        if masks is not None:
            direction = direction * masks[place]
        before, value, after = inputs[:place], inputs[place], inputs[place + 1 :]
        step = 1e-5 * direction
        difference = energy(*before, value + step, *after) - energy(*before, value - step, *after)
        parts = gradient.double() * direction
        assert abs(parts.sum() - difference / 2e-5) < tolerance * parts.abs().sum()


@dataclass(frozen=True)
class Table:
    """Pair geometry with tabulated radial features."""

    lmax: int
    width: int  #: of the radial features
    num_tables: int = 1  #: functions of the distance, of two species

    def geometry(self, kernels: Kernels, dtype: torch.dtype = torch.float32) -> Any:
        r = torch.linspace(0, 1, 64, dtype=torch.float64).view(-1, 1)
        k = 2 * torch.pi * random(self.num_tables, 1, self.width, seed=0)
        values, slopes = torch.sin(k * r), k * torch.cos(k * r) / _CUTOFF
        tables = torch.arange(4) % self.num_tables
        radial = TabulatedRadial(values, slopes, _CUTOFF, tables, dtype)
        kinds = 2 if self.num_tables > 1 else 0
        return pair_geometry(radial, self.lmax, kinds, kernels).to(dtype)

    def structure(self) -> tuple[torch.Tensor, Neighbors, torch.Tensor]:
        """Positions, neighbours with slots to spare, and species."""
        atoms = random_box(np.eye(3) * 9.5, atoms=9)
        positions, cell = torch.tensor(atoms.positions), torch.tensor(atoms.cell.array)
        matrix = neighbor_matrix(positions, cell, True, image_offsets([0, 0, 0]), _CUTOFF, 9)
        return positions, matrix, torch.tensor([0] * 4 + [1] * 5)


@dataclass(frozen=True)
class Products:
    """A product basis of three species."""

    lmax: int
    output_lmax: int
    channels: int = 2

    @property
    def components(self) -> int:
        return (self.lmax + 1) ** 2

    def module(self, kernels: Kernels) -> Any:
        """With coefficients of monomials of the parity of the outputs."""
        is_odd = [0] + [d % 2 for d in range(self.lmax + 1) for _ in range(2 * d + 1)]
        monomials = combinations_with_replacement(is_odd, 3)
        parity = torch.tensor([sum(monomial) % 2 for monomial in monomials])
        degrees = range(self.output_lmax + 1)
        bases = [
            random(2, 2 * d + 1, len(parity), seed=d) * (parity == d % 2) / len(parity) ** 0.5
            for d in degrees
        ]
        weights = [random(3, 2, self.channels, seed=10 + d) for d in degrees]
        return product_basis(bases, weights, self.lmax, Form(torch.float32, kernels=kernels), 3)


def forms_of(basis) -> list[torch.Tensor]:
    """What the operator of a `FusedProductBasis` takes of it."""
    forms = [basis.same, basis.cross, basis.same_products, basis.cross_products]
    return [*forms, basis.same_targets, basis.cross_targets]


TABLES = {
    "les-demo": Table(lmax=3, width=32),
    "water": Table(lmax=3, width=17),
    "maceles-off": Table(lmax=3, width=71),
    "two species, lmax 2": Table(lmax=2, width=5, num_tables=3),
    "lmax 1": Table(lmax=1, width=1),
}

PRODUCTS = {
    "les-demo and water": Products(lmax=3, output_lmax=0),
    "maceles-off": Products(lmax=3, output_lmax=1),
    "lmax 2, outputs of degree 2": Products(lmax=2, output_lmax=2, channels=1),
}
