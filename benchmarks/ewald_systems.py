"""Point charges on which the periodic sums are measured, made from nothing."""

import numpy as np
import torch

from openmm_les.electrostatics.kernel import ReciprocalKernel

System = tuple[torch.Tensor, torch.Tensor, torch.Tensor]

#: A water molecule [A] and the volume it takes in the liquid [A^3].
_WATER = np.array([[0.0, 0.0, 0.0], [0.9572, 0.0, 0.0], [-0.24, 0.9266, 0.0]])
_WATER_VOLUME = 29.9


def kernel(sigma: float = 1.0, dl: float = 2.0) -> ReciprocalKernel:
    """The LES kernel of published models; the self term is kept, which would hide round-off."""
    return ReciprocalKernel(sigma=sigma, dl=dl, prefactor=90.4756, remove_self_interaction=False)


def water(repeats: tuple[int, int, int], seed: int = 0) -> System:
    """Molecules of random orientation on a cubic lattice, at the density of the liquid.

    Returns:
        Charges [n] [e], positions [n, 3] [A] and cell [3, 3] [A], float64.
    """
    random = np.random.default_rng(seed)
    edge = _WATER_VOLUME ** (1 / 3)
    places = np.stack(np.meshgrid(*(np.arange(n) for n in repeats), indexing="ij"), axis=-1)
    places = places.reshape(-1, 3) * edge + random.normal(0.0, 0.2, (np.prod(repeats), 3))
    orientations, _ = np.linalg.qr(random.normal(size=(len(places), 3, 3)))
    positions = (places[:, None] + _WATER @ orientations).reshape(-1, 3)
    charges = np.tile([-0.8, 0.4, 0.4], len(places)) + random.normal(0.0, 0.05, len(positions))
    return _tensors(charges, positions, np.diag(edge * np.array(repeats)))


def strained(system: System) -> System:
    """The same molecules in a strongly triclinic cell."""
    deformation = torch.tensor(
        [[1.04, 0.0, 0.0], [0.31, 0.97, 0.0], [-0.22, 0.28, 1.02]], dtype=torch.float64
    )
    charges, positions, cell = system
    return charges, positions @ deformation, cell @ deformation


def random_ions(number: int, cell: np.ndarray, seed: int = 0, net_charge: float = 0.0) -> System:
    """Random charges at random places, some of them far outside the cell."""
    random = np.random.default_rng(seed)
    charges = random.normal(0.0, 0.5, number)
    charges += net_charge / number - charges.mean()
    return _tensors(charges, random.uniform(-2.0, 3.0, (number, 3)) @ cell, cell)


def _tensors(*arrays: np.ndarray) -> System:
    charges, positions, cell = (torch.tensor(a, dtype=torch.float64) for a in arrays)
    return charges, positions, cell
