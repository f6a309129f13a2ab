"""What references for verification have in common: results, pairs, and a plain LES sum.

The sum is written here in float64 by its definition and shares no code with the run-time package.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from openmm_les.errors import InputError

Array = npt.NDArray[np.float64]

#: Vectors on the cutoff sphere are in, as in float64 they are in the original code.
_SPHERE_SLACK = 1e-7


@dataclass(frozen=True)
class Evaluation:
    """What the reference says of a structure.

    Attributes:
        energy: with isolated-atom references [eV].
        forces: shape (n, 3) [eV/A].
        charges: latent charges, shape (n,) [e].
    """

    energy: float
    forces: Array
    charges: Array


def species_of(numbers: npt.ArrayLike, elements: Sequence[int]) -> torch.Tensor:
    """Index of each atom's element among those of a model, shape [n], int64.

    Raises:
        InputError: names the elements that the model does not know.
    """
    found = np.asarray(numbers, dtype=np.int64).reshape(-1).tolist()
    unknown = sorted(set(found) - set(elements))
    if unknown:
        raise InputError(f"numbers: expected elements of {elements}, got {unknown}")
    return torch.tensor([elements.index(z) for z in found], dtype=torch.int64)


def les_energy(
    charges: torch.Tensor, r: torch.Tensor, cell: Array | None, les: Mapping[str, float | bool]
) -> torch.Tensor:
    """LES energy by its definition: the full sphere of k vectors, or all pairs.

    Cheng, npj Comput. Mater. 11, 80 (2025); with the self term of the periodic sum kept or removed.
    """
    sigma, prefactor = float(les["sigma"]), float(les["prefactor"])
    self_energy = prefactor * (charges**2).sum() / (sigma * (2 * math.pi) ** 1.5)
    removed = bool(les["remove_self_interaction"])
    if cell is None:
        first, second = torch.triu_indices(len(r), len(r), 1)
        distance = torch.linalg.norm(r[first] - r[second], dim=1)
        pairs = charges[first] * charges[second] * torch.erf(distance / (sigma * math.sqrt(2)))
        energy: torch.Tensor = prefactor / (2 * math.pi) * (pairs / distance).sum()
        return energy if removed else energy + self_energy
    k = torch.tensor(reciprocal_sphere(cell, 2 * math.pi / float(les["dl"])))
    k2 = (k**2).sum(1)
    phase = r @ k.T
    cosine, sine = charges @ torch.cos(phase), charges @ torch.sin(phase)
    kernel = torch.exp(-(sigma**2) * k2 / 2) / k2
    volume = abs(float(np.linalg.det(cell)))
    energy = prefactor / volume * (kernel * (cosine**2 + sine**2)).sum()
    return energy - self_energy if removed else energy


def reciprocal_sphere(cell: Array, radius: float) -> Array:
    """All reciprocal vectors but zero up to a radius [1/A], shape (m, 3)."""
    reciprocal = 2 * math.pi * np.linalg.inv(cell).T
    limits = np.floor(np.linalg.norm(cell, axis=1) * radius / (2 * math.pi) + 1e-6).astype(int)
    grid = np.stack(
        np.meshgrid(*[np.arange(-limit, limit + 1) for limit in limits], indexing="ij"), -1
    ).reshape(-1, 3)
    vectors = grid[np.any(grid != 0, axis=1)] @ reciprocal
    inside = np.linalg.norm(vectors, axis=1) <= radius * (1 + _SPHERE_SLACK)
    return np.ascontiguousarray(vectors[inside])


def all_pairs(
    positions: Array, cell: Array | None, cutoff: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """All pairs (sender, receiver) within the cutoff, and shifts of r_receiver - r_sender."""
    offsets = np.zeros((1, 3))
    if cell is not None:
        extent = np.ptp(positions @ np.linalg.inv(cell), axis=0)
        reach = np.ceil(cutoff * np.linalg.norm(np.linalg.inv(cell), axis=0) + extent).astype(int)
        grid = itertools.product(*(range(-m, m + 1) for m in reach))
        offsets = np.array(list(grid), dtype=np.float64) @ cell
    vectors = positions[None, :, None] - positions[:, None, None] + offsets
    distances = np.linalg.norm(vectors, axis=-1)
    sender, receiver, image = np.nonzero((distances < cutoff) & (distances > 1e-6))
    return torch.tensor(sender), torch.tensor(receiver), torch.tensor(offsets[image])
