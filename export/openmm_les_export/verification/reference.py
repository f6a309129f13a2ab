"""What references for verification share. The LES sum shares no code with the run-time package."""

from __future__ import annotations

import abc
import contextlib
import copy
import itertools
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from openmm_les.errors import InputError
from openmm_les.evaluation.results import LatentMoments
from openmm_les_export.verification.multipoles import Moments, multipole_energy

Array = npt.NDArray[np.float64]

#: What references with the code of the training are.
ORIGINAL = "the original model's own code in float64"


#: Where only the network is: of latent moments no published code can be asked.
ORIGINAL_NETWORK = (
    "the original network's own code in float64, with a second evaluation of the equations of "
    "latent moments"
)


def equations(network: str) -> str:
    """What references without the original code are."""
    return (
        f"a second evaluation of the equations of {network} in float64, not the original code, "
        "which is not on PyPI"
    )


#: Includes vectors on the cutoff sphere, as the original code does in float64.
_SPHERE_SLACK = 1e-7


@dataclass(frozen=True)
class Evaluation:
    energy: float  #: with isolated-atom references [eV]
    forces: Array  #: shape (n, 3) [eV/A]
    #: latent charges, shape (n,) or (n, channels) [e]; with moments permanent and induced ones.
    charges: Array
    moments: LatentMoments | None = None


class AutogradReference(abc.ABC):
    """A model in float64 around its short range, differentiated by torch."""

    against: str = ORIGINAL  #: what it is, for the report
    versions: Mapping[str, str] = {}  #: of the packages that it runs
    cutoff: float
    elements: list[int]
    _les: Mapping[str, float | bool]
    #: Bound on integer coordinates of reciprocal vectors, as an export has it.
    n_max: float | None = None
    #: Of the structure to evaluate, by name; see `openmm_les.networks.conditions`.
    _conditions: Mapping[str, float | Sequence[float]] = {}

    def under(self, conditions: Mapping[str, float | Sequence[float]]) -> AutogradReference:
        """The same model in given conditions: numbers by name, or one for each atom."""
        other = copy.copy(self)
        other._conditions = conditions
        return other

    def evaluate(
        self, positions: npt.ArrayLike, numbers: npt.ArrayLike, cell: npt.ArrayLike | None = None
    ) -> Evaluation:
        """Energy, forces and latent charges; the cell is None for an open structure."""
        species = species_of(numbers, self.elements)
        coordinates = np.array(positions, dtype=np.float64).reshape(-1, 3)
        box = None if cell is None else np.array(cell, dtype=np.float64).reshape(3, 3)
        sender, receiver, shifts = self._pairs(coordinates, box)
        r = torch.tensor(coordinates, requires_grad=True)
        gradient = torch.zeros_like(r)
        with self._settings():
            vectors = r[receiver] - r[sender] + shifts
            energies, latents = self._short_range(vectors, sender, receiver, species)
            long_range, charges, moments = self._long_range(latents, r, box)
            energy = energies.sum() + long_range
            if energy.requires_grad:
                (gradient,) = torch.autograd.grad(energy, r, materialize_grads=True)
        return Evaluation(float(energy.detach()), -gradient.numpy(), charges, moments)

    def _long_range(
        self, latents: Tensor | Moments, r: Tensor, cell: Array | None
    ) -> tuple[Tensor, Array, LatentMoments | None]:
        """Energy, charges with induced ones, and all moments if there are any."""
        if isinstance(latents, Tensor):
            energy = les_energy(latents, r, cell, self._les, self.n_max)
            return energy, latents.detach().numpy(), None
        vectors, volume = None, 0.0
        if cell is not None:
            radius = 2 * math.pi / float(self._les["dl"])
            vectors = torch.tensor(reciprocal_sphere(cell, radius, self.n_max))
            volume = abs(float(np.linalg.det(cell)))
        energy, moments = multipole_energy(latents, r, vectors, volume, self._les)
        return energy, moments.total_charges, moments

    @abc.abstractmethod
    def _short_range(
        self, vectors: Tensor, sender: Tensor, receiver: Tensor, species: Tensor
    ) -> tuple[Tensor, Tensor | Moments]:
        """Energies with references, of atoms [n] or their sum [], and latent charges or moments.

        Charges alone have the shape [n], or [n, channels].

        `vectors` [E, 3] [A] are r_receiver - r_sender; `species` [n] are indices into `elements`.
        """

    def _pairs(self, positions: Array, cell: Array | None) -> tuple[Tensor, Tensor, Tensor]:
        """Sender, receiver and shift of all pairs within the cutoff."""
        return all_pairs(positions, cell, self.cutoff)

    def _settings(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()


@contextlib.contextmanager
def double_precision() -> Iterator[None]:
    """Makes float64 torch's default, and ignores what the original code warns of."""
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.set_default_dtype(default)


def envelope(x: Tensor, p: float) -> Tensor:
    """The polynomial that takes radial functions to zero at x = 1 (Gasteiger et al., 2020)."""
    value = 1 - (p + 1) * (p + 2) / 2 * x**p + p * (p + 2) * x ** (p + 1)
    return value - p * (p + 1) / 2 * x ** (p + 2)


def species_of(numbers: npt.ArrayLike, elements: Sequence[int]) -> Tensor:
    """Index of each atom's element among those of a model, shape [n], int64."""
    found = np.asarray(numbers, dtype=np.int64).reshape(-1).tolist()
    unknown = sorted(set(found) - set(elements))
    if unknown:
        raise InputError(f"numbers: expected elements of {elements}, got {unknown}")
    return torch.tensor([elements.index(z) for z in found], dtype=torch.int64)


def les_energy(
    charges: Tensor,
    r: Tensor,
    cell: Array | None,
    les: Mapping[str, float | bool],
    n_max: float | None = None,
) -> Tensor:
    """LES energy by its definition (Cheng, npj Comput. Mater. 11, 80 (2025)), all k vectors or
    pairs.

    Charges have the shape [n], or [n, channels].
    """
    charges = charges.reshape(len(r), -1)
    sigma, prefactor = float(les["sigma"]), float(les["prefactor"])
    self_energy = prefactor * (charges**2).sum() / (sigma * (2 * math.pi) ** 1.5)
    removed = bool(les["remove_self_interaction"])
    if cell is None:
        first, second = torch.triu_indices(len(r), len(r), 1)
        distance = torch.linalg.norm(r[first] - r[second], dim=1)
        products = (charges[first] * charges[second]).sum(1)
        pairs = products * torch.erf(distance / (sigma * math.sqrt(2)))
        energy: Tensor = prefactor / (2 * math.pi) * (pairs / distance).sum()
        return energy if removed else energy + self_energy
    k = torch.tensor(reciprocal_sphere(cell, 2 * math.pi / float(les["dl"]), n_max))
    k2 = (k**2).sum(1)
    phase = r @ k.T
    cosine, sine = charges.T @ torch.cos(phase), charges.T @ torch.sin(phase)
    kernel = torch.exp(-(sigma**2) * k2 / 2) / k2
    volume = abs(float(np.linalg.det(cell)))
    energy = prefactor / volume * (kernel * (cosine**2 + sine**2)).sum()
    return energy - (les.get("periodic_self_terms") or 1) * self_energy if removed else energy


def reciprocal_sphere(cell: Array, radius: float, n_max: float | None = None) -> Array:
    """All reciprocal vectors but zero up to a radius [1/A], shape (m, 3).

    With `n_max`, only those whose integer coordinates are no larger.
    """
    reciprocal = 2 * math.pi * np.linalg.inv(cell).T
    limits = np.floor(np.linalg.norm(cell, axis=1) * radius / (2 * math.pi) + 1e-6).astype(int)
    if n_max is not None:
        limits = np.minimum(limits, int(n_max))
    grid = np.stack(
        np.meshgrid(*[np.arange(-limit, limit + 1) for limit in limits], indexing="ij"), -1
    ).reshape(-1, 3)
    vectors = grid[np.any(grid != 0, axis=1)] @ reciprocal
    inside = np.linalg.norm(vectors, axis=1) <= radius * (1 + _SPHERE_SLACK)
    return np.ascontiguousarray(vectors[inside])


def all_pairs(positions: Array, cell: Array | None, cutoff: float) -> tuple[Tensor, Tensor, Tensor]:
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
