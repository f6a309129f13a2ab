"""The LES energy written down as slowly and plainly as possible, in float64 with autograd.

Shares no code with `openmm_les.electrostatics`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

Energy = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Parameters:
    """LES parameters in Angstrom, eV and e."""

    sigma: float = 1.0
    dl: float = 2.0
    prefactor: float = 90.4756
    remove_self_interaction: bool = False
    n_max: int | None = None
    #: How often the periodic energy is without the self-interaction, where that is removed.
    periodic_self_terms: int = 1

    @property
    def self_energy(self) -> float:
        return self.prefactor / (self.sigma * (2 * math.pi) ** 1.5)


def reciprocal_vectors(cell: torch.Tensor, dl: float, n_max: int | None = None) -> torch.Tensor:
    """All k != 0 with |k| <= 2 pi / dl, shape [m, 3]: a search through a generous cube.

    Vectors on the sphere are inside, however they round; those with an integer coordinate beyond
    `n_max` are left out.
    """
    reach = [math.ceil(float(a.norm()) / dl) + 1 for a in cell.detach()]
    integers = torch.cartesian_prod(*(torch.arange(-n, n + 1) for n in reach)).to(cell.dtype)
    integers = integers[integers.abs().sum(dim=1) > 0]
    if n_max is not None:
        integers = integers[(integers.abs() <= n_max).all(dim=1)]
    k = 2 * math.pi * integers @ torch.linalg.inv(cell).T
    return k[k.norm(dim=1) <= 2 * math.pi / dl * (1 + 1e-9)]


def k_sum(parameters: Parameters) -> Energy:
    """The periodic energy as a function of charges, positions and cell."""

    def energy(q: torch.Tensor, r: torch.Tensor, cell: torch.Tensor) -> torch.Tensor:
        k = reciprocal_vectors(cell, parameters.dl, parameters.n_max)
        k2 = (k**2).sum(dim=1)
        factor = (q * torch.exp(1j * (k @ r.T))).sum(dim=1)
        kernel = torch.exp(-(parameters.sigma**2) * k2 / 2) / k2
        total = parameters.prefactor / torch.linalg.det(cell) * (kernel * factor.abs() ** 2).sum()
        if parameters.remove_self_interaction:
            self_energy = parameters.periodic_self_terms * parameters.self_energy
            total = total - self_energy * (q**2).sum()
        return total

    return energy


def pair_sum(parameters: Parameters) -> Energy:
    """The energy that is not periodic; the cell is ignored."""

    def energy(q: torch.Tensor, r: torch.Tensor, cell: torch.Tensor) -> torch.Tensor:
        i, j = torch.triu_indices(len(q), len(q), offset=1)
        distance = (r[i] - r[j]).norm(dim=1)
        screened = torch.erf(distance / (parameters.sigma * math.sqrt(2))) / distance
        total = parameters.prefactor / (2 * math.pi) * (q[i] * q[j] * screened).sum()
        if not parameters.remove_self_interaction:
            total = total + parameters.self_energy * (q**2).sum()
        return total

    return energy


def derivatives(
    energy: Energy, q: torch.Tensor, r: torch.Tensor, cell: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """E, dE/dq, dE/dr and dE/dstrain by autograd; strain e takes r to r (1 + e)."""
    q = q.double().clone().requires_grad_()
    r = r.double().clone().requires_grad_()
    strain = torch.zeros(3, 3, dtype=torch.float64, requires_grad=True)
    deformation = torch.eye(3, dtype=torch.float64) + strain
    value = energy(q, r @ deformation, cell.double() @ deformation)
    dq, dr, de = torch.autograd.grad(value, [q, r, strain], materialize_grads=True)
    return value.detach(), dq, dr, de


def madelung_lattices() -> dict[str, tuple[float, list[list[float]], list[list[float]], float]]:
    """Cubic salts: cell in units of the nearest-neighbour distance, ions, Madelung constant."""
    return {
        "NaCl": (
            2.0,
            [[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]],
            [[0.5, 0, 0], [0, 0.5, 0], [0, 0, 0.5], [0.5, 0.5, 0.5]],
            1.747564594633182,
        ),
        "CsCl": (2 / math.sqrt(3), [[0, 0, 0]], [[0.5, 0.5, 0.5]], 1.762674773070988),
        "ZnS": (
            4 / math.sqrt(3),
            [[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]],
            [[0.25, 0.25, 0.25], [0.25, 0.75, 0.75], [0.75, 0.25, 0.75], [0.75, 0.75, 0.25]],
            1.638055053388790,
        ),
    }
